"""Places that a user names: what lies there, and whether a run may write there, found out before anything is loaded."""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from pathlib import Path

_SPECIAL = (
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)
_RESERVED = frozenset('/\\:*?"<>|')
_LONGEST_NAME = 200
"""Bytes; file systems take 255, and temporary names beside it are longer."""


def what_is(path: str | Path) -> str:
    """What lies at a path, links followed, in words: `a file`, `a folder`, `nothing`, `a named pipe` and others."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "a link to nothing" if os.path.islink(path) else "nothing"
    except (OSError, ValueError) as error:  # ValueError: a NUL character
        if isinstance(error, OSError) and error.errno == errno.ELOOP:
            return "links in a circle"
        if isinstance(error, NotADirectoryError):
            return "nothing, as a folder in front of it is a file"
        return "no path that this system can open" + (f" ({error.strerror})" if isinstance(error, OSError) else "")
    return next((name for test, name in _SPECIAL if test(mode)), "a file")


def check_file(path: str | Path, expected: str) -> None:
    """Refuse to read what is no regular file: a pipe would be waited for without end, a device has no end.

    Args:
        path: The file; begins the message.
        expected: What it should be.

    Raises:
        ValueError: It is none.
    """
    if (found := what_is(path)) != "a file":
        raise ValueError(f"{path}: found {found}; expected {expected}")


def check_name(setting: str, name: str) -> None:
    """Refuse what is no plain name of a file or folder: it would lead out of the folder that it is for.

    Raises:
        ValueError: Says the setting.
    """
    allowed = name.isprintable() and not set(name) & _RESERVED and name not in ("", ".", "..")
    plain = allowed and name == name.strip()
    if not plain or len(name.encode("utf-8", "replace")) > _LONGEST_NAME:
        raise ValueError(
            f"{setting}: found {name!r}; expected a plain name without / and other special characters, of at most "
            f"{_LONGEST_NAME} bytes"
        )


def check_folder(setting: str, path: str | Path) -> None:
    """Refuse a folder that can neither be written to nor made. Leaves nothing behind.

    Args:
        setting: What names it; begins the message.
        path: The folder, which need not be there.

    Raises:
        ValueError: Says the setting, the folder and the reason.
    """
    expected = "expected a folder that may be written to, or a name for a new one"
    folder = Path(path)
    found = what_is(folder)
    if found not in ("a folder", "nothing"):
        raise ValueError(f"{setting}: {path} is {found.removeprefix('is ')}; {expected}")
    parts = [part for part in folder.parts if len(os.fsencode(part)) > _LONGEST_NAME]
    if parts:
        raise ValueError(f"{setting}: {path}: found a name of {len(os.fsencode(parts[0]))} bytes; {expected}")
    while what_is(folder) == "nothing":
        folder = folder.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".robustlm-", dir=folder):
            pass
    except OSError as error:
        raise ValueError(f"{setting}: {path} cannot be written to ({error.strerror}); {expected}") from error


def check_output(setting: str, path: str | Path) -> None:
    """Refuse a file that cannot be written: a folder, a pipe or a circle of links, or in a folder that is not there.

    Raises:
        ValueError: Says the setting, the file and the reason.
    """
    expected = "expected the name of a file to write, in a folder that is there"
    found = what_is(path)
    if found not in ("a file", "nothing", "a link to nothing") or not Path(path).name:
        raise ValueError(f"{setting}: {path} is {found}; {expected}")
    folder = Path(path).parent
    if (around := what_is(folder)) != "a folder":
        raise ValueError(f"{setting}: {path}: no folder {folder} (found {around}); create it first, {expected}")
    check_folder(setting, folder)

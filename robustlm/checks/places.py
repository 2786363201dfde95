"""Checks of paths that a user gives, before anything is loaded: what is there, and whether a run can write there."""

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
"""Longest name, in bytes. File systems allow 255; temporary names made from a name are longer than the name."""


def what_is(path: str | Path) -> str:
    """Say what is at a path, following links: `a file`, `a folder`, `nothing`, `a named pipe` and others."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "a link to nothing" if os.path.islink(path) else "nothing"
    except (OSError, ValueError) as error:  # ValueError: a NUL character
        if isinstance(error, OSError) and error.errno == errno.ELOOP:
            return "links in a circle"
        if isinstance(error, NotADirectoryError):
            return "nothing, because a parent of it is a file"
        return "no path that this system can open" + (f" ({error.strerror})" if isinstance(error, OSError) else "")
    return next((name for test, name in _SPECIAL if test(mode)), "a file")


def check_file(path: str | Path, expected: str) -> None:
    """Raise unless a path is a regular file: reading a pipe can block forever, and a device has no end.

    Args:
        path: The file; the message begins with it.
        expected: What the file should be, for the message.

    Raises:
        ValueError: The path is not a regular file.
    """
    if (found := what_is(path)) != "a file":
        raise ValueError(f"{path}: found {found}; expected {expected}")


def check_name(setting: str, name: str) -> None:
    """Raise unless a name is a plain file or folder name; other names could lead out of their folder.

    Raises:
        ValueError: The name is not allowed; the message says the setting.
    """
    allowed = name.isprintable() and not set(name) & _RESERVED and name not in ("", ".", "..")
    plain = allowed and name == name.strip()
    if not plain or len(name.encode("utf-8", "replace")) > _LONGEST_NAME:
        raise ValueError(
            f"{setting}: found {name!r}; expected a plain name without / and other special characters, of at most "
            f"{_LONGEST_NAME} bytes"
        )


def check_folder(setting: str, path: str | Path) -> None:
    """Raise if a folder can neither be written to nor created. Leaves no files or folders behind.

    Args:
        setting: The setting that names the folder; the message begins with it.
        path: The folder, which may be missing.

    Raises:
        ValueError: The folder cannot be used; the message says the setting, the folder and the reason.
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
    """Raise if a file cannot be written: it is a folder, a pipe or a loop of links, or its folder is missing.

    Raises:
        ValueError: The file cannot be written; the message says the setting, the file and the reason.
    """
    expected = "expected the name of a file to write, in a folder that is there"
    found = what_is(path)
    if found not in ("a file", "nothing", "a link to nothing") or not Path(path).name:
        raise ValueError(f"{setting}: {path} is {found}; {expected}")
    folder = Path(path).parent
    if (around := what_is(folder)) != "a folder":
        raise ValueError(f"{setting}: {path}: no folder {folder} (found {around}); create it first, {expected}")
    check_folder(setting, folder)

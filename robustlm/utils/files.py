"""Write files and folders completely or not at all: under a temporary name, flushed to disk, then renamed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

UNFINISHED = ".unfinished"
"""Ending of temporary names: `.<name>.<machine>-<process>-<random>.unfinished`, in the folder of the target."""

_DAY = 24 * 3600.0
_NAME = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}" + re.escape(UNFINISHED))


def _machine() -> str:
    return blake2b(socket.gethostname().encode(), digest_size=4).hexdigest()


def _beside(target: Path) -> Path:
    """A new temporary name in the folder of `target`. Also removes files that killed processes left there."""
    remove_orphans(target.parent)
    name = target.name[:150]  # file systems allow 255 bytes
    return target.with_name(f".{name}.{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}{UNFINISHED}")


@contextlib.contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Give a temporary path to write to. When the block ends without an error, the file replaces `target`.

    Example:
        >>> with whole_file(Path("scores.json")) as unfinished:  # doctest: +SKIP
        ...     unfinished.write_text("{}")

    Raises:
        OSError: The file cannot be written, for example on a full disk; names `target`. The old file is unchanged.
    """
    target = Path(os.path.realpath(target))  # if the target is a link, replace the file that it points to
    unfinished = _beside(target)
    try:
        with _named(target):
            yield unfinished
            _sync(unfinished)
            os.replace(unfinished, target)
            _sync(target.parent)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """Give a new folder to write to. When the block ends without an error, it replaces `target`.

    Raises:
        OSError: The folder cannot be written, for example on a full disk; names `target`.
    """
    unfinished, old = _beside(target), _beside(target)
    try:
        with _named(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            unfinished.mkdir()
            yield unfinished
            for path in unfinished.rglob("*"):
                _sync(path)
            if target.exists():
                os.replace(target, old)
            os.replace(unfinished, target)
            _sync(target.parent)
    except BaseException:
        if old.exists() and not target.exists():
            os.replace(old, target)
        raise
    finally:
        for path in (unfinished, old):
            shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def scratch_folder(target: Path) -> Iterator[Path]:
    """Give a new folder beside `target` that is removed when the block ends.

    If the process is killed, the next one that writes into the same folder removes it.

    Raises:
        OSError: The folder cannot be written, for example on a full disk; names `target`.
    """
    folder = _beside(Path(os.path.realpath(target)))
    try:
        with _named(target):
            folder.mkdir()
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_text(target: Path, text: str) -> None:
    """Write a UTF-8 file completely or not at all; line ends are unchanged. Raises the errors of `whole_file`."""
    with whole_file(target) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as stream:
        stream.write(text)


def remove_orphans(folder: Path) -> list[Path]:
    """Remove temporary files of killed processes from a folder: this machine's at once, others after a day."""
    removed = []
    for path in folder.glob(f".*{UNFINISHED}") if folder.is_dir() else ():
        found = _NAME.fullmatch(path.name)
        if found is None or not _orphaned(path, found[1], int(found[2])):
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                path.unlink()
        removed.append(path)
    return removed


def _orphaned(path: Path, machine: str, process: int) -> bool:
    if machine == _machine():
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        except OSError:
            pass  # a process of another user
        return False
    try:
        return time.time() - path.stat().st_mtime > _DAY
    except OSError:
        return False


def _sync(path: Path) -> None:
    """Flush a file, or the entries of a folder, to disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # folders cannot be opened on some systems
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _named(target: Path) -> Iterator[None]:
    """Put the target's name into errors of the operating system, which often lack it or show the temporary name."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and not str(error.filename).endswith(UNFINISHED):
            raise
        raise type(error)(error.errno, f"{target} cannot be written: {error.strerror or error}") from error

"""Files and folders that are whole or not there: written beside their place, brought to the disk, and renamed."""

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
"""Ending of what is being written: `.<name>.<machine>-<process>-<random>.unfinished`, in the folder of its target."""

_DAY = 24 * 3600.0
_NAME = re.compile(r"\..+\.([0-9a-f]{8})-(\d+)-[0-9a-f]{8}" + re.escape(UNFINISHED))


def _machine() -> str:
    return blake2b(socket.gethostname().encode(), digest_size=4).hexdigest()


def _beside(target: Path) -> Path:
    """A new name in the folder of `target`. Also removes what killed processes have left there."""
    remove_orphans(target.parent)
    name = target.name[:150]  # file systems allow 255 bytes
    return target.with_name(f".{name}.{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}{UNFINISHED}")


@contextlib.contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """Gives a path to write to; when the block ends well, what is there becomes `target`, which may exist.

    Example:
        >>> with whole_file(Path("scores.json")) as unfinished:  # doctest: +SKIP
        ...     unfinished.write_text("{}")

    Raises:
        OSError: It cannot be written, as on a full disk; names `target`. What was there before is still there.
    """
    target = Path(os.path.realpath(target))  # the file that a link names is replaced, and not the link
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
    """Gives a new folder to write to; when the block ends well, it becomes `target`, in place of one that is there.

    Raises:
        OSError: It cannot be written, as on a full disk; names `target`.
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


def write_text(target: Path, text: str) -> None:
    """Write a UTF-8 file, whole or not at all; line ends stay as they are. Raises what `whole_file` raises."""
    with whole_file(target) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as stream:
        stream.write(text)


def remove_orphans(folder: Path) -> list[Path]:
    """Remove what killed processes were writing in a folder: of this machine at once, of others after a day."""
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
            pass  # another user's
        return False
    try:
        return time.time() - path.stat().st_mtime > _DAY
    except OSError:
        return False


def _sync(path: Path) -> None:
    """Bring a file, or the names in a folder, to the disk."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # of a folder, on some systems
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _named(target: Path) -> Iterator[None]:
    """Name the file in errors of the operating system, which often leave it out or name the unfinished one."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and not str(error.filename).endswith(UNFINISHED):
            raise
        raise type(error)(error.errno, f"{target} cannot be written: {error.strerror or error}") from error

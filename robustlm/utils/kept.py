"""Folders of files that are made once and used again: found by a key, checked by digests, made by one process."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from hashlib import file_digest, sha256
from pathlib import Path

from filelock import FileLock

from robustlm.utils.files import whole_folder, write_text

log = logging.getLogger(__name__)

_ABOUT = "about.json"


def digest_of(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def key_for(parts: object) -> str:
    """A name for plain data: equal data have equal names, other data have others."""
    return sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")).hexdigest()


class KeptFolder:
    """A folder of files under a key.

    Args:
        parent: Folder of all such folders; it is made if needed.
        key: Name of this one; everything that decides its content is in the key.
        what: What it holds, for messages.
    """

    def __init__(self, parent: Path, key: str, what: str) -> None:
        self.path = parent / key
        self._what = what

    def made(self, make: Callable[[Path], None]) -> Path:
        """The folder, made by `make` if it is not there or is damaged. Other processes wait meanwhile.

        Args:
            make: Writes all files into the folder that it is given.

        Raises:
            OSError: The folder cannot be written; nothing is left of it.
        """
        if self._is_whole():
            return self.path
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._alone():
                if not self._is_whole():
                    with whole_folder(self.path) as unfinished:
                        make(unfinished)
                        files = {
                            path.name: {"bytes": path.stat().st_size, "sha256": digest_of(path)}
                            for path in sorted(unfinished.iterdir())
                        }
                        write_text(unfinished / _ABOUT, json.dumps({"files": files}, indent=1))
        except OSError as error:
            if str(self.path.parent) not in f"{error} {error.filename}":
                raise
            hint = "free some space, set data.cache_dir to another folder, or to null to keep rows in memory"
            raise type(error)(error.errno, f"data.cache_dir: {error.strerror or error}; {hint}") from error
        return self.path

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        lock = FileLock(str(self.path) + ".lock")
        with contextlib.suppress(TimeoutError):
            lock.acquire(timeout=0.1)
        if not lock.is_locked:
            log.info("waiting for %s, which another process makes", self._what)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _is_whole(self) -> bool:
        """Whether all files are there, byte by byte. A damaged folder is logged."""
        if not self.path.is_dir():
            return False
        try:
            files = json.loads((self.path / _ABOUT).read_text(encoding="utf-8"))["files"]
            for name, expected in files.items():
                path = self.path / name
                if path.stat().st_size != expected["bytes"] or digest_of(path) != expected["sha256"]:
                    raise ValueError(f"{name} is not as it was written")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s: the cache of %s is damaged (%s) and is made again", self.path, self._what, error)
            return False
        return True

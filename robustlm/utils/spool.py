"""Plain data in a temporary file, for lists that memory does not hold."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar, cast

T = TypeVar("T")


class Spool(Generic[T]):
    """A list of plain data (as JSON gives it back) in a temporary file without a name; use it in a `with` block.

    The system removes the file even if the process is killed.

    Args:
        items: The first items.
    """

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._file = tempfile.TemporaryFile("w+", encoding="ascii")  # noqa: SIM115 - closed by `__exit__`
        self._count = 0
        try:
            for item in items:
                self.append(item)
        except BaseException:
            self._file.close()
            raise

    def append(self, item: T) -> None:
        """Add plain data."""
        self._file.write(json.dumps(item) + "\n")
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[T]:
        """All items; nothing may be appended meanwhile."""
        self._file.seek(0)
        return (cast(T, json.loads(line)) for line in self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

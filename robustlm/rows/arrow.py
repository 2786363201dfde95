"""Arrow files of record batches that are mapped into memory: pages are read on demand and shared by processes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray


class Column(Protocol):
    """A column of a record batch, as pyarrow has it without types."""

    @property
    def null_count(self) -> int:
        """Number of missing values."""

    def __getitem__(self, row: int) -> Any: ...
    def to_pylist(self) -> list[Any]:
        """The values."""

    def to_numpy(self, *, zero_copy_only: bool) -> NDArray[Any]:
        """The values as an array."""

    def is_null(self) -> Column:
        """For each value, whether it is missing."""


class RecordBatch(Protocol):
    """A record batch, as pyarrow has it without types."""

    @property
    def num_rows(self) -> int:
        """Number of rows."""

    def column(self, name: str) -> Column:
        """The column with this name."""

    def slice(self, start: int, rows: int) -> RecordBatch:
        """Some rows; `rows` may be too large."""

    def filter(self, mask: object) -> RecordBatch:
        """The rows at which an Arrow array of truth values is true."""


class ArrowWriter:
    """Writes record batches to a file; use it in a `with` block.

    Args:
        path: File to write.
        schema: Schema of the batches, a `pyarrow.Schema`.
    """

    def __init__(self, path: Path, schema: object) -> None:
        import pyarrow as pa

        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pa.ipc.new_file(self._sink, schema)
        self.rows = 0
        """Number of rows that were written."""

    def write(self, batch: RecordBatch) -> None:
        """Append a record batch; an empty one is left out."""
        if batch.num_rows:
            self._writer.write_batch(batch)
            self.rows += batch.num_rows

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._writer.close()
        finally:
            self._sink.close()


class ArrowRows:
    """The rows of an Arrow file, mapped into memory.

    Args:
        path: A file that `ArrowWriter` wrote.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._open()

    def _open(self) -> None:
        import pyarrow as pa

        self._reader = pa.ipc.open_file(pa.memory_map(str(self.path)))
        self._batches: list[RecordBatch] = [self._reader.get_batch(i) for i in range(self._reader.num_record_batches)]
        self._ends = list(accumulate(batch.num_rows for batch in self._batches))

    def __getstate__(self) -> Path:
        return self.path

    def __setstate__(self, path: Path) -> None:
        self.path = path
        self._open()

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @property
    def batches(self) -> list[RecordBatch]:
        """The record batches, in order."""
        return self._batches

    def place(self, row: int) -> tuple[RecordBatch, int]:
        """The batch of a row, and the row's number in it. Raises `IndexError` if there is no such row."""
        if row < 0:
            row += len(self)
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        which = bisect_right(self._ends, row)
        return self._batches[which], row - (self._ends[which - 1] if which else 0)

    def numbers(self, name: str) -> NDArray[Any]:
        """A column of numbers or truth values without nulls, as one array in memory."""
        parts = [batch.column(name).to_numpy(zero_copy_only=False) for batch in self._batches]
        return np.concatenate(parts) if parts else np.empty(0)

    def texts(self, name: str) -> Iterator[str | None]:
        """The values of a column of texts, one after another."""
        for batch in self._batches:
            yield from batch.column(name).to_pylist()

"""Write rows to JSON lines, JSON, CSV and Parquet files, completely or not at all."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from robustlm.checks.places import what_is
from robustlm.checks.texts import shortened
from robustlm.rows.base import LONGEST_NAME, RowData, SourceError, suffix_of
from robustlm.rows.cells import neutral
from robustlm.rows.readers import _PARQUET_BATCH, _kind
from robustlm.utils.files import whole_file

# ------------------------------------------------------------------------------------------------ writing


class RowWriter:
    """Write rows to a file that appears only when it is complete.

    Rows go to a temporary file next to the target. It replaces the target if the `with` block succeeds, and is removed
    if the block fails.

    Args:
        path: File to write; its ending, one of `SUFFIXES`, sets the format. CSV takes its header from the first row
            and Parquet its types from the first 1,000, so later rows must fit them.

    Raises:
        SourceError: The ending is unknown, or the file cannot be written there.
        ValueError: From `write`, for a row that the file kind cannot hold.

    Example:
        >>> with RowWriter("out.jsonl.gz") as writer:  # doctest: +SKIP
        ...     for row in iter_rows("in.jsonl"):
        ...         writer.write(row.data)
    """

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self.written = 0
        self._suffix = suffix_of(self.path)
        # follow links, so that the linked file is replaced and not the link
        self._target = Path(os.path.realpath(self.path))
        self._place = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._check_place()
        try:
            self._temporary = self._place.enter_context(whole_file(self._target))
            self._file = open(self._temporary, "xb")
        except OSError as error:
            raise SourceError(
                f"{self.path}: cannot be written ({error.strerror}); expected a folder that may be written to"
            ) from error
        self._encoder = _ENCODERS[self._suffix.removesuffix(".gz")]()
        # no time stamp and no name in the gzip header: the same rows give the same bytes
        self._stream: IO[bytes] = (
            gzip.GzipFile(filename="", fileobj=self._file, mode="wb", mtime=0)  # type: ignore[assignment]
            if self._suffix.endswith(".gz")
            else self._file
        )
        return self

    def _check_place(self) -> None:
        found = what_is(self.path)
        if found not in ("a file", "nothing", "a link to nothing"):
            raise SourceError(f"{self.path}: found {found}; expected the name of a file to write")
        if not self._target.parent.is_dir():
            raise SourceError(f"{self.path}: no folder {self._target.parent}; create it first")

    def write(self, data: RowData) -> None:
        """Add one row."""
        self.written += 1
        with self._named():
            self._encoder.write(self._stream, data)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish()
            else:
                # a Parquet writer left open would complain about its closed file when it is garbage-collected
                with contextlib.suppress(Exception):
                    self._encoder.close(self._stream)
                # errors here are ignored, because the current error is raised anyway
                with contextlib.suppress(BaseException):
                    self._file.close()
                    self._place.__exit__(kind, error, trace)
        finally:
            self._file.close()
            with contextlib.suppress(OSError):
                self._temporary.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except (ValueError, TypeError, OverflowError, NotImplementedError) as error:  # the last two are Arrow's
            raise ValueError(f"{self.path}: cannot be written (at row {self.written}): {error}") from error
        except OSError as error:  # a full disk
            raise type(error)(
                error.errno, f"{self.path}: cannot be written (at row {self.written}): {error.strerror}"
            ) from error

    def _finish(self) -> None:
        with self._named():
            self._encoder.close(self._stream)
            if self._stream is not self._file:
                self._stream.close()
            self._file.close()
        self._place.close()


def write_rows(path: str | Path, rows: Iterable[RowData]) -> int:
    """Write rows to a file as `RowWriter` does, and return how many there were."""
    with RowWriter(path) as writer:
        for row in rows:
            writer.write(row)
    return writer.written


class _JsonlEncoder:
    def write(self, stream: IO[bytes], data: RowData) -> None:
        stream.write(_dumped(data) + b"\n")

    def close(self, stream: IO[bytes]) -> None:
        pass


class _JsonEncoder:
    def __init__(self) -> None:
        self._before = b"[\n"

    def write(self, stream: IO[bytes], data: RowData) -> None:
        stream.write(self._before + _dumped(data))
        self._before = b",\n"

    def close(self, stream: IO[bytes]) -> None:
        stream.write(b"[]\n" if self._before == b"[\n" else b"\n]\n")


def _dumped(data: RowData) -> bytes:
    try:
        return json.dumps(dict(data), ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError):
        for name, value in data.items():
            try:
                json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
            except (ValueError, TypeError) as error:
                shown = shortened(name, LONGEST_NAME)
                raise ValueError(f"field {shown!r} holds {shortened(repr(value), 60)}, no JSON ({error})") from error
        raise


class _CsvEncoder:
    def __init__(self) -> None:
        self._header: list[str] | None = None
        self._line = io.StringIO()
        # with "\n" as line end, the csv module leaves "\r" unquoted, and then cannot read it back
        self._writer = csv.writer(self._line, lineterminator="\r\n")

    def write(self, stream: IO[bytes], data: RowData) -> None:
        if self._header is None:
            self._header = list(data)
            stream.write(self._encoded(self._header))
        if set(data) != set(self._header):
            raise ValueError(f"found fields {', '.join(data)}; the header has {', '.join(self._header)}")
        for key, value in data.items():
            if isinstance(value, list | dict | tuple):
                raise ValueError(f"field {key!r} holds {_kind(value)}; CSV holds text only, write .jsonl instead")
        stream.write(self._encoded([data[key] for key in self._header]))

    def close(self, stream: IO[bytes]) -> None:
        pass

    def _encoded(self, record: list[Any]) -> bytes:
        self._line.seek(0)
        self._line.truncate()
        self._writer.writerow([neutral(value) for value in record])
        return self._line.getvalue().encode()


class _ParquetEncoder:
    def __init__(self) -> None:
        self._batch: list[RowData] = []
        self._schema: Any = None
        self._writer: Any = None

    def write(self, stream: IO[bytes], data: RowData) -> None:
        self._batch.append(dict(data))
        if len(self._batch) == _PARQUET_BATCH:
            self._flush(stream)

    def close(self, stream: IO[bytes]) -> None:
        try:
            if self._batch or self._writer is None:
                self._flush(stream)
        finally:
            if self._writer is not None:
                self._writer.close()

    def _flush(self, stream: IO[bytes]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self._schema is None:
            # from_pylist alone would take its columns from the first row and drop columns that only later rows have
            keys = list(dict.fromkeys(key for row in self._batch for key in row))
            self._schema = pa.schema([self._field(key, [row.get(key) for row in self._batch]) for key in keys])
            self._writer = pq.ParquetWriter(stream, self._schema)
        for row in self._batch:
            if unknown := set(row) - set(self._schema.names):
                raise ValueError(f"fields {', '.join(sorted(unknown))} are not in the first {_PARQUET_BATCH} rows")
        self._writer.write_table(pa.Table.from_pylist(self._batch, schema=self._schema))
        self._batch = []

    def _field(self, name: str, values: list[Any]) -> Any:
        """A column's name and type. Each column is tested alone, so that an error can name it."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            column = pa.table({name: values})
            with pq.ParquetWriter(io.BytesIO(), column.schema) as writer:
                writer.write_table(column)
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise ValueError(
                f"field {shortened(name, LONGEST_NAME)!r}: Parquet cannot hold its values ({error}); expected values "
                "of one type, and objects with at least one key; write .jsonl instead"
            ) from error
        return column.schema.field(0)


_ENCODERS: dict[str, Callable[[], _JsonlEncoder | _JsonEncoder | _CsvEncoder | _ParquetEncoder]] = {
    ".jsonl": _JsonlEncoder,
    ".json": _JsonEncoder,
    ".csv": _CsvEncoder,
    ".parquet": _ParquetEncoder,
}

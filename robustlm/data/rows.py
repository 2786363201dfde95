"""Rows in, rows out: one reader for every file kind, and a writer that leaves no half-written file.

Readers stream (only a `.json` list is read whole) and know the line of every row. A bad row does not stop
them: all bad rows are found, so that one run over the data shows everything there is to mend.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import gzip
import io
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NoReturn, Self

from robustlm.checks.places import what_is
from robustlm.checks.texts import shortened
from robustlm.data.cells import neutral, restored
from robustlm.files import whole_file

SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".csv.gz", ".parquet")
"""The file kinds that can be read and written."""
READABLE = (*SUFFIXES, ".txt", ".txt.gz")
"""The file kinds that can be read; a line of text is a row with the key `text`."""

_HUB_NAME = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.-]+))?")
_FILE_LIKE = re.compile(r"\.(jsonl?|csv|tsv|txt|parquet|gz|zip|zst|bz2|xz|xlsx?|ya?ml)$", re.IGNORECASE)
_LISTED = 20
_PARQUET_BATCH = 1000
_LONGEST_NAME = 60
"""Characters of a column's name that a message repeats."""


@dataclass(frozen=True, slots=True)
class Row:
    """One object of a source and where it stands."""

    file: str
    """The file as it was named, or `name/split` of a Hugging Face dataset."""
    line: int
    """Line where the row starts, from 1; the row's number where a source has no lines (JSON lists, Parquet, hub)."""
    data: dict[str, Any]
    """The row's fields."""
    item: bool = False
    """Whether the row is an item of a JSON list, and `line` its number there."""

    @property
    def where(self) -> str:
        """`file:line`, as editors understand it; `file item 3` in a JSON list."""
        return _where(self.file, self.line, self.item)

    def error(self, problem: str) -> RowError:
        """This row as one that cannot be used."""
        return RowError(self.file, self.line, problem, self.data, self.item)


@dataclass(frozen=True, slots=True)
class RowError:
    """One row that cannot be used."""

    file: str
    """As in `Row`."""
    line: int
    """As in `Row`."""
    problem: str
    """What is wrong. The words before the first colon name the reason under which bad rows are counted."""
    found: Any = None
    """The row's fields, or its text where it could not be read."""
    item: bool = False
    """As in `Row`."""

    @property
    def reason(self) -> str:
        """The kind of problem, without this row's particulars."""
        return self.problem.partition(":")[0]

    def __str__(self) -> str:
        return f"{_where(self.file, self.line, self.item)}: {self.problem}"


def _where(file: str, number: int, item: bool) -> str:
    return f"{file} item {number}" if item else f"{file}:{number}"


class SourceError(ValueError):
    """A source that cannot be read as a whole: missing, empty, damaged, or of an unknown kind."""


class BadRowsError(ValueError):
    """Rows that cannot be used; the message lists the first 20 and counts all of them by reason."""

    def __init__(self, source: str, errors: list[RowError], rows: int, hint: str = "") -> None:
        self.errors = errors
        shown = [f"  {error}" for error in errors[:_LISTED]]
        if len(errors) > _LISTED:
            shown.append(f"  … and {len(errors) - _LISTED} more")
        head = f"{source}: {len(errors)} of {rows} rows cannot be used ({count_reasons(errors)})"
        super().__init__("\n".join([head, *shown, *([hint] if hint else [])]))


def count_reasons(errors: Iterable[RowError]) -> str:
    """Say how often each reason occurs, most frequent first: `broken JSON: 3; empty target: 1`."""
    return "; ".join(f"{reason}: {n}" for reason, n in Counter(e.reason for e in errors).most_common())


def iter_rows(path: str, split: str | None = None, on_bad: Callable[[RowError], object] | None = None) -> Iterator[Row]:
    """Read the rows of a file or of a Hugging Face dataset, one at a time.

    Args:
        path: A file ending in one of `SUFFIXES`, a folder of such files, or a dataset's name on the hub
            (`owner/name`, with a configuration `owner/name:config`).
        split: Which split of a folder or hub dataset; not for files.
        on_bad: Called with every row that cannot be read, while reading goes on (`errors.append`, say).
            Without it reading goes on as well, and `BadRowsError` is raised at the end.

    Raises:
        SourceError: At the call, when there is nothing to read; while reading, when the file is damaged or
            turns out to hold no rows.
        BadRowsError: After the last row, when some rows could not be read and `on_bad` is not given.
    """
    return _watched(path, _reader(path, split), on_bad)


def _watched(
    path: str, entries: Iterator[Row | RowError], on_bad: Callable[[RowError], object] | None
) -> Iterator[Row]:
    errors: list[RowError] = []
    report = errors.append if on_bad is None else on_bad
    rows = 0
    for entry in entries:
        rows += 1
        if isinstance(entry, Row):
            yield entry
        else:
            report(entry)
    if not rows:
        raise SourceError(f"{path}: found no rows; expected at least one")
    if errors:
        raise BadRowsError(path, errors, rows)


def _reader(path: str, split: str | None) -> Iterator[Row | RowError]:
    found = what_is(path) if path else "an empty name"
    if found not in ("a file", "a folder", "nothing"):
        raise SourceError(f"{path}: found {found}; expected a file ({_kinds()})")
    if found == "a file":
        if split is not None:
            raise SourceError(f"{path}: found split={split!r} for a single file; a file is one split, leave it out")
        return _FILE_READERS[suffix_of(path, READABLE).removesuffix(".gz")](path)
    if os.path.isdir(path):
        if not any(name.endswith(SUFFIXES) for name in os.listdir(path)):
            raise SourceError(f"{path}: found a folder without data files; expected a file ({_kinds()})")
        return _read_hub(path, None, split)
    name = _HUB_NAME.fullmatch(path)
    if name is None or _FILE_LIKE.search(path):
        raise SourceError(f"{path}: no such file; expected a file ({_kinds()}) or a Hugging Face dataset's name")
    return _read_hub(name["name"], name["config"], split)


def _kinds() -> str:
    return ", ".join(SUFFIXES)


def suffix_of(path: str, known: tuple[str, ...] = SUFFIXES) -> str:
    """Which of the known endings a path has. Raises `SourceError` for any other ending."""
    for suffix in known:
        if path.lower().endswith(suffix):
            return suffix
    raise SourceError(f"{path}: unknown kind of file; expected a name ending in one of {', '.join(known)}")


# --------------------------------------------------------------------------------------- reading files


def _lines(path: str) -> Iterator[tuple[int, bytes]]:
    """Lines of a file, gzipped or not, with their numbers; JSON strings may hold any break but a newline."""
    opener = gzip.open if path.lower().endswith(".gz") else open
    number = 0
    with opener(path, "rb") as file:
        try:
            for number, line in enumerate(file, start=1):
                if number == 1:
                    if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
                        raise SourceError(f"{path}:1: found UTF-16; expected UTF-8. Convert the file")
                    line = line.removeprefix(codecs.BOM_UTF8)
                yield number, line
        except EOFError:
            found = "the gzip file ends too early; expected its end marker. Copy the file again"
            raise SourceError(f"{path}:{number + 1}: {found}") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise SourceError(f"{path}:{number + 1}: damaged gzip file ({error}); expected gzip data") from None


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        twice = [key for key, n in Counter(key for key, _ in pairs).items() if n > 1]
        raise ValueError(f"duplicate key: found {', '.join(map(repr, twice))} more than once in one object")
    return data


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"not a number: found {name}; JSON has no such value")


_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates, parse_constant=_no_constant)


def _problem_of(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"broken JSON: {error.msg} at column {error.colno}; expected one whole JSON object"
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8: byte {error.object[error.start]:#04x} at byte {error.start + 1}; convert the file"
    if isinstance(error, RecursionError):
        return "broken JSON: nested too deeply"
    return str(error)


def _as_row(path: str, line: int, data: object, *, item: bool = False) -> Row | RowError:
    if not isinstance(data, dict):
        return RowError(path, line, f"not an object: found {_kind(data)}; expected an object {{…}}", data, item)
    try:
        # an escape such as \ud800 alone decodes, but no tokenizer and no file takes it
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return RowError(path, line, "half a character: found an unpaired \\ud800…\\udfff escape", repr(data), item)
    return Row(path, line, data, item)


def _kind(value: object) -> str:
    names = {"list": "a list", "str": "a string", "NoneType": "null", "bool": "a truth value"}
    return names.get(type(value).__name__, "a number")


def _read_jsonl(path: str) -> Iterator[Row | RowError]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        try:
            data = _DECODER.decode(line.decode().strip())
        except (ValueError, RecursionError) as error:
            yield RowError(path, number, _problem_of(error), line.decode(errors="replace").rstrip("\r\n"))
        else:
            yield _as_row(path, number, data)


_NO_SPACE = re.compile(r"[^ \t\r\n]")


def _read_text(path: str) -> Iterator[Row | RowError]:
    for number, line in _lines(path):
        if line.strip():
            try:
                yield Row(path, number, {"text": line.decode().strip()})
            except UnicodeDecodeError as error:
                yield RowError(path, number, _problem_of(error), line.decode(errors="replace").rstrip("\r\n"))


def _skip_space(text: str, at: int) -> int:
    match = _NO_SPACE.search(text, at)
    return len(text) if match is None else match.start()


def _read_json(path: str) -> Iterator[Row | RowError]:
    raw = b"".join(line for _, line in _lines(path))
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SourceError(f"{path}:{line}: {_problem_of(error)}") from None
    if not text.strip():
        return
    for number, data in enumerate(_list_items(path, text), start=1):
        yield _as_row(path, number, data, item=True)


def _list_items(path: str, text: str) -> Iterator[object]:
    """Decode a JSON list item by item, so that an error names the item. All items may stand on one line."""

    def broken(at: int, expected: str) -> SourceError:
        found = repr(text[at]) if at < len(text) else "the end of the file"
        return SourceError(f"{path}:{text.count(chr(10), 0, at) + 1}: found {found}; expected {expected}")

    at = _skip_space(text, 0)
    if text[at] != "[":
        raise broken(
            at, "'[', a list of objects (one object a line is .jsonl; of {\"data\": […]}, save the list alone)"
        )
    at = _skip_space(text, at + 1)
    for number in count(1):
        if text.startswith("]", at):
            break
        if number > 1:
            if not text.startswith(",", at):
                raise broken(at, f"',' or ']' after item {number - 1}")
            at = _skip_space(text, at + 1)
        try:
            data, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            # where a broken object ends is anyone's guess, so there is no going on
            line = error.lineno if isinstance(error, json.JSONDecodeError) else text.count("\n", 0, at) + 1
            raise SourceError(f"{path}:{line}: item {number}: {_problem_of(error)}") from None
        yield data
        at = _skip_space(text, at)
    at = _skip_space(text, at + 1)
    if at < len(text):
        raise broken(at, "nothing after the list")


def _read_csv(path: str) -> Iterator[Row | RowError]:
    csv.field_size_limit(2**31 - 1)  # the module's own limit is 131,072 characters; this one fits into any C long
    # undecodable bytes travel as surrogates, so that one bad record does not end the reading
    reader = csv.reader((line.decode(errors="surrogateescape") for _, line in _lines(path)), strict=True)
    header: list[str] | None = None
    while True:
        start = reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield RowError(path, start, f"broken CSV: {error}; expected comma-separated fields, quotes doubled")
            continue
        if not record:
            continue
        if header is None:
            header = _checked_header(path, start, [restored(name) for name in record])
        elif any("\udc80" <= character <= "\udcff" for field in record for character in field):
            yield RowError(path, start, "not UTF-8: found bytes of another encoding; convert the file", repr(record))
        elif len(record) != len(header):
            found = f"found {len(record)} fields; expected {len(header)} ({', '.join(header)})"
            yield RowError(path, start, f"wrong number of fields: {found}", record)
        else:
            yield Row(path, start, dict(zip(header, map(restored, record), strict=True)))


def _checked_header(path: str, line: int, header: list[str]) -> list[str]:
    if any("\udc80" <= character <= "\udcff" for name in header for character in name):
        raise SourceError(f"{path}:{line}: not UTF-8: found bytes of another encoding; convert the file")
    twice = [name for name, n in Counter(header).items() if n > 1]
    if twice or "" in header:
        found = f"columns {', '.join(map(repr, header))}"
        raise SourceError(f"{path}:{line}: found {found}; expected a header of distinct, non-empty names")
    return header


def _read_parquet(path: str) -> Iterator[Row | RowError]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            _checked_header(path, 1, file.schema_arrow.names)
            for batch in file.iter_batches(batch_size=_PARQUET_BATCH):
                for entry in _parquet_rows(path, number, batch):
                    number += 1
                    yield entry
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: {_problem_of(error)}; expected names of columns in UTF-8") from None
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path}:{number + 1}: not readable as Parquet ({error})") from None


def _parquet_rows(path: str, before: int, batch: Any) -> Iterator[Row | RowError]:
    """The rows of a record batch, which `before` others stand before; those with an unreadable value are bad rows."""
    try:
        whole = batch.to_pylist()
    except (ValueError, ArithmeticError, LookupError):  # a date past the year 9999, bytes that are no UTF-8
        whole = None
    for at in range(batch.num_rows):
        number = before + at + 1
        if whole is not None:
            yield Row(path, number, whole[at])
            continue
        try:
            yield Row(path, number, {name: batch.column(name)[at].as_py() for name in batch.schema.names})
        except (ValueError, ArithmeticError, LookupError):
            yield RowError(path, number, _unreadable(batch, at))


def _unreadable(batch: Any, row: int) -> str:
    """What is wrong with a row of a record batch that Python cannot hold."""
    for name in batch.schema.names:
        value = batch.column(name)[row]
        shown = shortened(name, _LONGEST_NAME)
        try:
            value.as_py()
        except UnicodeDecodeError as error:
            return f"not UTF-8: column {shown!r}: {_problem_of(error).partition(': ')[2]}"
        except (ValueError, ArithmeticError, LookupError) as error:
            return f"unreadable value: column {shown!r} ({value.type}): {error}; expected a value that Python can hold"
    return "unreadable value"


_FILE_READERS: dict[str, Callable[[str], Iterator[Row | RowError]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".parquet": _read_parquet,
    ".txt": _read_text,
}


# --------------------------------------------------------------------------------------------- hub datasets


def _read_hub(name: str, config: str | None, split: str | None) -> Iterator[Row | RowError]:
    import datasets

    try:
        loaded = datasets.load_dataset(name, config, split=split)
    except Exception as error:  # the library raises dozens of kinds, all with the same meaning here
        found = f"no such file, and not loadable as a Hugging Face dataset ({type(error).__name__}: {error})"
        raise SourceError(f"{name}: {found}") from error
    if isinstance(loaded, Mapping):
        if len(loaded) != 1:
            raise SourceError(f"{name}: found splits {', '.join(loaded)}; name one of them with split=…")
        split, loaded = next(iter(loaded.items()))
    return _hub_rows(f"{name}/{split}", loaded)


def _hub_rows(source: str, dataset: Any) -> Iterator[Row | RowError]:
    features = getattr(dataset, "features", None) or {}
    for number, data in enumerate(dataset, start=1):
        yield Row(source, number, {key: _label_name(features.get(key), value) for key, value in data.items()})


def _label_name(feature: Any, value: Any) -> Any:
    """Class numbers become class names, also in lists: hub datasets number their labels, files name them."""
    if isinstance(value, list):
        inner = getattr(feature, "feature", None)
        return [_label_name(inner, part) for part in value]
    # a missing label is -1 or None there
    if hasattr(feature, "int2str") and isinstance(value, int) and value >= 0:
        return feature.int2str(value)
    return value


# ------------------------------------------------------------------------------------------------ writing


class RowWriter:
    """Write rows to a file that appears whole or not at all.

    Rows go to a temporary file beside the target, which takes the target's place when the `with` block ends
    well and is removed when it does not.

    Args:
        path: Where to write; its ending, one of `SUFFIXES`, says how. CSV takes its header from the first row
            and Parquet its types from the first 1,000, so later rows must fit them.

    Raises:
        SourceError: The ending is unknown, or there is no such folder.
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
        # through links, so that the file a link names is replaced and not the link
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

    def write(self, data: Mapping[str, Any]) -> None:
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
                # a Parquet writer left open would complain about its closed file when it is collected
                with contextlib.suppress(Exception):
                    self._encoder.close(self._stream)
                # the error at hand goes on by itself
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


def write_rows(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows to a file as `RowWriter` does, and return how many there were."""
    with RowWriter(path) as writer:
        for row in rows:
            writer.write(row)
    return writer.written


class _JsonlEncoder:
    def write(self, stream: IO[bytes], data: Mapping[str, Any]) -> None:
        stream.write(_dumped(data) + b"\n")

    def close(self, stream: IO[bytes]) -> None:
        pass


class _JsonEncoder:
    def __init__(self) -> None:
        self._before = b"[\n"

    def write(self, stream: IO[bytes], data: Mapping[str, Any]) -> None:
        stream.write(self._before + _dumped(data))
        self._before = b",\n"

    def close(self, stream: IO[bytes]) -> None:
        stream.write(b"[]\n" if self._before == b"[\n" else b"\n]\n")


def _dumped(data: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(dict(data), ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError):
        for name, value in data.items():
            try:
                json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
            except (ValueError, TypeError) as error:
                shown = shortened(name, _LONGEST_NAME)
                raise ValueError(f"field {shown!r} holds {shortened(repr(value), 60)}, no JSON ({error})") from error
        raise


class _CsvEncoder:
    def __init__(self) -> None:
        self._header: list[str] | None = None
        self._line = io.StringIO()
        # with "\n" for a line end the csv module leaves "\r" unquoted, and then cannot read it back
        self._writer = csv.writer(self._line, lineterminator="\r\n")

    def write(self, stream: IO[bytes], data: Mapping[str, Any]) -> None:
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
        self._batch: list[Mapping[str, Any]] = []
        self._schema: Any = None
        self._writer: Any = None

    def write(self, stream: IO[bytes], data: Mapping[str, Any]) -> None:
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
            # from_pylist alone would take its columns from the first row and drop what only others have
            keys = list(dict.fromkeys(key for row in self._batch for key in row))
            self._schema = pa.schema([self._field(key, [row.get(key) for row in self._batch]) for key in keys])
            self._writer = pq.ParquetWriter(stream, self._schema)
        for row in self._batch:
            if unknown := set(row) - set(self._schema.names):
                raise ValueError(f"fields {', '.join(sorted(unknown))} are not in the first {_PARQUET_BATCH} rows")
        self._writer.write_table(pa.Table.from_pylist(self._batch, schema=self._schema))
        self._batch = []

    def _field(self, name: str, values: list[Any]) -> Any:
        """A column's name and type, tried alone, so that the one that cannot be written is named."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            column = pa.table({name: values})
            with pq.ParquetWriter(io.BytesIO(), column.schema) as writer:
                writer.write_table(column)
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise ValueError(
                f"field {shortened(name, _LONGEST_NAME)!r}: Parquet cannot hold its values ({error}); expected values "
                "of one type, and objects with at least one key; write .jsonl instead"
            ) from error
        return column.schema.field(0)


_ENCODERS: dict[str, Callable[[], _JsonlEncoder | _JsonEncoder | _CsvEncoder | _ParquetEncoder]] = {
    ".jsonl": _JsonlEncoder,
    ".json": _JsonEncoder,
    ".csv": _CsvEncoder,
    ".parquet": _ParquetEncoder,
}

"""Readers of rows: one for each file kind, and one for Hugging Face datasets.

Readers stream (only a `.json` list is read whole) and record the line of every row. A bad row does not stop them, so
one run over the data reports all bad rows.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any, NoReturn

from robustlm.checks.places import what_is
from robustlm.checks.texts import shortened
from robustlm.rows.base import (
    LONGEST_NAME,
    READABLE,
    SUFFIXES,
    BadRowsError,
    Row,
    RowError,
    SourceError,
    kinds_of,
    suffix_of,
)
from robustlm.rows.cells import restored

_HUB_NAME = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(:(?P<config>[\w.-]+))?")
_FILE_LIKE = re.compile(r"\.(jsonl?|csv|tsv|txt|parquet|gz|zip|zst|bz2|xz|xlsx?|ya?ml)$", re.IGNORECASE)
_PARQUET_BATCH = 1000


def iter_rows(path: str, split: str | None = None, on_bad: Callable[[RowError], object] | None = None) -> Iterator[Row]:
    """Read the rows of a file or of a Hugging Face dataset, one at a time.

    Args:
        path: A file ending in one of `SUFFIXES`, a folder of such files, or a dataset's name on the hub
            (`owner/name`, with a configuration `owner/name:config`).
        split: Which split of a folder or hub dataset; not for files.
        on_bad: Called with every row that cannot be read (`errors.append`, for example); reading continues. Without it
            reading also continues, and `BadRowsError` is raised at the end.

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
        raise SourceError(f"{path}: found {found}; expected a file ({kinds_of()})")
    if found == "a file":
        if split is not None:
            raise SourceError(f"{path}: found split={split!r} for a single file; a file is one split, leave it out")
        return _FILE_READERS[suffix_of(path, READABLE).removesuffix(".gz")](path)
    if os.path.isdir(path):
        if not any(name.endswith(SUFFIXES) for name in os.listdir(path)):
            raise SourceError(f"{path}: found a folder without data files; expected a file ({kinds_of()})")
        return _read_hub(path, None, split)
    name = _HUB_NAME.fullmatch(path)
    if name is None or _FILE_LIKE.search(path):
        raise SourceError(f"{path}: no such file; expected a file ({kinds_of()}) or a Hugging Face dataset's name")
    return _read_hub(name["name"], name["config"], split)


# --------------------------------------------------------------------------------------- reading files


def numbered_lines(path: str) -> Iterator[tuple[int, bytes]]:
    """Numbered lines of a file, gzipped or not. Only newlines end a line, since JSON strings may hold other breaks."""
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


def problem_of(error: Exception) -> str:
    """What is wrong with bytes that are no text, or a text that is no JSON."""
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
        # an unpaired escape such as \ud800 decodes, but tokenizers and files cannot handle it
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return RowError(path, line, "half a character: found an unpaired \\ud800…\\udfff escape", repr(data), item)
    return Row(path, line, data, item)


def _kind(value: object) -> str:
    names = {"list": "a list", "str": "a string", "NoneType": "null", "bool": "a truth value"}
    return names.get(type(value).__name__, "a number")


def _read_jsonl(path: str) -> Iterator[Row | RowError]:
    for number, line in numbered_lines(path):
        if not line.strip():
            continue
        try:
            data = _DECODER.decode(line.decode().strip())
        except (ValueError, RecursionError) as error:
            yield RowError(path, number, problem_of(error), line.decode(errors="replace").rstrip("\r\n"))
        else:
            yield _as_row(path, number, data)


_NO_SPACE = re.compile(r"[^ \t\r\n]")


def _read_text(path: str) -> Iterator[Row | RowError]:
    for number, line in numbered_lines(path):
        if line.strip():
            try:
                yield Row(path, number, {"text": line.decode().strip()})
            except UnicodeDecodeError as error:
                yield RowError(path, number, problem_of(error), line.decode(errors="replace").rstrip("\r\n"))


def _skip_space(text: str, at: int) -> int:
    match = _NO_SPACE.search(text, at)
    return len(text) if match is None else match.start()


def _read_json(path: str) -> Iterator[Row | RowError]:
    raw = b"".join(line for _, line in numbered_lines(path))
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise SourceError(f"{path}:{line}: {problem_of(error)}") from None
    if not text.strip():
        return
    for number, data in enumerate(_list_items(path, text), start=1):
        yield _as_row(path, number, data, item=True)


def _examples(text: str) -> list[object] | None:
    """The examples of a task file of BIG-bench, an object with the list `examples`; None for other objects."""
    try:
        data = _DECODER.decode(text.strip())
    except (ValueError, RecursionError):
        return None
    found = data.get("examples") if "target_scores" in text else None
    return found if isinstance(found, list) else None


def _list_items(path: str, text: str) -> Iterator[object]:
    """Decode a JSON list item by item, so that an error names the item. All items may stand on one line."""

    def broken(at: int, expected: str) -> SourceError:
        found = repr(text[at]) if at < len(text) else "the end of the file"
        return SourceError(f"{path}:{text.count(chr(10), 0, at) + 1}: found {found}; expected {expected}")

    at = _skip_space(text, 0)
    if text[at] == "{":
        examples = _examples(text)
        if examples is not None:
            yield from examples
            return
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
            # the end of a broken object is unknown, so reading stops here
            line = error.lineno if isinstance(error, json.JSONDecodeError) else text.count("\n", 0, at) + 1
            raise SourceError(f"{path}:{line}: item {number}: {problem_of(error)}") from None
        yield data
        at = _skip_space(text, at)
    at = _skip_space(text, at + 1)
    if at < len(text):
        raise broken(at, "nothing after the list")


def _read_csv(path: str) -> Iterator[Row | RowError]:
    csv.field_size_limit(2**31 - 1)  # the module's own limit is 131,072 characters; this one fits into any C long
    # undecodable bytes become surrogates, so that one bad record does not stop the reading
    reader = csv.reader((line.decode(errors="surrogateescape") for _, line in numbered_lines(path)), strict=True)
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


def _read_tsv(path: str) -> Iterator[Row | RowError]:
    """Lines of fields with tabs between them, as GLUE publishes them: quotes are text."""
    header: list[str] | None = None
    for number, line in numbered_lines(path):
        text = line.decode(errors="surrogateescape").rstrip("\r\n")
        record = text.split("\t")
        if not text.strip():
            continue
        if header is None:
            header = _checked_header(path, number, record)
        elif any("\udc80" <= character <= "\udcff" for character in text):
            yield RowError(path, number, "not UTF-8: found bytes of another encoding; convert the file", repr(record))
        elif len(record) != len(header):
            found = f"found {len(record)} fields; expected {len(header)} ({', '.join(header)})"
            yield RowError(path, number, f"wrong number of fields: {found}", record)
        else:
            yield Row(path, number, dict(zip(header, record, strict=True)))


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
        raise SourceError(f"{path}: {problem_of(error)}; expected names of columns in UTF-8") from None
    except (pa.ArrowException, OSError) as error:
        raise SourceError(f"{path}:{number + 1}: not readable as Parquet ({error})") from None


def _parquet_rows(path: str, before: int, batch: Any) -> Iterator[Row | RowError]:
    """The rows of a record batch; `before` rows come before it. Rows with an unreadable value are bad rows."""
    try:
        whole = batch.to_pylist()
    except (ValueError, ArithmeticError, LookupError):  # a date past the year 9999, bytes that are not UTF-8
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
    """Say why Python cannot hold a row of a record batch."""
    for name in batch.schema.names:
        value = batch.column(name)[row]
        shown = shortened(name, LONGEST_NAME)
        try:
            value.as_py()
        except UnicodeDecodeError as error:
            return f"not UTF-8: column {shown!r}: {problem_of(error).partition(': ')[2]}"
        except (ValueError, ArithmeticError, LookupError) as error:
            return f"unreadable value: column {shown!r} ({value.type}): {error}; expected a value that Python can hold"
    return "unreadable value"


_FILE_READERS: dict[str, Callable[[str], Iterator[Row | RowError]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
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
    """Convert class numbers to class names, also in lists: hub datasets store label numbers, files store names."""
    if isinstance(value, list):
        inner = getattr(feature, "feature", None)
        return [_label_name(inner, part) for part in value]
    # hub datasets mark a missing label by -1 or None
    if hasattr(feature, "int2str") and isinstance(value, int) and value >= 0:
        return feature.int2str(value)
    return value

"""Reads and writes the prediction table: as Parquet, and as JSON lines while a test runs."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from itertools import repeat
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_type_hints

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from robustlm.checks.places import what_is
from robustlm.evaluation.record import LATER, Key, Record, parsed_record, plain_record
from robustlm.utils.files import whole_file, write_text

_ARROW: dict[object, pa.DataType] = {
    str: pa.string(),
    bool: pa.bool_(),
    list[str]: pa.list_(pa.string()),
    list[list[str]]: pa.list_(pa.list_(pa.string())),
    list[float]: pa.list_(pa.float32()),
    list[int]: pa.list_(pa.int64()),
    float: pa.float32(),
    int: pa.int64(),
}
"""The column type for each type of field."""


def _column(name: str, kind: object) -> pa.Field:
    kinds = [one for one in get_args(kind) if one is not NoneType] if isinstance(kind, UnionType) else [kind]
    return pa.field(name, _ARROW[kinds[0]], nullable=isinstance(kind, UnionType))


SCHEMA = pa.schema([_column(name, kind) for name, kind in get_type_hints(Record).items()])
"""Columns of the table, from the fields of `Record`; `Record.key` identifies a row."""


def clear_parts(path: Path) -> None:
    """Remove part files of the table at `path` that an unfinished run left."""
    for part in _parts(path):
        part.unlink()


def read_parts(path: Path) -> list[Record]:
    """Rows in the part files that an unfinished run wrote for the table at `path`, each row once.

    An incomplete last line is ignored.

    Raises:
        ValueError: Any other line is not a record.
    """
    found: dict[Key, Record] = {}
    for part in _parts(path):
        # not `splitlines`, which also splits at U+2028 and other characters that JSON does not escape
        *lines, unended = part.read_text(encoding="utf-8", errors="replace").split("\n")
        del unended
        for number, line in enumerate(lines, start=1):
            try:
                row = parsed_record(json.loads(line))
                found[row.key] = row
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{part}:{number}: found no row of a prediction table ({error})") from error
    return list(found.values())


def write_part(path: Path, rows: Iterable[Record]) -> None:
    """Write rows of a whole table as its first part file, completely or not at all, so that more can be added.

    Args:
        path: The table (Parquet).
        rows: Its rows.
    """
    write_text(path.with_name(f"{path.name}.part-0"), "".join(map(_line, rows)))


def _line(row: Record) -> str:
    return json.dumps(plain_record(row), ensure_ascii=False) + "\n"


class TableWriter:
    """Writes the rows of one process to a part file, and merges all part files into one table.

    Args:
        path: Path of the later table (Parquet). Before `merge` there are only `<path>.part-*` files, with one row as
            JSON in each line.
        rank: Rank of this process.
        attempt: Number of times that the run was resumed; each attempt writes its own files.
    """

    def __init__(self, path: Path, rank: int = 0, attempt: int = 0) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        name = f"{path.name}.part-{rank}" + (f".{attempt}" if attempt else "")
        self._part = path.with_name(name).open("w", encoding="utf-8")

    def write(self, rows: Iterable[Record]) -> None:
        """Add rows."""
        self._part.writelines(map(_line, rows))
        self._part.flush()

    def close(self) -> None:
        """Close the part file."""
        self._part.close()

    def merge(self, conditions: Sequence[str] = ()) -> int:
        """Write the table from all part files, in the order of condition and sample; return its row count.

        Args:
            conditions: Order of the conditions; others follow in the order of their first rows.
        """
        rows = read_parts(self._path)
        write_table(self._path, rows, conditions)
        clear_parts(self._path)
        return len(rows)


def write_table(path: Path, rows: Iterable[Record], conditions: Sequence[str] = ()) -> None:
    """Write a table completely or not at all, in the order of condition, dataset and sample.

    Args:
        path: The table (Parquet).
        rows: Its rows.
        conditions: Order of the conditions; others follow in the order of their first rows.
    """
    listed = list(rows)
    order = {name: at for at, name in enumerate(conditions)}
    for row in listed:
        order.setdefault(row.condition, len(order))
    listed.sort(key=lambda row: (order[row.condition], row.dataset, row.sample_id, row.instruction_id, row.draw or 0))
    with whole_file(path) as unfinished:
        columns = [pa.array([getattr(row, field.name) for row in listed], field.type) for field in SCHEMA]
        pq.write_table(pa.table(columns, schema=SCHEMA), unfinished)


def _parts(path: Path) -> list[Path]:
    """Part files of a table, older attempts first, then by rank."""

    def age(part: Path) -> tuple[int, int]:
        rank, _, attempt = part.name.rpartition("-")[2].partition(".")
        return int(attempt or 0), int(rank)

    return sorted(path.parent.glob(f"{path.name}.part-*"), key=age)


def read_table(path: Path, *, answered: bool = True) -> list[Record]:
    """Rows of a table.

    Args:
        path: The table (Parquet).
        answered: Leave out rows without a true answer, since they cannot be scored; a warning gives their number.

    Raises:
        ValueError: The file is no prediction table; a column is missing, has another type, or has null where a value
            is required; or no row is left.
    """
    if (found := what_is(path)) != "a file":
        raise ValueError(f"{path}: no prediction table: found {found}; expected a Parquet file")
    try:
        names: list[str] = pq.read_schema(path).names
        table = None if len(set(names)) < len(names) else pq.read_table(path)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise ValueError(f"{path}: no prediction table: {error}") from error
    if missing := [name for name in SCHEMA.names if name not in (*names, *LATER)]:
        raise ValueError(f"{path}: the columns {missing} of a prediction table are missing; found {names}")
    if table is None:
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}: found the column {twice!r} twice; expected it once")
    known = {
        field.name: checked_column(path, field, table.column(field.name)) for field in SCHEMA if field.name in names
    }
    columns = [known[name].to_pylist() if name in known else repeat(None) for name in SCHEMA.names]
    rows = [Record(*values) for values in zip(*columns, strict=False)]
    _refuse_repeats(path, rows)
    _check_correct(path, rows)
    if answered:
        rows = _with_target(path, rows)
    return rows


def _check_correct(path: Path, rows: Sequence[Record]) -> None:
    for number, row in enumerate(rows, start=1):
        if (row.target is None) != (row.correct is None):
            empty, other = ("target", "correct") if row.target is None else ("correct", "target")
            raise ValueError(f"{path}: row {number}: {empty}: found null beside a value for {other}; expected both")


def _with_target(path: Path, rows: list[Record]) -> list[Record]:
    found = [row for row in rows if row.target is not None]
    if rows and not found:
        raise ValueError(
            f"{path}: none of the {len(rows)} rows has a target to compare answers with (tables of `robustlm predict` "
            "may have none); expected the table of a `robustlm test`"
        )
    if len(found) < len(rows):
        left_out = f"{len(rows) - len(found)} of {len(rows)} rows are left out: they have no target to compare with"
        warnings.warn(f"{path}: {left_out}", UserWarning, stacklevel=3)
    return found


def _refuse_repeats(path: Path, rows: Sequence[Record]) -> None:
    seen: dict[Key, int] = {}
    for number, row in enumerate(rows, start=1):
        first = seen.setdefault(row.key, number)
        if first != number:
            names = ", ".join(map(repr, row.cell)) + ("" if row.draw is None else f", draw {row.draw}")
            raise ValueError(f"{path}: rows {first} and {number} answer the same ({names}); expected each row once")


def checked_column(path: Path, field: pa.Field, column: Any) -> Any:
    """Cast a column to the type in the schema.

    Args:
        path: The file, named in error messages.
        field: Name and type of the column, and whether it may be null.
        column: The column in the file, a chunked array.

    Raises:
        ValueError: The column has another type, holds null where a value is required, or text that is not UTF-8.
    """
    expected = f"expected {_type_name(field.type)}"
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if _plain_type(column.type) != _plain_type(field.type) and not (field.nullable and pa.types.is_null(column.type)):
        raise ValueError(f"{path}: {field.name}: found {_type_name(column.type)}; {expected}")
    try:
        column.validate(full=True)
        column = column.cast(field.type)
    except pa.ArrowException as error:
        raise ValueError(f"{path}: {field.name}: {error}; {expected}") from error
    if not field.nullable and column.null_count:
        row = pc.index(pc.is_null(column), True).as_py() + 1
        raise ValueError(f"{path}: row {row}: {field.name}: found null; {expected}")
    items = column
    while pa.types.is_list(items.type):
        items = pc.list_flatten(items)
        if items.null_count:
            raise ValueError(f"{path}: {field.name}: found null in a list; {expected}")
    return column


def _plain_type(kind: Any) -> Any:
    """A type in simple form: variants for large data and different number types count as the same type."""
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain_type(kind.value_type))
    return pa.float64() if pa.types.is_floating(kind) else pa.int64() if pa.types.is_integer(kind) else kind


def _type_name(kind: Any) -> str:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"lists of {_type_name(kind.value_type)}"
    return {"string": "text", "large_string": "text", "bool": "true or false"}.get(str(kind), str(kind))

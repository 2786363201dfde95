"""The prediction table: one row for each sample, condition and instruction. Every score can be made from it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from robustlm.checks.places import what_is
from robustlm.utils.files import whole_file

SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("condition", pa.string(), nullable=False),
        pa.field("instruction_id", pa.string(), nullable=False),
        pa.field("prediction", pa.string(), nullable=False),
        pa.field("parsed", pa.list_(pa.list_(pa.string()))),  # null: could not be read
        pa.field("target", pa.string()),  # this and `correct` are null: the row brought no answer (`predict`)
        pa.field("correct", pa.bool_()),
        pa.field("choices", pa.list_(pa.string())),  # this and the following are null: the answer was generated
        pa.field("option_scores", pa.list_(pa.float32())),  # log-likelihood of each choice, summed over its tokens
        pa.field("option_tokens", pa.list_(pa.int64())),  # how many those are, with end of sequence
        pa.field("prompt", pa.string()),  # all that the model was given; null: not kept
        pa.field("token_f1", pa.float32()),  # this and the next: overlap with the target; null: no free text, no target
        pa.field("rouge_l", pa.float32()),
    ]
)
"""Columns of the table; `condition`, `dataset`, `sample_id` and `instruction_id` together are its key."""

_LATER = ("choices", "option_scores", "option_tokens", "prompt", "token_f1", "rouge_l")
"""Columns that tables of earlier versions lack; they are null there."""


OWN = "own"
"""Instruction id of rows asked by an instruction of their own; that of its paraphrases goes on with a slash."""

Key = tuple[str, str, str, str]
"""Condition, dataset, sample and instruction: what names a row."""


def key_of(row: dict[str, Any]) -> Key:
    """The key of a row."""
    return row["condition"], row["dataset"], row["sample_id"], row["instruction_id"]


def clear_parts(path: Path) -> None:
    """Remove what an earlier run that did not end well has left for the table at `path`."""
    for part in _parts(path):
        part.unlink()


def read_parts(path: Path) -> list[dict[str, Any]]:
    """Rows that a run which did not end has written for the table at `path`, each once.

    A last line that was cut short is not there.

    Raises:
        ValueError: Another line is no row.
    """
    found: dict[Key, dict[str, Any]] = {}
    for part in _parts(path):
        # not `splitlines`, which also splits at U+2028 and others that JSON leaves inside of texts
        *lines, unended = part.read_text(encoding="utf-8", errors="replace").split("\n")
        del unended
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
                found[key_of(row)] = row
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{part}:{number}: found no row of a prediction table ({error})") from error
    return list(found.values())


class TableWriter:
    """Collects rows into a file of its own process, and the processes' files into one table.

    Args:
        path: The table to be (Parquet). Until `merge` there are only `<path>.part-*` files, a JSON row a line.
        rank: This process.
        attempt: How often the run was taken up again; each attempt writes files of its own.
    """

    def __init__(self, path: Path, rank: int = 0, attempt: int = 0) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        name = f"{path.name}.part-{rank}" + (f".{attempt}" if attempt else "")
        self._part = path.with_name(name).open("w", encoding="utf-8")

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add rows."""
        self._part.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        self._part.flush()

    def close(self) -> None:
        """No more rows from this process."""
        self._part.close()

    def merge(self, conditions: Sequence[str] = ()) -> int:
        """Make the table from all parts, in the order of condition and sample; returns its row count.

        Args:
            conditions: Their order; those left out follow in the order of their first rows.
        """
        rows = read_parts(self._path)
        write_table(self._path, rows, conditions)
        clear_parts(self._path)
        return len(rows)


def write_table(path: Path, rows: Iterable[dict[str, Any]], conditions: Sequence[str] = ()) -> None:
    """Write a table, whole or not at all, in the order of condition, dataset and sample.

    Args:
        path: The table (Parquet).
        rows: Its rows.
        conditions: Their order; those left out follow in the order of their first rows.
    """
    listed = list(rows)
    order = {name: at for at, name in enumerate(conditions)}
    for row in listed:
        order.setdefault(row["condition"], len(order))
    listed.sort(key=lambda row: (order[row["condition"]], row["dataset"], row["sample_id"], row["instruction_id"]))
    with whole_file(path) as unfinished:
        pq.write_table(pa.Table.from_pylist(listed, schema=SCHEMA), unfinished)


def _parts(path: Path) -> list[Path]:
    """Older attempts first, then by rank."""

    def age(part: Path) -> tuple[int, int]:
        rank, _, attempt = part.name.rpartition("-")[2].partition(".")
        return int(attempt or 0), int(rank)

    return sorted(path.parent.glob(f"{path.name}.part-*"), key=age)


def read_table(path: Path, *, answered: bool = True) -> list[dict[str, Any]]:
    """Rows of a table.

    Args:
        path: The table (Parquet).
        answered: Leave out rows that brought no answer, of which a warning says how many: nothing can be scored there.

    Raises:
        ValueError: The file is none, or a column is missing, of another type, or empty where it must not be; or no row
            is left.
    """
    if (found := what_is(path)) != "a file":
        raise ValueError(f"{path}: no prediction table: found {found}; expected a Parquet file")
    try:
        names: list[str] = pq.read_schema(path).names
        table = None if len(set(names)) < len(names) else pq.read_table(path)
    except (OSError, UnicodeDecodeError, pa.ArrowException) as error:
        raise ValueError(f"{path}: no prediction table: {error}") from error
    if missing := [name for name in SCHEMA.names if name not in (*names, *_LATER)]:
        raise ValueError(f"{path}: the columns {missing} of a prediction table are missing; found {names}")
    if table is None:
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{path}: found the column {twice!r} twice; expected it once")
    known = {
        field.name: checked_column(path, field, table.column(field.name)) for field in SCHEMA if field.name in names
    }
    rows: list[dict[str, Any]] = pa.table(known).to_pylist()
    _refuse_repeats(path, rows)
    _check_correct(path, rows)
    if answered:
        rows = _with_target(path, rows)
    return [dict.fromkeys(_LATER) | row for row in rows]


def _check_correct(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    for number, row in enumerate(rows, start=1):
        if (row["target"] is None) != (row["correct"] is None):
            empty, other = ("target", "correct") if row["target"] is None else ("correct", "target")
            raise ValueError(f"{path}: row {number}: {empty}: found null beside a value for {other}; expected both")


def _with_target(path: Path, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = [row for row in rows if row["target"] is not None]
    if rows and not found:
        raise ValueError(
            f"{path}: none of the {len(rows)} rows brought an answer to compare with, as those of `robustlm predict` "
            "may; expected the table of a `robustlm test`"
        )
    if len(found) < len(rows):
        left_out = f"{len(rows) - len(found)} of {len(rows)} rows are left out: they brought no answer to compare with"
        warnings.warn(f"{path}: {left_out}", UserWarning, stacklevel=3)
    return found


def _refuse_repeats(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    seen: dict[Key, int] = {}
    for number, row in enumerate(rows, start=1):
        first = seen.setdefault(key_of(row), number)
        if first != number:
            names = ", ".join(map(repr, key_of(row)))
            raise ValueError(f"{path}: rows {first} and {number} answer the same ({names}); expected each row once")


def checked_column(path: Path, field: pa.Field, column: Any) -> Any:
    """A column as the type that a table of ours has.

    Args:
        path: The file; begins the message.
        field: Name and type of the column, and whether it may be null.
        column: What the file holds, a chunked array.

    Raises:
        ValueError: It is of another type, holds null where a value is needed, or text that is no UTF-8.
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
    """A type without its variants for large data, and with numbers as one."""
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain_type(kind.value_type))
    return pa.float64() if pa.types.is_floating(kind) else pa.int64() if pa.types.is_integer(kind) else kind


def _type_name(kind: Any) -> str:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"lists of {_type_name(kind.value_type)}"
    return {"string": "text", "large_string": "text", "bool": "true or false"}.get(str(kind), str(kind))

"""The prediction table: one row for each sample, condition and instruction. Every score can be made from it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from robustlm.files import whole_file

SCHEMA = pa.schema(
    [
        pa.field("sample_id", pa.string(), nullable=False),
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("task", pa.string(), nullable=False),
        pa.field("condition", pa.string(), nullable=False),
        pa.field("instruction_id", pa.string(), nullable=False),
        pa.field("prediction", pa.string(), nullable=False),
        pa.field("parsed", pa.list_(pa.list_(pa.string()))),  # null: could not be read
        pa.field("target", pa.string(), nullable=False),
        pa.field("correct", pa.bool_(), nullable=False),
        pa.field("choices", pa.list_(pa.string())),  # this and the following are null: the answer was generated
        pa.field("option_scores", pa.list_(pa.float32())),  # log-likelihood of each choice, summed over its tokens
        pa.field("option_tokens", pa.list_(pa.int64())),  # how many those are, with end of sequence
        pa.field("prompt", pa.string()),  # all that the model was given; null: not kept
    ]
)
"""Columns of the table; `condition`, `dataset`, `sample_id` and `instruction_id` together are its key."""

_LATER = ("choices", "option_scores", "option_tokens", "prompt")
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


def read_table(path: Path) -> list[dict[str, Any]]:
    """Rows of a table. Raises `ValueError` for a file that is none."""
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"{path}: no prediction table: {error}") from error
    if missing := [name for name in SCHEMA.names if name not in (*table.column_names, *_LATER)]:
        raise ValueError(f"{path}: the columns {missing} of a prediction table are missing; found {table.column_names}")
    rows: list[dict[str, Any]] = table.to_pylist()
    return [dict.fromkeys(_LATER) | row for row in rows]

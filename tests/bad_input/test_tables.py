"""Prediction and state tables that are damaged: the column, and where it helps the row, is named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robustlm.evaluation.hidden_state_table import HiddenStateTable
from robustlm.evaluation.table import SCHEMA, read_table

FILLED: dict[str, Any] = {
    "sample_id": "a",
    "dataset": "d",
    "task": "tc",
    "condition": "clean",
    "instruction_id": "own",
    "prediction": "x",
    "parsed": [["x"]],
    "target": "x",
    "correct": True,
    "choices": ["x", "y"],
    "option_scores": [0.5, 1.0],
    "option_tokens": [1, 2],
    "prompt": "p",
}
LOOSE = pa.schema([pa.field(field.name, field.type) for field in SCHEMA])


def table(**changes: Any) -> Any:
    """Two rows, the second with changes."""
    return pa.Table.from_pylist([FILLED, {**FILLED, "sample_id": "b", **changes}], LOOSE)


def column(name: str, values: Any) -> Any:
    good = table()
    return good.set_column(good.column_names.index(name), name, values)


REQUIRED = [field.name for field in SCHEMA if not field.nullable]


@pytest.mark.parametrize("name", REQUIRED)
def test_null_is_named_by_row_and_column(name: str, tmp_path: Path) -> None:
    pq.write_table(table(**{name: None}), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=rf"t\.parquet: row 2: {name}: found null; expected"):
        read_table(tmp_path / "t.parquet")


@pytest.mark.parametrize("name", SCHEMA.names)
def test_another_type_is_named(name: str, tmp_path: Path) -> None:
    pq.write_table(column(name, pa.array([{"a": 1}] * 2)), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=rf"t\.parquet: {name}: found struct.*; expected "):
        read_table(tmp_path / "t.parquet")


OTHER: dict[str, tuple[Callable[[], Any], str]] = {
    "numbers for text": (lambda: column("prediction", pa.array([1.5, 2.5])), "prediction: found double; expected text"),
    "bad UTF-8": (
        lambda: column("prediction", pa.array([b"x", b"\xff"], pa.binary()).view(pa.string())),
        "prediction: .*UTF8",
    ),
    "null in a list": (lambda: table(choices=[None]), "choices: found null in a list; expected lists of text"),
    "null in an inner list": (lambda: table(parsed=[[None]]), "parsed: found null in a list"),
    "a column twice": (lambda: table().append_column("task", table().column("task")), "the column 'task' twice"),
    "a row twice": (lambda: pa.concat_tables([table(), table()]), "rows 1 and 3 answer the same"),
}


@pytest.mark.parametrize("kind", OTHER)
def test_other_damage_is_named(kind: str, tmp_path: Path) -> None:
    make, says = OTHER[kind]
    pq.write_table(make(), tmp_path / "t.parquet")
    with pytest.raises(ValueError, match=rf"t\.parquet.*{says}"):
        read_table(tmp_path / "t.parquet")


def test_variants_of_the_same_types_are_read(tmp_path: Path) -> None:
    pq.write_table(table(), tmp_path / "plain.parquet")
    other = column("sample_id", table().column("sample_id").cast(pa.large_string()))
    other = other.set_column(1, "dataset", other.column("dataset").combine_chunks().dictionary_encode())
    pq.write_table(other.drop_columns(["prompt"]), tmp_path / "other.parquet")
    plain = [replace(row, prompt=None) for row in read_table(tmp_path / "plain.parquet")]
    assert read_table(tmp_path / "other.parquet") == plain


KEYS = {"condition": ["clean"], "dataset": ["d"], "sample_id": ["a"], "instruction_id": ["own"]}
PAIR = pa.list_(pa.float32(), 2)
HIDDEN_STATES: dict[str, tuple[Any, dict[bytes, bytes], str]] = {
    "lists of any length": ({"state": [[1.0, 2.0]]}, {}, "state: found list"),
    "text": ({"state": ["x"]}, {}, "state: found string"),
    "not finite": ({"state": pa.array([[float("nan"), 1.0]], PAIR)}, {}, "state: found null or a number that is not"),
    "null": ({"state": pa.array([None], PAIR)}, {}, "state: found null"),
    "a null key": ({"state": pa.array([[0.0, 1.0]], PAIR), "dataset": pa.array([None], pa.string())}, {}, "dataset"),
    "a number as key": ({"state": pa.array([[0.0, 1.0]], PAIR), "dataset": [5]}, {}, "dataset: found int64"),
    "broken notes": ({"state": pa.array([[0.0, 1.0]], PAIR)}, {b"robustlm": b"{"}, "not JSON"),
    "notes that are a list": ({"state": pa.array([[0.0, 1.0]], PAIR)}, {b"robustlm": b"[]"}, "found|are list"),
}


@pytest.mark.parametrize("kind", HIDDEN_STATES)
def test_a_damaged_state_table(kind: str, tmp_path: Path) -> None:
    columns, notes, says = HIDDEN_STATES[kind]
    made = pa.table({**KEYS, **columns})
    pq.write_table(made.replace_schema_metadata(notes) if notes else made, tmp_path / "states.parquet")
    with pytest.raises(ValueError, match=rf"states\.parquet.*({says})"):
        HiddenStateTable(tmp_path / "states.parquet").read([0])

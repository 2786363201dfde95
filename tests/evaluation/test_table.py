"""The prediction table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robustlm.evaluation.record import LATER, Record, parsed_record, plain_record
from robustlm.evaluation.table import SCHEMA, TableWriter, clear_parts, read_table, write_table


def row(sample: str, condition: str = "clean", **more: Any) -> Record:
    base = Record(
        sample_id=sample,
        dataset="d",
        task="ner",
        condition=condition,
        instruction_id="i/0",
        prediction="PER: Ada\u2028né 😀",
        parsed=[["PER", "Ada"]],
        target="PER: Ada",
        correct=True,
    )
    return replace(base, **more)


def test_parts_make_one_table_whatever_process_wrote_them(tmp_path: Path) -> None:
    rows = [row(f"s:{i}", c, instruction_id=f"i/{k}") for c in ("unseen", "clean") for i in range(13) for k in (0, 1)]
    tables = []
    for world in (1, 3, 12):
        path = tmp_path / str(world) / "deep" / "predictions.parquet"
        writers = [TableWriter(path, rank) for rank in range(world)]
        for condition in ("unseen", "clean"):
            own = [r for r in rows if r["condition"] == condition]
            for i, one in enumerate(own[::-1] if world == 3 else own):
                writers[i % world].write([one])
        for writer in writers:
            writer.close()
        assert writers[0].merge() == len(rows)
        assert [file.name for file in path.parent.iterdir()] == ["predictions.parquet"]
        tables.append(read_table(path))
    assert tables[0] == tables[1] == tables[2]
    assert [r["condition"] for r in tables[0]] == ["unseen"] * 26 + ["clean"] * 26  # in the order they were asked
    key = lambda r: (r["condition"], r["sample_id"], r["instruction_id"])  # noqa: E731
    assert sorted(tables[0], key=key) == sorted(rows, key=key)


def test_schema(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path / "t.parquet")
    writer.write([row("a", parsed=None, correct=False), row("b", parsed=[])])
    writer.close()
    writer.merge()
    assert pq.read_schema(tmp_path / "t.parquet").equals(SCHEMA)
    first, second = read_table(tmp_path / "t.parquet")
    assert first["parsed"] is None
    assert second["parsed"] == []


def test_scores_of_options(tmp_path: Path) -> None:
    scored = row("b", choices=["yes", "no"], option_scores=[-1.25, float("-inf")], option_tokens=[2, 3])
    writer = TableWriter(tmp_path / "t.parquet")
    writer.write([row("a"), scored])
    writer.close()
    writer.merge()
    assert read_table(tmp_path / "t.parquet") == [row("a"), scored]


def test_a_table_from_before_options_were_scored(tmp_path: Path) -> None:
    columns = pa.schema([field for field in SCHEMA if field.name not in LATER])
    pq.write_table(pa.Table.from_pylist([plain_record(row("a"))], schema=columns), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet") == [row("a")]


def test_a_table_from_before_instructions_were_stored(tmp_path: Path) -> None:
    write_table(tmp_path / "new.parquet", [row("a", wording="Find names.", instruction="Fnid names.")])
    (found,) = read_table(tmp_path / "new.parquet")
    assert (found.wording, found.instruction) == ("Find names.", "Fnid names.")
    pq.write_table(
        pq.read_table(tmp_path / "new.parquet").drop_columns(["wording", "instruction"]), tmp_path / "old.parquet"
    )
    (found,) = read_table(tmp_path / "old.parquet")
    assert (found.wording, found.instruction) == (None, None)


def test_a_table_without_prompts_keeps_no_text_that_a_row_brought() -> None:
    texts = {"prompt": "Find names. Ada", "wording": "Find names.", "instruction": "Fnid names."}
    banked = row("a", **texts).without_prompt()
    assert (banked.prompt, banked.wording, banked.instruction) == (None, "Find names.", "Fnid names.")
    for own in ("", "own", "own/paraphrase/0"):
        found = row("a", instruction_id=own, **texts).without_prompt()
        assert (found.prompt, found.wording, found.instruction) == (None, None, None)


def test_no_rows_are_a_table_too(tmp_path: Path) -> None:
    writer = TableWriter(tmp_path / "t.parquet")
    writer.close()
    assert writer.merge() == 0
    assert read_table(tmp_path / "t.parquet") == []


def test_what_a_broken_run_left_is_cleared(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    old = TableWriter(path, rank=1)
    old.write([row("stale")])
    old.close()
    other = TableWriter(tmp_path / "u.parquet")
    clear_parts(path)
    writer = TableWriter(path)
    writer.write([row("new")])
    writer.close()
    assert writer.merge() == 1
    other.close()
    assert (tmp_path / "u.parquet.part-0").exists()


def test_what_is_no_table(tmp_path: Path) -> None:
    bad = tmp_path / "bad.parquet"
    for content in (b"", b"PAR1 is how they begin", b"{}"):
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.parquet: no prediction table"):
            read_table(bad)
    with pytest.raises(ValueError, match="no prediction table"):
        read_table(tmp_path / "none.parquet")
    pq.write_table(pa.table({"sample_id": ["a"]}), bad)
    with pytest.raises(ValueError, match="'condition'"):
        read_table(bad)


def test_columns_are_the_fields_of_a_record_with_the_types_that_tables_have_had() -> None:
    texts, items = pa.string(), pa.list_(pa.string())
    plain = {
        "sample_id": texts, "dataset": texts, "task": texts, "condition": texts, "instruction_id": texts,
        "prediction": texts,
    }  # fmt: skip
    others = {
        "parsed": pa.list_(items), "target": texts, "correct": pa.bool_(), "choices": items,
        "option_scores": pa.list_(pa.float32()), "option_tokens": pa.list_(pa.int64()), "prompt": texts,
        "token_f1": pa.float32(), "rouge_l": pa.float32(), "lenient": pa.list_(items), "lenient_correct": pa.bool_(),
        "labels": items, "error": texts, "finish_reason": texts, "prompt_tokens": pa.int64(),
        "answer_tokens": pa.int64(), "latency": pa.float32(), "wording": texts, "instruction": texts,
        "answer_words": pa.list_(items), "draw": pa.int64(),
    }  # fmt: skip
    expected = [pa.field(name, kind, nullable=False) for name, kind in plain.items()]
    assert pa.schema([*expected, *(pa.field(name, kind) for name, kind in others.items())]).equals(SCHEMA)
    assert tuple(others)[3:] == LATER  # the first tables had all columns up to `correct`


def test_a_field_is_also_found_by_its_name() -> None:
    assert row("a")["sample_id"] == "a"
    with pytest.raises(KeyError, match="key"):
        row("a")["key"]


def test_nothing_is_right_or_wrong_without_a_target() -> None:
    alone = row("a", target=None, correct=None)
    for ask in (lambda: alone.expected, lambda: alone.right):
        with pytest.raises(ValueError, match="sample 'a' has no target to compare the answer with"):
            ask()


@pytest.mark.parametrize(
    ("change", "said"), [({"sample_id": 3}, "sample_id: found int"), ({"odd": 1}, "odd"), ({"target": ...}, "target")]
)
def test_a_line_that_is_no_record_is_refused(change: dict[str, Any], said: str) -> None:
    line = {name: value for name, value in (plain_record(row("a")) | change).items() if value is not ...}
    with pytest.raises(TypeError, match=said):
        parsed_record(line)

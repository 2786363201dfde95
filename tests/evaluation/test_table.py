"""The prediction table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robustlm.evaluation.table import SCHEMA, TableWriter, clear_parts, read_table

LATER: dict[str, Any] = dict.fromkeys(("choices", "option_scores", "option_tokens", "prompt", "token_f1", "rouge_l"))


def row(sample: str, condition: str = "clean", **more: Any) -> dict[str, Any]:
    base = {
        "sample_id": sample,
        "dataset": "d",
        "task": "ner",
        "condition": condition,
        "instruction_id": "i/0",
        "prediction": "PER: Ada\u2028né 😀",
        "parsed": [["PER", "Ada"]],
        "target": "PER: Ada",
        "correct": True,
        **LATER,
    }
    return base | more


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
    writer.write([{key: value for key, value in row("a").items() if key not in LATER}, scored])
    writer.close()
    writer.merge()
    assert read_table(tmp_path / "t.parquet") == [row("a"), scored]


def test_a_table_from_before_options_were_scored(tmp_path: Path) -> None:
    columns = pa.schema([field for field in SCHEMA if field.name not in LATER])
    pq.write_table(pa.Table.from_pylist([row("a")], schema=columns), tmp_path / "t.parquet")
    assert read_table(tmp_path / "t.parquet") == [row("a")]


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

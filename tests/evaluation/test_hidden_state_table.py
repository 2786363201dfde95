"""States on disk: parts as they come, one table, blocks of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from robustlm.evaluation import hidden_state_table as state_table
from robustlm.evaluation.hidden_state_table import (
    HiddenStatePart,
    HiddenStateTable,
    clear_hidden_states,
    known_hidden_states,
    merge_hidden_states,
    next_attempt,
)
from robustlm.evaluation.record import Cell


def keys_of(names: str, condition: str = "clean") -> list[Cell]:
    return [(condition, "d", name, "i") for name in names]


def written(path: Path, names: str, first: float, rank: int = 0, attempt: int = 0, condition: str = "clean") -> None:
    """States `[first, first + 1]`, … of samples named by letters, in batches of two."""
    writer = HiddenStatePart(path, rank, attempt)
    states = first + np.arange(2 * len(names), dtype=np.float32).reshape(-1, 2)
    keys = keys_of(names, condition)
    for at in range(0, len(names), 2):
        writer.write(keys[at : at + 2], states[at : at + 2])
    writer.close()


def test_parts_become_one_table_in_the_order_of_predictions(tmp_path: Path) -> None:
    path = tmp_path / "states.parquet"
    written(path, "dba", 0, rank=1)
    written(path, "ab", 100, condition="b-noisy")
    written(path, "ce", 50, rank=2, condition="a-later")
    assert not path.exists()
    assert merge_hidden_states(path, ["clean", "b-noisy"], {"layer": -2, "position": "last"}) == 7
    table = HiddenStateTable(path)
    assert table.keys == keys_of("abd") + keys_of("ab", "b-noisy") + keys_of("ce", "a-later")
    assert (table.width, table.layer, table.position) == (2, -2, "last")
    wanted = [[4, 5], [2, 3], [0, 1], [100, 101], [102, 103], [50, 51], [52, 53]]
    assert table.read(range(7)).tolist() == wanted
    assert known_hidden_states(path) == set(table.keys)  # until they are cleared
    clear_hidden_states(path)
    assert [file.name for file in tmp_path.iterdir()] == ["states.parquet"]


def test_some_rows_are_read_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_table, "_GROUP_ROWS", 3)
    path = tmp_path / "states.parquet"
    written(path, "abcdefgh", 0)
    merge_hidden_states(path, [], {})
    assert pq.ParquetFile(path).num_row_groups == 3
    table = HiddenStateTable(path)
    assert table.keys == keys_of("abcdefgh")
    for rows in ([0, 7], [2, 3], [5], [], list(range(8))):
        assert table.read(rows).tolist() == [[2 * row, 2 * row + 1] for row in rows]


def test_what_a_killed_process_has_cut_short_is_run_again_and_the_newest_counts(tmp_path: Path) -> None:
    path = tmp_path / "states.parquet"
    assert next_attempt(path) == 0
    written(path, "abcd", 0)
    part = tmp_path / "states.parquet.part-0.0"
    whole = part.read_bytes()
    writer = HiddenStatePart(path, 1)
    writer.write(keys_of("e"), np.ones((1, 2), np.float32))  # killed before `close`
    lengths = {}
    for size in range(0, len(whole), 7):
        part.write_bytes(whole[:size])
        found = known_hidden_states(path) - set(keys_of("e"))
        assert found in (set(), set(keys_of("ab")), set(keys_of("abcd")))
        lengths[len(found)] = size
    assert sorted(lengths) == [0, 2, 4]
    part.write_bytes(whole[: lengths[2]])
    assert next_attempt(path) == 1
    missing = "".join(sorted(key[2] for key in set(keys_of("abcd")) - known_hidden_states(path)))
    assert missing == "cd"
    written(path, "bcd", 20, attempt=1)
    written(path, "d", 30, attempt=10)
    merge_hidden_states(path, [], {})
    table = HiddenStateTable(path)
    assert dict(zip("abcde", table.read(range(5))[:, 0].tolist(), strict=True)) == {
        "a": 0, "b": 20, "c": 22, "d": 30, "e": 1,
    }  # fmt: skip


def test_no_states_are_no_table(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no states were written"):
        merge_hidden_states(tmp_path / "states.parquet", [], {})
    (tmp_path / "text").write_text("text", encoding="utf-8")
    with pytest.raises(ValueError, match="text: no state table"):
        HiddenStateTable(tmp_path / "text")
    pq.write_table(pa.table({"condition": ["clean"], "state": [[1.0]]}), tmp_path / "other")
    with pytest.raises(ValueError, match=r"other: the columns \['dataset', 'sample_id', 'instruction_id'\]"):
        HiddenStateTable(tmp_path / "other")

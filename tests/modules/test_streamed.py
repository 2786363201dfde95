"""A stream that two processes train on, with replayed text, is that of one process; and it goes on exactly."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from tests.datamodules.test_text import text_of, write
from tests.modules.test_equivalence import _without_dropout, close
from tests.modules.two_streams import STOP, fit, fits_of_rank
from tests.processes import side_by_side
from tests.tiny import make_rows, write_rows

ROWS, TURN = 53, 7
"""Rows of the stream, and the steps of a turn of it: 16 rows, 16, and 21, of which the last step has 5."""


def test_two_processes_are_one_that_accumulates(llama: str, tmp_path: Path) -> None:
    names = (
        _without_dropout(llama, tmp_path),
        write_rows(tmp_path / "rows.jsonl", make_rows(ROWS)),
        write(tmp_path / "text.txt", text_of(60)),
    )
    side_by_side(lambda: fits_of_rank(tmp_path / "two", *names))
    ranks = [torch.load(tmp_path / "two" / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]
    ours, theirs = (rank["whole"] for rank in ranks)
    single = fit(tmp_path / "one", *names, accumulate_grad_batches=2)

    for what in ("ids", "text"):  # the two micro-batches of a step are one of each process
        assert [one for pair in zip(ours[what], theirs[what], strict=True) for one in pair] == single[what]
    assert sum(single["text"]) > 0
    assert 0 in single["text"], "a process without text trains beside one that has some"
    turn = Counter(id for batch in single["ids"][: 2 * TURN] for id in batch)
    assert turn == Counter({f"row-{i}": 1 for i in range(ROWS)})
    assert ours["position"]["turn"] == single["position"]["turn"] == 1
    both = [loss / 2 for pair in zip(ours["losses"], theirs["losses"], strict=True) for loss in pair]
    assert both == pytest.approx(single["losses"], rel=1e-4)
    assert close(ours["weights"], single["weights"], 5e-6)
    assert all(torch.equal(value, theirs["weights"][key]) for key, value in ours["weights"].items())

    for rank, whole in zip(ranks, (ours, theirs), strict=True):
        resumed = rank["resumed"]
        assert resumed["ids"] == whole["ids"][STOP:]
        assert resumed["losses"] == whole["losses"][STOP:]
        assert resumed["position"] == whole["position"]
        assert all(torch.equal(value, whole["weights"][key]) for key, value in resumed["weights"].items())
    alone = fit(tmp_path / "alone", *names, ckpt=tmp_path / f"two/checkpoints/step={STOP}.ckpt",
                accumulate_grad_batches=2)  # fmt: skip
    assert alone["ids"] == single["ids"][2 * STOP :]
    assert close(alone["weights"], single["weights"], 5e-6)

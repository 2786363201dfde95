"""How training loops take turns, with loops that only sleep."""

from __future__ import annotations

import os
from typing import Any

import pytest

from benchmarks import loops
from benchmarks.loops import ENDED, OURS, WAYS, Case, Job, Meter, Way, measure, sampler_of
from benchmarks.step import Size

SIZE = Size(vocab=400, hidden=64, layers=1, rows=2, tokens=60, answer=8, rank=2)
CASE = Case((20, 40), (1, 8))


def idle(job: Job, meter: Meter) -> None:
    """Takes steps of nothing; one variant dies at its third step, and another one fails before its first."""
    if job.variant == "compiled":
        raise ValueError("no compiler\nand more")
    meter.ready([])
    for number in range(job.steps):
        if job.variant == "FSDP2" and number == 2:
            os._exit(3)
        meter.count(10, 1, 100)
        if not meter.taken(1.0):
            break


def run(rounds: int, **settings: Any) -> dict[str, loops.Result]:
    variants = [OURS, "compiled", "FSDP2"]
    return measure(CASE, SIZE, "fp32", variants=variants, rounds=rounds, rows=8, forked=True, **settings)


def test_loops_that_end_early_leave_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "ours", idle)
    seen: list[int] = []
    found = run(3, note=lambda results: seen.append(len(results[OURS].steps)))
    assert {name: one.trouble for name, one in found.items()} == {
        OURS: "", "compiled": "ValueError: no compiler", "FSDP2": ENDED,
    }  # fmt: skip
    assert [len(one.steps) for one in found.values()] == [3, 0, 0]
    assert seen == [0, 0, 1, 2, 3]
    assert found[OURS].steps[0].squares == 100


def test_rounds_end_with_the_time_but_not_before_the_least_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loops, "ours", idle)
    assert len(run(9, least=2, seconds=0.0)[OURS].steps) == 2


@pytest.mark.parametrize("name", list(WAYS))
def test_every_way_trains_on_all_rows(name: str) -> None:
    job = Job(name, CASE, SIZE, "fp32", "cpu", 8, 4, "unused")
    keys = list(sampler_of(job))
    assert sorted(row for key in keys for row in key.indices) == list(range(8))
    way = WAYS[name]
    assert isinstance(way, Way)
    if not way.packed:
        assert {len(key.indices) for key in keys} == {2}

"""The comparison of a step with its floor, on a very small model."""

from __future__ import annotations

import time

import pytest

from benchmarks import plan, roofline


def test_a_step_is_compared_with_its_floor(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(roofline, "METHODS", ("plain",))
    monkeypatch.setattr(roofline, "WIDTH", 64)
    monkeypatch.setattr(roofline, "COPIED", 2**12)
    monkeypatch.setattr(plan, "SIZES", dict(plan.SIZES))
    monkeypatch.setattr(roofline, "SIZES", plan.SIZES)
    roofline.main(["--hidden", "64", "--rounds", "2"])
    said = capsys.readouterr().out
    assert "medians of 2 rounds" in said
    rows = [line.strip("|").split("|") for line in said.splitlines() if line.startswith("| plain")]
    assert [row[0].strip() for row in rows] == ["plain, 32-true", "plain, bf16-mixed"]
    for row in rows:
        operations, _, taken, *floors, ratio = map(float, row[1:])
        assert operations > 0
        assert ratio == pytest.approx(taken / max(floors), rel=0.2)


def test_no_round_begins_that_would_not_end_within_the_budget() -> None:
    def busy() -> None:
        until = time.process_time() + 0.02
        while time.process_time() < until:
            pass

    assert len(roofline.rounds_within([busy, busy], 50, 0.2)[0]) in range(2, 6)
    assert len(roofline.rounds_within([busy], 50, 0.001)[0]) == 1  # one is always measured
    assert len(roofline.rounds_within([busy], 2, 60)[0]) == 2


def test_a_budget_of_nothing_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        roofline.main(["--seconds", "0"])
    assert "--seconds: found 0; expected a number above 0" in capsys.readouterr().err

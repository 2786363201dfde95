"""Ranks of runs: against plain counting, with ties, and whether their intervals hold the true ranks."""

from __future__ import annotations

import numpy as np
import pytest

from robustlm.evaluation.grid import Floats
from robustlm.evaluation.ranking import ranking, ranks
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import Settings


def test_ranks_are_those_of_counting() -> None:
    drawn = np.random.default_rng(0).integers(0, 5, (3, 41)) / 4
    names = ("a", "b", "c")
    found = ranks(dict(zip(names, drawn, strict=True)), 0.9)
    for i, name in enumerate(names):
        above = [1 + sum(other > column[i] for other in column) for column in drawn.T]
        first = [(column[i] == max(column)) / sum(column == max(column)) for column in drawn.T]
        assert found[name].rank == above[0]
        assert found[name].best == pytest.approx(np.mean(first[1:]))
        assert found[name].low in above[1:]
    assert sum(one.best or 0 for one in found.values()) == pytest.approx(1)


def test_a_lower_drop_is_better_and_equal_runs_share() -> None:
    values: dict[str, Floats] = {"a": np.array([0.1, 0.1]), "b": np.array([0.1, 0.1]), "c": np.array([0.3, 0.3])}
    found = ranks(values, 0.95, higher=False)
    assert [(one.rank, one.low, one.high, one.best) for one in found.values()] == [
        (1, 1, 2, 0.5),
        (1, 1, 2, 0.5),
        (3, 3, 3, 0.0),
    ]


def test_a_run_without_the_number_has_no_rank_and_no_draws_make_no_interval() -> None:
    found = ranks({"a": np.array([np.nan, 1.0]), "b": np.array([0.5, 0.5])}, 0.95)
    assert list(found) == ["b"]
    one = ranks({"a": np.array([0.4]), "b": np.array([0.5])}, 0.95)["a"]
    assert (one.rank, one.low, one.high, one.best) == (2, None, None, None)
    assert ranks({}, 0.95) == {}


def test_intervals_hold_the_true_ranks() -> None:
    """Three runs answer the same 80 samples, right with 0.8, 0.7 and 0.7; samples that are hard are so for all."""
    random = np.random.default_rng(1)
    true = {"a": (1, 1), "b": (2, 3), "c": (2, 3)}
    held = dict.fromkeys(true, 0)
    repeats, n = 300, 80
    for _ in range(repeats):
        hard = random.normal(0, 1, n)
        noise = random.normal(0, 1, (3, n)) + hard
        right = (noise < np.sqrt(2) * np.array([0.8416, 0.5244, 0.5244])[:, None]).astype(float)
        weights = np.concatenate([np.ones((1, n)), random.multinomial(n, np.full(n, 1 / n), 200)])
        found = ranks({name: weights @ right[i] / n for i, name in enumerate(true)}, 0.95)
        for name, (low, high) in true.items():
            one = found[name]
            assert one.low is not None
            assert one.high is not None
            held[name] += one.low <= high and low <= one.high
    assert min(held.values()) / repeats >= 0.94


def test_runs_are_ranked_on_the_same_draws() -> None:
    def rows(wrong: str) -> list[Record]:
        return [
            Record(str(s), "d", "generation", condition, "i", said, [[said]], "a", said == "a")
            for condition in ("clean", "unseen", "incorrect") for s in range(12)
            for said in ["b" if (condition == wrong and s < 6) or condition == "incorrect" else "a"]
        ]  # fmt: skip

    found = ranking(
        {"steady": rows(""), "breaks": rows("unseen"), "again": rows("")}, Settings(50), unwanted=["incorrect"]
    )
    assert list(found.conditions) == ["clean", "unseen"]
    assert (found.score["breaks"].rank, found.score["breaks"].low, found.score["breaks"].best) == (3, 3, 0)
    # equal runs stay equal in every draw, since all runs have the same draws
    assert found.drop["steady"] == found.drop["again"]
    assert found.drop["breaks"].value == pytest.approx(0.5)
    assert found.conditions["clean"]["breaks"].high == 3
    assert found.conditions["clean"]["breaks"].rank == 1

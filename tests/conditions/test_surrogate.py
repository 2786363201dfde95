"""The model of scores that a search learns from."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest

from robustlm.conditions.surrogate import Surrogate

THINGS = [(("a", i), ("b", j)) for i, j in product(range(6), repeat=2)]


def score(i: int, j: int) -> float:
    """Two effects, and one of a pair."""
    return 0.1 * i - 0.05 * j - 0.6 * (i == j == 5)


SCORES = [score(i, j) for i, j in product(range(6), repeat=2)]


def test_it_knows_what_it_was_told_and_says_so() -> None:
    model = Surrogate(THINGS, SCORES)
    means, deviations = model.predicted(THINGS)
    assert np.abs(means - SCORES).max() < 0.15
    unknown, wide = model.predicted([(("a", 9), ("b", 9))])
    assert unknown[0] == pytest.approx(np.mean(SCORES))
    assert wide[0] > 2 * deviations.max()


def test_it_finds_out_what_was_not_scored() -> None:
    """From two thirds of the things, the scores of the others are nearly known."""
    held = range(1, 35, 3)
    known = [i for i in range(36) if i not in held]
    model = Surrogate([THINGS[i] for i in known], [SCORES[i] for i in known])
    means, _ = model.predicted([THINGS[i] for i in held])
    assert np.corrcoef(means, [SCORES[i] for i in held])[0, 1] > 0.8


def test_what_is_unknown_is_worth_a_try() -> None:
    model = Surrogate(THINGS, SCORES)
    good, new = model.lowest([(("a", 5), ("b", 0)), (("a", 9), ("b", 9))])
    assert new < good


def test_the_unit_of_scores_changes_nothing() -> None:
    plain = np.array(Surrogate(THINGS, SCORES).lowest(THINGS))
    scaled = Surrogate(THINGS, [3 + 100 * one for one in SCORES]).lowest(THINGS)
    assert (scaled - (3 + 100 * plain)).max() == pytest.approx(0, abs=1e-6)


def test_equal_scores_are_no_trouble() -> None:
    assert np.isfinite(Surrogate(THINGS[:3], [0.5] * 3).lowest(THINGS)).all()


@pytest.mark.parametrize("scores", [[], [1.0], [1.0, math.inf]])
def test_scores_that_cannot_be(scores: list[float]) -> None:
    things = THINGS[: 2 if scores else 0]
    with pytest.raises(ValueError, match="expected a finite number for each"):
        Surrogate(things, scores)

"""Ranks of several runs over the same rows, with what the choice of samples does to them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from robustlm.evaluation.grid import Floats, grids
from robustlm.evaluation.numbers import Settings
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import sample


@dataclass(frozen=True, slots=True)
class Rank:
    """The place of a run among others by one number."""

    value: float
    """The number, as a share."""
    rank: int
    """1 is the best; equal runs have the same rank."""
    low: int | None
    """Best rank within the interval, over draws of the same samples for all runs; null: there are no draws."""
    high: int | None
    """Worst rank within the interval. Runs that are equal in a draw have all ranks that they share there."""
    best: float | None
    """Share of draws in which the run is the best; runs that are equal there share it."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Ranks by run. A run without the number has no rank."""

    conditions: dict[str, dict[str, Rank]]
    """By the mean score under each condition in which a high score is wanted."""
    score: dict[str, Rank]
    """By the mean of these scores."""
    drop: dict[str, Rank]
    """By the mean drop from clean under them, clean left out; the lowest is the best."""


def ranking(
    runs: Mapping[str, Sequence[Record]], settings: Settings, clean: str = "clean", unwanted: Collection[str] = ()
) -> Ranking:
    """Rank runs over the same rows.

    Args:
        runs: Prediction tables by run.
        settings: How samples are drawn; the same draws for all runs.
        clean: The condition that drops are measured from.
        unwanted: Conditions in which a high score is not wanted; they count for no rank.
    """
    drawn = {name: sample(grids(rows), settings, clean)[1] for name, rows in runs.items()}
    conditions = [one for one in next(iter(drawn.values())) if one not in unwanted]
    means = {c: {name: own[c].numbers["mean"] for name, own in drawn.items()} for c in conditions}
    others = [c for c in conditions if c != clean and all("pdr" in own[c].numbers for own in drawn.values())]
    return Ranking(
        {c: ranks(values, settings.level) for c, values in means.items()},
        ranks(_average([means[c] for c in conditions]), settings.level),
        ranks(
            _average([{n: own[c].numbers["pdr"] for n, own in drawn.items()} for c in others]), settings.level, False
        ),
    )


def _average(found: Sequence[Mapping[str, Floats]]) -> dict[str, Floats]:
    return {name: np.mean([one[name] for one in found], 0) for name in found[0]} if found else {}


def ranks(values: Mapping[str, Floats], level: float, higher: bool = True) -> dict[str, Rank]:
    """Rank runs by a number and by its draws.

    Args:
        values: By run, the number and its draws, `[1 + draws]`, over the same draws; runs whose number is NaN are left
            out, and draws in which one of the others is NaN.
        level: Share of draws within the interval of a rank.
        higher: Whether a higher number is better.
    """
    known = {name: own for name, own in values.items() if not np.isnan(own[0])}
    if not known:
        return {}
    # sums in another order differ in their last digits
    every = np.round(np.stack(list(known.values())), 12) * (1 if higher else -1)
    every = every[:, ~np.isnan(every).any(0)]
    above = 1 + (every[None] > every[:, None]).sum(1)
    below = (every[None] >= every[:, None]).sum(1)
    first = above == 1
    best = first / first.sum(0)
    tail = (1 - level) / 2
    found = {}
    for i, (name, own) in enumerate(known.items()):
        low = high = chance = None
        if every.shape[1] > 1:
            low = int(np.quantile(above[i, 1:], tail, method="lower"))
            high = int(np.quantile(below[i, 1:], 1 - tail, method="higher"))
            chance = float(best[i, 1:].mean())
        found[name] = Rank(float(own[0]), int(above[i, 0]), low, high, chance)
    return found

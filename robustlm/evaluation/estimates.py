"""Values with intervals, from the draws of one dataset under one condition."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from robustlm.evaluation import intervals
from robustlm.evaluation.components import split_shares, variance_parts
from robustlm.evaluation.grid import Floats, Grid
from robustlm.evaluation.intervals import NONE, Dispersion, Limits, Moments
from robustlm.evaluation.numbers import (
    DEBIASED,
    NUMBERS,
    SHARES,
    SPLIT,
    VOTE,
    Drawn,
    Estimate,
    Sampled,
    Settings,
)

MOST_UNDEFINED = 0.05
"""If more than this share of the draws is NaN, there is no interval."""


def estimate(values: Floats, level: float, datasets: int = 1) -> Estimate:
    """A value with the percentile interval of its draws; `values` is `[1 + draws]`, the value first.

    NaN draws are left out. If their share is above `MOST_UNDEFINED`, there is no interval.
    """
    value, draws = float(values[0]), values[1:]
    draws = draws[~np.isnan(draws)]
    if np.isnan(value) or len(draws) == 0 or len(draws) < (1 - MOST_UNDEFINED) * (len(values) - 1):
        return Estimate(value, float("nan"), float("nan"), datasets)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), datasets)


def with_width(found: Estimate) -> Estimate:
    """The estimate without its interval, if all draws are equal: they do not tell how well the number is known."""
    return replace(found, low=math.nan, high=math.nan) if found.low == found.high else found


def variance_of(values: Floats, samples: int) -> float:
    """Sampling variance of a number, from its draws; NaN if too many draws are NaN (`MOST_UNDEFINED`)."""
    draws = values[1:][~np.isnan(values[1:])]
    if not len(draws) or len(draws) < (1 - MOST_UNDEFINED) * (len(values) - 1):
        return math.nan
    return float(draws.var()) * samples / max(samples - 1, 1)


def drawn_numbers(grid: Grid, clean: Grid | None, numbers: Sampled, settings: Settings) -> Drawn:
    """The numbers of one dataset with their intervals.

    Shares get Wilson's interval. Worst instruction, spread and standard deviation get an interval that accounts for
    chance, from `intervals.dispersion`. It is valid only for fixed instructions: if instructions are drawn too, the
    interval also contains that of the percentiles of their draws.
    """
    found = {name: estimate(values, settings.level) for name, values in numbers.items() if name in NUMBERS}
    asked, complete = int(grid.asked.sum()), int(grid.complete.sum())
    samples = {name: asked if name in ("mean", "unparseable") else complete for name in SHARES}
    for name, count in samples.items():
        found[name] = Estimate(found[name].value, *share_limits(numbers[name], count, settings))
    if VOTE in numbers:
        found[VOTE] = Estimate(found[VOTE].value, *share_limits(numbers[VOTE], asked, settings))
        found |= variance_parts(grid, settings)
    moments = math.nan, math.nan, math.nan
    if clean is not None:
        mine, other = numbers["_condition"], numbers["_clean"]
        moments = intervals.shared(mine[1:], other[1:], int((grid.asked & clean.asked).sum()))
        if clean is not grid:  # the drop of clean against itself is always 0
            found["pdr"] = Estimate(found["pdr"].value, *drop_limits(mine, other, moments, settings))
    part, whole = grid.part[grid.complete], grid.whole[grid.complete]
    cochran = intervals.cochran(grid.cells[grid.complete])
    found["cochran_p"] = Estimate(intervals.chi2_tail(*cochran) if cochran[1] else math.nan, *NONE)
    apart = _dispersion(part, whole, settings.level)
    for name, value, limits in (
        ("worst_instruction", apart.worst, apart.worst_limits),
        ("std", apart.std, apart.std_limits),
        ("spread", apart.spread, apart.spread_limits),
    ):
        if not settings.draws:
            limits = NONE
        elif settings.resample == "both" and not math.isnan(limits[0]):
            limits = intervals.hull(limits, (found[name].low, found[name].high))
        found[name] = Estimate(found[name].value, *(NONE if math.isnan(found[name].value) else limits))
        found[DEBIASED[name]] = Estimate(value, *(NONE if math.isnan(value) else limits))
    found |= _split(grid, {name: found[name] for name in SPLIT}, settings)
    found["posix"] = with_width(found["posix"])
    return Drawn(numbers, {name: found[name] for name in NUMBERS if name in found}, samples, moments, cochran)


def _split(grid: Grid, plain: Mapping[str, Estimate], settings: Settings) -> dict[str, Estimate]:
    """The shares of the variance with intervals that account for chance, and that of instructions without chance.

    Args:
        grid: The answers.
        plain: The shares of the sums of squares, with the percentiles of their draws.
        settings: How intervals are made.
    """
    found = {}
    for name, one in split_shares(grid, settings).items():
        own, limits = plain[name], (one.low, one.high)
        if math.isnan(own.value) or math.isnan(one.low):
            limits = NONE
        elif settings.resample == "both":
            limits = intervals.hull(limits, (own.low, own.high))
        if name in DEBIASED:
            found[DEBIASED[name]] = Estimate(one.value, *limits)
        elif not math.isnan(limits[0]):  # chance adds little to the others, and their intervals contain them
            limits = intervals.hull(limits, (own.value, own.value))
        found[name] = Estimate(own.value, *limits)
    return found


def _dispersion(part: Floats, whole: Floats, level: float) -> Dispersion:
    """How a score differs between instructions; `part` and `whole` are those of complete samples, `[n, k]`."""
    if not part.size or not whole.sum(0).all():
        return intervals.dispersion(np.ones(0), np.ones((0, 0)), level)
    scores = part.sum(0) / whole.sum(0)
    return intervals.dispersion(scores, (part - scores * whole) / whole.mean(0), level)


def share_limits(values: Floats, samples: int, settings: Settings) -> Limits:
    """The interval of a number that is a share, from its value and draws."""
    z = intervals.deviate(settings.level)
    return intervals.share(float(values[0]), variance_of(values, samples), samples, z)


def drop_limits(mine: Floats, clean: Floats, moments: Moments, settings: Settings) -> Limits:
    """The interval of 1 − M/M(clean), from the draws and moments of the two scores."""
    low, high = intervals.quotient(float(mine[0]), float(clean[0]), moments, intervals.deviate(settings.level))
    return 1 - high, 1 - low

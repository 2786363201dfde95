"""Where the variance of scores comes from: samples, instructions, their interaction, and the model's own chance.

The model is score = mean + sample + instruction + sample × instruction + draw, and the parts are the unbiased estimates
of the analysis of variance (Searle, Casella and McCulloch 1992, *Variance Components*). With several draws of each
question, draws are compared within their cell alone, so their chance can be subtracted from all other parts. With one
answer a cell, chance is a part of the interaction.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from robustlm.evaluation import intervals
from robustlm.evaluation.grid import Floats, Grid
from robustlm.evaluation.intervals import NONE, Limits
from robustlm.evaluation.numbers import PARTS, SPLIT, Estimate, Settings

FEW = 3
"""Least number of samples for an interval of a share or part of the variance."""


@dataclass(frozen=True, slots=True)
class Means:
    """Mean squares of cells `[n, k]`: of all samples (first), then of those that are left if one is left out."""

    samples: Floats
    """`[1 + n]`: unbiased variance of the samples' means."""
    instructions: Floats
    """`[1 + n]`: unbiased variance of the instructions' means. Zeros with one instruction."""
    cells: Floats
    """`[1 + n]`: unbiased variance of the rest of a cell. Zeros with one instruction."""
    count: Floats
    """`[1 + n]`: number of samples."""


def mean_squares(cells: Floats) -> Means:
    """Mean squares of scores `[n, k]`, n ≥ 2, for all samples and without each. With n = 2 the latter are NaN."""
    n, k = cells.shape
    cells = cells - cells.mean()  # keeps sums of squares exact
    count = _left(np.ones((n, 1)))
    columns = np.concatenate([[cells.sum(0)], cells.sum(0) - cells]) / count[:, None]
    middle = columns.mean(1)
    rows = _left(cells.mean(1, keepdims=True) ** 2)
    free = np.where(count > 1, count - 1, math.nan)
    samples = np.maximum(rows - count * middle**2, 0) / free
    if k == 1:
        return Means(samples, np.zeros(1 + n), np.zeros(1 + n), count)
    apart = ((columns - middle[:, None]) ** 2).sum(1)
    rest = np.maximum(_left(cells**2) - k * rows - count * apart, 0)
    return Means(samples, apart / (k - 1), rest / (free * (k - 1)), count)


def _left(values: Floats) -> Floats:
    """Sum `[1 + n]` of values `[n, k]` over all samples, and without each."""
    each = values.sum(1)
    return np.concatenate([[each.sum()], each.sum() - each])


def components(scores: Floats, within: Floats, noise: Floats) -> Floats:
    """Variances that samples, instructions, their interaction and draws add to the score of one answer.

    Estimates are unbiased, so they may be below 0. With one instruction, its variance and the interaction are NaN.

    Args:
        scores: `[n, k]`: mean score of each cell, n ≥ 2.
        within: `[n, k]`: unbiased variance of a draw within each cell.
        noise: `[n, k]`: sampling variance of each cell's mean.

    Returns:
        `[1 + n, 4]`, in the order of `PARTS`: of all samples, then without each.
    """
    k, found = scores.shape[1], mean_squares(scores)
    chance, rest = _left(within) / (found.count * k), _left(noise) / (found.count * k)
    if k == 1:
        nothing = np.full(len(chance), math.nan)
        return np.stack([found.samples - rest, nothing, nothing, chance], 1)
    return np.stack(
        [
            found.samples - found.cells / k,
            found.instructions - found.cells / found.count,
            found.cells - rest,
            chance,
        ],
        1,
    )


def split(scores: Floats) -> Floats:
    """Variances of a cell's score from instructions, samples and their interaction, as if there were many samples.

    They are the parts of the total sum of squares, divided by the number of cells, without what chance adds to the
    means of instructions. Estimates are unbiased, so the first may be below 0.

    Args:
        scores: `[n, k]`: score of each cell, n and k ≥ 2.

    Returns:
        `[1 + n, 3]`, in the order of `SPLIT`: of all samples, then without each.
    """
    found, kept = mean_squares(scores), 1 - 1 / scores.shape[1]
    phrasing = found.instructions - found.cells / found.count
    return np.stack([kept * phrasing, found.samples, kept * found.cells], 1)


def shares(found: Floats) -> Floats:
    """Variances `[..., parts]` as shares of the sum of those above 0; shares of others are below 0.

    NaN if nothing varies.
    """
    total = np.nansum(np.maximum(found, 0), -1, keepdims=True)
    return found / np.where(total > 1e-12, total, math.nan)


def variance_parts(grid: Grid, settings: Settings) -> dict[str, Estimate]:
    """The numbers of `PARTS`, from samples that were asked under every instruction.

    Intervals are about these instructions and other samples. The chance of a cell with one draw is taken to be that of
    an average cell; without any cell of two draws, there are no parts.
    """
    nothing = {name: Estimate(math.nan, math.nan, math.nan) for name in PARTS}
    draws, keep = grid.draws, grid.complete
    if draws is None or keep.sum() < 2:
        return nothing
    scores, count, squares = draws.scores[keep], draws.count[keep], draws.squares[keep]
    several = count > 1
    if not several.any():
        return nothing
    own = squares / np.maximum(count - 1, 1)
    within = np.where(several, own, own[several].mean())
    found, k = components(scores, within, within / count), scores.shape[1]
    limits = _limits(found, PARTS.index("part_phrasing"), scores, k / max(k - 1, 1), settings)
    values = np.maximum(shares(found[0]), 0).tolist()
    return {name: Estimate(value, *one) for name, value, one in zip(PARTS, values, limits, strict=True)}


def split_shares(grid: Grid, settings: Settings) -> dict[str, Estimate]:
    """The numbers of `SPLIT` without chance, from samples that were asked under every instruction.

    Intervals are about these instructions and other samples.
    """
    scores = grid.cells[grid.complete]
    if min(scores.shape) < 2:
        return dict.fromkeys(SPLIT, Estimate(math.nan, math.nan, math.nan))
    found = split(scores)
    limits = _limits(found, SPLIT.index("share_phrasing"), scores, 1.0, settings)
    values = np.maximum(shares(found[0]), 0).tolist()
    return {name: Estimate(value, *one) for name, value, one in zip(SPLIT, values, limits, strict=True)}


def _limits(found: Floats, phrasing: int, scores: Floats, scale: float, settings: Settings) -> list[Limits]:
    """Intervals of parts of the variance, as shares of their sum.

    Each contains the jackknife's over samples: the share, which is below 0 if its variance is, ± z standard errors.
    This is right in the middle, but too narrow if samples are few or a part is near 0 or all. So the interval also
    contains Wilson's with that error. Wilson's is too wide for a small part of instructions, which is known well where
    samples are many; there the noncentral χ² distribution takes its place.

    Args:
        found: `[1 + n, parts]`: the parts, of all samples and without each.
        phrasing: Index of the part of instructions.
        scores: `[n, k]`: the cells that they were computed from.
        scale: What the part of instructions is divided by the variance (divided by k) of their true scores.
        settings: How intervals are made.
    """
    n, values = len(scores), shares(found)
    if not settings.draws or n < FEW:
        return [NONE] * len(found[0])
    z, error = intervals.deviate(settings.level), _jackknife(values)
    limits = []
    for at, (value, wrong) in enumerate(zip(values[0].tolist(), error.tolist(), strict=True)):
        if math.isnan(value) or math.isnan(wrong):
            limits.append(NONE)
            continue
        own = _around(value, z * wrong)
        if at == phrasing:
            own = intervals.hull(own, _of_instructions(found, at, scores, scale, settings))
        if at != phrasing or value > 0.5:
            own = intervals.hull(own, intervals.share(value, wrong**2, n, z))
        limits.append(own)
    return limits


def _around(value: float, reach: float) -> Limits:
    """The interval value ± reach within [0, 1]."""
    return min(max(value - reach, 0.0), 1.0), min(max(value + reach, 0.0), 1.0)


def _of_instructions(found: Floats, at: int, scores: Floats, scale: float, settings: Settings) -> Limits:
    """The interval of the share of instructions, from those of their variance and of all other variance."""
    own, limits = intervals.variance_of_scores(scores.mean(0), scores - scores.mean(0), settings.level)
    others = np.nansum(np.maximum(np.delete(found, at, 1), 0), 1)
    rest, reach = float(others[0]), intervals.deviate(settings.level) * float(_jackknife(others[:, None])[0])
    low, high = limits[0] * scale, limits[1] * scale
    return intervals.part_of_sum(own * scale, (low, high), rest, (max(0.0, rest - reach), rest + reach))


def _jackknife(values: Floats) -> Floats:
    """Standard errors `[m]` of the first row of `[1 + n, m]`, from the other rows, each without one sample.

    NaN where one of these has no value: nothing varies without that sample, so it alone decides.
    """
    left, n = values[1:], len(values) - 1
    return np.asarray(np.sqrt((n - 1) / n * ((left - left.mean(0)) ** 2).sum(0)))

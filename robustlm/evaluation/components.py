"""Where the variance of an answer's score comes from, if each question was answered several times.

The model is score = mean + sample + instruction + sample × instruction + draw, and the parts are the unbiased estimates
of the analysis of variance (Searle, Casella and McCulloch 1992, *Variance Components*). Draws are compared within their
cell alone, so their chance can be subtracted from all other parts.
"""

from __future__ import annotations

import math

import numpy as np

from robustlm.evaluation.grid import Floats, Grid
from robustlm.evaluation.intervals import deviate
from robustlm.evaluation.numbers import PARTS, Estimate, Settings

_FEW = 3
"""Least number of samples for an interval."""


def components(scores: Floats, within: Floats, noise: Floats) -> Floats:
    """Variances that samples, instructions, their interaction and draws add to the score of one answer.

    Estimates are unbiased, so they may be below 0. With one instruction, its variance and the interaction are NaN.

    Args:
        scores: `[n, k]`: mean score of each cell, n ≥ 2.
        within: `[n, k]`: unbiased variance of a draw within each cell.
        noise: `[n, k]`: sampling variance of each cell's mean.

    Returns:
        `[4]`, in the order of `PARTS`.
    """
    n, k = scores.shape
    chance, rest = float(within.mean()), float(noise.mean())
    rows = scores.mean(1)
    if k == 1:
        return np.array([rows.var(ddof=1) - rest, math.nan, math.nan, chance])
    columns = scores.mean(0)
    apart = scores - rows[:, None] - columns + scores.mean()
    cells = float((apart**2).sum()) / ((n - 1) * (k - 1))
    return np.array([rows.var(ddof=1) - cells / k, columns.var(ddof=1) - cells / n, cells - rest, chance])


def shares(found: Floats) -> Floats:
    """Variances as shares of their sum; those below 0 count as 0. NaN if nothing varies."""
    clipped = np.maximum(found, 0)
    total = np.nansum(clipped)
    return clipped / total if total > 1e-12 else np.full(len(found), math.nan)


def variance_parts(grid: Grid, settings: Settings) -> dict[str, Estimate]:
    """The numbers of `PARTS`, from samples that were asked under every instruction.

    Intervals are by the jackknife over samples: the value ± z standard errors, within [0, 1]. They are about these
    instructions and other samples. The chance of a cell with one draw is taken to be that of an average cell; without
    any cell of two draws, there are no parts.
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
    values = shares(components(scores, within, within / count))
    error = _jackknife(scores, within, within / count) if settings.draws else np.full(len(PARTS), math.nan)
    reach = deviate(settings.level) * error
    limits = np.stack([values, np.maximum(values - reach, 0), np.minimum(values + reach, 1)], 1)
    return {name: Estimate(*one) for name, one in zip(PARTS, limits.tolist(), strict=True)}


def _jackknife(scores: Floats, within: Floats, noise: Floats) -> Floats:
    """Standard errors `[4]` of the shares, from leaving out each sample in turn; NaN with too few samples."""
    n = len(scores)
    if n < _FEW:
        return np.full(len(PARTS), math.nan)
    left = [shares(components(*(np.delete(one, at, 0) for one in (scores, within, noise)))) for at in range(n)]
    apart = np.array(left) - np.mean(left, 0)
    return np.asarray(np.sqrt((n - 1) / n * (apart**2).sum(0)))

"""How much the levels of a factor change the scores of the same questions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from robustlm.evaluation import intervals
from robustlm.evaluation.grid import Floats, Grid


@dataclass(frozen=True, slots=True)
class LevelEffect:
    """The scores of a dataset under the levels of a factor, over questions that were asked under each of them."""

    scores: dict[str, float]
    """Mean score of a question under each level, in [0, 1]."""
    samples: int
    instructions: int
    share: float
    """Share of the variance of scores that the levels explain, less what chance adds; NaN if nothing varies."""
    p: float
    """p of Cochran's Q over samples; NaN if no sample tells levels apart."""


def level_effect(levels: Mapping[str, Grid]) -> LevelEffect | None:
    """Compare the levels of a factor.

    The variance of a score is that of a random sample under a random one of these instructions and levels. The part of
    levels is the variance of their true means; its estimate, and that of the rest, are unbiased before one below 0
    counts as 0. In a table with several draws of a question, a score is the mean over the draws.

    Args:
        levels: The grids of one dataset under each level, two or more.

    Returns:
        Null if fewer than two samples were asked under every level and every instruction that the levels share.
    """
    grids = list(levels.values())
    shared = [name for name in grids[0].instructions if all(name in one.instructions for one in grids)]
    columns = [[one.instructions.index(name) for name in shared] for one in grids]
    keep = np.all([one.present[:, own].all(1) for one, own in zip(grids, columns, strict=True)], 0)
    n, count = int(keep.sum()), len(grids)
    if n < 2 or not shared:
        return None
    cells = np.stack([one.cells[keep][:, own] for one, own in zip(grids, columns, strict=True)], 2)  # [n, k, levels]
    means = cells.mean(1)
    scores = means.mean(0)
    q, freedom = intervals.cochran(means)
    return LevelEffect(
        scores=dict(zip(levels, scores.tolist(), strict=True)),
        samples=n,
        instructions=len(shared),
        share=_share(cells, means, count),
        p=intervals.chi2_tail(q, freedom) if freedom else math.nan,
    )


def _share(cells: Floats, means: Floats, count: int) -> float:
    n, scores = len(means), means.mean(0)
    apart = means - means.mean(1, keepdims=True) - scores + scores.mean()
    chance = float((apart**2).sum()) / ((n - 1) * (count - 1)) / n
    between = max(0.0, (count - 1) / count * (float(scores.var(ddof=1)) - chance))
    # of each level: mean square less the square of the true mean, which chance makes too large
    within = (cells**2).mean((0, 1)) - scores**2 + means.var(0, ddof=1) / n
    total = between + max(0.0, float(within.mean()))
    return between / total if total > 1e-12 else math.nan

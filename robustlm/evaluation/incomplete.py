"""Scores of many instructions from a part of the cells of samples × instructions.

Each cell that was not asked is predicted from a model of its sample and its instruction; the score of an instruction is
the mean of its observed and predicted cells. There are two models:

- `rasch`, after PromptEval (Maia Polo et al. 2024, arXiv 2405.17202): logit p = μ + θ of the sample + β of the
  instruction. PromptEval maximises the likelihood; here θ and β have normal distributions with variances estimated from
  the table, so that few answers do not give extreme values.
- `shrunk`: score = μ + θ + β, the same without the logit: means of rows and columns, shrunk as their number of cells
  demands (empirical Bayes; Efron and Morris 1975).

Quantiles and the worst are means over draws of all scores from the model, since estimates of single scores vary less
than the scores do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from robustlm.evaluation import intervals
from robustlm.evaluation.grid import Bools, Floats, Grid
from robustlm.evaluation.numbers import ESTIMATED, Estimate, Settings

Model = Literal["rasch", "shrunk"]

DEFAULT: Model = "shrunk"
"""`benchmarks/budget.py` chose it: its errors are smaller on most full grids."""

_POINTS = 200
"""Number of draws of the model, if no intervals are asked for."""
_STEPS = 60
"""Maximum number of rounds of the fit; one changes coefficients and variances."""
_TOLERANCE = 1e-3
_SMALLEST = 1e-4
"""Smallest variance of θ and β, in squared logits or squared scores."""
_FACTORS = (1 / 16, 1 / 4, 1 / 2, 1, 2, 4, 16)
"""Factors by which the estimated variance of β is multiplied, one for each fit."""
_BLOCK = 4_000_000
"""Maximum number of cells of an array: draws × samples × instructions."""


@dataclass(frozen=True, slots=True)
class Fit:
    """A fitted model; `b` holds β of the k instructions, then μ."""

    model: Model
    theta: Floats
    """`[n]`."""
    b: Floats
    """`[k + 1]`."""
    covariance: Floats
    """`[k + 1, k + 1]`: posterior covariance of `b`."""
    precision: Floats
    """`[n]`: posterior precision of θ, given `b`."""
    slope: Floats
    """`[n, k + 1]`: how the posterior mean of θ falls if `b` grows."""

    def cells(self, theta: Floats, b: Floats) -> Floats:
        """Predicted scores `[…, n, k]` in [0, 1] for coefficients `[…, n]` and `[…, k + 1]`."""
        linear = theta[..., :, None] + b[..., None, :-1] + b[..., None, -1:]
        found: Floats = 1 / (1 + np.exp(-linear)) if self.model == "rasch" else np.clip(linear, 0, 1)
        return found

    def draw(self, times: int, random: np.random.Generator) -> tuple[Floats, Floats]:
        """Draw θ `[times, n]` and b `[times, k + 1]` from their (approximately normal) posterior distribution."""
        apart = random.standard_normal((times, len(self.b))) @ np.linalg.cholesky(self.covariance).T
        theta = self.theta - apart @ self.slope.T
        return theta + random.standard_normal(theta.shape) / np.sqrt(self.precision), self.b + apart


@dataclass(frozen=True, slots=True)
class _Variances:
    theta: float
    beta: float
    noise: float
    """Of a cell; used by `shrunk` alone."""


def fits(scores: Floats, present: Bools, model: Model = DEFAULT) -> tuple[list[Fit], Floats]:
    """Fit a model to observed cells, with several variances of β, since few answers say little about this variance.

    The variances are estimated by expectation–maximisation with Laplace's approximation. Then that of β is multiplied
    by each of `_FACTORS`; Laplace's approximation of the likelihood says how much each of these fits counts.

    Args:
        scores: `[n, k]`, each in [0, 1].
        present: `[n, k]`: the observed cells.
        model: Which model.

    Returns:
        The fits, and their weights, which sum to 1.

    Raises:
        ValueError: No cell was observed.
    """
    if not present.any():
        raise ValueError("found no observed cell; expected at least one, which the model is fitted to")
    n, k = scores.shape
    middle, spread = float(scores[present].mean()), max(float(scores[present].var()), 1e-3)
    b = np.zeros(k + 1)
    b[-1] = math.log((middle + 0.01) / (1.01 - middle)) if model == "rasch" else middle
    known = _Variances(1.0, 0.3, 1.0) if model == "rasch" else _Variances(spread / 3, spread / 10, spread / 2)
    at = Fit(model, np.zeros(n), b, np.eye(k + 1), np.ones(n), np.zeros((n, k + 1)))
    for _ in range(_STEPS):
        at, step = _newton(at, scores, present, known)
        before, known = known, _variances(at, scores, present, known)
        moved = max(abs(getattr(known, name) / getattr(before, name) - 1) for name in ("theta", "beta", "noise"))
        if max(moved, step) < _TOLERANCE:
            break
    found, evidence = [], []
    for factor in _FACTORS:
        own = replace(known, beta=max(known.beta * factor, _SMALLEST))
        one = at
        for _ in range(_STEPS):
            one, step = _newton(one, scores, present, own)
            if step < _TOLERANCE:
                break
        found.append(one)
        evidence.append(_evidence(one, scores, present, own))
    weights = np.exp(np.array(evidence) - max(evidence))
    return found, weights / weights.sum()


def _newton(at: Fit, scores: Floats, present: Bools, known: _Variances) -> tuple[Fit, float]:
    """One step of Newton's method for all coefficients, with given variances; also the largest change of `b`."""
    seen = present.astype(np.float64)
    if at.model == "rasch":
        p = at.cells(at.theta, at.b)
        weights, gradient = seen * np.maximum(p * (1 - p), 1e-6), seen * (scores - p)
    else:
        weights, gradient = seen / known.noise, seen * (scores - _linear(at)) / known.noise
    precision = weights.sum(1) + 1 / known.theta
    both = np.column_stack([weights, weights.sum(1)])
    corner = np.diag([*(weights.sum(0) + 1 / known.beta), weights.sum() + 1e-6])
    corner[:-1, -1] = corner[-1, :-1] = weights.sum(0)
    slope = both / precision[:, None]
    covariance = np.linalg.inv(corner - both.T @ slope)
    g_theta = gradient.sum(1) - at.theta / known.theta
    g_b = np.append(gradient.sum(0) - at.b[:-1] / known.beta, gradient.sum())
    step = covariance @ (g_b - slope.T @ g_theta)
    step *= min(1.0, 3 / max(float(np.abs(step).max()), 1e-12))
    theta = at.theta + np.clip(g_theta / precision - slope @ step, -3, 3)
    return Fit(at.model, theta, at.b + step, covariance, precision, slope), float(np.abs(step).max())


def _variances(at: Fit, scores: Floats, present: Bools, known: _Variances) -> _Variances:
    """The variances that the coefficients and their uncertainty show."""
    of_theta = 1 / at.precision + np.einsum("ij,jk,ik->i", at.slope, at.covariance, at.slope)
    of_beta = np.diag(at.covariance)[:-1]
    noise = known.noise
    if at.model == "shrunk":
        used = float((1 - of_theta / known.theta).sum() + (1 - of_beta / known.beta).sum()) + 1
        rest = float(((scores - _linear(at))[present] ** 2).sum())
        noise = max(rest / max(float(present.sum()) - used, 1.0), _SMALLEST)
    return _Variances(
        max(float((at.theta**2 + of_theta).mean()), _SMALLEST),
        max(float((at.b[:-1] ** 2 + of_beta).mean()), _SMALLEST),
        noise,
    )


def _evidence(at: Fit, scores: Floats, present: Bools, known: _Variances) -> float:
    """Laplace's approximation of the log-likelihood of the variances, up to a constant."""
    if at.model == "rasch":
        linear = _linear(at)[present]
        fitted = float((scores[present] * linear - np.logaddexp(0, linear)).sum())
    else:
        fitted = -float(((scores - _linear(at))[present] ** 2).sum()) / (2 * known.noise)
    for values, variance in ((at.theta, known.theta), (at.b[:-1], known.beta)):
        fitted -= float((values**2).sum()) / (2 * variance) + len(values) * math.log(variance) / 2
    return fitted - float(np.log(at.precision).sum()) / 2 + float(np.linalg.slogdet(at.covariance)[1]) / 2


def _linear(at: Fit) -> Floats:
    found: Floats = at.theta[:, None] + at.b[None, :-1] + at.b[-1]
    return found


@dataclass(frozen=True, slots=True)
class Estimated:
    """Scores of all instructions of a grid that was asked in part."""

    by_instruction: dict[str, Estimate]
    numbers: dict[str, Estimate]
    """The numbers of `ESTIMATED`."""
    worst: str
    """Id of the instruction with the lowest estimated score."""


def estimated(grid: Grid, settings: Settings, model: Model = DEFAULT) -> Estimated | None:
    """Estimate the score of every instruction of a grid, and the distribution of scores.

    Intervals are percentiles of draws of the model's coefficients and, at once, of weights of samples (Rubin's Bayesian
    bootstrap). So they are about these instructions and other samples, like the other intervals.

    Args:
        grid: The grid. For F1, the score of a cell counts as often as its sample has items on average.
        settings: Seed, level and number of draws of the intervals.
        model: Which model.

    Returns:
        The estimates; null if no cell is missing, there is one instruction, or fewer than two samples were asked.
    """
    asked = grid.asked
    present = grid.present[asked]
    n, k = present.shape
    if not grid.missing or k < 2 or n < 2:
        return None
    scores = grid.cells[asked]
    weights = grid.whole[asked].sum(1) / present.sum(1)
    weights = weights / weights.sum() if weights.sum() > 0 else np.full(n, 1 / n)
    random = np.random.default_rng((settings.seed, 5, n, k))
    found, shares = fits(scores, present, model)
    times = settings.draws or _POINTS
    fixed, drawn = [], []
    block = max(1, _BLOCK // (n * k))
    for one, count in zip(found, random.multinomial(times, shares), strict=True):
        for at in range(0, int(count), block):
            theta, b = one.draw(min(block, int(count) - at), random)
            cells = np.where(present, scores, one.cells(theta, b))
            fixed.append(np.einsum("i,dij->dj", weights, cells))
            own = random.standard_exponential((len(theta), n)) * weights
            drawn.append(np.einsum("di,dij->dj", own / own.sum(1, keepdims=True), cells))
    return _summary(grid, np.concatenate(fixed), np.concatenate(drawn), settings)


def _summary(grid: Grid, fixed: Floats, drawn: Floats, settings: Settings) -> Estimated:
    """Estimates from draws of scores `[draws, k]`: of these samples, and of other ones."""
    level = settings.level if settings.draws else None
    points = fixed.mean(0)
    each = [_estimate(float(points[j]), drawn[:, j], level) for j in range(fixed.shape[1])]
    of = {name: (_statistic(name, fixed), _statistic(name, drawn)) for name in ESTIMATED}
    numbers = {name: _estimate(float(values.mean()), over, level) for name, (values, over) in of.items()}
    return Estimated(dict(zip(grid.instructions, each, strict=True)), numbers, grid.instructions[int(points.argmin())])


def _statistic(name: str, scores: Floats) -> Floats:
    """A number of `ESTIMATED`, `[draws]`, of scores `[draws, k]`."""
    if name == "mean_estimated":
        return np.asarray(scores.mean(1))
    share = {"worst_estimated": 0.0, "low_estimated": 0.05, "median_estimated": 0.5, "high_estimated": 0.95}[name]
    return np.asarray(np.quantile(scores, share, axis=1))


def _estimate(value: float, draws: Floats, level: float | None) -> Estimate:
    if level is None:
        return Estimate(float(value), math.nan, math.nan)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(float(value), min(float(low), float(value)), max(float(high), float(value)))


def average(found: Sequence[Estimated]) -> dict[str, Estimate]:
    """Means of the numbers over datasets, with intervals from those of the datasets, which are independent."""
    means = {}
    for name in ESTIMATED:
        own = [one.numbers[name] for one in found]
        limits = intervals.average([one.value for one in own], [(one.low, one.high) for one in own])
        means[name] = Estimate(float(np.mean([one.value for one in own])), *limits, len(own))
    return means

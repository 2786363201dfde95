"""Confidence intervals for cases where bootstrap percentiles fail: near 0 and 100 %, extremes and deviations.

A percentile interval has no width if every answer is right. Chance moves the minimum, the spread and the standard
deviation of several scores in one direction. So shares get a Wilson interval, whose number of observations is computed
from the bootstrap variance. Numbers that compare instructions get their interval from the noise of each instruction's
score.

Sources: Wilson (1927) for shares, Agresti and Min (2005) for their paired differences, Fieller (1954) for ratios; Zou
and Donner (2008), *MOVER*, for means and differences of estimates that have intervals of their own; the studentized
range of Tukey for the spread; the noncentral χ² distribution of a sum of squares, as Viechtbauer (2007) inverts it, for
the deviation; Cochran (1950) for the test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Limits = tuple[float, float]

NONE: Limits = (math.nan, math.nan)


def deviate(level: float) -> float:
    """The standard normal quantile for a two-sided interval of this level: 1.96 for 0.95."""
    return NormalDist().inv_cdf((1 + level) / 2)


def share(value: float, variance: float, samples: int, z: float) -> Limits:
    """Wilson's interval of a share in [0, 1], which may be a mean over dependent answers, or an F1.

    The number of independent observations is computed from the variance: see `_observations`.

    Args:
        value: The share.
        variance: Sampling variance of the share.
        samples: Number of samples that it is computed from.
        z: See `deviate`.
    """
    if math.isnan(value) or math.isnan(variance) or samples < 1:
        return NONE
    value = min(max(value, 0.0), 1.0)
    n = _observations(value, variance, samples, z)
    middle = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    # rounding must not put the value itself outside the interval
    return max(0.0, min(middle - half, value)), min(1.0, max(middle + half, value))


def _observations(value: float, variance: float, samples: int, z: float) -> float:
    """The number of independent observations of 0 and 1 whose mean has this variance.

    Near 0 and 1 the variance depends on a few samples. So it is shrunk towards the variance of `samples` independent
    observations: the weight of the latter is z², the weight of the given variance is the number of rarer outcomes.
    """
    spread = value * (1 - value)
    rare = samples * min(value, 1 - value)
    effect = variance * samples / spread if spread > 0 else 1.0
    return samples / max((effect * rare + z * z) / (rare + z * z), 1e-9)


def _exact_upper(value: float, variance: float, samples: int, z: float) -> float:
    """The upper limit of Clopper and Pearson; Wilson's is too low if z is large and the share is near 1."""
    from scipy.special import betaincinv

    n = _observations(value, variance, samples, z)
    if value >= 1:
        return 1.0
    return max(value, float(betaincinv(value * n + 1, n - value * n, NormalDist().cdf(z))))


def difference(ours: float, own: Limits, theirs: float, other: Limits) -> Limits:
    """MOVER's interval of ours − theirs, two numbers with intervals that are treated as independent."""
    if math.isnan(own[0]) or math.isnan(other[0]) or math.isnan(ours - theirs):
        return NONE
    below = math.hypot(ours - own[0], other[1] - theirs)
    return ours - theirs - below, ours - theirs + math.hypot(own[1] - ours, theirs - other[0])


def paired(value: float, variance: float, samples: int, z: float) -> Limits:
    """The interval of a difference of two shares over the same samples, after Agresti and Min (2005).

    Two samples are added, which count 0.5 for each direction of a difference. Otherwise the interval would have no
    width if no sample differs.

    Args:
        value: The difference, in [-1, 1].
        variance: Sampling variance of the difference.
        samples: Number of samples that it is computed from.
        z: See `deviate`.
    """
    if math.isnan(value) or math.isnan(variance) or samples < 1:
        return NONE
    squares = samples * (samples * variance + value * value) + 1
    n = samples + 2
    middle = value * samples / n
    half = z * math.sqrt(max(0.0, squares / n**2 - middle * middle / n))
    return max(-1.0, min(middle - half, value)), min(1.0, max(middle + half, value))


def hull(first: Limits, second: Limits) -> Limits:
    """The smallest interval that contains both; one that is missing (NaN) does not count."""
    known = [limits for limits in (first, second) if not math.isnan(limits[0])]
    return (min(low for low, _ in known), max(high for _, high in known)) if known else NONE


def average(values: Sequence[float], limits: Sequence[Limits]) -> Limits:
    """MOVER's interval of the mean of independent numbers.

    `values` are the numbers from which the widths of their `limits` are measured.
    """
    if not values or any(math.isnan(low) for low, _ in limits):
        return NONE
    middle = sum(values) / len(values)
    below = math.sqrt(sum((value - low) ** 2 for value, (low, _) in zip(values, limits, strict=True)))
    above = math.sqrt(sum((high - value) ** 2 for value, (_, high) in zip(values, limits, strict=True)))
    return middle - below / len(values), middle + above / len(values)


def part_of_sum(part: float, own: Limits, rest: float, other: Limits) -> Limits:
    """MOVER's interval of part / (part + rest), two numbers ≥ 0 with intervals that are treated as independent.

    It is that of the ratio part / rest (Donner and Zou 2012), as a share of the sum.

    Args:
        part: The part.
        own: Its interval, from 0 on.
        rest: What else the sum consists of.
        other: Its interval.
    """
    if math.isnan(own[0]) or math.isnan(other[0]) or math.isnan(part + rest):
        return NONE
    product, wide, narrow = part * rest, own[1] * (2 * part - own[1]), other[0] * (2 * rest - other[0])
    far, near = own[0] * (2 * part - own[0]), other[1] * (2 * rest - other[1])
    below = product + math.sqrt(max(0.0, product**2 - far * near))
    low = 1.0 if own[0] > 0 and other[1] <= 0 else 0.0
    if below > 0:
        low = far / (below + far)  # the lower root, without the difference of its usual form
    if narrow <= 0:  # the rest may be 0
        return low, 1.0
    high = (product + math.sqrt(max(0.0, product**2 - wide * narrow))) / narrow
    return low, high / (1 + high)


def quotient(ours: float, theirs: float, moments: Moments, z: float) -> Limits:
    """Fieller's interval of ours / theirs; NaN if theirs may be 0.

    Args:
        ours: A share, or a mean of shares.
        theirs: Another one over the same samples.
        moments: Sampling variance of ours, of theirs, and their covariance: see `shared`.
        z: See `deviate`.
    """
    own, other, both = (z * z * moment for moment in moments)
    a, b, c = theirs**2 - other, ours * theirs - both, ours**2 - own
    if not a > 0:
        return NONE
    root = math.sqrt(max(0.0, b * b - a * c))
    return max(0.0, (b - root) / a), (b + root) / a


Moments = tuple[float, float, float]


def shared(ours: Floats, theirs: Floats, samples: int) -> Moments:
    """Sampling variances of two shares over the same samples, and their covariance.

    As in `paired`, two samples are added: 0.5 are right only in ours, and 0.5 only in theirs.

    Args:
        ours: Bootstrap draws of a share.
        theirs: The same draws of the other share.
        samples: Number of samples that were drawn from.
    """
    known = ~(np.isnan(ours) | np.isnan(theirs))
    if samples < 2 or known.sum() < 3:
        return math.nan, math.nan, math.nan
    found = np.cov(ours[known], theirs[known]) * samples / (samples - 1)
    more = 0.5 / (samples + 2) ** 2
    return float(found[0, 0]) + more, float(found[1, 1]) + more, float(found[0, 1])


@dataclass(frozen=True, slots=True)
class Dispersion:
    """How much the scores of k instructions over the same samples differ, corrected for chance."""

    std: float
    """Standard deviation (divided by k), after the variance that chance adds is subtracted from its square."""
    std_limits: Limits
    spread: float
    """Highest minus lowest score, after deviations from the mean are shrunk to the standard deviation `std`."""
    spread_limits: Limits
    worst: float
    """Lowest score, shrunk in the same way."""
    worst_limits: Limits


def dispersion(scores: Floats, influence: Floats, level: float) -> Dispersion:
    """Differences between the scores of k instructions, corrected for chance.

    The noise is the sampling variance of a score's distance from the mean score. So it does not include effects that
    all instructions share, such as easy samples. It is assumed to be equal for all instructions, except in the limits
    of `std`. One sample that only one instruction answers right is added; otherwise the noise would be 0 if no sample
    tells instructions apart.

    With one instruction there is only its score, as `worst`. With one sample, what chance adds is unknown: only the
    limits of `worst` are given.

    Args:
        scores: `[k]`, each in [0, 1].
        influence: `[n, k]`: influence of each sample on each score. The sampling variance of a score is that of the
            mean of its column; each column sums to 0.
        level: Level of the intervals.
    """
    n, k = influence.shape
    if not (n and k):
        return Dispersion(math.nan, NONE, math.nan, NONE, math.nan, NONE)
    variances = (influence**2).sum(0) / (n * max(n - 1, 1))
    if k == 1:  # chance biases no minimum of one score, and nothing is compared
        worst = float(scores[0])
        return Dispersion(math.nan, NONE, math.nan, NONE, worst, worst_limits(scores, variances, n, level))
    if n == 1:  # one sample does not tell how much of a difference is chance
        return Dispersion(math.nan, NONE, math.nan, NONE, math.nan, worst_limits(scores, variances, n, level))
    noise, seen = _noise(influence, n), float(scores.var(ddof=1))
    left = math.sqrt(max(0.0, 1 - noise / seen)) if seen > 0 else 0.0
    low, high, middle = float(scores.min()), float(scores.max()), float(scores.mean())
    least, most = _variance_limits(scores, influence, noise, level)
    return Dispersion(
        std=float(scores.std()) * left,
        std_limits=(math.sqrt(least), min(0.5, math.sqrt(most))),
        spread=(high - low) * left,
        spread_limits=spread_limits(scores, influence, n, level),
        worst=middle - (middle - low) * left,
        worst_limits=worst_limits(scores, variances, n, level),
    )


def worst_limits(scores: Floats, variances: Floats, samples: int, level: float) -> Limits:
    """The interval of the lowest of k scores: Wilson's if there is one.

    Otherwise the lower limit is the lowest of all scores; the upper limit is the lowest of exact ones for all k at
    once.

    Args:
        scores: `[k]`, each in [0, 1].
        variances: `[k]`: their sampling variances.
        samples: Number of samples that they are computed from.
        level: Level of the interval.
    """
    z, each = deviate(level), list(zip(scores.tolist(), variances.tolist(), strict=True))
    if len(each) == 1:
        return share(*each[0], samples, z)
    return (
        min(share(score, variance, samples, z)[0] for score, variance in each),
        min(_exact_upper(score, variance, samples, _largest(level, len(each))) for score, variance in each),
    )


def spread_limits(scores: Floats, influence: Floats, samples: int, level: float) -> Limits:
    """The interval of the highest minus the lowest of k scores, by the studentized range of their noise.

    With another number of samples than n, the noise is that of so many samples, around the same scores.

    Args:
        scores: `[k]`, k ≥ 2, each in [0, 1], over n samples.
        influence: `[n, k]`, n ≥ 2: see `dispersion`.
        samples: Number of samples, at least 2, that the interval is computed for.
        level: Level of the interval.
    """
    found = float(np.ptp(scores))
    reach = _studentized_range(level, len(scores)) * math.sqrt(_noise(influence, samples))
    return max(0.0, found - reach), min(1.0, found + reach)


def variance_of_scores(scores: Floats, influence: Floats, level: float) -> tuple[float, Limits]:
    """Variance (divided by k) of the true scores of k instructions, and its interval.

    Args:
        scores: `[k]`, k ≥ 2, each in [0, 1].
        influence: `[n, k]`, n ≥ 2: see `dispersion`.
        level: Level of the interval.
    """
    noise, k = _noise(influence, len(influence)), len(scores)
    return max(0.0, float(scores.var()) - noise * (k - 1) / k), _variance_limits(scores, influence, noise, level)


def _variance_limits(scores: Floats, influence: Floats, noise: float, level: float) -> Limits:
    n, k = influence.shape
    apart = influence - influence.mean(1, keepdims=True)
    scale, freedom = _noise_shape(apart.T @ apart / (n * (n - 1)), scores - scores.mean(), noise)
    least, most = _noncentrality((k - 1) * float(scores.var(ddof=1)) / scale, freedom, level)
    return least * scale / k, most * scale / k


def _noise(influence: Floats, samples: int) -> float:
    """Sampling variance of a score's distance from the mean score over so many samples, with one sample added."""
    n, k = influence.shape
    apart = influence - influence.mean(1, keepdims=True)
    return float((apart**2).sum()) / (n * (samples - 1) * (k - 1)) + 1 / (k * float(samples) ** 2)


def _noise_shape(covariance: Floats, apart: Floats, noise: float) -> tuple[float, float]:
    """Scale and degrees of freedom of the noncentral χ² variable that a sum of squared distances resembles.

    With noise that is equal and independent for all instructions, they are its variance and k − 1. Otherwise the noise
    along the distances counts, which is larger if bad instructions fail on the same samples: the scale gives the sum
    its variance, as far as the true distances cause it, and the degrees of freedom give it the right mean.

    Args:
        covariance: `[k, k]`: sampling covariance of the distances of scores from their mean.
        apart: `[k]`: those distances.
        noise: Their mean variance, with the sample that was added.
    """
    total = noise * (len(apart) - 1)
    added = noise - float(np.trace(covariance)) / (len(apart) - 1)
    squares = float((covariance**2).sum()) + 2 * added * float(np.trace(covariance)) + (len(apart) - 1) * added**2
    length = float(apart @ apart)
    along = float(apart @ covariance @ apart) / length + added if length > 0 else 0.0
    scale = max(along, squares / total)
    return scale, total / scale


@cache
def _studentized_range(level: float, k: int) -> float:
    """Quantile at `level` of the range of k standard normal numbers."""
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(level, k, np.inf))


@cache
def _largest(level: float, k: int) -> float:
    """The value that the largest of k independent standard normal numbers exceeds with probability (1 − level) / 2."""
    return NormalDist().inv_cdf(((1 + level) / 2) ** (1 / k))


def _noncentrality(ratio: float, freedom: float, level: float) -> Limits:
    """Interval of the noncentrality of a χ² variable with the value `ratio` and `freedom` degrees of freedom.

    For the upper limit, the value is raised to at least `freedom`, its expected value under chance alone. A sum of
    squares that happens to be smaller does not show that the true noncentrality is smaller.
    """
    from scipy.special import chndtr, chndtrinc

    tail = (1 - level) / 2
    upper = max(ratio, freedom)
    low = float(chndtrinc(ratio, freedom, 1 - tail)) if chndtr(ratio, freedom, 0.0) > 1 - tail else 0.0
    return low, float(chndtrinc(upper, freedom, tail))


def cochran(cells: Floats) -> tuple[float, int]:
    """Cochran's Q of scores `[n, k]`, and its degrees of freedom; both 0 if no sample tells instructions apart.

    If instructions do not differ, every order of a sample's scores is equally likely, and Q is approximately χ²
    distributed. For scores of 0 and 1 it is Cochran's Q; for others it is the same quadratic form of their sums
    (Friedman's test on scores, not ranks).
    """
    within = float(((cells - cells.mean(1, keepdims=True)) ** 2).sum()) if cells.size else 0.0
    k = cells.shape[1]
    if k < 2 or within <= 1e-12:
        return 0.0, 0
    sums = cells.sum(0)
    return (k - 1) * float(((sums - sums.mean()) ** 2).sum()) / within, k - 1


def chi2_tail(statistic: float, freedom: int) -> float:
    """Probability that a χ² variable is at least `statistic`; 1 without degrees of freedom."""
    if freedom == 0:
        return 1.0
    from scipy.special import chdtrc

    tail: Any = chdtrc(freedom, statistic)
    return float(tail)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for how many they are, after Holm (1979): the step-down form of Bonferroni's adjustment.

    If hypotheses whose adjusted p is at most 0.05 are rejected, the probability that any true one is among them is at
    most 0.05, however the tests depend on each other. NaN stays NaN and counts as no test.

    Args:
        p_values: One p for each test, in any order.

    Returns:
        The adjusted p-values, in the same order. None is smaller than its own p, and none is above 1.

    Raises:
        ValueError: A p-value is not in [0, 1].
    """
    if wrong := [p for p in p_values if not (math.isnan(p) or 0 <= p <= 1)]:
        raise ValueError(f"p_values: found {wrong[0]}; expected probabilities from 0 to 1")
    order = sorted((at for at, p in enumerate(p_values) if not math.isnan(p)), key=lambda at: p_values[at])
    found = [math.nan] * len(p_values)
    largest = 0.0
    for done, at in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - done) * p_values[at]))
        found[at] = largest
    return found

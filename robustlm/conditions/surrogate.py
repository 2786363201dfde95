"""A cheap model of a score that is expensive: it learns from the things scored so far which of the others to try."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

Features = Collection[Hashable]
"""What describes a thing: two things are alike if they share features."""

_NOISE = 0.1
"""Share of the variance of scores that neither features nor pairs of features explain."""
_WIDTH = 1.0
"""Standard deviations below the mean that a score may well be."""
_DIGITS = 9
"""Decimals of a result that are kept, so that the order of things does not hang on how a processor rounds sums."""


class Surrogate:
    """A Gaussian process over sets of features.

    With s the share of features that two things have in common, their covariance is (s + s²) / 2: features count alone
    and in pairs. Scores are standardised.

    Args:
        things: Features of the things that were scored, n of them.
        scores: Their scores, n finite numbers.

    Raises:
        ValueError: There are no scores, or their number is not that of the things, or one is not finite.
    """

    def __init__(self, things: Sequence[Features], scores: Sequence[float]) -> None:
        values = np.asarray(scores, dtype=np.float64)
        if not len(values) or len(values) != len(things) or not np.isfinite(values).all():
            raise ValueError(f"{len(things)} things have the scores {list(scores)}; expected a finite number for each")
        self._columns = {one: i for i, one in enumerate(dict.fromkeys(one for own in things for one in own))}
        self._most = max(1, *map(len, things))
        self._things = self._coded(things)
        self._mean, self._scale = float(values.mean()), float(values.std()) or 1.0
        covariance = self._covariance(self._things @ self._things.T)
        self._inverse = np.linalg.inv(covariance + _NOISE * np.eye(len(values)))
        self._weights = self._inverse @ ((values - self._mean) / self._scale)

    def predicted(self, things: Sequence[Features]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and standard deviation of the score of each thing, in the unit of the scores."""
        shared = self._covariance(self._coded(things) @ self._things.T)
        own = np.array([len(one) / self._most for one in things])
        variance = self._covariance(own) - ((shared @ self._inverse) * shared).sum(1)
        return self._mean + self._scale * (shared @ self._weights), self._scale * np.sqrt(variance.clip(0))

    def lowest(self, things: Sequence[Features]) -> list[float]:
        """How low the score of each thing may well be: its mean minus its standard deviation, in the unit of scores.

        Low values are for things that are expected to have a low score, or of which little is known.
        """
        means, deviations = self.predicted(things)
        return [round(float(value), _DIGITS) for value in means - _WIDTH * deviations]

    def _coded(self, things: Sequence[Features]) -> NDArray[np.float64]:
        """One row for each thing: 1/√most where it has a known feature. Unknown ones are shared with no thing."""
        coded = np.zeros((len(things), len(self._columns)))
        for row, own in enumerate(things):
            coded[row, [self._columns[one] for one in own if one in self._columns]] = self._most**-0.5
        return coded

    @staticmethod
    def _covariance(share: NDArray[np.float64]) -> NDArray[np.float64]:
        return (share + share**2) / 2

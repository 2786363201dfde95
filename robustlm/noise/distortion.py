"""How much noise changed an instruction, and β, which the adversary gets from it ([ANIT], *Distortion*).

`Distortion.measure` gives each noisy row its d' in [0, 1]; `beta` turns those into the β of each row.
Rule-based estimation (`RBE`) counts word edits, `LME` compares embeddings. To add a measure, write a subclass with the
method `compare`.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import Levenshtein
import numpy as np
from numpy.typing import NDArray

from robustlm.noise.embedders import Embedder, StateEmbedder
from robustlm.utils.words import split_words

Floats = NDArray[np.float64]
Normalisation = Literal["words", "minmax"]
_log = logging.getLogger(__name__)
_CHUNK = 2048  # pairs embedded at once: 100 MB of vectors at 3,072 dimensions


@dataclass
class Distortion(ABC):
    """A distance between raw and noisy instructions.

    Subclasses define `compare`; by default d' is its distance divided by its bound.
    """

    @abstractmethod
    def compare(self, raw: Sequence[str], noisy: Sequence[str]) -> Floats:
        """Measure pairs of texts.

        Args:
            raw: n instructions.
            noisy: Their noisy variants.

        Returns:
            `[n, 2]`: the distance of each pair, and the largest distance that texts of their size can have.
        """

    def normalise(self, pairs: Floats) -> Floats:
        """Bring distances into [0, 1].

        Args:
            pairs: `[n, 2]` from `compare`, for all noisy samples of the epoch.

        Returns:
            d', `[n]`.
        """
        return _over_bound(pairs)

    def measure(self, raw: Sequence[str], noisy: Sequence[str], is_noisy: Sequence[bool]) -> Floats:
        """Measure the rows of an epoch.

        Args:
            raw: n instructions.
            noisy: Their variants.
            is_noisy: Which of them noise has changed; the others are left out of the normalisation.

        Returns:
            d' of each row in [0, 1], `[n]`; 0 for clean ones.

        Raises:
            ValueError: The three arguments differ in length.
        """
        if not len(raw) == len(noisy) == len(is_noisy):
            found = f"{len(raw)} raw, {len(noisy)} noisy and {len(is_noisy)} flags"
            raise ValueError(f"distortion: expected as many raw as noisy texts and flags, found {found}")
        rows = [row for row, flag in enumerate(is_noisy) if flag]
        distances = np.zeros(len(raw))
        if rows:
            distances[rows] = self.normalise(self.compare([raw[i] for i in rows], [noisy[i] for i in rows]))
        return distances


def _over_bound(pairs: Floats) -> Floats:
    return np.clip(pairs[:, 0] / np.maximum(pairs[:, 1], 1e-12), 0.0, 1.0)


@dataclass
class RBE(Distortion):
    """Rule-based estimation: word-level Levenshtein distance d, brought into [0, 1].

    By default d' = d / max(words raw, words noisy), with the word counts of that row. So d' depends on its own row
    alone: one row of n changes the mean β by at most 1/n, and β is on the same scale in every epoch.

    `normalisation: minmax` uses [ANIT] eq. 1 instead: d' = (d − d_min) / (d_max − d_min) over all noisy rows. Its β and
    its scale depend on the two extreme rows. For example, one row at d = 1 and 3,999 rows at d = 2, all of 10 words,
    give β = 0.99975. Without the first row β is 0.2: if all distances are equal, the formula is 0/0, and distances are
    divided by the number of words instead. If instructions differ in length, d' grows with the length, because d does.
    """

    normalisation: Normalisation = "words"
    """The divisor of d: `words`, the words of the longer text; `minmax`, the range of d over all noisy rows
    ([ANIT] eq. 1)."""

    # a class attribute until it is set: jsonargparse reads all attributes of a default instance as options
    _said = False

    def __post_init__(self) -> None:
        """Check the field."""
        known = get_args(Normalisation)
        if self.normalisation not in known:
            raise ValueError(f"RBE: normalisation is {self.normalisation!r}; expected one of {', '.join(known)}")

    def compare(self, raw: Sequence[str], noisy: Sequence[str]) -> Floats:
        """Count word edits: `[n, 2]` with the distance and the length in words of the longer text."""
        pairs = []
        for left, right in zip(raw, noisy, strict=True):
            a, b = split_words(left), split_words(right)
            # the distance itself runs in C++; a batch call over word lists is not faster and keeps all of them in
            # memory
            pairs.append((Levenshtein.distance(a, b), max(len(a), len(b))))
        return np.array(pairs, dtype=np.float64).reshape(-1, 2)

    def normalise(self, pairs: Floats) -> Floats:
        """Divide distances by words; with `minmax`, scale them over all rows (by words if all are equal)."""
        if self.normalisation == "words" or not len(pairs):
            return _over_bound(pairs)
        low, high = pairs[:, 0].min(), pairs[:, 0].max()
        if high > low:
            stretched: Floats = (pairs[:, 0] - low) / (high - low)
            return stretched
        if not self._said:
            self._said = True
            _log.warning(
                "RBE: all %d noisy instructions are %g word edits from the raw ones, so min-max normalisation is "
                "undefined; dividing by the number of words instead. This is another scale than in epochs whose "
                "distances differ; normalisation: words keeps one scale",
                len(pairs),
                high,
            )
        return _over_bound(pairs)


@dataclass
class LME(Distortion):
    """Language-model estimation: d' = clamp(1 − cos(E(noisy), E(raw)), 0, 1), with E an embedder."""

    embedder: Embedder = field(default_factory=StateEmbedder)
    """Turns texts into vectors; the default, the tuned model's own states, needs no network."""

    def compare(self, raw: Sequence[str], noisy: Sequence[str]) -> Floats:
        """Compare embeddings: `[n, 2]` with 1 − cos and the bound 1."""
        starts = range(0, max(len(raw), 1), _CHUNK)
        return np.concatenate([self._chunk(raw[i : i + _CHUNK], noisy[i : i + _CHUNK]) for i in starts])

    def _chunk(self, raw: Sequence[str], noisy: Sequence[str]) -> Floats:
        # one call, so that an instruction that many rows share is embedded once
        vectors = self.embedder.embed([*raw, *noisy]).astype(np.float64)
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        cosines = (vectors[: len(raw)] * vectors[len(raw) :]).sum(axis=1)
        return np.stack([1 - cosines, np.ones(len(raw))], axis=1)


def beta(distances: Floats, noisy: Sequence[bool], scope: Literal["dataset", "sample"] = "dataset") -> Floats:
    """Turn distortions into the β of each row ([ANIT], *Distortion*).

    Args:
        distances: d' of each row, `[n]`, from `Distortion.measure`.
        noisy: Which rows noise has changed.
        scope: `dataset`: every noisy row gets the mean of d' over the noisy rows ([ANIT] eq. 2). Clean rows are not
            part of this mean: φ is the share of noisy rows, β their distortion. `sample`: every noisy row gets its own
            d'.

    Returns:
        β in [0, 1], `[n]`; 0 for clean rows.

    Raises:
        ValueError: Unknown scope, or the lengths differ.
    """
    flags = np.asarray(noisy, dtype=bool)
    if flags.shape != distances.shape:
        raise ValueError(f"beta: expected a flag for each of {len(distances)} distances, found {len(flags)}")
    if scope == "sample":
        return np.where(flags, distances, 0.0)
    if scope == "dataset":
        mean = float(distances[flags].mean()) if flags.any() else 0.0
        return np.where(flags, mean, 0.0)
    raise ValueError(f"beta: expected scope dataset or sample, found {scope!r}")

"""Where a model puts samples under several phrasings: distances between hidden states, and their projection.

Pure arithmetic on states `[n, H]`, such as `Backbone.forward` gives them (`Answers.state`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]
Projection = Literal["pca", "tsne", "umap"]


@dataclass(frozen=True, slots=True)
class Spread:
    """How far states of one sample under several phrasings lie apart, and those of other samples."""

    within: float
    """Mean ℓ2 distance between two states of the same sample."""
    between: float
    """Mean ℓ2 distance between states of two samples under the same phrasing; NaN with one sample."""

    @property
    def ratio(self) -> float:
        """Within over between: 0 where phrasings make no difference, about 1 where they matter as much as the input."""
        return self.within / self.between


def distances(states: Floats, others: Floats) -> Floats:
    """ℓ2 distances `[n, m]` of states `[n, H]` and `[m, H]`, exact also for states that nearly coincide."""
    squares = (states**2).sum(1)[:, None] + (others**2).sum(1)[None] - 2 * states @ others.T
    near = squares < 1e-6 * ((states**2).sum(1)[:, None] + (others**2).sum(1)[None])
    found = np.sqrt(np.maximum(squares, 0))
    for i, j in zip(*np.nonzero(near), strict=True):  # cancellation has eaten the digits
        found[i, j] = np.linalg.norm(states[i] - others[j])
    return np.asarray(found)


def nearest(unobserved: Floats, observed: Floats) -> Floats:
    """Distance `[n]` of each unobserved state `[n, H]` to the nearest observed one `[m, H]` ([ALIGN], *Distance*)."""
    if not len(observed):
        raise ValueError("found no observed states; expected at least one to measure distances from")
    return np.asarray(distances(unobserved, observed).min(1))


def spread(states: Floats, samples: Sequence[str], phrasings: Sequence[str]) -> Spread:
    """Within- and between-sample distances.

    Args:
        states: `[n, H]`.
        samples: The sample of each state.
        phrasings: The phrasing of each state.

    Raises:
        ValueError: No sample occurs under two phrasings.
    """
    table = distances(states, states)
    sample, phrasing = (np.unique(names, return_inverse=True)[1] for names in (samples, phrasings))
    pairs = np.triu(np.ones_like(table, dtype=bool), 1)
    same = (sample[:, None] == sample[None]) & pairs
    other = (sample[:, None] != sample[None]) & (phrasing[:, None] == phrasing[None]) & pairs
    if not same.any():
        raise ValueError("found no sample under two phrasings; expected several phrasings of each")
    return Spread(float(table[same].mean()), float(table[other].mean()) if other.any() else float("nan"))


def degradation(distance: Floats, score: Floats) -> tuple[float, float]:
    """Slope (score a unit of distance) and rank correlation (Spearman, ties averaged) of scores over distances `[n]`.

    NaN where distances or scores do not vary.
    """
    if len(distance) < 2 or np.ptp(distance) == 0:
        return float("nan"), float("nan")
    slope = float(np.polyfit(distance, score, 1)[0])
    if np.ptp(score) == 0:
        return slope, float("nan")
    return slope, float(np.corrcoef(_ranks(distance), _ranks(score))[0, 1])


def project(states: Floats, how: Projection = "pca", seed: int = 0) -> Floats:
    """Coordinates `[n, 2]` of states `[n, H]`.

    `pca` needs nothing; `tsne` needs scikit-learn and `umap` umap-learn.

    Raises:
        ValueError: There are fewer than three states, or the library is not installed.
    """
    if len(states) < 3:
        raise ValueError(f"found {len(states)} states to draw; expected at least three")
    centred = states - states.mean(0)
    if how == "pca":
        left, values, right = np.linalg.svd(centred, full_matrices=False)
        signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(1)])  # so that a picture is the same anywhere
        found = left * values * signs
        return np.asarray(found[:, :2] if found.shape[1] > 1 else np.pad(found, ((0, 0), (0, 1))))
    try:
        if how == "tsne":
            from sklearn.manifold import TSNE

            made = TSNE(2, perplexity=min(30, (len(states) - 1) / 3), init="pca", random_state=seed)
        else:
            from umap import UMAP

            made = UMAP(n_components=2, n_neighbors=min(15, len(states) - 1), random_state=seed)
    except ImportError as error:
        library = {"tsne": "scikit-learn", "umap": "umap-learn"}[how]
        raise ValueError(f"projection {how!r} needs {library}, which is not installed; use pca") from error
    return np.asarray(made.fit_transform(centred), dtype=np.float64)


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return np.asarray((ends - (counts - 1) / 2)[inverse])

"""Distances between hidden states of samples under several phrasings, and their projection.

All functions are pure arithmetic on states `[n, H]`, such as those of `Backbone.hidden_states`.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, Literal

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]
Projection = Literal["pca", "tsne", "umap"]

_BLOCK = 1024
"""Number of states that are compared at a time."""


def distances(states: Floats, others: Floats) -> Floats:
    """ℓ2 distances `[n, m]` between states `[n, H]` and `[m, H]`, accurate also for nearly equal states."""
    squares = (states**2).sum(1)[:, None] + (others**2).sum(1)[None] - 2 * states @ others.T
    near = squares < 1e-6 * ((states**2).sum(1)[:, None] + (others**2).sum(1)[None])
    found = np.sqrt(np.maximum(squares, 0))
    i, j = np.nonzero(near)  # too inaccurate because of cancellation
    for at in range(0, len(i), _BLOCK):
        some = slice(at, at + _BLOCK)
        found[i[some], j[some]] = np.linalg.norm(states[i[some]] - others[j[some]], axis=1)
    return np.asarray(found)


def pair_sums(states: Floats, groups: Ints, tallied: Ints) -> tuple[Floats, Floats]:
    """Sum of the distances between states of the same group, and the number of pairs, each by tally `[max + 1]`.

    Args:
        states: `[n, H]`.
        groups: `[n]`: only states of the same group are compared.
        tallied: `[n]`: index of the tally that a state's pairs are added to, the same for all states of a group.
    """
    sums, counts = np.zeros((2, int(tallied.max(initial=-1)) + 1))
    for rows in members(groups):
        table = distances(states[rows], states[rows])
        sums[tallied[rows[0]]] += table.sum() / 2
        counts[tallied[rows[0]]] += len(rows) * (len(rows) - 1) / 2
    return sums, counts


def between_sums(states: Floats, samples: Ints, phrasings: Ints) -> tuple[float, int]:
    """Sum of the distances between states of different samples under the same phrasing, and the number of pairs."""
    total, count = 0.0, 0
    for rows in members(phrasings):
        for at in range(0, len(rows), _BLOCK):
            block, rest = rows[at : at + _BLOCK], rows[at:]
            other = (samples[block][:, None] != samples[rest][None]) & (
                np.arange(len(rest)) > np.arange(len(block))[:, None]
            )
            total += float(distances(states[block], states[rest])[other].sum())
            count += int(other.sum())
    return total, count


def members(groups: Ints) -> list[Ints]:
    """Indices of each group's members, in ascending order."""
    order = np.argsort(groups, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(groups[order])) + 1) if len(order) else []


def degradation(distance: Floats, score: Floats) -> tuple[float, float]:
    """Slope (score per unit of distance) and rank correlation (Spearman, ties averaged) of scores over distances `[n]`.

    Both are NaN if distances do not vary; the correlation is NaN if scores do not vary.
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
        signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(1)])  # same signs on every machine
        found = left * values * signs
        return np.asarray(found[:, :2] if found.shape[1] > 1 else np.pad(found, ((0, 0), (0, 1))))
    check_projection(how)
    if how == "tsne":
        from sklearn.manifold import TSNE

        made = TSNE(2, perplexity=min(30, (len(states) - 1) / 3), init="pca", random_state=seed)
    else:
        from umap import UMAP

        made = UMAP(n_components=2, n_neighbors=min(15, len(states) - 1), random_state=seed, n_jobs=1)
    return np.asarray(made.fit_transform(centred), dtype=np.float64)


def check_projection(how: Projection) -> None:
    """Raise `ValueError` if the library of a projection is not installed."""
    module, library = {"pca": ("numpy", "numpy"), "tsne": ("sklearn", "scikit-learn"), "umap": ("umap", "umap-learn")}[
        how
    ]
    if find_spec(module) is None:
        raise ValueError(
            f"projection {how!r} needs {library}, which is not installed; use pca, or "
            "pip install 'robustlm[projection]'"
        )


def _ranks(values: Floats) -> Floats:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    return np.asarray((ends - (counts - 1) / 2)[inverse])

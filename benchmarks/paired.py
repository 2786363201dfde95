"""How sure a difference between two ways of training is: both answer the same rows, over several seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from robustlm.evaluation.grid import counts
from robustlm.evaluation.record import Record

Array = np.ndarray[Any, np.dtype[np.float64]]
Rows = Sequence[Record]


@dataclass(frozen=True, slots=True)
class Difference:
    """What one way of training is ahead of another under one condition, in points of the mean score over datasets."""

    mean: float
    """Mean over seeds."""
    seeds: tuple[float, ...]
    """Seed by seed."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end."""


def differences(
    ours: Sequence[Rows], theirs: Sequence[Rows], *, draws: int = 1000, seed: int = 0
) -> dict[str, Difference]:
    """Differences by condition, with paired bootstrap intervals.

    A draw takes seeds and, within each dataset, rows with replacement, the same for both sides: what stays is the
    difference, and the interval holds both what other seeds and what other rows would have changed.

    Args:
        ours: A prediction table for each seed of training.
        theirs: The tables of the other side, for the same seeds in the same order.
        draws: Bootstrap draws.
        seed: Of the draws.

    Raises:
        ValueError: The two sides did not answer the same rows.
    """
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"{len(ours)} runs are compared with {len(theirs)}; expected one of each for every seed")
    pairs = [(_counted(a), _counted(b)) for a, b in zip(ours, theirs, strict=True)]
    names = [{condition: {d: sorted(rows) for d, rows in sets.items()} for condition, sets in one.items()}
             for pair in pairs for one in pair]  # fmt: skip
    if any(other != names[0] for other in names):
        raise ValueError("the runs did not answer the same rows under the same conditions; only those can be compared")
    found = {}
    for at, (condition, sets) in enumerate(names[0].items()):
        random = np.random.default_rng((seed, at))
        tallies = {
            name: np.stack([np.stack([_stacked(one[condition][name]) for one in pair]) for pair in pairs])
            for name in sets
        }
        sizes = {name: len(rows) for name, rows in sets.items()}
        exact = [
            _difference(tallies, [s], {name: np.arange(size) for name, size in sizes.items()})
            for s in range(len(pairs))
        ]
        drawn = []
        for _ in range(draws):
            seeds = random.integers(len(pairs), size=len(pairs))
            drawn.append(
                _difference(tallies, seeds, {n: random.integers(size, size=size) for n, size in sizes.items()})
            )
        low, high = np.quantile(drawn, [0.025, 0.975])
        found[condition] = Difference(float(np.mean(exact)), tuple(exact), float(low), float(high))
    return found


def _difference(counts: dict[str, Array], seeds: Any, rows: dict[str, Any]) -> float:
    """Mean over seeds and datasets; counts are `[S, 2, n, 2]`: part and whole of each row's score."""
    scores = []
    for dataset, values in counts.items():
        part, whole = values[seeds][:, :, rows[dataset]].sum(2).transpose(2, 0, 1)
        scores.append(np.where(whole > 0, part / np.maximum(whole, 1), 1.0))
    mine, other = np.mean(scores, axis=(0, 1))
    return float(100 * (mine - other))


def _counted(rows: Rows) -> dict[str, dict[str, dict[str, tuple[float, float]]]]:
    """Condition → dataset → sample → (part, whole), whose sums over rows divide to the score."""
    found: dict[str, dict[str, dict[str, tuple[float, float]]]] = {}
    for row in rows:
        part, whole = counts(row)
        own = found.setdefault(row.condition, {}).setdefault(row.dataset, {})
        before = own.get(row.sample_id, (0.0, 0.0))  # a sample may be asked under several instructions
        own[row.sample_id] = before[0] + part, before[1] + whole
    return found


def _stacked(rows: dict[str, tuple[float, float]]) -> Array:
    return np.array([rows[name] for name in sorted(rows)])

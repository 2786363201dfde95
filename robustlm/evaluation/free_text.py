"""How near free-text answers come to the true ones, by dataset and condition, from a prediction table alone."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from robustlm.evaluation.grid import Row
from robustlm.evaluation.robustness import Estimate, Settings

MEASURES = ("exact", "token_f1", "rouge_l")
"""Exact match, token F1 and ROUGE-L: see `robustlm.evaluation.metrics.overlap`."""
_DRAWN_AT_ONCE = 10_000_000
"""Numbers of samples that are in memory at a time."""


@dataclass(frozen=True, slots=True)
class FreeText:
    """The free-text answers to a dataset under one condition."""

    dataset: str
    condition: str
    rows: int
    """Answers."""
    numbers: dict[str, Estimate]
    """By `MEASURES`, in [0, 1]; the interval is of samples, whose answers stay together."""


def free_text(rows: Iterable[Row], settings: Settings) -> list[FreeText]:
    """The measures of a table's free-text answers, conditions in the order of the table.

    Args:
        rows: Rows of a prediction table; those without overlap (other tasks, tables of earlier versions) do not count.
        settings: How intervals are made; samples alone are drawn.
    """
    found: dict[tuple[str, str], dict[str, list[tuple[float, ...]]]] = defaultdict(lambda: defaultdict(list))
    order: dict[str, int] = {}
    for row in rows:
        order.setdefault(row["condition"], len(order))
        token_f1, rouge_l = row.get("token_f1"), row.get("rouge_l")
        if token_f1 is not None and rouge_l is not None:
            values = float(row["correct"]), float(token_f1), float(rouge_l)
            found[row["dataset"], row["condition"]][row["sample_id"]].append(values)
    keys = sorted(found, key=lambda key: (key[0], order[key[1]]))
    return [_measured(dataset, condition, found[dataset, condition], settings) for dataset, condition in keys]


def _measured(
    dataset: str, condition: str, samples: dict[str, list[tuple[float, ...]]], settings: Settings
) -> FreeText:
    own = [np.array(samples[id]) for id in sorted(samples)]
    sums = np.stack([values.sum(0) for values in own])  # [n, 3]
    counts = np.array([len(values) for values in own], np.float64)  # [n]
    low, high = _interval(dataset, sums, counts, settings)
    means = sums.sum(0) / counts.sum()
    numbers = {name: Estimate(float(means[i]), float(low[i]), float(high[i])) for i, name in enumerate(MEASURES)}
    return FreeText(dataset, condition, int(counts.sum()), numbers)


def _interval(dataset: str, sums: np.ndarray, counts: np.ndarray, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper end of each measure, `[3]`; a dataset's draws are the same under every condition."""
    if not settings.draws:
        return np.full(sums.shape[1], np.nan), np.full(sums.shape[1], np.nan)
    key = hashlib.blake2b(f"{settings.seed} free text {dataset}".encode("utf-8", "surrogatepass"), digest_size=8)
    random = np.random.default_rng(int.from_bytes(key.digest(), "big"))
    means = []
    left = settings.draws
    while left:
        draws = min(left, max(1, _DRAWN_AT_ONCE // len(sums)))
        drawn = random.integers(len(sums), size=(draws, len(sums)))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1)[:, None])
        left -= draws
    rest = (1 - settings.level) / 2
    low, high = np.quantile(np.concatenate(means), [rest, 1 - rest], axis=0)
    return low, high

"""How similar free-text answers are to the true ones, by dataset and condition, from a prediction table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from robustlm.evaluation.intervals import deviate, share
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import Estimate, Settings, sample_weights, variance_of

MEASURES = ("exact", "token_f1", "rouge_l")
"""Exact match, token F1 and ROUGE-L: see `robustlm.evaluation.metrics.overlap`."""


@dataclass(frozen=True, slots=True)
class FreeText:
    """Measures of the free-text answers to a dataset under one condition."""

    dataset: str
    condition: str
    rows: int
    """Number of answers."""
    numbers: dict[str, Estimate]
    """Values in [0, 1] by the names in `MEASURES`. Intervals draw samples; all answers to a sample stay together."""


def free_text(rows: Iterable[Record], settings: Settings) -> list[FreeText]:
    """The measures of a table's free-text answers, with conditions in the order of the table.

    Args:
        rows: Rows of a prediction table; rows without overlap (other tasks, tables of earlier versions) are ignored.
        settings: How intervals are made; only samples are drawn.
    """
    found: dict[tuple[str, str], dict[str, list[tuple[float, ...]]]] = defaultdict(lambda: defaultdict(list))
    order: dict[str, int] = {}
    for row in rows:
        order.setdefault(row.condition, len(order))
        token_f1, rouge_l = row.token_f1, row.rouge_l
        if token_f1 is not None and rouge_l is not None:
            values = float(row.right), float(token_f1), float(rouge_l)
            found[row.dataset, row.condition][row.sample_id].append(values)
    keys = sorted(found, key=lambda key: (key[0], order[key[1]]))
    return [_measured(dataset, condition, found[dataset, condition], settings) for dataset, condition in keys]


def _measured(
    dataset: str, condition: str, samples: dict[str, list[tuple[float, ...]]], settings: Settings
) -> FreeText:
    own = [np.array(samples[id]) for id in sorted(samples)]
    sums = np.stack([values.sum(0) for values in own])  # [n, 3]
    counts = np.array([len(values) for values in own], np.float64)  # [n]
    weights = sample_weights(dataset, len(own), settings)  # [1 + draws, n], the same under every condition
    means = weights @ sums / (weights @ counts)[:, None]
    numbers = {}
    for name, values in zip(MEASURES, means.T, strict=True):
        limits = share(float(values[0]), variance_of(values, len(own)), len(own), deviate(settings.level))
        numbers[name] = Estimate(float(values[0]), *limits)
    return FreeText(dataset, condition, int(counts.sum()), numbers)

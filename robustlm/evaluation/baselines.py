"""Scores of guessing, to compare a model's score with: by chance, and with the most frequent label."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from robustlm.evaluation.record import Record
from robustlm.tasks import TASKS


@dataclass(frozen=True, slots=True)
class Baseline:
    """The accuracy of guessing the answers to a dataset, in [0, 1]; NaN where it is not defined or not known."""

    chance: float = math.nan
    """Mean over samples of 1 over the number of labels or options of the prompt."""
    majority: float = math.nan
    """Share of the most frequent true label among the tested samples; NaN if samples have options of their own."""


def baselines(rows: Iterable[Record]) -> dict[tuple[str, str], Baseline]:
    """The baselines of each dataset and task of a table.

    Free text and answers of several items have none. Tables of earlier versions hold no labels; there, the labels are
    those in the true answers of a classification.

    Args:
        rows: Rows of a prediction table; those without a true answer are left out.
    """
    samples: dict[tuple[str, str], dict[str, Record]] = {}
    for row in rows:
        if row.target is not None and row.task in TASKS and TASKS[row.task].score == "accuracy":
            samples.setdefault((row.dataset, row.task), {}).setdefault(row.sample_id, row)
    return {key: _baseline(list(own.values())) for key, own in samples.items()}


def _baseline(rows: list[Record]) -> Baseline:
    task = TASKS[rows[0].task]
    gold = [row.label_of(task.parse(row.expected).items[0][0]) for row in rows if task.parse(row.expected).items]
    options = [_options(row) for row in rows]
    if not all(options):
        if not task.labelled or len(gold) < len(rows):
            return Baseline()
        options = [frozenset(gold)] * len(rows)
    shared = len(set(options)) == 1
    majority = Counter(gold).most_common(1)[0][1] / len(rows) if shared and gold else math.nan
    return Baseline(sum(1 / len(one) for one in options) / len(rows), majority)


def _options(row: Record) -> frozenset[str]:
    """The labels or options of a row as labels; empty if the table does not hold them."""
    shown = row.labels or TASKS[row.task].shown_labels(row.choices or (), "")
    return frozenset(row.label_of(text) for text in shown)


def over(found: Iterable[Baseline]) -> Baseline:
    """The mean over datasets; NaN where one of them has no such baseline."""
    own = list(found)
    count = max(len(own), 1)
    return Baseline(sum(one.chance for one in own) / count, sum(one.majority for one in own) / count)

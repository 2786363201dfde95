"""The majority vote among several answers that were drawn for one question."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from robustlm.evaluation.record import Cell, Record


def answer_key(row: Record) -> tuple[Any, ...]:
    """A key that is the same for equal answers: the sorted items, or the text if the answer could not be read."""
    parsed = row.parsed
    if parsed is None:
        return (row.prediction.strip(),)
    if row.answer_words is not None:  # a classification: each item is one answer word
        parsed = [[row.label_of(text) for text in item] for item in parsed]
    return (None, *sorted(map(tuple, parsed)))


def voted(rows: Iterable[Record]) -> list[Record]:
    """One row for each question: the first one with the most frequent answer; rows of questions asked once stay.

    Args:
        rows: Rows of a prediction table.
    """
    cells: dict[tuple[Cell, str], list[Record]] = {}
    for row in rows:
        cells.setdefault((row.cell, row.task), []).append(row)
    return [majority(own) for own in cells.values()]


def majority(draws: Sequence[Record]) -> Record:
    """The row of the majority vote among the draws of a question.

    Answers that could not be read and failed requests have no vote. Of answers with equally many votes, the one that
    was drawn first is taken; if there is no vote at all, the first draw.
    """
    if len(draws) == 1:
        return draws[0]
    ordered = sorted(draws, key=lambda row: row.draw or 0)
    votes = [row for row in ordered if row.parsed is not None and row.error is None]
    if not votes:
        return ordered[0]
    counted = Counter(map(answer_key, votes))  # in the order of the first draw of each answer
    most = max(counted.values())
    return next(row for row in votes if counted[answer_key(row)] == most)

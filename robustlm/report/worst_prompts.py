"""The prompts that cost the most answers, beside the answers to the same samples without its edits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from robustlm.conditions.condition import low_means
from robustlm.evaluation.grid import counts
from robustlm.evaluation.record import Record
from robustlm.evaluation.wording import Wording, wording_of
from robustlm.report.samples import in_turn

MOST_PROMPTS = 20
"""Largest number of prompts shown."""
MOST_SAMPLES = 2
"""Largest number of samples shown for a prompt."""


@dataclass(frozen=True, slots=True)
class WorstPrompt:
    """An instruction under a condition, beside the same samples asked without the edits."""

    dataset: str
    condition: str
    instruction: str
    wording: Wording | None
    """Its words; null: the table does not hold them, or edits differ from row to row."""
    reference: str
    """The condition of the answers beside it; that of most of them, if there are several."""
    before: float
    """Score of those answers, in [0, 1]."""
    after: float
    """Score of the same samples under this prompt."""
    answers: int
    lost: int
    """Number of answers with a lower score than beside it."""
    gained: int
    """Number of answers with a higher one."""
    shown: tuple[tuple[Record, Record], ...]
    """Some of the lost answers: the one beside it, and the one to this prompt."""


def worst_prompts(rows: Iterable[Record], clean: str = "clean", limit: int = MOST_PROMPTS) -> list[WorstPrompt]:
    """The prompts that lose most answers, from each dataset and condition in turn; those that lose none are left out.

    An answer is held against the one to the same sample and instruction before its edits: under `clean`, or under
    another condition that left the words as they are. Where there is none, as for unseen phrasings, it is held against
    the one to the instruction of the dataset that scores best under `clean`. Conditions in which a high score is not
    wanted are left out.

    Args:
        rows: Rows of a prediction table.
        clean: The reference condition.
        limit: Largest number of prompts.
    """
    plain = _Plain(list(rows), clean)
    cells: dict[tuple[str, str, str, str], list[tuple[Record, Record]]] = {}
    for row in plain.rows:
        if row.condition != clean and not low_means(row.condition) and (other := plain.beside(row)) is not None:
            place = row.dataset, row.task, row.condition, row.instruction_id
            cells.setdefault(place, []).append((other, row))
    found = [_prompt(own) for own in cells.values()]
    losing = sorted(
        (one for one in found if one.lost > one.gained),
        key=lambda one: (one.gained - one.lost, one.after, one.dataset, one.condition, one.instruction),
    )
    chosen = in_turn(losing, lambda one: (one.dataset, one.condition), limit)
    return sorted(chosen, key=losing.index)


class _Plain:
    """The answers to instructions that were asked as they are written."""

    def __init__(self, rows: list[Record], clean: str) -> None:
        self.rows = rows
        self._same: dict[tuple[str, str, str, str, str | None], Record] = {}
        unchanged = [row for row in rows if row.instruction == row.wording and not low_means(row.condition)]
        # the reference condition comes first: it is what other conditions are held against
        for row in sorted(unchanged, key=lambda row: row.condition != clean):
            self._same.setdefault((row.dataset, row.task, row.sample_id, row.instruction_id, row.wording), row)
        asked: dict[tuple[str, str], dict[str, list[Record]]] = {}
        for row in rows:
            if row.condition == clean:
                asked.setdefault((row.dataset, row.task), {}).setdefault(row.instruction_id, []).append(row)
        best = (max(own.values(), key=_score) for own in asked.values())
        self._best = {(row.dataset, row.task, row.sample_id): row for own in best for row in own}

    def beside(self, row: Record) -> Record | None:
        """The answer to hold a row against; null: there is none."""
        same = self._same.get((row.dataset, row.task, row.sample_id, row.instruction_id, row.wording))
        if same is not None and same.condition != row.condition:
            return same
        return self._best.get((row.dataset, row.task, row.sample_id))


def _prompt(pairs: Sequence[tuple[Record, Record]]) -> WorstPrompt:
    changes = [(_own(after) - _own(before), i) for i, (before, after) in enumerate(pairs)]
    lost = [pairs[i] for change, i in sorted(changes) if change < 0]
    first = pairs[0][1]
    beside = [before.condition for before, _ in pairs]
    return WorstPrompt(
        first.dataset,
        first.condition,
        first.instruction_id,
        wording_of([after for _, after in pairs]),
        max(dict.fromkeys(beside), key=beside.count),
        _score([before for before, _ in pairs]),
        _score([after for _, after in pairs]),
        len(pairs),
        len(lost),
        sum(change > 0 for change, _ in changes),
        tuple(lost[:MOST_SAMPLES]),
    )


def _own(row: Record) -> float:
    return _score([row])


def _score(rows: Sequence[Record]) -> float:
    parts = [counts(row) for row in rows]
    whole = sum(own for _, own in parts)
    return sum(part for part, _ in parts) / whole if whole else 1.0

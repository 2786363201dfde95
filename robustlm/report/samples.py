"""Samples worth reading: those whose answers change most with instruction and condition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from robustlm.evaluation.grid import counts
from robustlm.evaluation.record import Record
from robustlm.evaluation.votes import answer_key, voted
from robustlm.evaluation.wording import Wording, wording_of

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """One of the answers to a sample."""

    text: str
    correct: bool
    readable: bool
    score: float
    """Score of this answer, in [0, 1]."""
    asked: tuple[tuple[str, str], ...]
    """Pairs (condition, instruction) that got this answer."""
    prompt: str | None
    """Prompt of the first of these pairs; `None` if the table has no prompts."""
    wordings: Mapping[tuple[str, str], Wording] = field(default_factory=dict)
    """The words of the instruction by pair, for those whose words the table holds."""
    lenient: str | None = None
    """What the lenient reading takes from the answer, if that is not its text; null: the same, or no answer."""
    missing: bool = False
    """Whether there is no answer, as the request failed; the text is then the reason."""


@dataclass(frozen=True, slots=True)
class Changing:
    """A sample that has several answers."""

    sample: str
    dataset: str
    target: str
    disagreement: float
    """Share of pairs of its answers that differ, over all instructions and conditions."""
    answers: tuple[Answer, ...]
    """From the most frequent to the rarest."""


def most_changing(rows: Iterable[Record], limit: int = 20) -> list[Changing]:
    """Samples with the highest disagreement, taken from each dataset in turn; those that never change are left out.

    Where a question has several draws, its answer is their majority vote.

    Args:
        rows: Rows of a prediction table.
        limit: Largest number of samples.
    """
    asked: dict[tuple[str, str, str], list[Record]] = {}
    for row in voted(rows):
        asked.setdefault((row.dataset, row.task, row.sample_id), []).append(row)
    found = [_changing(own) for _, own in sorted(asked.items())]
    changing = sorted((one for one in found if one.disagreement > 0), key=lambda one: -one.disagreement)
    return in_turn(changing, lambda one: one.dataset, limit)


def in_turn(items: Iterable[T], group: Callable[[T], object], limit: int) -> list[T]:
    """The first item of each group, then the second of each, until there are `limit`."""
    groups: dict[object, list[T]] = {}
    for item in items:
        groups.setdefault(group(item), []).append(item)
    ordered = [(at, item) for own in groups.values() for at, item in enumerate(own)]
    return [item for _, item in sorted(ordered, key=lambda one: one[0])][:limit]


def _changing(rows: Sequence[Record]) -> Changing:
    given: dict[object, list[Record]] = {}
    for row in rows:
        given.setdefault((answer_key(row), row.right), []).append(row)
    answers = sorted(given.values(), key=lambda own: -len(own))
    n = len(rows)
    equal = sum(len(own) * (len(own) - 1) for own in answers)
    return Changing(
        rows[0].sample_id,
        rows[0].dataset,
        rows[0].expected,
        (n * (n - 1) - equal) / (n * (n - 1)) if n > 1 else 0.0,
        tuple(_answer(own) for own in answers),
    )


def _answer(rows: Sequence[Record]) -> Answer:
    part, whole = counts(rows[0])
    return Answer(
        rows[0].prediction if rows[0].error is None else rows[0].error,
        rows[0].right,
        rows[0].parsed is not None,
        part / whole if whole else 1.0,
        tuple((row.condition, row.instruction_id) for row in rows),
        rows[0].prompt,
        {(row.condition, row.instruction_id): words for row in rows if (words := wording_of([row])) is not None},
        _lenient(rows[0]),
        rows[0].error is not None,
    )


def _lenient(row: Record) -> str | None:
    read = None if row.lenient is None else "; ".join(": ".join(item) for item in row.lenient)
    return None if read is None or read == row.prediction.strip() or row.parsed == row.lenient else read

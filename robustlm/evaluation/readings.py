"""The two readings of an answer: `strict`, in the format that was asked for, and `lenient`, in any usual form.

Both are columns of the prediction table: `parsed` and `correct`, `lenient` and `lenient_correct`. The rules of the
lenient reading see the answer and the labels of the prompt, and never the true answer; `docs/evaluation.md` lists them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from robustlm.evaluation.grid import counts, task_of
from robustlm.evaluation.record import LenientRecord, Record, plain_record
from robustlm.evaluation.unreadable import one_line
from robustlm.tasks.base import Task

Reading = Literal["strict", "lenient"]
READINGS: tuple[Reading, ...] = ("strict", "lenient")

LIMIT = 0.05
"""Difference of the two scores above which a test ends with a warning."""

_SAMPLES = 3
_MOST_LABELS = 100
"""Largest number of true answers in a data set that are taken for its labels, where a table does not have them."""


def read_leniently(
    task: Task, text: str, target: str | None, labels: Sequence[str]
) -> tuple[list[list[str]] | None, bool | None]:
    """The columns `lenient` and `lenient_correct` of an answer."""
    items = task.lenient(text, labels)
    correct = None if target is None else task.leniently_correct(items, target, labels)
    return None if items is None else [list(item) for item in items], correct


def with_lenient(rows: Iterable[Record]) -> list[Record]:
    """Rows with both readings; those that have no lenient one, as in tables of earlier versions, get it here.

    Labels that such a table lacks are the options of the row, or all labels in the true answers of its data set.

    Raises:
        ValueError: A row's task is unknown.
    """
    listed = list(rows)
    if all(row.lenient_correct is not None or row.target is None for row in listed):
        return listed
    known: dict[tuple[str, str], dict[str, None]] = {}
    for row in listed:
        task = task_of(row)
        if task.labelled and row.target is not None:
            found = known.setdefault((row.dataset, row.task), {})
            found.update(dict.fromkeys(item[0] for item in task.parse(row.target).items))
    return [_filled(row, known.get((row.dataset, row.task), {})) for row in listed]


def _filled(row: Record, known: dict[str, None]) -> Record:
    if row.lenient_correct is not None or row.target is None:
        return row
    task = task_of(row)
    labels = row.labels or task.shown_labels(row.choices or (), "")
    if not labels and len(known) <= _MOST_LABELS:
        labels = tuple(known)
    lenient, correct = read_leniently(task, row.prediction, row.target, labels)
    return replace(row, lenient=lenient, lenient_correct=correct, labels=list(labels) or None)


def as_read(rows: Iterable[Record], reading: Reading) -> list[Record]:
    """Rows whose `parsed` and `correct` are those of a reading, so that every number is computed for it.

    Raises:
        ValueError: The reading is unknown, or a row's task.
    """
    if reading not in READINGS:
        raise ValueError(f"reading: found {reading!r}; expected {' or '.join(READINGS)}")
    listed = list(rows)
    if reading == "strict":
        return listed
    return [
        LenientRecord(**(plain_record(row) | {"parsed": row.lenient, "correct": row.lenient_correct}))
        for row in with_lenient(listed)
    ]


@dataclass(frozen=True, slots=True)
class Difference:
    """How the two readings of the answers to a dataset and task differ, over all conditions."""

    dataset: str
    task: str
    rows: int
    differing: int
    """Number of answers that the two readings read as other items, or of which only one counts as right. Free texts
    that differ in marks around them alone, such as a full stop, are the same."""
    gained: int
    """Number of answers that only the lenient reading counts as right."""
    lost: int
    """Number of answers that only the strict reading counts as right."""
    strict: float
    """Score over all answers, in [0, 1]."""
    lenient: float
    samples: tuple[tuple[str, str, str], ...]
    """Up to three examples: true answer, the model's answer and its lenient reading, each in one line."""

    @property
    def said(self) -> str:
        """One line that names the dataset, the task, the number and both scores."""
        return (
            f"answers to {self.dataset} ({self.task}): {self.differing:,} of {self.rows:,} are read differently; the "
            f"score is {100 * self.strict:.1f} % strict and {100 * self.lenient:.1f} % lenient"
        )

    @property
    def shown(self) -> list[str]:
        """A line for each of the samples."""
        return [
            f"expected {target}, the model answered {text}, read as {items}" for target, text, items in self.samples
        ]


def differences(rows: Iterable[Record]) -> list[Difference]:
    """The datasets and tasks with answers that the two readings read differently.

    Args:
        rows: Rows of a prediction table with the strict reading in `parsed` and `correct`; rows without a true answer
            are left out.
    """
    groups: dict[tuple[str, str], list[Record]] = {}
    for row in with_lenient(rows):
        if row.target is not None:
            groups.setdefault((row.dataset, row.task), []).append(row)
    found = [_difference(dataset, task, own) for (dataset, task), own in groups.items()]
    return [one for one in found if one.differing]


@dataclass(frozen=True, slots=True)
class Readings:
    """Which reading the numbers of a report are for, and how the readings of its table differ."""

    reading: Reading
    rows: int
    """Number of answers."""
    differences: tuple[Difference, ...]

    @property
    def said(self) -> str:
        """One sentence on the reading and on the number of answers that the other one reads differently."""
        other = "lenient" if self.reading == "strict" else "strict"
        count = sum(one.differing for one in self.differences)
        found = f"{count:,} of {self.rows:,} answers" if count else f"none of {self.rows:,} answers"
        return f"All numbers are for the {self.reading} reading of answers; the {other} one reads {found} differently."

    @property
    def large(self) -> list[Difference]:
        """The differences by more than `LIMIT` of the score; empty if the numbers are for the lenient reading."""
        return large(self.differences) if self.reading == "strict" else []


def readings(rows: Iterable[Record], reading: Reading = "strict") -> Readings:
    """Compare the two readings of a table.

    Args:
        rows: Rows of a prediction table with the strict reading in `parsed` and `correct`.
        reading: The one that numbers are computed for.

    Raises:
        ValueError: A row's task is unknown.
    """
    listed = [row for row in with_lenient(rows) if row.target is not None]
    return Readings(reading, len(listed), tuple(differences(listed)))


def large(found: Iterable[Difference], limit: float = LIMIT) -> list[Difference]:
    """The differences by more than a share of the score."""
    return [one for one in found if abs(one.lenient - one.strict) > limit]


HINT = (
    "the strict reading accepts only the format that the prompt asks for; robustlm report, compare and gate with "
    "--reading lenient compute every number from the lenient reading"
)
"""Advice for the user, in one line."""


def warning(found: Sequence[Difference]) -> str:
    """A warning with all differences, examples and advice, in several lines; empty if there are none."""
    lines = [line for one in found for line in (one.said, *(f"  {shown}" for shown in one.shown))]
    return "\n".join([*lines, f"  {HINT}"]) if lines else ""


def _difference(dataset: str, task: str, rows: Sequence[Record]) -> Difference:
    changed = [row for row in rows if row.correct != row.lenient_correct or not _alike(row)]
    gained = [row for row in rows if row.lenient_correct and not row.correct]
    lost = [row for row in rows if row.correct and not row.lenient_correct]
    return Difference(
        dataset,
        task,
        len(rows),
        len(changed),
        len(gained),
        len(lost),
        _score(rows),
        _score(as_read(rows, "lenient")),
        _examples([*gained, *lost, *changed]),
    )


def _score(rows: Sequence[Record]) -> float:
    parts, wholes = zip(*map(counts, rows), strict=True)
    return sum(parts) / sum(wholes) if sum(wholes) else 1.0


def _alike(row: Record) -> bool:
    """Whether both readings of an answer found the same items, or none."""
    if row.parsed is None or row.lenient is None:
        return row.parsed is row.lenient
    strict, lenient = ([tuple(item) for item in items] for items in (row.parsed, row.lenient))
    return task_of(row).alike(strict, lenient, row.labels or ())


def _examples(rows: Sequence[Record]) -> tuple[tuple[str, str, str], ...]:
    found: dict[tuple[str, str], tuple[str, str, str]] = {}
    for row in rows:
        read = "no answer" if row.lenient is None else one_line("; ".join(": ".join(item) for item in row.lenient))
        found.setdefault((row.expected, row.prediction), (one_line(row.expected), one_line(row.prediction), read))
        if len(found) == _SAMPLES:
            break
    return tuple(found.values())

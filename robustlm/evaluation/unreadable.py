"""Answers that a task's parser cannot read: their number, examples, and advice.

Such answers count as wrong, and numbers that compare answers compare their texts. So a score of 0 or a consistency of
100 % may have no other cause than the format of answers. Tests and reports show a warning beside their numbers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from robustlm.checks.texts import beginning
from robustlm.evaluation.record import Record
from robustlm.tasks import TASKS

LIMIT = 0.05
"""Share of unreadable answers above which there is a warning."""
_SAMPLES = 2
_LONGEST = 80
"""Maximum number of characters of a text that are shown."""


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A dataset and task with conditions in which more than `LIMIT` of the answers could not be read."""

    dataset: str
    task: str
    conditions: dict[str, tuple[int, int]]
    """By condition: answers that could not be read, and all answers."""
    samples: tuple[tuple[str, str], ...]
    """Up to two examples: the expected answer and the model's answer, each in one line."""

    @property
    def said(self) -> str:
        """One line that names the dataset, the task and the shares."""
        shares = ", ".join(
            f"{condition} {100 * bad / every:.1f} % ({bad:,} of {every:,})"
            for condition, (bad, every) in self.conditions.items()
        )
        return f"answers to {self.dataset} ({self.task}) could not be read and count as wrong: {shares}"

    @property
    def shown(self) -> list[str]:
        """A line for each of the samples."""
        return [f"expected {target}, the model answered {answer}" for target, answer in self.samples]


def unreadable(rows: Iterable[Record], limit: float = LIMIT) -> list[Unreadable]:
    """Find datasets and tasks with a condition in which more than a share of the answers could not be read.

    If no condition is above the limit, the share over all conditions of a dataset and task is not above it either.

    Args:
        rows: Rows of a prediction table.
        limit: The share, in [0, 1).
    """
    groups: dict[tuple[str, str], dict[str, list[Record]]] = {}
    for row in rows:
        groups.setdefault((row.dataset, row.task), {}).setdefault(row.condition, []).append(row)
    found = []
    for (dataset, task), conditions in groups.items():
        bad = {
            name: [row for row in own if row.parsed is None and row.error is None] for name, own in conditions.items()
        }
        above = {
            name: (len(bad[name]), len(own)) for name, own in conditions.items() if len(bad[name]) > limit * len(own)
        }
        if above:
            found.append(Unreadable(dataset, task, above, _two([row for name in above for row in bad[name]])))
    return found


def hint(found: Sequence[Unreadable]) -> str:
    """Advice for the user, in one line."""
    said = "check data.template (`chat` for a chat model) and model.max_new_tokens"
    if any(one.task in TASKS and TASKS[one.task].score == "accuracy" for one in found):
        said += "; if rows have options, --data.scoring options lets a local model choose one in place of writing it"
    return said


def warning(found: Sequence[Unreadable]) -> str:
    """A warning with all findings, examples and advice, in several lines; empty if nothing was found."""
    lines = [line for one in found for line in (one.said, *(f"  {shown}" for shown in one.shown))]
    return "\n".join([*lines, f"  {hint(found)}"]) if lines else ""


def _two(rows: Sequence[Record]) -> tuple[tuple[str, str], ...]:
    """Up to two examples with different answers and different targets."""
    found: dict[str, Record] = {}
    for row in rows:
        if all(row.prediction != other.prediction for other in found.values()):
            found.setdefault(row.expected, row)
        if len(found) == _SAMPLES:
            break
    return tuple((one_line(row.expected), one_line(row.prediction)) for row in found.values())


def one_line(text: str) -> str:
    """A text in quotes, cut to `_LONGEST` characters; control characters are escaped."""
    return repr(beginning(text, _LONGEST))

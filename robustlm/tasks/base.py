"""The interface of a task: how its answers are written, parsed and scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from robustlm.rows.base import RowData
from robustlm.sample import Context
from robustlm.tasks.final import answered_part
from robustlm.tasks.items import Item
from robustlm.tasks.labels import Labels
from robustlm.utils.registry import Registry


@dataclass(frozen=True, slots=True)
class Answer:
    """The result of parsing an answer text.

    A parse failure is not an exception: pieces that do not follow the task's format are counted in `malformed`, and are
    scored as predictions without a match.
    """

    items: tuple[Item, ...]
    """The elements found, in order, duplicates kept."""
    malformed: int = 0
    """Number of pieces that could not be read."""

    @property
    def parsed(self) -> bool:
        """Whether every piece could be read."""
        return self.malformed == 0


class Task(ABC):
    """Defines the format, the parser and the score of one kind of answer.

    `parse(format(items)).items == items` for all `items` that a row can produce: the parser is the exact inverse of the
    formatter, also for words that contain the format's separators.
    """

    name: ClassVar[str]
    """Key in the registry, and prefix of logged scores."""
    score: ClassVar[str]
    """`f1`: micro-F1 over multisets of items; `accuracy`: all items equal."""
    keys: ClassVar[str] = ""
    """The keys of the task's own row shape, as text for messages; empty: the task has no row shape."""
    labelled: ClassVar[bool] = False
    """Whether each item begins with a label; the set of labels is known after all rows of a source are read."""

    bare: ClassVar[str] = ""
    """The task with the same answers, but without the word in front (`label: good` → `good`); empty: none."""
    bare_of: ClassVar[str] = ""
    """The task whose bare form this one is; both have the same labels."""

    def recognises(self, row: RowData) -> bool:
        """Whether a row's keys are those of this task's own row shape."""
        return False

    def filled(self, row: RowData) -> RowData | None:
        """Add a filler answer to a row of this task's own shape without one; returns null for other rows."""
        return None

    def bank(self, context: Context, labels: Collection[str]) -> str:
        """The instruction bank for a row of this task's own shape, given all labels of its source."""
        return self.name

    def read(self, row: RowData) -> tuple[Context, tuple[Item, ...], tuple[str, ...]]:
        """Turn a row of this task's own shape into `(context, items, choices)`.

        Raises:
            ValueError: The row is unusable. The message is written for the author of the row; its words before the
                first colon are the reason under which bad rows are counted.
        """
        raise ValueError(f"no row shape: the task {self.name!r} has none of its own")

    def named(self, row: RowData, labels: Labels) -> RowData:
        """A row of this task's own shape with every label replaced by its name.

        Raises:
            ValueError: A value is not a known label, or the task's rows have no labels.
        """
        raise ValueError(
            f"labels: found them for a row of the task {self.name!r}, whose answers hold no labels; expected none"
        )

    def options(self, names: Sequence[str]) -> tuple[str, ...]:
        """The options to show if a source names its labels: these names, or the task's transformation of them."""
        return tuple(names)

    @abstractmethod
    def format(self, items: Sequence[Item]) -> str:
        """Write items as an answer text. Raises `ValueError` for items that no row can produce."""

    @abstractmethod
    def parse(self, text: str) -> Answer:
        """Read an answer text. Never raises."""

    def correct(self, answer: Answer, gold: Answer) -> bool:
        """Whether an answer contains exactly the gold items, in any order."""
        return answer.parsed and sorted(answer.items) == sorted(gold.items)

    def shown_labels(self, choices: Sequence[str], option: str) -> tuple[str, ...]:
        """The labels or options that a prompt shows, as items of answers hold them; empty for free text.

        Args:
            choices: The admissible targets of the row.
            option: The labels as the prompt lists them (`Context.option`).
        """
        read = [self.parse(choice) for choice in choices]
        return tuple(answer.items[0][0] for answer in read if len(answer.items) == 1)

    def lenient(self, text: str, labels: Sequence[str] = ()) -> tuple[Item, ...] | None:
        """Read an answer that may not follow the format; null if no answer is clear even so. Never raises.

        An answer that follows the format is read as `parse` reads it. The default reads what follows the reasoning of
        the model.

        Args:
            text: What the model wrote.
            labels: The labels or options that the prompt shows, in its order. The true answer is not known here.
        """
        answer = self.parse(answered_part(text))
        return answer.items if answer.parsed else None

    def leniently_correct(self, items: tuple[Item, ...] | None, target: str, labels: Sequence[str] = ()) -> bool:
        """Whether items of the lenient reading are those of the true answer, in any order.

        Args:
            items: What `lenient` returned.
            target: The true answer, in the format.
            labels: The labels that `lenient` was given.
        """
        return items is not None and sorted(items) == sorted(self.parse(target).items)

    def alike(self, strict: Sequence[Item], lenient: Sequence[Item], labels: Sequence[str] = ()) -> bool:
        """Whether both readings of an answer found the same, so that a report does not count it as read differently.

        Args:
            strict: What `parse` returned.
            lenient: What `lenient` returned.
            labels: The labels that `lenient` was given.
        """
        return sorted(strict) == sorted(lenient)


TASKS: Registry[Task] = Registry("task", "the import path of a Task class")
"""All tasks by name; `register` adds to them."""

TaskClass = TypeVar("TaskClass", bound=type[Task])


def register(task: TaskClass) -> TaskClass:
    """Class decorator: register a task under its `name`.

    Raises:
        ValueError: The name is taken.
    """
    TASKS.add(task.name, task())
    return task


def resolve_task(name: str) -> str:
    """The name of a registered task, or of the `Task` class at an import path, which is then registered.

    Only configurations may use import paths. Rows name registered tasks, so that data never decides what is imported.

    Raises:
        ValueError: The task does not exist, or its name is taken.
    """
    if name in TASKS:
        return name
    found = TASKS.found(name)
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise ValueError(f"task: found {name!r}; expected {TASKS.expected(name)}")
    if type(TASKS.get(found.name)) is not found:
        register(found)
    return found.name

"""The contract of a task: how its answers are written, read back and scored."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

from robustlm.sample import Context
from robustlm.tasks.labels import Labels
from robustlm.utils.registry import Registry

Item = tuple[str, ...]
"""Part of an answer: `(type, words)`, `(relation, head, tail)`, `(polarity, aspect, opinion)`, `(label,)`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a task read out of an answer text.

    A parse failure is a value: pieces that do not follow the task's format are counted in `malformed` and
    score as predictions that match nothing.
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
    """Owns the format, the parser and the score of one kind of answer.

    `parse(format(items)).items == items` for every `items` a row can produce: the parser is the formatter's
    exact inverse, also for words that hold the format's own separators.
    """

    name: ClassVar[str]
    """Key in the registry, and prefix of logged scores."""
    score: ClassVar[str]
    """`f1`: micro-F1 over multisets of items; `accuracy`: all items equal."""
    keys: ClassVar[str] = ""
    """The keys of the task's own row shape, for people to read; empty: it has no shape of its own."""
    labelled: ClassVar[bool] = False
    """Whether each item's first word comes from a fixed set of labels, which only the whole source shows."""

    bare: ClassVar[str] = ""
    """The task whose answers are these without their form, where the form is nothing but a word before them; empty: the
    form is needed to read them."""
    bare_of: ClassVar[str] = ""
    """The task that this one is the bare form of: both have the same labels."""

    def recognises(self, row: Mapping[str, Any]) -> bool:
        """Whether a row's keys are those of this task's own row shape."""
        return False

    def filled(self, row: Mapping[str, Any]) -> Mapping[str, Any] | None:
        """A row of this task's own shape that lacks its answer, with some answer put in; null for other rows."""
        return None

    def bank(self, context: Context, labels: Collection[str]) -> str:
        """Which instruction bank suits a row of this task's own shape, given all labels of its source."""
        return self.name

    def read(self, row: Mapping[str, Any]) -> tuple[Context, tuple[Item, ...], tuple[str, ...]]:
        """Turn a row of this task's own shape into `(context, items, choices)`.

        Raises:
            ValueError: What is wrong with the row, in words that its author understands. The words before the
                first colon are the reason under which bad rows are counted.
        """
        raise ValueError(f"no row shape: the task {self.name!r} has none of its own")

    def named(self, row: Mapping[str, Any], labels: Labels) -> Mapping[str, Any]:
        """A row of this task's own shape in which every label has its name.

        Raises:
            ValueError: A value stands for no label, or the task's rows have none.
        """
        raise ValueError(
            f"labels: found them for a row of the task {self.name!r}, whose answers hold no labels; expected none"
        )

    def options(self, names: Sequence[str]) -> tuple[str, ...]:
        """The options to be shown where a source names its labels; those names, unless these are made of others."""
        return tuple(names)

    @abstractmethod
    def format(self, items: Sequence[Item]) -> str:
        """Write items as an answer text. Raises `ValueError` for items that no row can produce."""

    @abstractmethod
    def parse(self, text: str) -> Answer:
        """Read an answer text. Never raises."""

    def correct(self, answer: Answer, gold: Answer) -> bool:
        """Whether an answer holds exactly the gold items, in any order."""
        return answer.parsed and sorted(answer.items) == sorted(gold.items)


TASKS: Registry[Task] = Registry("task", "the import path of a Task class")
"""All tasks by name; `register` adds to them."""

TaskClass = TypeVar("TaskClass", bound=type[Task])


def register(task: TaskClass) -> TaskClass:
    """Class decorator: make a task known by its `name`.

    Raises:
        ValueError: The name is taken.
    """
    TASKS.add(task.name, task())
    return task


def resolve_task(name: str) -> str:
    """The registered name of a task: of one called so, or of the `Task` class at an import path, which it registers.

    Only configurations name import paths; a row names registered tasks, so that data never decides what is imported.

    Raises:
        ValueError: There is no such task, or its name is taken.
    """
    if name in TASKS:
        return name
    found = TASKS.found(name)
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise ValueError(f"task: found {name!r}; expected {TASKS.expected(name)}")
    if type(TASKS.get(found.name)) is not found:
        register(found)
    return found.name

"""A record: a line of the prediction table, the answer to one sample under one condition and instruction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any

OWN = "own"
"""Instruction id of rows asked by an instruction of their own; that of its paraphrases goes on with a slash."""

Key = tuple[str, str, str, str]
"""Condition, dataset, sample and instruction: what names a record."""


@dataclass(slots=True)  # not frozen: Lightning's `predict` copies what a step returns field by field
class Record:
    """The answer to a sample under one condition and instruction. Every score can be made from these.

    Fields are the columns of the table, in their order. Those with a default are null in tables of earlier versions.
    """

    sample_id: str
    dataset: str
    task: str
    condition: str
    instruction_id: str
    prediction: str
    """What the model answered."""
    parsed: list[list[str]] | None
    """The items of the answer; null: it could not be read."""
    target: str | None
    """The true answer; null: the row brought none, as those of `predict` may."""
    correct: bool | None
    """Whether the answer is exactly right; null where there is no target."""
    choices: list[str] | None = None
    """What there was to choose from; null, like the next two: the answer was generated."""
    option_scores: list[float] | None = None
    """Log-likelihood of each choice, summed over its tokens."""
    option_tokens: list[int] | None = None
    """Tokens of each choice, with end of sequence."""
    prompt: str | None = None
    """All that the model was given; null: not kept."""
    token_f1: float | None = None
    """Overlap with the target in [0, 1], like the next; null: the answer is no free text, or there is no target."""
    rouge_l: float | None = None

    @property
    def key(self) -> Key:
        """Names the record in its table."""
        return self.condition, self.dataset, self.sample_id, self.instruction_id

    @property
    def expected(self) -> str:
        """The true answer. Raises `ValueError` where the row brought none."""
        if self.target is None:
            raise ValueError(f"sample {self.sample_id!r} brought no answer to compare with; expected a target")
        return self.target

    @property
    def right(self) -> bool:
        """Whether the answer is right. Raises `ValueError` where the row brought none to compare with."""
        if self.correct is None:
            raise ValueError(f"sample {self.sample_id!r} brought no answer to compare with; expected a target")
        return self.correct

    def __getitem__(self, name: str) -> Any:
        """A field by its name, for scripts that read tables when records were dictionaries."""
        if name not in COLUMNS:
            raise KeyError(name)
        return getattr(self, name)


COLUMNS = tuple(field.name for field in fields(Record))
"""Columns of the table."""

LATER = tuple(field.name for field in fields(Record) if field.default is not MISSING)
"""Columns that tables of earlier versions lack; they are null there."""

_TEXTS = tuple(field.name for field in fields(Record) if field.type == "str")


def plain_record(record: Record) -> dict[str, Any]:
    """A record as plain data, as JSON has it."""
    return {name: getattr(record, name) for name in COLUMNS}


def parsed_record(line: Mapping[str, Any]) -> Record:
    """A record of plain data. Raises `TypeError` where a field is missing, unknown, or no text where one is needed."""
    record = Record(**line)
    for name in _TEXTS:
        if not isinstance(value := getattr(record, name), str):
            raise TypeError(f"{name}: found {type(value).__name__}, expected text")
    return record

"""A record is a row of the prediction table: the answer to one sample under one condition and instruction."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from typing import Any

OWN = "own"
"""Instruction id of rows asked with an instruction of their own. Ids of its paraphrases add a slash and more."""

Cell = tuple[str, str, str, str]
"""Condition, dataset, sample and instruction: one question to the model, which may be asked several times."""
Key = tuple[str, str, str, str, int]
"""A cell and the number of the draw (0 where there is only one), which together identify a record."""


@dataclass(slots=True)  # not frozen: Lightning's `predict` copies the result of a step field by field
class Record:
    """The answer to a sample under one condition and instruction. Every score can be computed from records.

    The fields are the columns of the table, in their order. Fields with a default are null in tables of earlier
    versions.
    """

    sample_id: str
    dataset: str
    task: str
    condition: str
    instruction_id: str
    prediction: str
    """The text that the model answered."""
    parsed: list[list[str]] | None
    """The items of the answer; null: it could not be read."""
    target: str | None
    """The true answer; null: the row brought none, which is allowed in `predict`."""
    correct: bool | None
    """Whether the answer is exactly right; null without a target."""
    choices: list[str] | None = None
    """The options to choose from. This and the next two are null if the answer was generated."""
    option_scores: list[float] | None = None
    """Log-likelihood of each choice, summed over its tokens."""
    option_tokens: list[int] | None = None
    """Number of tokens of each choice, including end of sequence."""
    prompt: str | None = None
    """The full prompt of the model; null: not stored."""
    token_f1: float | None = None
    """Overlap with the target in [0, 1], as is the next field; null: the answer is not free text, or has no target."""
    rouge_l: float | None = None
    lenient: list[list[str]] | None = None
    """The items of the answer by the lenient reading (`Task.lenient`), whatever its form; null: no answer is clear."""
    lenient_correct: bool | None = None
    """Whether the lenient reading is exactly right; null without a target, and in tables of earlier versions."""
    labels: list[str] | None = None
    """The labels or options of the prompt, in its order, that the lenient reading knew; null: there are none."""
    error: str | None = None
    """Why there is no answer, which then counts as wrong; null: there is one. This and the following fields are null
    in tables of earlier versions."""
    finish_reason: str | None = None
    """Why the answer ends, as in `robustlm.models.base.Answer`, as are the next three; null: not known."""
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    latency: float | None = None
    wording: str | None = None
    """The instruction before noise or an attack. This and the next are null in a table without prompts where the
    row brought the instruction. Slots (`{premise}`) are not filled in either."""
    instruction: str | None = None
    """The instruction as it was asked: the wording, with the edits of noise or of an attack."""
    answer_words: list[list[str]] | None = None
    """Where the instruction asks for answers of its own: each answer and the label that it stands for (`[["yes",
    "acceptable"], …]`). Prediction, items, target and choices are these answers. Null: they are the labels."""
    draw: int | None = None
    """Number of the answer among those drawn for its cell, from 0 (`data.draws`); null: the only one."""

    def label_of(self, text: str) -> str:
        """The label that an answer stands for; the answer itself if it is no answer word of the instruction."""
        return next((label for word, label in self.answer_words or () if word == text), text)

    @property
    def key(self) -> Key:
        """The key that identifies the record in its table."""
        return *self.cell, self.draw or 0

    @property
    def cell(self) -> Cell:
        """What was asked, whichever of its answers this is."""
        return self.condition, self.dataset, self.sample_id, self.instruction_id

    @property
    def brings_instruction(self) -> bool:
        """Whether the row brought its instruction, so that other rows of the same id may have other texts."""
        return not self.instruction_id or self.instruction_id == OWN or self.instruction_id.startswith(f"{OWN}/")

    def without_prompt(self) -> Record:
        """The record without texts that its row brought: the prompt, and the instruction if it is the row's own."""
        if self.brings_instruction:
            return replace(self, prompt=None, wording=None, instruction=None)
        return replace(self, prompt=None)

    @property
    def expected(self) -> str:
        """The true answer. Raises `ValueError` if the row has none."""
        if self.target is None:
            raise ValueError(f"sample {self.sample_id!r} has no target to compare the answer with; expected one")
        return self.target

    @property
    def right(self) -> bool:
        """Whether the answer is right. Raises `ValueError` if the row has no true answer."""
        if self.correct is None:
            raise ValueError(f"sample {self.sample_id!r} has no target to compare the answer with; expected one")
        return self.correct

    def __getitem__(self, name: str) -> Any:
        """A field by its name, for scripts written when records were dictionaries."""
        if name not in COLUMNS:
            raise KeyError(name)
        return getattr(self, name)


@dataclass(slots=True)
class LenientRecord(Record):
    """A record whose `parsed` and `correct` are those of the lenient reading, in memory alone."""


COLUMNS = tuple(field.name for field in fields(Record))
"""Columns of the table."""

LATER = tuple(field.name for field in fields(Record) if field.default is not MISSING)
"""Columns that tables of earlier versions lack; they are null there."""

_TEXTS = tuple(field.name for field in fields(Record) if field.type == "str")


def plain_record(record: Record) -> dict[str, Any]:
    """A record as plain data for JSON."""
    return {name: getattr(record, name) for name in COLUMNS}


def parsed_record(line: Mapping[str, Any]) -> Record:
    """A record from plain data. Raises `TypeError` if a field is missing, unknown, or not text where text is needed."""
    record = Record(**line)
    for name in _TEXTS:
        if not isinstance(value := getattr(record, name), str):
            raise TypeError(f"{name}: found {type(value).__name__}, expected text")
    return record

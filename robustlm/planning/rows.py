"""Batches of rows without content, of a given size."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

import torch

from robustlm.batch import Encoded, InstructionBatch, Unanswered, View, collate


@dataclass(frozen=True)
class Shape:
    """How many rows a training batch has, how long they are, and which views it holds."""

    rows: int
    """B rows."""
    prompt: int
    """Tokens of a prompt."""
    answer: int
    """Tokens of an answer, with the end of sequence."""
    views: Collection[str] = ("raw",)
    """The views of the datamodule."""
    variants: int = 1
    """Variants of each row."""
    negatives: int = 0
    """Rows of the view `negative` for each row."""
    replay: int = 0
    """Rows of running text."""
    replay_length: int = 2
    """Tokens of a row of running text."""
    open: float = 0.0
    """Share of the rows without an answer, on which their phrasings vote."""
    options: int = 2
    """Options of such a row."""
    encoder_decoder: bool = False
    padded: bool = True
    """Whether a row is shorter than the others, as in most batches; attention then needs a mask."""

    @property
    def open_rows(self) -> int:
        """Rows without an answer."""
        return math.ceil(self.open * self.rows)

    @property
    def row_tokens(self) -> int:
        """Tokens of a row in one view."""
        return self.prompt + self.answer

    def batch(self) -> InstructionBatch:
        """The batch. Half of a prompt is instruction, half context."""
        variant = self._view(self.rows * self.variants) if "variant" in self.views else None
        negatives = self.rows * self.negatives
        raw, touched = self._view(self.rows), None
        if variant is not None and self.variants > 1:
            touched = raw.instruction_mask.repeat_interleave(self.variants, 0)
        return InstructionBatch(
            raw=raw,
            touched=touched,
            ids=[str(i) for i in range(self.rows)],
            variant=variant,
            negative=self._view(negatives) if negatives else None,
            beta=None if variant is None else torch.full((len(variant),), 0.2),
            keys=torch.arange(self.rows),
            negative_keys=torch.arange(negatives) + self.rows if negatives else None,
            seeds=None if variant is None else torch.arange(len(variant)),
            step_tokens=float(self.rows * self.answer),
            unanswered=self._unanswered() if self.open else None,
            replay=self._text() if self.replay else None,
            replay_tokens=float(self.replay * (self.replay_length - 1)) if self.replay else None,
        )

    def voted(self) -> View:
        """The prompts of all votes on rows without an answer, each with all of its options behind it."""
        row = replace(self._row(self.prompt), answer_ids=[1] * (self.options * self.answer))
        rows = [row] * (self.open_rows * (self.variants + 1))
        return collate(rows, pad_id=0, encoder_decoder=self.encoder_decoder)

    def _unanswered(self) -> Unanswered:
        row, count = self._row(self.prompt), self.open_rows
        return Unanswered(
            rows=list(range(count)),
            answers=[[row.answer_ids] * self.options] * count,
            held=[0] * count,
            truths=[None] * count,
            classes=[("rows", tuple(map(str, range(self.options))))] * count,
            raw=[row] * self.rows,
            variant=[row] * (self.rows * self.variants),
            options=collate([row] * (count * (self.variants + 1) * self.options), pad_id=0),
            asked=torch.arange(count * (self.variants + 1)).repeat_interleave(self.options),
        )

    def _text(self) -> View:
        row = Encoded([1], [False], [False], [1] * (self.replay_length - 1))
        return collate([row] * self.replay, pad_id=0)

    def _view(self, rows: int) -> View:
        shorter = 1 if self.padded and rows > 1 and self.prompt > 1 else 0
        found = [self._row(self.prompt - (shorter if at == 0 else 0)) for at in range(rows)]
        return collate(found, pad_id=0, encoder_decoder=self.encoder_decoder)

    def _row(self, prompt: int) -> Encoded:
        first = (prompt + 1) // 2
        inside = [True] * first + [False] * (prompt - first)
        return Encoded([1] * prompt, inside, [not one for one in inside], [1] * self.answer)

"""Batches of encoded rows, for training and for evaluation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from operator import attrgetter
from typing import ClassVar, TypeVar

import torch
from torch import Tensor
from torch.utils.data import Dataset

from robustlm.batch import Encoded, InstructionBatch, Measure, Unanswered, View
from robustlm.datamodules.sampling import BatchKey
from robustlm.instructions.phrasings import Phrasings, meaning
from robustlm.prompts.encoding import Encoder
from robustlm.sample import Sample, Turn
from robustlm.tasks import TASKS
from robustlm.utils.computed import Computed
from robustlm.utils.random import drawn

log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class OpenRow:
    """What is known of the answer of a row without one."""

    answers: list[list[int]]
    """Token ids of each option."""
    held: int
    """The longest option, which the row is encoded with until one is chosen."""
    truth: int | None
    """The true option, where the answer is hidden; null where it is not known."""
    classes: tuple[str, tuple[str, ...]]
    """The dataset, and a name for each option: the options themselves where all rows of the dataset have the same, else
    their places (`option 1`), so that shares of classes can be counted over rows."""


@dataclass
class EncodedSamples:
    """Samples, each tokenised under its own instruction."""

    samples: Sequence[Sample]
    encoded: Sequence[Encoded]
    options: list[list[Encoded]] = field(default_factory=list)
    """Each sample's choices, encoded as answers to its prompt; empty if answers are generated."""
    measure: Measure = "options"
    """How the likeliest choice is found."""

    prompt_lengths: Sequence[int] = field(default_factory=list)
    """Number of tokens of each prompt before its context was cut; empty: not known."""
    open: dict[int, OpenRow] = field(default_factory=dict)
    """The training rows without an answer, by number."""
    stored: ClassVar[bool] = False
    """Whether rows lie in a file. Nothing may then hold an object for each row."""

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def lengths(self) -> Sequence[int]:
        """Number of tokens of each row."""
        return [len(row) for row in self.encoded]

    @property
    def answer_tokens(self) -> Sequence[int]:
        """Number of answer tokens of each row, with those of earlier replies that are trained."""
        return [row.trained for row in self.encoded]

    def meanings(self) -> Tensor:
        """`meaning` of each sample, int64 `[n]`."""
        return torch.tensor([meaning(sample) for sample in self.samples], dtype=torch.long)

    def datasets(self) -> list[str]:
        """The dataset of each sample, or its task."""
        return [sample.dataset or sample.task for sample in self.samples]

    def drawn(self, draws: int) -> EncodedSamples:
        """Every row as often as it is asked, the draws of a row one after another; the rows themselves if once."""
        if draws == 1:
            return self
        return EncodedSamples(
            [replace(sample, draw=draw) for sample in self.samples for draw in range(draws)],
            [row for row in self.encoded for _ in range(draws)],
            [row for row in self.options for _ in range(draws)],
            self.measure,
        )

    def add(self, other: EncodedSamples) -> None:
        """Append the rows of `other`."""
        self.samples = [*self.samples, *other.samples]
        self.encoded = [*self.encoded, *other.encoded]
        self.options += other.options


class TrainDataset(Dataset[InstructionBatch]):
    """Training batches by key, with the raw view. Subclasses add views.

    Args:
        rows: The training samples, tokenised under their own instructions.
        encoder: The encoder that tokenised them.
        phrasings: The phrasings that each epoch draws instructions from; null keeps the instructions of `rows`.
    """

    def __init__(self, rows: EncodedSamples, encoder: Encoder, phrasings: Phrasings | None = None) -> None:
        self.rows = rows
        self.encoder = encoder
        self.phrasings = phrasings
        self.keys = rows.meanings()
        self._own = self.each(attrgetter("instruction"))
        self._asked: tuple[int, Sequence[str]] | None = None
        self._unfit = 0
        self.beside: Callable[[InstructionBatch, BatchKey], object] | None = None
        """Adds to a batch what is trained beside its rows; null: nothing."""

    def __len__(self) -> int:
        return len(self.rows)

    def prepare(self, epoch: int) -> None:
        """Called in the training process before an epoch's first batch, and before worker processes start."""
        self.asked(epoch)

    def each(self, value: Callable[[Sample], T]) -> Sequence[T]:
        """A value of every sample: a list, or computed on demand if the rows are stored in a file."""
        samples = self.rows.samples
        if self.rows.stored:
            return Computed(len(samples), partial(_value_of, samples, value))
        return [value(sample) for sample in samples]

    def asked(self, epoch: int) -> Sequence[str]:
        """The raw instruction of every row in an epoch; depends only on the epoch."""
        if self.phrasings is None:
            return self._own
        if self._asked is None or self._asked[0] != epoch:
            leaders = self.leaders(epoch)
            texts: Sequence[str] = Computed(len(self), partial(_phrased, self.phrasings, epoch, leaders))
            self._asked = epoch, texts if self.rows.stored else list(texts)
        return self._asked[1]

    def facts(self, epoch: int) -> list[str]:
        """Lines about the training rows; logged at the start of a run and printed by `check`."""
        if not self.rows.open:
            return []
        return [
            f"data.unlabelled: {len(self.rows.open):,} of {len(self.rows):,} rows bring no answer; until training "
            "chooses one, they are counted and shown with their longest option"
        ]

    def leaders(self, epoch: int) -> Sequence[int]:
        """For each row, the row whose phrasing is drawn for it: itself, unless rows are grouped."""
        return range(len(self.rows))

    def __getitem__(self, key: BatchKey) -> InstructionBatch:
        batch = InstructionBatch(
            raw=self.view(self.own_rows(key)),
            ids=[self.rows.samples[i].id for i in key.indices],
            keys=self.keys[list(key.indices)],
            step_tokens=key.step_tokens,
        )
        if self.beside is not None:
            self.beside(batch, key)
        return batch

    def own_rows(self, key: BatchKey) -> list[Encoded]:
        """The rows of a batch under their own instructions in its epoch."""
        asked = self.asked(key.epoch)
        return [row for row, _ in self.encoded(key.indices, [asked[i] for i in key.indices])]

    def encoded(
        self, indices: Sequence[int], texts: Sequence[str], turns: Sequence[tuple[Turn, ...]] | None = None
    ) -> list[tuple[Encoded, bool]]:
        """Rows tokenised under the given instructions, and whether each one fits.

        Args:
            indices: Numbers of the rows.
            texts: Their instructions.
            turns: Their earlier turns, where these are varied too; null: those of the rows.

        A row that is longer than `max_length` even without its context is replaced by the row under its own
        instruction. The tokens of the answer are always those of the row under its own instruction, even if the
        tokenizer would split the answer differently after the other prompt. A row in which earlier replies that are
        trained have other tokens is replaced, too.
        """
        samples, own = self.rows.samples, self.rows.encoded
        asked = [samples[i] for i in indices]
        if turns is not None:
            asked = [replace(one, turns=said) for one, said in zip(asked, turns, strict=True)]
        other = [
            at
            for at, (i, text) in enumerate(zip(indices, texts, strict=True))
            if text != self._own[i] or asked[at].turns != samples[i].turns
        ]
        found = [(own[i], True) for i in indices]
        rows = self.encoder.encode_untruncated([asked[at] for at in other], [texts[at] for at in other])
        for at, row in zip(other, rows, strict=True):
            i = indices[at]
            row = replace(row, answer_ids=own[i].answer_ids)
            alike = row.reply_ids == own[i].reply_ids
            fits = alike and self.encoder.excess(row) <= sum(row.context)
            found[at] = (self.encoder.truncate(row, samples[i].id), True) if fits else (own[i], False)
            if not fits:
                self._unfit += 1
                if self._unfit == 1:
                    why = "does not fit into max_length" if alike else "has other tokens in earlier replies"
                    log.warning("a variant of %s %s; its own instruction is used", samples[i].id, why)
        return found

    def view(self, rows: Sequence[Encoded]) -> View:
        """Rows with their answers, padded."""
        return self.encoder.view(rows)


def unanswered(
    open: Mapping[int, OpenRow], indices: Sequence[int], raw: list[Encoded], variant: list[Encoded], encoder: Encoder
) -> Unanswered | None:
    """What a batch brings of its rows without an answer; null if all rows have one.

    Args:
        open: The training rows without an answer, by number.
        indices: Numbers of the B rows of the batch.
        raw: These rows.
        variant: Their B·K variants.
        encoder: Pads them.
    """
    rows = [at for at, number in enumerate(indices) if number in open]
    if not rows:
        return None
    found = [open[indices[at]] for at in rows]
    many = len(variant) // len(raw)
    lines: list[Encoded] = []
    asked: list[int] = []
    for number, (at, own) in enumerate(zip(rows, found, strict=True)):
        for phrasing, row in enumerate((raw[at], *variant[at * many : (at + 1) * many])):
            lines += [replace(row, answer_ids=ids, replies=()) for ids in own.answers]
            asked += [number * (many + 1) + phrasing] * len(own.answers)
    return Unanswered(
        rows=rows,
        answers=[own.answers for own in found],
        held=[own.held for own in found],
        truths=[own.truth for own in found],
        classes=[own.classes for own in found],
        raw=raw,
        variant=variant,
        options=encoder.view(lines),
        asked=torch.tensor(asked),
        pad_id=encoder.pad_id,
        encoder_decoder=encoder.encoder_decoder,
    )


def _value_of(samples: Sequence[Sample], value: Callable[[Sample], T], row: int) -> T:
    return value(samples[row])


def _phrased(phrasings: Phrasings, epoch: int, leaders: Sequence[int], row: int) -> str:
    return phrasings.drawn(row, epoch, int(leaders[row]))


class EvaluationDataset(Dataset[InstructionBatch]):
    """Evaluation batches by key: rows with and without their answers, and the data for scoring.

    Args:
        rows: The samples under the instructions of a condition.
        encoder: The encoder that tokenised them.
        condition: Name of the condition.
        pass_rows: Maximum number of rows in one forward pass over options; null: no limit.
    """

    def __init__(self, rows: EncodedSamples, encoder: Encoder, condition: str, pass_rows: int | None = None) -> None:
        self.rows = rows
        self.encoder = encoder
        self.condition = condition
        self.pass_rows = pass_rows

    def __len__(self) -> int:
        return len(self.rows)

    def _key(self, sample: Sample) -> int:
        dataset = sample.dataset or sample.task
        return drawn("answer", self.condition, dataset, sample.id, sample.instruction_id, sample.draw or 0)

    def __getitem__(self, key: BatchKey) -> InstructionBatch:
        samples = [self.rows.samples[i] for i in key.indices]
        encoded = [self.rows.encoded[i] for i in key.indices]
        prompt = self.encoder.view(encoded, with_answer=False)
        prompt.keys = tuple(self._key(sample) for sample in samples)
        prompt.draws = tuple(sample.draw or 0 for sample in samples)
        batch = InstructionBatch(
            raw=self.encoder.view(encoded),
            prompt=prompt,
            ids=[sample.id for sample in samples],
            condition=self.condition,
            instruction_ids=[sample.instruction_id for sample in samples],
            draws=[sample.draw for sample in samples],
            # rows of one instruction share one text in memory; it is copied only into a batch of another process
            instructions=[sample.instruction for sample in samples],
            wordings=[sample.wording or sample.instruction for sample in samples],
            targets=[sample.target for sample in samples],
            tasks=[sample.task for sample in samples],
            groups=[sample.dataset or sample.task for sample in samples],
            labels=[TASKS[one.task].shown_labels(one.choices, one.context.option) for one in samples],
        )
        if any(sample.answer_words for sample in samples):
            batch.answer_words = [sample.answer_words for sample in samples]
        if self.rows.options:
            options = [(at, row) for at, i in enumerate(key.indices) for row in self.rows.options[i]]
            batch.choices = [sample.choices for sample in samples]
            batch.options = self.encoder.view([row for _, row in options]) if options else None
            batch.option_rows = torch.tensor([at for at, _ in options], dtype=torch.long)
            batch.measure = self.rows.measure
            batch.pass_rows = self.pass_rows
        return batch

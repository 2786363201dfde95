"""How a datamodule gets rows: it reads sources, gives each sample its instruction, and tokenises it for a model."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from lightning.pytorch import LightningDataModule

from robustlm.datamodules.batches import EncodedSamples
from robustlm.datamodules.connection import ConnectedModel, longest_row
from robustlm.datamodules.large import LargeRows, megabytes
from robustlm.datamodules.phrasing import Phraser
from robustlm.datamodules.preparation import Preparation, Scoring
from robustlm.datamodules.turns import AssistantTurns, NoisyTurns, with_system, with_trained_replies
from robustlm.datamodules.unlabelled import Unlabelled, divided, hidden, tokenised
from robustlm.prompts.encoding import Encoder
from robustlm.prompts.templates import make_template
from robustlm.sample import Sample
from robustlm.sources.loading import KnownLabels, load_all
from robustlm.sources.source import Role, Source, asked_by, formatted_by

log = logging.getLogger(__name__)

UNCONNECTED = "call `connect(model)` first"


class Reading(LightningDataModule):
    """Reads the rows of each role for a connected model, into memory or into the cache.

    Its constructor has no arguments: a subclass sets the attributes without a value in its own. They are the arguments
    of `InstructionDataModule` of the same names.
    """

    template: str
    chat_template_kwargs: dict[str, bool | int | float | str] | None
    max_length: int
    scoring: Scoring
    on_bad_row: Literal["strict", "skip"]
    seed: int
    bank: str | None
    format: Literal["none"] | None
    system: str | None
    assistant_turns: AssistantTurns
    noisy_turns: NoisyTurns
    cache_dir: str | None
    cache_above: float
    stream: int | None
    unlabelled: Unlabelled | None
    rejected: Path | None
    """File for the rows that `on_bad_row: skip` leaves out."""
    sources: dict[Role, list[str | Source]]
    """Where the rows of each role are."""
    phraser: Phraser
    """Decides which instruction each sample is asked with."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[Role, EncodedSamples] = {}
        """The rows of each role that was read."""
        self.conditioned: dict[str, EncodedSamples] = {}
        """The test rows under each condition."""
        self.notes: list[str] = []
        """Lines about the rows that were read; `setup` logs them, `check` prints them."""
        self.watched: EncodedSamples | None = None
        """Training rows without an answer that are never trained on (`data.unlabelled.held_out`)."""
        self.samples_rows = False
        """Whether `read` reads a part of the rows of large sources, which `check` looks at."""
        self._answered = True
        """Whether test rows must have answers; rows of `predict` may lack them."""
        self._every = 1
        """1 of so many rows of a source is read."""
        self._model: ConnectedModel | None = None
        self._preparation: Preparation | None = None
        self._labels: KnownLabels | None = None
        self._large: dict[Role, LargeRows] = {}

    # --- the model ---------------------------------------------------------------------------------------------

    def connect(self, model: ConnectedModel) -> None:
        """Take tokenizer and length limit from a model; rows that were tokenised for another model are read again.

        A `Trainer` does this itself; call it to use a datamodule without one.

        Raises:
            ValueError: The template does not suit the tokenizer, or there is no bank `data.bank`.
        """
        if model is self._model:
            return
        self._model, self._preparation = model, None
        self.rows.clear()
        self.conditioned.clear()
        if self.bank:
            try:
                self.phraser.bank_named(self.bank)
            except ValueError as error:
                raise ValueError(f"data.bank: {error}") from error
        template = make_template(self.template, model.tokenizer, self.chat_template_kwargs)
        self.notes += template.notes
        length = longest_row(model, self.max_length)
        encoder = Encoder(model.tokenizer, template, length, encoder_decoder=model.is_encoder_decoder)
        self._preparation = Preparation(
            encoder, scoring=self.scoring, on_bad_row=self.on_bad_row, rejected=self.rejected
        )

    @property
    def backbone(self) -> ConnectedModel:
        """The model that rows are tokenised for. Raises `RuntimeError` before `connect`."""
        if self._model is None:
            raise RuntimeError(UNCONNECTED)
        return self._model

    @property
    def preparation(self) -> Preparation:
        """Encodes samples as rows. Raises `RuntimeError` before `connect`."""
        if self._preparation is None:
            raise RuntimeError(UNCONNECTED)
        return self._preparation

    @property
    def encoder(self) -> Encoder:
        """Writes prompts and tokenises them. Raises `RuntimeError` before `connect`."""
        return self.preparation.encoder

    # --- rows --------------------------------------------------------------------------------------------------

    def read(self, role: Role) -> EncodedSamples:
        """Read the samples of a role, give each its instruction, and tokenise them.

        Raises:
            SourceError: No source is named for the role, or there is nothing to read.
            BadRowsError: Rows are bad, or too long.
        """
        sources = self._sources_of(role)
        self._every = 1
        if self.samples_rows and self.cache_dir is not None:
            size = megabytes(sources, role)
            self._every = max(1, math.ceil(size / max(self.cache_above, 0.001)))
        elif role in ("train", "validation") and self._is_large(sources, role):
            return self._stored(sources, role)
        if self._every > 1:
            self.notes.append(
                f"data.{role}: only 1 of {self._every} rows was checked, and labels are those of these rows, since the "
                f"files have {size:,.0f} MB (data.cache_above); --whole true checks all rows"
            )
        samples = self.loaded(sources, role)
        self.phraser.say_divisions(samples, role)
        asked = [self.phraser.asked(sample, role) for sample in self.selected(samples, role)]
        self.notes += self.preparation.hidden(asked, role)
        if role == "train" and self.unlabelled is not None:
            asked, truths = hidden(asked, self.unlabelled.hide, self.seed)
            rows, self.watched = divided(
                tokenised(asked, truths, self.preparation), self.unlabelled.held_out, self.seed
            )
            return rows
        rows = self.preparation.tokenised(asked, role)
        return self.preparation.with_options(rows, role) if role == "validation" else rows

    def _sources_of(self, role: Role) -> list[str | Source]:
        """The sources that a user named for a role, with the bank and the format that `data` sets for all of them."""
        sources = self.sources[role]
        if not sources:
            raise ValueError(f"data.{role}: no source is named; expected a path, e.g. --data.{role} rows.jsonl")
        if self.bank:
            sources = [asked_by(source, self.bank) for source in sources]
        return [formatted_by(source, self.format) for source in sources]

    def loaded(self, sources: Sequence[str | Source], role: Role) -> list[Sample]:
        """Read samples from sources. Samples of one dataset and task have the same options in all roles."""
        samples = load_all(
            sources,
            role,
            on_bad_row=self.on_bad_row,
            rejected=self.rejected,
            known=self.known_labels,
            seed=self.seed,
            say=self.notes.append,
            answered=self.unlabelled is None if role == "train" else self._answered or role != "test",
            every=self._every,
        )
        found = self._with_turns(samples, role)
        if len(found) > len(samples):
            log.info("data.%s: %d chats are %d rows, one for each reply", role, len(samples), len(found))
        return found

    @property
    def known_labels(self) -> KnownLabels:
        """The labels of all sources."""
        if self._labels is None:
            self._labels = KnownLabels(self.all_sources())
            for number in range(len(self.sources["train"]) if self.stream is not None else 0):
                self._labels.remember("train", number, {})  # a stream is not read for its labels; sources name them
        return self._labels

    def _with_turns(self, samples: list[Sample], role: Role) -> list[Sample]:
        samples = with_system(samples, self.system)
        trained = role in ("train", "validation")
        return with_trained_replies(samples, self.assistant_turns) if trained else samples

    def all_sources(self) -> dict[Role, list[str | Source]]:
        """All sources by role."""
        return dict(self.sources)

    def selected(self, samples: list[Sample], role: Role) -> list[Sample]:
        """Select the samples of a role that are used: here all of them; subclasses may select fewer."""
        return samples

    # --- large files -------------------------------------------------------------------------------------------

    def _is_large(self, sources: Sequence[str | Source], role: Role) -> bool:
        """Whether the rows of a role go to the cache."""
        if self.cache_dir is None or (size := megabytes(sources, role)) <= self.cache_above:
            return False
        why = self._takes_all()
        if role == "train" and self.unlabelled is not None:
            why = "data.unlabelled also tokenises the options of rows without an answer"
        if role == "train" and self.noisy_turns == "all":
            why = "data.noisy_turns: all varies the turns of all chats at once"
        if role == "validation" and self.scoring != "generation":
            why = f"data.scoring: {self.scoring} also tokenises the choices of each row"
        if why:
            log.warning(
                "data.cache_dir: the rows of data.%s (%.0f MB) stay in memory, because %s; expect 10 kB a row",
                role, size, why,
            )  # fmt: skip
        return not why

    def _takes_all(self) -> str:
        """Which method of a user's class takes all rows at once; empty: none."""
        for name in ("loaded", "selected"):
            own = getattr(type(self), name) is not getattr(Reading, name)
            if own and not type(self).__module__.startswith("robustlm."):
                return f"{type(self).__name__}.{name} takes all rows at once"
        return ""

    def _stored(self, sources: Sequence[str | Source], role: Role) -> EncodedSamples:
        """The rows of a role in the cache; they are made first if they are not there."""
        assert self.cache_dir is not None
        self._large[role] = LargeRows(self, sources, role, self.cache_dir, partial(self._asked_as, role))
        rows, notes = self._large[role].rows()
        self.phraser.say_divisions(rows.banked(), role)
        self.notes += notes
        return rows

    def _asked_as(self, role: Role, samples: list[Sample]) -> list[Sample]:
        """Samples of a role, with their turns and instructions; takes some of the rows at a time."""
        return [self.phraser.asked(one, role) for one in self._with_turns(samples, role)]

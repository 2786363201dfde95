"""Rows with other phrasings of their instructions: the data of [ALIGN] and of contrastive training on phrasings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from robustlm.datamodules.batches import EncodedSamples, TrainDataset
from robustlm.datamodules.noisy import NoisyInstructionDataModule, Variation, VariedDataset
from robustlm.datamodules.turns import UserTurns
from robustlm.instructions.phrasings import Phrasings
from robustlm.noise.base import Noise
from robustlm.prompts.encoding import Encoder
from robustlm.sample import Sample
from robustlm.utils.computed import Computed

log = logging.getLogger(__name__)


class ParaphrasedDataset(VariedDataset):
    """Training batches with a raw view and a view of K other phrasings of each row, different ones every epoch.

    Args:
        rows: See `TrainDataset`.
        encoder: See `TrainDataset`.
        phrasings: See `TrainDataset`.
        variation: Noise on top of the other phrasings, its measure, and K.
        others: The other phrasings.
        rephrase: Finds the phrasings of earlier user turns, where these are varied too.
    """

    takes_variants = False  # a variant that a row brings counts as one of its phrasings

    def __init__(
        self,
        rows: EncodedSamples,
        encoder: Encoder,
        phrasings: Phrasings | None = None,
        *,
        variation: Variation,
        others: Phrasings,
        rephrase: Callable[[Sequence[Sample]], Phrasings] | None = None,
    ) -> None:
        super().__init__(rows, encoder, phrasings, variation=variation)
        self._others = others
        self._others_of_turns = rephrase(self._turns.samples) if rephrase and self._turns is not None else None

    def rephrased(self, epoch: int) -> Sequence[Sequence[str]]:
        """K sequences with another phrasing of every row than the one in the raw view."""
        asked, leaders = self.asked(epoch), self.leaders(epoch)
        others = partial(self._other_texts, epoch, asked, leaders)
        if self.rows.stored:
            return [Computed(len(self), partial(_item, others, k)) for k in range(self._variants)]
        found = [others(i) for i in range(len(self))]
        return [[texts[k] for texts in found] for k in range(self._variants)]

    def _other_texts(self, epoch: int, asked: Sequence[str], leaders: Sequence[int], row: int) -> list[str]:
        return self._others.others(row, epoch, self._variants, asked[row], int(leaders[row]))

    def rephrased_turns(self, turns: UserTurns, epoch: int) -> list[list[str]]:
        """K lists with another phrasing of every earlier user turn; a turn without one stays."""
        others = self._others_of_turns
        if others is None:
            return super().rephrased_turns(turns, epoch)
        found = [others.others(j, epoch, self._variants, text) for j, text in enumerate(turns.texts)]
        return [[texts[k] for texts in found] for k in range(self._variants)]


class ParaphraseDataModule(NoisyInstructionDataModule):
    """Batches that hold each sample under a reference phrasing and N − 1 paraphrases.

    Emits batches with the views `raw` (the reference) and `variant`. Paraphrases are other phrasings of the row's bank.
    For a row with an instruction of its own, they are those in the file `paraphrases` and the variant that the row
    brings.

    Args:
        noise: Noise on top of the paraphrases; null for none.
        variants: N − 1, the number of paraphrases of each sample.
        kwargs: Arguments of `NoisyInstructionDataModule`.
    """

    def __init__(self, *args: Any, noise: Noise | None = None, variants: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, noise=noise, variants=variants, **kwargs)

    def train_dataset(self, rows: EncodedSamples) -> TrainDataset:
        """Rows with other phrasings."""
        phrasings = self.paraphrasings(rows)
        fresh = phrasings if self.phrasing == "fresh" else None
        return ParaphrasedDataset(
            rows,
            self.encoder,
            fresh,
            others=phrasings,
            variation=self.variation(),
            rephrase=self.phraser.phrasings,
        )

    def paraphrasings(self, rows: EncodedSamples) -> Phrasings:
        """The result of `phrasings`, checked.

        Raises:
            ValueError: No row has a second phrasing.
        """
        found = self.phrasings(rows, variants=True)
        alone = found.alone()
        if len(alone) == len(rows):
            raise ValueError(
                f"data.train: none of the {len(rows)} rows has another phrasing than its own ({_named(alone[0])}); "
                "expected rows of an instruction bank (data.bank), a file of paraphrases (data.paraphrases), or rows "
                "that bring a variant"
            )
        if alone:
            log.warning(
                "data.train: %d of %d rows have no other phrasing (%s, …); each is used as its own paraphrase",
                len(alone), len(rows), _named(alone[0]),
            )  # fmt: skip
        return found


def _item(others: Callable[[int], Sequence[str]], k: int, row: int) -> str:
    return others(row)[k]


def _named(sample: Sample) -> str:
    text = sample.instruction if len(sample.instruction) <= 60 else sample.instruction[:57] + "…"
    return f"{sample.id}: {text!r}"

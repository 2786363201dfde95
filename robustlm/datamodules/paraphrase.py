"""Rows with other phrasings of their instructions: the data side of [ALIGN], and of a contrast between phrasings."""

from __future__ import annotations

import logging
from typing import Any

from robustlm.datamodules.batches import EncodedSamples, TrainDataset
from robustlm.datamodules.noisy import NoisyInstructionDataModule, VariedDataset
from robustlm.instructions.phrasings import Phrasings
from robustlm.noise.base import Noise
from robustlm.sample import Sample

log = logging.getLogger(__name__)


class ParaphrasedDataset(VariedDataset):
    """Training batches with a raw view and one of K other phrasings of each row; other ones every epoch."""

    def __init__(self, *args: Any, others: Phrasings, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._others = others

    def rephrased(self, epoch: int) -> list[list[str]]:
        """K other phrasings of every row than the one that it is asked with."""
        asked, leaders = self.asked(epoch), self.leaders(epoch)
        found = [self._others.others(i, epoch, self._variants, asked[i], leader) for i, leader in enumerate(leaders)]
        return [[texts[k] for texts in found] for k in range(self._variants)]

    def given(self) -> list[str | None]:
        """None: a variant that came with a row is one of its phrasings."""
        return [None] * len(self.rows)


class ParaphraseDataModule(NoisyInstructionDataModule):
    """A reference phrasing and N − 1 paraphrases of each sample in a batch.

    Emits batches with the views `raw` (the reference) and `variant`. Paraphrases are other phrasings of the row's
    bank, or of a row with an instruction of its own, those in the file `paraphrases` and the variant it came with.

    Args:
        noise: Noise on top of the paraphrases; null for none.
        variants: Paraphrases of each sample, N − 1.
        kwargs: Arguments of `NoisyInstructionDataModule`.
    """

    def __init__(self, *args: Any, noise: Noise | None = None, variants: int = 1, **kwargs: Any) -> None:
        super().__init__(*args, noise=noise, variants=variants, **kwargs)

    def train_dataset(self, rows: EncodedSamples) -> TrainDataset:
        """Rows with other phrasings."""
        phrasings = self.paraphrasings(rows)
        fresh = phrasings if self.phrasing == "fresh" else None
        return ParaphrasedDataset(rows, self.encoder, fresh, others=phrasings, variation=self.variation())

    def paraphrasings(self, rows: EncodedSamples) -> Phrasings:
        """`phrasings`, after a check that there are any.

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
                "data.train: %d of %d rows have no other phrasing (%s, …); they stand for their own paraphrase",
                len(alone), len(rows), _named(alone[0]),
            )  # fmt: skip
        return found


def _named(sample: Sample) -> str:
    text = sample.instruction if len(sample.instruction) <= 60 else sample.instruction[:57] + "…"
    return f"{sample.id}: {text!r}"

"""Noisy instructions for language-understanding rows: the data of [ANIT]."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from robustlm.batch import InstructionBatch
from robustlm.datamodules.base import InstructionDataModule
from robustlm.datamodules.batches import EncodedSamples, TrainDataset
from robustlm.datamodules.connection import Measuring
from robustlm.datamodules.sampling import BatchKey
from robustlm.datamodules.turns import Turns, UserTurns, whole
from robustlm.instructions.phrasings import Phrasings
from robustlm.noise.base import Noise, spared
from robustlm.noise.distortion import LME, RBE, Distortion, beta
from robustlm.noise.pools import noise_pools
from robustlm.prompts.encoding import Encoder
from robustlm.sample import is_request
from robustlm.utils.public import old_names
from robustlm.utils.random import drawn

log = logging.getLogger(__name__)

BetaScope = Literal["dataset", "sample"]


@dataclass(frozen=True)
class Variation:
    """How the instructions of training rows are varied."""

    noise: Noise | None
    """Noise on the instructions; null for none."""
    distortion: Distortion
    """Measures how much noise distorts an instruction."""
    scope: BetaScope
    """Whether β is computed for each sample or once for all noisy samples of the epoch."""
    variants: int
    """K, the number of variants of each sample."""
    seed: int
    """Seed of the noise."""
    every_turn: bool = False
    """Whether the earlier user turns of a chat are varied as its instruction is."""


@dataclass
class _Epoch:
    """The variants of one epoch: K lists of n instructions."""

    number: int
    texts: list[list[str]]
    turns: list[list[Turns]] | None
    """K lists of the earlier turns of n rows; null: those of the rows."""
    beta: NDArray[np.float32]
    """`[K, n]`."""


class VariedDataset(TrainDataset):
    """Training batches with a raw view and a view of noisy variants. Noise is drawn again every epoch.

    Args:
        rows: See `TrainDataset`.
        encoder: See `TrainDataset`.
        phrasings: See `TrainDataset`.
        variation: The noise, its measure and the number of variants.
    """

    def __init__(
        self,
        rows: EncodedSamples,
        encoder: Encoder,
        phrasings: Phrasings | None = None,
        *,
        variation: Variation,
    ) -> None:
        super().__init__(rows, encoder, phrasings)
        self._noise = noise = variation.noise
        self._distortion = variation.distortion
        self._scope = variation.scope
        self._variants = variation.variants
        self._seed = variation.seed
        self._pools = noise_pools(rows.samples, protect=noise.protect) if noise is not None else {}
        self._turns: UserTurns | None = None
        if variation.every_turn and any(sample.history for sample in rows.samples):
            self._turns = UserTurns(rows.samples, protect=noise is not None and noise.protect)
        self._epoch: _Epoch | None = None

    def facts(self, epoch: int) -> list[str]:
        """See `TrainDataset.facts`; adds a line about rows whose noise differs."""
        if self._noise is None:
            return super().facts(epoch)
        noisy = [sample for sample, own in zip(self.rows.samples, self.given(), strict=True) if own is None]
        line = spared(self._noise, sum(map(is_request, noisy)), len(noisy))
        return [*super().facts(epoch), *([f"data.noise: {line}"] if line else [])]

    def prepare(self, epoch: int) -> None:
        """Compute phrasings, noise and distortion of all rows for an epoch."""
        self._variants_of(epoch)

    def _variants_of(self, number: int) -> _Epoch:
        """The variants of an epoch. They depend only on the seed and the epoch; the last epoch is cached."""
        if self._epoch is None or self._epoch.number != number:
            texts, chats, betas = [], [], []
            for k, phrased in enumerate(self.rephrased(number)):
                varied = self._varied(phrased, number, k)
                texts.append(varied)
                if self._turns is not None:
                    before, after = self._varied_turns(self._turns, number, k)
                    chats.append(after)
                    phrased, varied = whole(phrased, before), whole(varied, after)
                noisy = [text != before for text, before in zip(varied, phrased, strict=True)]
                distances = self._distortion.measure(phrased, varied, noisy)
                betas.append(beta(distances, noisy, self._scope))
            self._epoch = _Epoch(number, texts, chats or None, np.stack(betas).astype(np.float32))
        return self._epoch

    def __getitem__(self, key: BatchKey) -> InstructionBatch:
        batch = super().__getitem__(key)
        epoch = self._variants_of(key.epoch)
        order = [(i, k) for i in key.indices for k in range(self._variants)]
        turns = None if epoch.turns is None else [epoch.turns[k][i] for i, k in order]
        fitting = self.encoded([i for i, _ in order], [epoch.texts[k][i] for i, k in order], turns)
        batch.variant = self.view([row for row, _ in fitting])
        batch.beta = torch.tensor(
            [float(epoch.beta[k, i]) * varied for (i, k), (_, varied) in zip(order, fitting, strict=True)]
        )
        samples = self.rows.samples
        batch.seeds = torch.tensor([drawn(self._seed, key.epoch, k, samples[i].id, "delta") >> 1 for i, k in order])
        return batch

    def rephrased(self, epoch: int) -> list[list[str]]:
        """The instructions that noise is applied to: K lists, each with the instruction of every row."""
        return [self.asked(epoch)] * self._variants

    def _varied(self, phrased: list[str], number: int, k: int) -> list[str]:
        """Variant k of every instruction: the variant that the row brings, otherwise a noisy instruction."""
        own = self.given()
        if self._noise is None:
            return [text if text is not None else before for text, before in zip(own, phrased, strict=True)]
        ids = [sample.id for sample in self.rows.samples]
        noisy = self._noise.apply(phrased, ids, seed=self._seed, epoch=number, variant=k, **self._pools)
        return [text if text is not None else varied for text, varied in zip(own, noisy.texts, strict=True)]

    def _varied_turns(self, turns: UserTurns, number: int, k: int) -> tuple[list[Turns], list[Turns]]:
        """The earlier turns of every row in variant k, before and after noise."""
        texts = self.rephrased_turns(turns, number)[k]
        varied = texts
        if self._noise is not None:
            varied = turns.noisy(texts, self._noise, seed=self._seed, epoch=number, variant=k)
        return turns.put(texts), turns.put(varied)

    def rephrased_turns(self, turns: UserTurns, epoch: int) -> list[list[str]]:
        """The earlier user turns that noise is applied to: K lists, each with the text of every turn."""
        return [turns.texts] * self._variants

    def given(self) -> list[str | None]:
        """Noisy instructions that the rows bring; null for rows without one."""
        return [sample.variant for sample in self.rows.samples]


class NoisyInstructionDataModule(InstructionDataModule):
    """Rows with noisy variants of their instructions, and the distortion of these variants.

    Emits batches with the views `raw` and `variant`, and β for each variant row ([ANIT]).

    Args:
        noise: Kind, strength ω and share φ of noise; null gives only the variants that rows bring themselves.
        distortion: How distortion is measured: `RBE` (word edits) or `LME` (embeddings).
        beta: `dataset` gives every noisy row the mean distortion of the epoch ([ANIT] eq. 2), `sample` its own.
        variants: K, the number of noisy variants of each sample.
        kwargs: Arguments of `InstructionDataModule`.
    """

    views: ClassVar[tuple[str, ...]] = ("raw", "variant")

    def __init__(
        self,
        *args: Any,
        noise: Noise | None = Noise(),  # noqa: B008 - read only
        distortion: Distortion = RBE(),  # noqa: B008 - read only
        beta: BetaScope = "dataset",
        variants: int = 1,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if variants < 1:
            raise ValueError(f"data.variants: found {variants}; expected ≥ 1")
        self.noise = noise
        self.distortion = distortion
        self.beta: BetaScope = beta
        self.variants = variants
        self._measuring: Measuring | None = None

    def train_dataset(self, rows: EncodedSamples) -> TrainDataset:
        """Rows with noisy variants."""
        fresh = self.phrasings(rows) if self.phrasing == "fresh" else None
        return VariedDataset(rows, self.encoder, fresh, variation=self.variation())

    def variation(self) -> Variation:
        """How training rows are varied. Also gives the model to the embedder of the distortion, if it needs one."""
        if isinstance(self.distortion, LME):
            if self._measuring is None or self._measuring.model is not self.backbone:
                self._measuring = Measuring(self.backbone)
            self._measuring.bind(self.distortion.embedder)
        every = self.noisy_turns == "all"
        return Variation(self.noise, self.distortion, self.beta, self.variants, self.seed, every)


__getattr__ = old_names(__name__)

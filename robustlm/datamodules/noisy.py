"""Noisy instructions for language-understanding rows: the data of [ANIT]."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info
from tqdm import tqdm  # type: ignore[import-untyped]

from robustlm.batch import InstructionBatch
from robustlm.datamodules.base import InstructionDataModule
from robustlm.datamodules.batches import EncodedSamples, TrainDataset, unanswered
from robustlm.datamodules.connection import Measuring
from robustlm.datamodules.sampling import BatchKey
from robustlm.datamodules.stored import StoredRows
from robustlm.datamodules.touched import touched_tokens
from robustlm.datamodules.turns import Turns, UserTurns, whole
from robustlm.instructions.phrasings import Phrasings
from robustlm.noise.base import Noise, spared
from robustlm.noise.distortion import LME, RBE, Distortion, beta
from robustlm.noise.pools import build_pools, noise_pools, padding_text, slots_of
from robustlm.noise.protection import protected_phrases
from robustlm.prompts.encoding import Encoder
from robustlm.sample import Sample, is_request
from robustlm.utils.computed import Computed
from robustlm.utils.public import old_names
from robustlm.utils.random import drawn

log = logging.getLogger(__name__)

BetaScope = Literal["dataset", "sample"]

_PART = 2048
"""Rows of a file whose distortion is measured at once."""


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
    texts: Sequence[Sequence[str]]
    turns: list[list[Turns]] | None
    """K lists of the earlier turns of n rows; null: those of the rows."""
    beta: NDArray[np.float32]
    """`[K, n]`."""


class SharedEpoch:
    """A number for each variant and row in an epoch, in memory that worker processes share.

    Args:
        variants: K.
        rows: n.
        dtype: Type of the numbers.
    """

    def __init__(self, variants: int, rows: int, dtype: torch.dtype = torch.float32) -> None:
        self._number = torch.full((1,), -1, dtype=torch.int64)
        self._values = torch.zeros(variants, rows, dtype=dtype)
        for tensor in (self._number, self._values):
            tensor.share_memory_()  # type: ignore[no-untyped-call]

    @property
    def number(self) -> int:
        """The epoch that the values are for; −1: none yet."""
        return int(self._number[0])

    @property
    def values(self) -> NDArray[Any]:
        """`[K, n]`."""
        found: NDArray[Any] = self._values.numpy()
        return found

    def set(self, number: int, values: NDArray[Any]) -> None:
        """Set the values of an epoch."""
        self._number[0] = -1
        self._values.copy_(torch.from_numpy(values))
        self._number[0] = number


def check_prepared(epoch: int, prepared: int) -> None:
    """Raise `RuntimeError` in a worker process: it may not prepare an epoch that its training process has not."""
    if get_worker_info() is not None:
        raise RuntimeError(
            f"data: a worker was asked for rows of epoch {epoch}, but the training process has prepared epoch "
            f"{prepared}; call `prepare` before the first batch of an epoch"
        )


class VariedDataset(TrainDataset):
    """Training batches with a raw view and a view of noisy variants. Noise is drawn again every epoch.

    Args:
        rows: See `TrainDataset`.
        encoder: See `TrainDataset`.
        phrasings: See `TrainDataset`.
        variation: The noise, its measure and the number of variants.
    """

    takes_variants: ClassVar[bool] = True
    """Whether a variant that a row brings replaces noise."""

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
        self._pools: dict[str, Any] = {}
        if noise is not None:
            if rows.stored:
                pools = build_pools(rows.samples)
                self._pools = {"vocabulary": pools.vocabulary, "contexts": pools.contexts}
            else:
                self._pools = noise_pools(rows.samples, protect=noise.protect)
        self._shared = SharedEpoch(variation.variants, len(rows)) if rows.stored else None
        self._turns: UserTurns | None = None
        if variation.every_turn and any(sample.history for sample in rows.samples):
            self._turns = UserTurns(rows.samples, protect=noise is not None and noise.protect)
        self._epoch: _Epoch | None = None

    def facts(self, epoch: int) -> list[str]:
        """See `TrainDataset.facts`; adds a line about rows whose noise differs."""
        if self._noise is None:
            return super().facts(epoch)
        if isinstance(self.rows, StoredRows):
            requests, count = self.rows.requests(free=self.takes_variants)
        else:
            noisy = [sample for sample, own in zip(self.rows.samples, self.given(), strict=True) if own is None]
            requests, count = sum(map(is_request, noisy)), len(noisy)
        line = spared(self._noise, requests, count)
        return [*super().facts(epoch), *([f"data.noise: {line}"] if line else [])]

    def prepare(self, epoch: int) -> None:
        """Compute phrasings, noise and distortion of all rows for an epoch."""
        self._variants_of(epoch)

    def _variants_of(self, number: int) -> _Epoch:
        """The variants of an epoch. They depend only on the seed and the epoch; the last epoch is cached."""
        if self._shared is not None:
            return self._stored_variants(number, self._shared)
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

    def _stored_variants(self, number: int, shared: SharedEpoch) -> _Epoch:
        """The variants of an epoch, whose texts are made again for each batch, and whose β all processes share."""
        if shared.number != number:
            check_prepared(number, shared.number)
            shared.set(number, np.stack([self._stored_beta(number, k) for k in range(self._variants)]))
        if self._epoch is None or self._epoch.number != number:
            texts = [
                Computed(len(self), partial(self._stored_text, number, k, phrased))
                for k, phrased in enumerate(self.rephrased(number))
            ]
            self._epoch = _Epoch(number, texts, None, shared.values)
        return self._epoch

    def _stored_text(self, number: int, k: int, phrased: Sequence[str], row: int) -> str:
        return self._noisy([self.rows.samples[row]], [phrased[row]], number, k)[0]

    def _stored_beta(self, number: int, k: int) -> NDArray[np.float64]:
        """β of variant k of every row; memory holds the texts of a part of the rows."""
        count, samples = len(self), self.rows.samples
        phrased = self.rephrased(number)[k]
        pairs, flags = [np.empty((0, 2))], np.zeros(count, bool)
        bar = tqdm(total=count, desc=f"distortion of epoch {number}", unit=" rows", disable=None)
        with bar:
            for start in range(0, count, _PART):
                part = samples[start : start + _PART]
                before = [phrased[row] for row in range(start, start + len(part))]
                after = self._noisy(part, before, number, k)
                noisy = [row for row, (one, other) in enumerate(zip(before, after, strict=True)) if one != other]
                flags[[start + row for row in noisy]] = True
                if noisy:
                    pairs.append(
                        self._distortion.compare([before[row] for row in noisy], [after[row] for row in noisy])
                    )
                bar.update(len(part))
        distances = np.zeros(count)
        if flags.any():
            distances[flags] = self._distortion.normalise(np.concatenate(pairs))
        return beta(distances, flags.tolist(), self._scope)

    def _noisy(self, samples: Sequence[Sample], phrased: Sequence[str], number: int, k: int) -> list[str]:
        """Variant k of the instructions of some samples, as `_varied` makes it of all."""
        own = [sample.variant if self.takes_variants else None for sample in samples]
        texts = list(phrased)
        if self._noise is not None:
            pools = self._pools | {
                "own": [padding_text(sample) for sample in samples],
                "slots": [slots_of(sample) for sample in samples],
                "requests": [is_request(sample) for sample in samples],
                "protected": [protected_phrases(sample) for sample in samples] if self._noise.protect else None,
            }
            ids = [sample.id for sample in samples]
            texts = self._noise.apply(phrased, ids, seed=self._seed, epoch=number, variant=k, **pools).texts
        return [text if text is not None else varied for text, varied in zip(own, texts, strict=True)]

    def __getitem__(self, key: BatchKey) -> InstructionBatch:
        batch = super().__getitem__(key)
        epoch = self._variants_of(key.epoch)
        order = [(i, k) for i in key.indices for k in range(self._variants)]
        turns = None if epoch.turns is None else [epoch.turns[k][i] for i, k in order]
        fitting = self.encoded([i for i, _ in order], [epoch.texts[k][i] for i, k in order], turns)
        variants = [row for row, _ in fitting]
        batch.variant = self.view(variants)
        if self.rows.open:
            batch.unanswered = unanswered(self.rows.open, key.indices, self.own_rows(key), variants, self.encoder)
        if self._variants > 1:  # there is a choice
            batch.touched = touched_tokens(batch.raw, batch.variant)
        batch.beta = torch.tensor(
            [float(epoch.beta[k, i]) * varied for (i, k), (_, varied) in zip(order, fitting, strict=True)]
        )
        samples = self.rows.samples
        batch.seeds = torch.tensor([drawn(self._seed, key.epoch, k, samples[i].id, "delta") >> 1 for i, k in order])
        return batch

    def rephrased(self, epoch: int) -> Sequence[Sequence[str]]:
        """The instructions that noise is applied to: K sequences, each with the instruction of every row."""
        return [self.asked(epoch)] * self._variants

    def _varied(self, phrased: Sequence[str], number: int, k: int) -> list[str]:
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
        if not self.takes_variants:
            return [None] * len(self.rows)
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
    takes_unlabelled: ClassVar[bool] = True

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

    def in_windows(self) -> list[str]:
        """See `InstructionDataModule.in_windows`."""
        mean = ["β (data.beta: dataset)"] if self.beta == "dataset" else []
        return [*super().in_windows(), *mean, *(["the words that noise adds"] if self.noise is not None else [])]

    @property
    def runs_model(self) -> bool:
        """Whether distortion is measured by the model."""
        return isinstance(self.distortion, LME)

    def variation(self) -> Variation:
        """How training rows are varied. Also gives the model to the embedder of the distortion, if it needs one."""
        if isinstance(self.distortion, LME):
            if self._measuring is None or self._measuring.model is not self.backbone:
                self._measuring = Measuring(self.backbone)
            self._measuring.bind(self.distortion.embedder)
        every = self.noisy_turns == "all"
        return Variation(self.noise, self.distortion, self.beta, self.variants, self.seed, every)


__getattr__ = old_names(__name__)

"""Noisy instructions for language-understanding rows: the data side of [ANIT]."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from robustlm.batch import InstructionBatch
from robustlm.datamodules.base import InstructionDataModule
from robustlm.datamodules.batches import Rows, TrainRows
from robustlm.datamodules.sampling import BatchKey
from robustlm.instructions.phrasings import Phrasings
from robustlm.models.digest import weights_digest
from robustlm.noise.base import Noise, spared
from robustlm.noise.distortion import LME, RBE, Distortion, beta
from robustlm.noise.embedders import Embedder, EmbeddingError, StateEmbedder, TokenEmbedder, Vectors
from robustlm.noise.pools import noise_pools
from robustlm.prompts.encoding import Encoder
from robustlm.sample import is_request

log = logging.getLogger(__name__)

BetaScope = Literal["dataset", "sample"]


@dataclass
class _Epoch:
    """The variants of one epoch, K lists of n."""

    number: int
    texts: list[list[str]]
    beta: np.ndarray[Any, np.dtype[np.float32]]
    """`[K, n]`."""


class VariedRows(TrainRows):
    """Training batches with a raw view and one of noisy variants; noise is fresh every epoch.

    Args:
        rows: See `TrainRows`.
        encoder: See `TrainRows`.
        phrasings: See `TrainRows`.
        noise: On the instructions; null for none.
        distortion: Measures what noise did.
        scope: Of β.
        variants: K.
        seed: Of noise.
    """

    def __init__(
        self,
        rows: Rows,
        encoder: Encoder,
        phrasings: Phrasings | None = None,
        *,
        noise: Noise | None,
        distortion: Distortion,
        scope: BetaScope,
        variants: int,
        seed: int,
    ) -> None:
        super().__init__(rows, encoder, phrasings)
        self._noise = noise
        self._distortion = distortion
        self._scope: BetaScope = scope
        self._variants = variants
        self._seed = seed
        self._pools = noise_pools(rows.samples, protect=noise.protect) if noise is not None else {}
        self._epoch: _Epoch | None = None

    def facts(self, epoch: int) -> list[str]:
        """See `TrainRows.facts`; which rows get other noise."""
        if self._noise is None:
            return super().facts(epoch)
        noisy = [sample for sample, own in zip(self.rows.samples, self.given(), strict=True) if own is None]
        line = spared(self._noise, sum(map(is_request, noisy)), len(noisy))
        return [*super().facts(epoch), *([f"data.noise: {line}"] if line else [])]

    def prepare(self, epoch: int) -> None:
        """Phrasings, noise and distortion of all rows in an epoch."""
        self._variants_of(epoch)

    def _variants_of(self, number: int) -> _Epoch:
        """A pure function of the seed and the epoch, kept until another epoch is asked for."""
        if self._epoch is None or self._epoch.number != number:
            texts, betas = [], []
            for k, phrased in enumerate(self.rephrased(number)):
                varied = self._varied(phrased, number, k)
                noisy = [text != before for text, before in zip(varied, phrased, strict=True)]
                distances = self._distortion.measure(phrased, varied, noisy)
                texts.append(varied)
                betas.append(beta(distances, noisy, self._scope))
            self._epoch = _Epoch(number, texts, np.stack(betas).astype(np.float32))
        return self._epoch

    def __getitem__(self, key: BatchKey) -> InstructionBatch:
        batch = super().__getitem__(key)
        epoch = self._variants_of(key.epoch)
        order = [(i, k) for i in key.indices for k in range(self._variants)]
        fitting = self.encoded([i for i, _ in order], [epoch.texts[k][i] for i, k in order])
        batch.variant = self.view([row for row, _ in fitting])
        batch.beta = torch.tensor(
            [float(epoch.beta[k, i]) * varied for (i, k), (_, varied) in zip(order, fitting, strict=True)]
        )
        samples = self.rows.samples
        batch.seeds = torch.tensor([_row_seed(self._seed, key.epoch, samples[i].id, k) for i, k in order])
        return batch

    def rephrased(self, epoch: int) -> list[list[str]]:
        """What noise is applied to: the instruction of every row, K times."""
        return [self.asked(epoch)] * self._variants

    def _varied(self, phrased: list[str], number: int, k: int) -> list[str]:
        """Variant k of every instruction: the one that came with its row, or else a noisy one."""
        own = self.given()
        if self._noise is None:
            return [text if text is not None else before for text, before in zip(own, phrased, strict=True)]
        ids = [sample.id for sample in self.rows.samples]
        noisy = self._noise.apply(phrased, ids, seed=self._seed, epoch=number, variant=k, **self._pools)
        return [text if text is not None else varied for text, varied in zip(own, noisy.texts, strict=True)]

    def given(self) -> list[str | None]:
        """Noisy instructions that came with the rows."""
        return [sample.variant for sample in self.rows.samples]


class NLUDataModule(InstructionDataModule):
    """Rows with noisy variants of their instructions, and how distorted those are.

    Emits batches with the views `raw` and `variant`, and β for each variant row ([ANIT]).

    Args:
        noise: Kind, strength ω and share φ of noise; null gives only the variants that rows bring themselves.
        distortion: How noise is measured: `RBE` (word edits) or `LME` (embeddings).
        beta: `dataset` gives every noisy row the mean distortion of the epoch ([ANIT] eq. 2), `sample` its own.
        variants: Noisy variants of each sample, K.
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
            raise ValueError(f"data.variants: {variants} is no number of variants; expected ≥ 1")
        self.noise = noise
        self.distortion = distortion
        self.beta: BetaScope = beta
        self.variants = variants
        self._base_name: str | None = None

    def train_dataset(self, rows: Rows) -> TrainRows:
        """Rows with noisy variants."""
        fresh = self.phrasings(rows) if self.phrasing == "fresh" else None
        return VariedRows(rows, self._encoder(), fresh, **self.variation())

    def variation(self) -> dict[str, Any]:
        """Arguments of `VariedRows` besides rows, encoder and phrasings."""
        if isinstance(self.distortion, LME):
            self._bind(self.distortion.embedder)
        return {
            "noise": self.noise,
            "distortion": self.distortion,
            "scope": self.beta,
            "variants": self.variants,
            "seed": self.seed,
        }

    def _bind(self, embedder: Embedder) -> None:
        """Give the model to an embedder that needs it."""
        if not isinstance(embedder, StateEmbedder | TokenEmbedder):
            return
        backbone = self.backbone
        if not hasattr(backbone, "text_states"):
            raise EmbeddingError(
                f"data.distortion: {backbone.name!r} tells no hidden states, which {type(embedder).__name__} needs; "
                "expected a local model, or the embedder OpenAIEmbedder or SentenceTransformerEmbedder"
            )
        if isinstance(embedder, TokenEmbedder):
            embedder.bind(self._embed)
        else:
            embedder.bind(partial(self._states, layer=embedder.layer), self._base)

    def _base(self) -> str | None:
        """Name and weights of the base model; none while they are tuned."""
        if self._base_name is None and not self.backbone.keeps_base:
            self._base_name = ""
            log.warning(
                "data.distortion: noise is measured by weights that are being tuned, as they are at the start of each "
                "epoch; a run that is resumed within an epoch measures the rest of it by the weights it resumes with"
            )
        elif self._base_name is None:
            self._base_name = f"{self.backbone.base_name} {weights_digest(self.backbone, frozen=True)}"
        return self._base_name or None

    def _states(self, texts: Sequence[str], layer: int | Literal["middle", "last"]) -> Vectors:
        """Mean hidden state of each text, `[n, H]`, in the model before tuning."""
        vectors: Vectors = self.backbone.text_states(texts, layer).cpu().numpy()
        return vectors

    @torch.no_grad()
    def _embed(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Mean token embedding of each text, `[n, H]`, in the tuned model."""
        ids = self.backbone.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        device = self.backbone.base.get_input_embeddings().weight.device
        rows = [self.backbone.embed(torch.tensor(row, device=device)).float().mean(0) for row in ids if row]
        width = rows[0].shape[0] if rows else 1
        found = iter(rows)
        return np.stack([next(found).cpu().numpy() if row else np.zeros(width, np.float32) for row in ids])


def _row_seed(seed: int, epoch: int, sample: str, variant: int) -> int:
    key = f"{seed} {epoch} {variant} {sample} delta".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1

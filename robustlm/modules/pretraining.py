"""Pre-training: the loss of every token of running text."""

from __future__ import annotations

import math
from typing import Any

from torchmetrics import MeanMetric

from robustlm.batch import InstructionBatch
from robustlm.models.tuning import FullTuning, Tuning
from robustlm.modules.base import InstructionTuning, TrainingData
from robustlm.modules.passes import Passes
from robustlm.optim.config import Muon, Optimizer


class Pretraining(InstructionTuning):
    """Trains a decoder on running text, usually from random weights (`loading.scratch`).

    A step is that of plain tuning: the cross-entropy of targets, which are all tokens here. Validation also logs
    `val/perplexity`, the exponential of the mean loss, and `val/bits_per_byte`, the loss in bits divided by the bytes
    of the text. The latter compares models with different tokenizers.

    Args:
        backbone: Hub name or folder of a model, or (with `loading.scratch`) of a config and a tokenizer, as
            `robustlm init` makes them.
        tuning: What is trained.
        optimizer: `AdamW` or `Muon`.
        kwargs: The other arguments of `InstructionTuning`.
    """

    def __init__(
        self,
        backbone: str,
        tuning: Tuning | None = FullTuning(),  # noqa: B008 - read only
        optimizer: Optimizer = Muon(),  # noqa: B008 - read only
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, tuning=tuning, optimizer=optimizer, **kwargs)
        if self.generate_in_validation:
            raise ValueError("generate_in_validation: found true, but running text has no questions; expected false")
        self._held_out = MeanMetric()

    def check_data(self, datamodule: TrainingData) -> None:
        """Refuse rows with instructions."""
        super().check_data(datamodule)
        if not hasattr(datamodule, "bytes_per_target"):
            raise ValueError(
                f"data: {type(datamodule).__name__} has instructions and answers; expected TextDataModule for "
                f"{type(self).__name__}, or another module, such as InstructionTuning"
            )

    def validation_step(self, batch: InstructionBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the mean loss of the targets, and keep it for perplexity and bits per byte."""
        tokens = len(batch.raw.layout.tokens)
        loss = Passes(self.backbone, batch, chunk_logits=self.chunk_logits).cross_entropy("raw")
        self._held_out.update(loss, tokens)
        self.log("val/loss", loss, prog_bar=True, batch_size=tokens, sync_dist=True, add_dataloader_idx=False)

    def on_validation_epoch_end(self) -> None:
        """Log perplexity, and bits per byte where the bytes were counted."""
        loss = float(self._held_out.compute())
        self._held_out.reset()
        self.log("val/perplexity", math.exp(min(loss, 700.0)), rank_zero_only=False)
        width = getattr(getattr(self.trainer, "datamodule", None), "bytes_per_target", None)
        if width:
            self.log("val/bits_per_byte", loss / math.log(2) / width, rank_zero_only=False)

"""When checkpoints are written, and which one a run goes on from."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from robustlm.modules.boundary import inside_step


class StepCheckpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, which does not write in the middle of an optimiser step.

    With `accumulate_grad_batches` above 1, Lightning asks after each micro-batch whether a checkpoint is due, and the
    first one of a resumed run would write the checkpoint that it comes from once more.
    """

    @property
    def state_key(self) -> str:
        """That of `ModelCheckpoint`, so that either reads what the other has kept."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write what is due by steps or time at the end of the step."""
        if not inside_step(trainer):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

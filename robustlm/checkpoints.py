"""When checkpoints are written, and which one a run goes on from."""

from __future__ import annotations

import logging
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from robustlm.finite import NonFiniteError
from robustlm.modules.boundary import inside_step

log = logging.getLogger(__name__)


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

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write with `save_on_exception`, unless the weights are of no use."""
        if getattr(pl_module, "updating", False):
            log.warning("no checkpoint is written: the run ended while weights were being changed")
            return
        try:
            super().on_exception(trainer, pl_module, exception)
        except NonFiniteError as error:  # the reason to end is the exception at hand
            log.warning("%s", error)

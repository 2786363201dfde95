"""When checkpoints are written, and which one a run goes on from."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from robustlm.modules.boundary import inside_step
from robustlm.utils.files import remove_orphans, whole_file
from robustlm.utils.finite import NonFiniteError

log = logging.getLogger(__name__)


class WholeCheckpoints(TorchCheckpointIO):
    """Lightning's way to files, but beside their place.

    Lightning writes to the system's temporary folder first. Where that lies on another file system, moving the file is
    copying it, and a kill or a full disk leaves a part of it under the checkpoint's name.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write a checkpoint, whole or not at all. Raises `OSError`, with the path."""
        if not _is_local_file_protocol(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as unfinished, unfinished.open("wb") as stream:
            try:
                torch.save(checkpoint, stream)
            except RuntimeError as error:  # torch's words for a failed write
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise


class StepCheckpoint(ModelCheckpoint):
    """Lightning's `ModelCheckpoint`, which does not write in the middle of an optimiser step.

    With `accumulate_grad_batches` above 1, Lightning asks after each micro-batch whether a checkpoint is due, and the
    first one of a resumed run would write the checkpoint that it comes from once more.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write whole files, and remove what killed runs have left beside checkpoints."""
        super().setup(trainer, pl_module, stage)
        strategy = trainer.strategy
        if type(strategy.checkpoint_io) is TorchCheckpointIO:  # not what somebody has put there
            strategy.checkpoint_io = WholeCheckpoints()
        if trainer.is_global_zero and stage == "fit":
            places = [self.dirpath, *([Path(trainer.ckpt_path).parent] if trainer.ckpt_path else [])]
            for place in places:
                if place and _is_local_file_protocol(place):
                    remove_orphans(Path(place))

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            super()._save_checkpoint(trainer, filepath)

    def _save_last_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Any]) -> None:
        # Lightning writes `last.ckpt` of a trial run too, and names it as the run's checkpoint
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            super()._save_last_checkpoint(trainer, monitor_candidates)

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

    def save_last_now(self, trainer: Trainer) -> str:
        """Write `last.ckpt`, whatever is due, and return its path. Called on every rank."""
        candidates = self._monitor_candidates(trainer)
        if self._last_global_step_saved != trainer.global_step or not self.last_model_path:
            self.last_model_path = self.format_checkpoint_name(candidates, self.CHECKPOINT_NAME_LAST)
            self._save_checkpoint(trainer, self.last_model_path)
        return self.last_model_path

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write with `save_on_exception`, unless the weights are of no use."""
        if getattr(pl_module, "updating", False):
            log.warning("no checkpoint is written: the run ended while weights were being changed")
            return
        try:
            super().on_exception(trainer, pl_module, exception)
        except NonFiniteError as error:  # the reason to end is the exception at hand
            log.warning("%s", error)


def newest_checkpoint(root: Path, folder: Path | None = None) -> Path | None:
    """The `last.ckpt` that was written last by a run.

    Args:
        root: The runs' folder (`trainer.default_root_dir`), whose runs are looked at.
        folder: Where checkpoints go, if that is set (`checkpoint.dirpath`); then the only place to look.

    Returns:
        The file; null where there is none.
    """
    folders = ["."] if folder else ["checkpoints", "*/checkpoints", "*/*/checkpoints"]
    found = [file for place in folders for file in (folder or root).glob(f"{place}/last*.ckpt") if file.is_file()]
    return max(found, key=lambda file: (file.stat().st_mtime_ns, str(file)), default=None)

"""Writes checkpoints, and finds the one that a run continues from."""

from __future__ import annotations

import logging
from pathlib import Path

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities.types import STEP_OUTPUT
from torch import Tensor

from robustlm.modules.boundary import inside_step
from robustlm.utils.files import remove_orphans, whole_file
from robustlm.utils.finite import NonFiniteError

log = logging.getLogger(__name__)


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint to a temporary file in its own folder, then renames it.

    Lightning writes to the system's temporary folder first. If that folder is on another file system, moving the file
    copies it, and a kill or a full disk leaves an incomplete file under the checkpoint's name.
    """

    def save_checkpoint(self, checkpoint: dict[str, object], path: str | Path, storage_options: object = None) -> None:
        """Write a checkpoint completely or not at all. Raises `OSError`, with the path."""
        if not _is_local_file_protocol(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(target) as unfinished, unfinished.open("wb") as stream:
            try:
                torch.save(checkpoint, stream)
            except RuntimeError as error:  # torch raises this for a failed write
                if isinstance(error.__context__, OSError):
                    raise error.__context__ from None
                raise


class StepCheckpoint(ModelCheckpoint):
    """A `ModelCheckpoint` that does not write in the middle of an optimiser step.

    With `accumulate_grad_batches` above 1, Lightning checks after each micro-batch whether a checkpoint is due. After
    the first micro-batch of a resumed run it would write the checkpoint that the run continues from again.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Use `WholeCheckpoints`, and remove incomplete files that killed runs left beside checkpoints."""
        super().setup(trainer, pl_module, stage)
        strategy = trainer.strategy
        if type(strategy.checkpoint_io) is TorchCheckpointIO:  # keep a `checkpoint_io` that the user has set
            strategy.checkpoint_io = WholeCheckpoints()
        if trainer.is_global_zero and stage == "fit":
            places = [self.dirpath, *([Path(trainer.ckpt_path).parent] if trainer.ckpt_path else [])]
            for place in places:
                if place and _is_local_file_protocol(place):
                    remove_orphans(Path(place))

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            super()._save_checkpoint(trainer, filepath)

    def _save_last_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        # Lightning writes `last.ckpt` in a `fast_dev_run` too, and reports it as the run's checkpoint
        if not trainer.fast_dev_run:  # type: ignore[attr-defined]
            super()._save_last_checkpoint(trainer, monitor_candidates)

    @property
    def state_key(self) -> str:
        """The key of `ModelCheckpoint`, so that each of the two classes can read the state of the other."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: STEP_OUTPUT, batch: object, batch_idx: int
    ) -> None:
        """At the end of an optimiser step, write the checkpoint that is due by steps or time."""
        if not inside_step(trainer):
            super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)

    def save_last_now(self, trainer: Trainer) -> str:
        """Write `last.ckpt`, even if none is due, and return its path. Call it on every rank."""
        candidates = self._monitor_candidates(trainer)
        if self._last_global_step_saved != trainer.global_step or not self.last_model_path:
            self.last_model_path = self.format_checkpoint_name(candidates, self.CHECKPOINT_NAME_LAST)
            self._save_checkpoint(trainer, self.last_model_path)
        return self.last_model_path

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Write a checkpoint if `save_on_exception` is set, unless the weights are unusable."""
        if getattr(pl_module, "updating", False):
            log.warning("no checkpoint is written: the run ended while weights were being changed")
            return
        try:
            super().on_exception(trainer, pl_module, exception)
        except NonFiniteError as error:  # keep `exception` as the reason why the run ends
            log.warning("%s", error)


def newest_checkpoint(root: Path, folder: Path | None = None) -> Path | None:
    """The newest `last.ckpt` of all runs.

    Args:
        root: The folder of the runs (`trainer.default_root_dir`).
        folder: Folder of checkpoints, if set (`checkpoint.dirpath`); then only this folder is searched.

    Returns:
        The file; null if there is none.
    """
    folders = ["."] if folder else ["checkpoints", "*/checkpoints", "*/*/checkpoints"]
    found = [file for place in folders for file in (folder or root).glob(f"{place}/last*.ckpt") if file.is_file()]
    return max(found, key=lambda file: (file.stat().st_mtime_ns, str(file)), default=None)

"""Callbacks that print lines at the start and end of a run, and checks that end it early."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import cast

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from robustlm.adapters.card import TunedModule, trained_line
from robustlm.callbacks.export import AdapterExport
from robustlm.callbacks.folder import run_folder
from robustlm.checks.numbers import check_number
from robustlm.evaluation.session import ATTACKS

log = logging.getLogger(__name__)


class RunSummary(Callback):
    """Prints the paths of log, checkpoint and adapter at the end of a run, one line each."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the paths of log, checkpoint and adapter."""
        folder = run_folder(trainer)
        if not trainer.is_global_zero:
            return
        lines: dict[str, str | Path | None] = {"log": folder}
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ModelCheckpoint):
                best = callback.best_model_path or callback.last_model_path
                lines["checkpoint"] = best or None
            if isinstance(callback, AdapterExport) and not trainer.fast_dev_run:  # type: ignore[attr-defined]
                lines["adapter"] = folder / callback.name
        print("\n".join(f"{name}: {path}" for name, path in lines.items() if path))


class TrainedWeights(Callback):
    """Prints at the start of a run how many of the model's weights are trained.

    It replaces Lightning's summary, which shows 0 FLOPs because the model is not run on an example.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line."""
        if trainer.is_global_zero:
            print(trained_line(cast(TunedModule, pl_module)))


class ValidateMonitor(Callback):
    """Raises before the first training step if `checkpoint.monitor` is a validation value that is never logged."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise `ValueError` if a validation value is monitored and there are no validation rows."""
        for monitor in self._monitors(trainer):
            if not trainer.datamodule.sources["validation"]:  # type: ignore[attr-defined]
                raise ValueError(f"checkpoint.monitor: {monitor!r} needs validation rows; set data.validation")

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise `ValueError` if the sanity check before the first epoch did not log a monitored value."""
        known = [name for name in trainer.callback_metrics if name.startswith("val/")]
        for monitor in self._monitors(trainer):
            if monitor not in known:
                raise ValueError(f"checkpoint.monitor: found {monitor!r}; expected one of {', '.join(known)}")

    def _monitors(self, trainer: Trainer) -> list[str]:
        found = [c.monitor for c in trainer.callbacks if isinstance(c, ModelCheckpoint)]  # type: ignore[attr-defined]
        return [monitor for monitor in found if monitor and monitor.startswith("val/")]


class RestoredOptimizer(Callback):
    """Refuses to resume with the optimiser state of another model; torch restores it without a check."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise `ValueError` unless the moments of each weight have its shape and each group's rate is a number."""
        where = f"ckpt_path: {trainer.ckpt_path}: optimizer_states"
        for optimizer in trainer.optimizers:
            for group in optimizer.param_groups:
                check_number(f"{where}: lr", group["lr"], least=0)
                for weight in group["params"]:
                    for name, value in optimizer.state.get(weight, {}).items():
                        if isinstance(value, Tensor) and value.ndim and value.shape != weight.shape:
                            raise ValueError(
                                f"{where}: {name}: found the shape {tuple(value.shape)} for a weight of "
                                f"{tuple(weight.shape)}; expected the checkpoint of a run with the same model and "
                                "optimizer"
                            )


class RemoveFailedRun(Callback):
    """Removes the log folder of a run that failed before its first batch, since it holds only the settings.

    Args:
        folder: The log folder of this run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._new = [path for path in (folder, *folder.parents) if not path.exists()]
        self._began = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the run has begun."""
        self._began = True

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note that the run has begun, unless this is the sanity check before training."""
        self._began = self._began or not trainer.sanity_checking

    # later than `on_test_start`, which raises if the evaluation to resume is a different one
    on_test_epoch_start = on_train_start
    on_predict_epoch_start = on_train_start

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the files of the loggers and remove the folder."""
        if self._began or not trainer.is_global_zero or self._holds_results():
            return
        for logger in trainer.loggers:
            logger.finalize("failed")  # closes the logger's files
        shutil.rmtree(self.folder, ignore_errors=True)
        for path in self._new:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()

    def _holds_results(self) -> bool:
        """Whether the folder holds results that must be kept.

        The files are checked because attacks are written before the first batch, and because this process does not
        see the batches of processes that it started (`ddp_fork`, `ddp_spawn`).
        """
        kept = (ATTACKS, "*.run.json", "*.part-*", "checkpoints", "metrics*.csv")
        return any(True for pattern in kept for _ in self.folder.glob(pattern))

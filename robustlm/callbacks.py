"""What happens beside the steps: predictions to a table, the adapter to take home, where everything is."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from robustlm.card import model_card
from robustlm.evaluation.table import TableWriter, clear_parts
from robustlm.report.tables import by_condition, markdown


class PredictionWriter(Callback):
    """Writes every tested row to `predictions.parquet` in the run's folder.

    Args:
        name: File name of the table.
    """

    def __init__(self, name: str = "predictions.parquet") -> None:
        self.name = name
        self._writer: TableWriter | None = None

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open this process's part."""
        table = run_folder(trainer) / self.name
        if trainer.is_global_zero:
            clear_parts(table)
        trainer.strategy.barrier("predictions")
        self._writer = TableWriter(table, trainer.global_rank)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the batch's rows."""
        if self._writer is not None and outputs is not None:
            self._writer.write(outputs["rows"])

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the table."""
        assert self._writer is not None
        self._writer.close()
        folder = run_folder(trainer)
        trainer.strategy.barrier("predictions written")
        if trainer.is_global_zero:
            self._writer.merge()
            scores = by_condition({name: float(value) for name, value in trainer.callback_metrics.items()})
            if scores:
                print("\n" + markdown("F1 or accuracy, %", scores))
            print(f"predictions: {folder / self.name}")
        self._writer = None

    on_predict_start = on_test_start
    on_predict_batch_end = on_test_batch_end
    on_predict_end = on_test_end


class AdapterExport(Callback):
    """Saves adapter (or model), tokenizer and a model card at the end of `fit`, for plain transformers and peft.

    Args:
        name: Folder inside the run's folder.
    """

    def __init__(self, name: str = "adapter") -> None:
        self.name = name

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save."""
        target = run_folder(trainer) / self.name  # asked on every rank: the folder is broadcast
        if trainer.fast_dev_run or not trainer.is_global_zero:  # type: ignore[attr-defined]
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{self.name}-", dir=target.parent))
        try:
            backbone: Any = pl_module.backbone
            backbone.model.save_pretrained(unfinished)
            backbone.tokenizer.save_pretrained(unfinished)
            (unfinished / "README.md").write_text(model_card(pl_module, trainer), encoding="utf-8")
            unfinished.chmod(0o755)  # temporary folders, and what safetensors writes, are the owner's alone
            for file in unfinished.iterdir():
                file.chmod(0o644)
            if target.exists():
                shutil.rmtree(target)
            os.replace(unfinished, target)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


class WhereItIs(Callback):
    """Ends a run with a line for each thing it left behind."""

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print where log, checkpoint and adapter lie."""
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


class KnownMonitor(Callback):
    """Refuses a checkpoint to watch a validation value that there is none of, before the first training step."""

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Without validation rows there is nothing to watch."""
        for monitor in self._monitors(trainer):
            if not trainer.datamodule.sources["validation"]:  # type: ignore[attr-defined]
                raise ValueError(f"checkpoint.monitor: {monitor!r} needs validation rows; set data.validation")

    def on_sanity_check_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The check before the first epoch shows which values there are."""
        known = [name for name in trainer.callback_metrics if name.startswith("val/")]
        for monitor in self._monitors(trainer):
            if monitor not in known:
                raise ValueError(f"checkpoint.monitor: found {monitor!r}; expected one of {', '.join(known)}")

    def _monitors(self, trainer: Trainer) -> list[str]:
        found = [c.monitor for c in trainer.callbacks if isinstance(c, ModelCheckpoint)]  # type: ignore[attr-defined]
        return [monitor for monitor in found if monitor and monitor.startswith("val/")]


class FalseStart(Callback):
    """Removes the log folder of a run that failed before its first batch: it holds nothing but the settings.

    Args:
        folder: The folder, made for this run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._new = [path for path in (folder, *folder.parents) if not path.exists()]
        self._began = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The run has begun."""
        self._began = True

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The run has begun, unless this is but the check before it."""
        self._began = self._began or not trainer.sanity_checking

    on_test_start = on_train_start
    on_predict_start = on_train_start

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove what the loggers have opened already."""
        if self._began or not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            logger.finalize("failed")  # closes its files
        shutil.rmtree(self.folder, ignore_errors=True)
        for path in self._new:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def run_folder(trainer: Trainer) -> Path:
    """Where a run's files go: the logger's folder, or the trainer's root. The same on every rank."""
    return Path(trainer.log_dir or trainer.default_root_dir)

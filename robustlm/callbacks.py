"""What happens beside the steps: predictions to a table, the adapter to take home, where everything is."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path
from typing import Any, get_args

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from robustlm.backbone import Pooling, weights_digest
from robustlm.card import model_card, trained_line
from robustlm.checks.numbers import check_number
from robustlm.evaluation.manifest import ATTACKS
from robustlm.evaluation.state_table import STATES, clear_states, known_states, merge_states, next_attempt
from robustlm.evaluation.state_table import StateWriter as StateFile
from robustlm.evaluation.table import TableWriter, clear_parts, key_of, read_parts, read_table
from robustlm.evaluation.unreadable import unreadable, warning
from robustlm.files import whole_folder, write_text
from robustlm.finite import refuse_nonfinite
from robustlm.modules.base import InstructionTuning
from robustlm.prompt import WritesPrompts, write_prompt
from robustlm.report.tables import by_condition, markdown, near_by_condition

log = logging.getLogger(__name__)


class PredictionWriter(Callback):
    """Writes every tested row to `predictions.parquet` in the run's folder, batch by batch.

    Args:
        name: File name of the table.
        resume: Folder of an evaluation that did not end: what it has answered is taken over, the rest is asked, and
            the table is made there. The same model, rows and settings have to be given again.
        prompts: Keep the prompts too: what a report shows of them, and what `export-harness` makes tasks of.
    """

    def __init__(self, name: str = "predictions.parquet", resume: str | None = None, prompts: bool = True) -> None:
        self.name = name
        self.resume = resume
        self.prompts = prompts
        self._writer: TableWriter | None = None
        self._taken: list[dict[str, Any]] = []
        self._made = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell the data which rows are answered already."""
        if stage not in ("test", "predict"):
            return
        self._made = False
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        data.folder = run_folder(trainer) if self.resume is None else Path(self.resume)
        data.resumed = self.resume is not None
        if self.resume is None:
            return
        table = Path(self.resume) / self.name
        if table.exists():
            raise ValueError(f"predictions.resume: {table} is whole; there is nothing left to evaluate")
        self._taken = read_parts(table)
        searching = table.with_name(ATTACKS).is_file() and not self._taken  # what comes before the first answer
        if not searching and not _identity_file(table).is_file():
            raise ValueError(
                f"predictions.resume: {self.resume} holds no {_identity_file(table).name}; expected the folder of a "
                "`robustlm test` that did not end"
            )
        done = {key_of(row) for row in self._taken}
        if _state_writer(trainer) is not None:  # a process may have been killed between an answer and its state
            done &= known_states(table.with_name(STATES))
        data.done = done

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open this process's part."""
        table = self._table(trainer)
        identity = _identity(trainer, pl_module)
        attempt = 0
        if self.resume is not None and _identity_file(table).is_file():
            known = json.loads(_identity_file(table).read_text(encoding="utf-8"))
            _check_identity(known, identity, self.resume)
            attempt = known["attempt"] + 1
        trainer.strategy.barrier("predictions read")
        if trainer.is_global_zero:
            if self.resume is None:
                clear_parts(table)
            table.parent.mkdir(parents=True, exist_ok=True)
            write_text(_identity_file(table), json.dumps({**identity, "attempt": attempt}, indent=1))
            self._count_taken(trainer, pl_module)
        trainer.strategy.barrier("predictions")
        self._writer = TableWriter(table, trainer.global_rank, attempt)

    def _count_taken(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Score what was answered before and is not asked again."""
        if not self._taken:
            return
        skipped = trainer.datamodule.skipped  # type: ignore[attr-defined]
        rows = [row for row in self._taken if key_of(row) in skipped]
        assert isinstance(pl_module, InstructionTuning)
        pl_module.count(rows)
        pl_module.print(f"{len(rows)} rows were answered before and are taken over")

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
            rows = outputs["rows"]
            self._writer.write(rows if self.prompts else [row | {"prompt": None} for row in rows])

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the table."""
        assert self._writer is not None
        self._writer.close()
        table = self._table(trainer)
        trainer.strategy.barrier("predictions written")
        if trainer.is_global_zero:
            self._writer.merge([condition.name for condition in trainer.datamodule.conditions])  # type: ignore[attr-defined]
            _identity_file(table).unlink(missing_ok=True)
            if _state_writer(trainer) is None:
                table.with_name(STATES).unlink(missing_ok=True)  # of an earlier run here, whose answers were others
            logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
            if scores := by_condition(logged):
                print("\n" + markdown("F1 or accuracy, %", scores))
            if near := near_by_condition(logged):
                print("\n" + markdown("free text, %", near))
            print(f"predictions: {table}")
            if trainer.testing and (said := warning(unreadable(read_table(table)))):
                log.warning(said)
        self._writer = None
        self._made = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse to end as if all were well when no table was made: Lightning asks nothing where it finds no batch."""
        if stage in ("test", "predict") and not self._made:
            raise ValueError(
                f"{self._table(trainer)} was not made, as no batch was asked; expected rows, and "
                f"trainer.limit_{stage}_batches above 0"
            )

    def folder(self, trainer: Trainer) -> Path:
        """Where the table goes: the run's folder, or that of the run it goes on with."""
        return run_folder(trainer) if self.resume is None else Path(self.resume)

    def _table(self, trainer: Trainer) -> Path:
        return self.folder(trainer) / self.name

    on_predict_start = on_test_start
    on_predict_batch_end = on_test_batch_end
    on_predict_end = on_test_end


class StateWriter(Callback):
    """Keeps a hidden state for each tested row, in `states.parquet` beside the predictions; `robustlm states` reads it.

    It takes one more forward pass over each row.

    Args:
        layer: Which layer's states: -1 is what the head reads (after the last norm), -2 the penultimate layer, 0 the
            embeddings; null keeps none.
        position: What stands for a row: the last token of its prompt (`prompt_end`, the state that gives the first
            token of the answer), the last of prompt and true answer (`last`), or all of these (`mean`, `max`). Of an
            encoder–decoder, positions are those of the decoder.
    """

    def __init__(self, layer: int | None = None, position: Pooling = "prompt_end") -> None:
        if position not in get_args(Pooling):
            raise ValueError(f"states.position: found {position!r}; expected one of {', '.join(get_args(Pooling))}")
        self.layer = layer
        self.position: Pooling = position
        self._file: StateFile | None = None
        self._table = Path()
        self._whole = False

    def check(self, module: Any) -> None:
        """Refuse a layer that the module's model does not have. Raises `ValueError`."""
        if self.layer is not None:
            module.backbone.check_layer(self.layer)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See `check`."""
        if stage in ("test", "predict"):
            self.check(pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open this process's part."""
        if self.layer is None:
            return
        resumed = None
        folder = run_folder(trainer)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, PredictionWriter):
                resumed, folder = callback.resume, callback.folder(trainer)
        self._table, self._whole = folder / STATES, False
        attempt = 0 if resumed is None else next_attempt(self._table)
        trainer.strategy.barrier("states counted")
        if trainer.is_global_zero and resumed is None:
            clear_states(self._table)
        trainer.strategy.barrier("states")
        self._file = StateFile(self._table, trainer.global_rank, attempt)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the states of the batch's rows."""
        if self._file is None or outputs is None or self.layer is None:
            return
        if self.position != "prompt_end" and not all(batch.targets):
            alone = batch.ids[batch.targets.index("")]
            raise ValueError(
                f"states.position: {self.position!r} reads the true answer, which {alone} does not bring; expected "
                "prompt_end, or rows with answers"
            )
        view = batch.prompt if self.position == "prompt_end" else batch.raw
        backbone: Any = pl_module.backbone
        with trainer.precision_plugin.forward_context():
            states = backbone.states(view, self.layer, self.position)
        self._file.write([key_of(row) for row in outputs["rows"]], states.float().cpu().numpy())

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the table, before that of the predictions: who finds predictions whole finds states whole."""
        if self._file is None:
            return
        self._file.close()
        self._file = None
        trainer.strategy.barrier("states written")
        if trainer.is_global_zero:
            conditions = [condition.name for condition in trainer.datamodule.conditions]  # type: ignore[attr-defined]
            merge_states(self._table, conditions, {"layer": self.layer, "position": self.position})
            pl_module.print(f"states: {self._table}")
        self._whole = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the parts, which are kept until predictions are whole too, for a run that goes on."""
        if self._whole and trainer.is_global_zero:
            clear_states(self._table)

    on_predict_start = on_test_start
    on_predict_batch_end = on_test_batch_end
    on_predict_epoch_end = on_test_epoch_end


def _state_writer(trainer: Trainer) -> StateWriter | None:
    """The callback that keeps states, where it does."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    found = [one for one in callbacks if isinstance(one, StateWriter) and one.layer is not None]
    return found[0] if found else None


def _identity_file(table: Path) -> Path:
    return table.with_name(f"{table.name}.run.json")


def _identity(trainer: Trainer, module: Any) -> dict[str, Any]:
    """What has to be the same for two evaluations to give the same table: weights, rows and how answers are found."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    rows = hashlib.blake2b(digest_size=16)
    for condition, found in data.conditioned.items():
        for sample, row in zip(found.samples, found.encoded, strict=True):
            rows.update(repr((condition, sample.id, sample.instruction_id, row.prompt_ids, row.answer_ids)).encode())
    kept = _state_writer(trainer)
    return {
        "weights": weights_digest(module.backbone),
        "rows": rows.hexdigest(),
        "data.eval_batch_size": data.eval_batch_size,
        "data.scoring": data.scoring,
        "model.max_new_tokens": module.max_new_tokens,
        "states.layer": None if kept is None else kept.layer,
        "states.position": None if kept is None else kept.position,
        "processes": trainer.world_size,
    }


_SAME = {
    "weights": "the same model, adapter and checkpoint",
    "rows": "the same rows, conditions, template, seed and tokenizer",
}


def _check_identity(known: dict[str, Any], found: dict[str, Any], folder: str) -> None:
    """Refuse to go on with another evaluation than the one that was begun."""
    for name, value in found.items():
        if known.get(name) != value:
            expected = _SAME.get(name, f"{name} {known.get(name)}, as it was begun")
            what = name if name in _SAME else f"{name} {value}"
            raise ValueError(
                f"predictions.resume: found other {what} than {folder} was begun with; expected {expected}"
            )


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
        if not trainer.global_step:
            raise ValueError(
                f"{target}: not written, as no optimiser step was taken and nothing is trained; expected a run of at "
                "least one step (see trainer.max_steps, max_epochs, max_time and limit_train_batches)"
            )
        trained = ((name, value) for name, value in pl_module.named_parameters() if value.requires_grad)
        refuse_nonfinite(trained, f"{target} not written: the trained weights")
        with whole_folder(target) as unfinished:
            backbone: Any = pl_module.backbone
            backbone.model.save_pretrained(unfinished)
            backbone.tokenizer.save_pretrained(unfinished)
            data = getattr(trainer, "datamodule", None)
            prompt = data.prompt() if isinstance(data, WritesPrompts) else None
            write_prompt(unfinished, prompt, backbone.base_name)
            (unfinished / "README.md").write_text(model_card(pl_module, trainer, prompt), encoding="utf-8")
            for file in unfinished.iterdir():
                file.chmod(0o644)  # what safetensors writes is the owner's alone


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


class TrainedWeights(Callback):
    """Begins a run with a line that says how much of the model is trained.

    It stands for Lightning's summary, whose FLOPs are 0 where a model is not run on an example, as here.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print it."""
        if trainer.is_global_zero:
            print(trained_line(pl_module))


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


class RestoredOptimizer(Callback):
    """Refuses to go on with an optimiser's state of another model, which torch restores without looking at it."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Each weight's moments have its shape, each group's rate is a number."""
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

    # after `on_test_start`, in which another evaluation than the one to be gone on with is refused
    on_test_epoch_start = on_train_start
    on_predict_epoch_start = on_train_start

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove what the loggers have opened already."""
        if self._began or not trainer.is_global_zero or self._holds_results():
            return
        for logger in trainer.loggers:
            logger.finalize("failed")  # closes its files
        shutil.rmtree(self.folder, ignore_errors=True)
        for path in self._new:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()

    def _holds_results(self) -> bool:
        """Whether something is there that is not to be lost.

        Attacks are searched for before the first batch. Batches of processes that this one started (`ddp_fork`,
        `ddp_spawn`) are not seen here.
        """
        kept = (ATTACKS, "*.run.json", "*.part-*", "checkpoints", "metrics*.csv")
        return any(True for pattern in kept for _ in self.folder.glob(pattern))


def run_folder(trainer: Trainer) -> Path:
    """Where a run's files go: the logger's folder, or the trainer's root. The same on every rank."""
    return Path(trainer.log_dir or trainer.default_root_dir)

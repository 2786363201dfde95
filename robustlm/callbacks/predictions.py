"""Writes the answers of a test to a table."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from robustlm.callbacks.folder import run_folder
from robustlm.callbacks.hidden_states import HiddenStateWriter
from robustlm.conditions.manifest import ATTACKS
from robustlm.evaluation.hidden_state_table import HIDDEN_STATES, known_hidden_states
from robustlm.evaluation.table import TableWriter, clear_parts, key_of, read_parts, read_table
from robustlm.evaluation.unreadable import unreadable, warning
from robustlm.models.digest import weights_digest
from robustlm.modules.base import InstructionTuning
from robustlm.report.tables import by_condition, markdown, near_by_condition
from robustlm.utils.files import write_text

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
            done &= known_hidden_states(table.with_name(HIDDEN_STATES))
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
                table.with_name(HIDDEN_STATES).unlink(
                    missing_ok=True
                )  # of an earlier run here, whose answers were others
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


def _state_writer(trainer: Trainer) -> HiddenStateWriter | None:
    """The callback that keeps states, where it does."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    found = [one for one in callbacks if isinstance(one, HiddenStateWriter) and one.layer is not None]
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

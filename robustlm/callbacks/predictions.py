"""Writes the answers of a test to a table."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from lightning.pytorch import Callback, LightningModule, Trainer

from robustlm.callbacks.folder import data_of, run_folder
from robustlm.evaluation import readings
from robustlm.evaluation.outcomes import outcomes
from robustlm.evaluation.record import Record
from robustlm.evaluation.session import PREDICTIONS, EvaluationSession, Identity
from robustlm.evaluation.table import TableWriter, read_table
from robustlm.evaluation.unreadable import unreadable, warning
from robustlm.models.digest import weights_digest
from robustlm.modules.answering import Answered
from robustlm.modules.base import InstructionTuning
from robustlm.report.tables import by_condition, lenient_by_condition, markdown, near_by_condition

log = logging.getLogger(__name__)


class PredictionWriter(Callback):
    """Writes every tested row to `predictions.parquet` in the run's folder, batch by batch.

    Args:
        name: File name of the table.
        resume: Folder of an evaluation that did not end. Its answers are kept, the other rows are asked, and the table
            is written there. The model, rows and settings must be the same as before.
        prompts: Whether to store the prompts too, for reports and for `export-harness`. Without them, instructions that
            rows bring are not stored either; those of a bank are.
        retry_failed: With `resume`, ask rows again that have no answer since their request failed, also if the
            evaluation ended.
    """

    def __init__(
        self, name: str = PREDICTIONS, resume: str | None = None, prompts: bool = True, retry_failed: bool = False
    ) -> None:
        if retry_failed and resume is None:
            raise ValueError(
                "predictions.retry_failed: found no predictions.resume beside it; expected the folder of the "
                "evaluation whose failed requests are sent again"
            )
        self.name = name
        self.resume = resume
        self.prompts = prompts
        self.retry_failed = retry_failed
        self._writer: TableWriter | None = None
        self._made = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set the folder of the evaluation, and read the rows that were answered there before."""
        if stage not in ("test", "predict"):
            return
        self._made = False
        folder = run_folder(trainer) if self.resume is None else Path(self.resume)
        resumed = self.resume is not None
        data_of(trainer).session.store(folder, self.name, resumed=resumed, retry_failed=self.retry_failed)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open this process's part of the table."""
        session = data_of(trainer).session
        identity = _identity(trainer, _tuned(pl_module))
        attempt = session.attempt(identity)
        trainer.strategy.barrier("predictions read")
        if trainer.is_global_zero:
            session.begin(identity, attempt)
            self._count_taken(session, _tuned(pl_module))
        trainer.strategy.barrier("predictions")
        self._writer = TableWriter(session.table, trainer.global_rank, attempt)

    @staticmethod
    def _count_taken(session: EvaluationSession, module: InstructionTuning) -> None:
        """Add rows that were answered before and are not asked again to the scores."""
        if session.answered:
            rows = session.taken_over
            module.count(rows)
            module.print(f"{len(rows)} rows were answered by the earlier run; their answers are kept")

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Answered | None,  # type: ignore[override]
        batch: object,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the batch's rows."""
        if self._writer is not None and outputs is not None:
            rows = outputs["rows"]
            self._writer.write(rows if self.prompts else [row.without_prompt() for row in rows])

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the table from the parts of all processes."""
        assert self._writer is not None
        self._writer.close()
        data = data_of(trainer)
        table = data.session.table
        trainer.strategy.barrier("predictions written")
        if trainer.is_global_zero:
            self._writer.merge([condition.name for condition in data.conditions])
            rows = read_table(table, answered=False)
            data.session.end(failed=any(row.error is not None for row in rows))
            logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
            if scores := by_condition(logged):
                print("\n" + markdown("F1 or accuracy, %", scores))
            if lenient := lenient_by_condition(logged):
                print("\n" + markdown("the same, lenient reading, %", lenient))
            if near := near_by_condition(logged):
                print("\n" + markdown("free text, %", near))
            print(f"predictions: {table}")
            found = outcomes(rows)
            if found.usage:
                print(f"tokens: {found.usage}")
            for said in found.warnings:
                log.warning(said)
            if found.failed:
                log.warning("to ask them again: --predictions.resume %s --predictions.retry_failed true", table.parent)
            if trainer.testing:
                _warn([row for row in rows if row.target is not None])
        self._writer = None
        self._made = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise `ValueError` if no table was written: without batches, Lightning calls no hook that writes it."""
        if stage in ("test", "predict") and not self._made:
            raise ValueError(
                f"{data_of(trainer).session.table} was not written, because no batch was run; expected rows, and "
                f"trainer.limit_{stage}_batches above 0"
            )

    on_predict_start = on_test_start
    on_predict_batch_end = on_test_batch_end
    on_predict_end = on_test_end


def _warn(rows: Sequence[Record]) -> None:
    """Log warnings about answers that could not be read, and about a score that depends on the reading."""
    if said := warning(unreadable(rows)):
        log.warning(said)
    if said := readings.warning(readings.large(readings.differences(rows))):
        log.warning(said)


def _tuned(module: LightningModule) -> InstructionTuning:
    if not isinstance(module, InstructionTuning):
        raise TypeError(f"predictions: found the module {type(module).__name__}; expected an InstructionTuning")
    return module


def _identity(trainer: Trainer, module: InstructionTuning) -> Identity:
    """What must be equal for two evaluations to give the same table: weights, rows and how answers are found."""
    data = data_of(trainer)
    rows = hashlib.blake2b(digest_size=16)
    for condition, found in data.conditioned.items():
        for sample, row in zip(found.samples, found.encoded, strict=True):
            rows.update(repr((condition, sample.id, sample.instruction_id, row.prompt_ids, row.answer_ids)).encode())
    kept = data.session.kept_states
    return {
        "weights": weights_digest(module.backbone),
        "model": module.backbone.identity,
        "rows": rows.hexdigest(),
        "data.eval_batch_size": data.eval_batch_size,
        "data.scoring": data.scoring,
        "model.max_new_tokens": module.max_new_tokens,
        # null where nothing is drawn, as in evaluations that were begun before these settings existed
        "model.generation": module.backbone.sampling,
        "trainer.precision": None if trainer.precision == "32-true" else str(trainer.precision),
        "data.draws": data.draws if data.draws > 1 else None,
        "states.layer": None if kept is None else kept.layer,
        "states.position": None if kept is None else kept.position,
        "processes": trainer.world_size,
    }

"""What a module does in validation, test and prediction: it answers, and its answers are scored."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from typing import Literal, TypedDict

from lightning.pytorch import LightningModule

from robustlm.batch import InstructionBatch
from robustlm.conditions.model import AttackedModel, AttackSearch
from robustlm.conditions.search import Objective
from robustlm.evaluation.record import Record
from robustlm.evaluation.scores import Scores
from robustlm.models.base import LanguageModel
from robustlm.models.digest import weights_digest
from robustlm.models.heads import ChunkLogits
from robustlm.modules.passes import Passes
from robustlm.modules.replies import judged, records

Stage = Literal["val", "test"]


class Answered(TypedDict):
    """What a test or predict step returns."""

    rows: list[Record]
    """Rows of the prediction table."""


class Answering(LightningModule):
    """Answers the prompts of evaluation batches, scores the answers, and lets attacks ask the model.

    It has no constructor of its own: a subclass sets the attributes below in its own.
    """

    backbone: LanguageModel
    """The model that answers."""
    max_new_tokens: int
    """Longest generated answer, in tokens."""
    generate_in_validation: bool
    """Also generate and score answers in validation, as in a test."""
    chunk_logits: ChunkLogits = "auto"
    """Most logits that the validation loss computes at once; see `heads.chunk_length`."""
    scores: Scores
    """The scores of the answers since the last epoch's end."""
    failures: list[str | None]
    """For each answer since then, why there is none; null: there is one."""

    def validation_step(self, batch: InstructionBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Log the loss of the true answers; with `generate_in_validation`, also score generated answers."""
        tokens = int((batch.raw.labels >= 0).sum())
        loss = Passes(self.backbone, batch, chunk_logits=self.chunk_logits).cross_entropy("raw")
        self.log("val/loss", loss, prog_bar=True, batch_size=tokens, sync_dist=True, add_dataloader_idx=False)
        if self.generate_in_validation:
            self._answer(batch)

    def on_validation_epoch_end(self) -> None:
        """Log the scores of answers."""
        self._log_scores("val")

    def test_step(self, batch: InstructionBatch, batch_idx: int, dataloader_idx: int = 0) -> Answered:
        """Answer the prompts, parse and score the answers; returns `rows` of the prediction table."""
        return {"rows": self._answer(batch)}

    def on_test_epoch_end(self) -> None:
        """Log the scores of each condition and task.

        Raises:
            ValueError: No row was answered, since every request failed.
        """
        self._refuse_unanswered()
        self._log_scores("test")

    def on_test_model_eval(self) -> None:
        """Search for the attacks that the test's conditions name.

        This is Lightning's first hook after weights are restored and moved to the device, and before the first batch.
        Overriding it would skip Lightning's `eval` call, so `super()` is called first.
        """
        super().on_test_model_eval()
        self._search_attacks()

    def on_predict_model_eval(self) -> None:
        """As `on_test_model_eval`."""
        super().on_predict_model_eval()
        self._search_attacks()

    def predict_step(self, batch: InstructionBatch, batch_idx: int, dataloader_idx: int = 0) -> Answered:
        """`rows` of the prediction table."""
        return {"rows": self._answer(batch)}

    def _answer(self, batch: InstructionBatch) -> list[Record]:
        found = records(self.backbone, batch, self.max_new_tokens)
        self.count(found)
        return found

    def _search_attacks(self) -> None:
        trainer = self.trainer
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, AttackSearch):
            return

        def judge(batch: InstructionBatch, objective: Objective) -> list[float]:
            if trainer.received_sigterm:  # Lightning ends a run after a batch alone, and then with status 0
                raise SystemExit(128 + signal.SIGTERM)
            with trainer.precision_plugin.test_step_context():
                return self.judge(batch.to(self.device), objective)

        def identity() -> tuple[str, int]:
            own = any(True for _ in self.backbone.parameters())
            named = self.backbone.identity or self.backbone.name
            named = weights_digest(self.backbone) if own else named
            how = self.backbone.sampling
            return named if how is None else f"{named} {how}", self.max_new_tokens

        data.search_attacks(AttackedModel(judge, self.backbone.gives_likelihoods, identity))

    def judge(self, batch: InstructionBatch, objective: Objective) -> list[float]:
        """Score the model on each row of an evaluation batch, for attacks; see `replies.judged`."""
        return judged(self.backbone, batch, objective, self.max_new_tokens)

    def count(self, rows: Sequence[Record]) -> None:
        """Add records of an earlier prediction table to the scores of this test."""
        self.scores.device = self.device
        self.scores.count(rows)
        self.failures += [row.error for row in rows]

    def _refuse_unanswered(self) -> None:
        none = bool(self.failures) and None not in self.failures
        if self.trainer.world_size > 1:
            none = self.trainer.strategy.reduce_boolean_decision(none)
        if none:
            count, first = len(self.failures), self.failures[0]
            raise ValueError(f"none of the {count} rows was answered: every request failed, the first: {first}")

    def _log_scores(self, stage: Stage) -> None:
        for name, value in self.scores.compute().items():
            self.log(f"{stage}/{name}", value, rank_zero_only=False)
        self.scores.reset()
        self.failures.clear()

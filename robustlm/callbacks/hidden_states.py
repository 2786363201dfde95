"""Writes the hidden states of a test to a table."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, cast, get_args

from lightning.pytorch import Callback, LightningModule, Trainer

from robustlm.batch import InstructionBatch
from robustlm.callbacks.folder import data_of, run_folder
from robustlm.evaluation.hidden_state_table import (
    HIDDEN_STATES,
    HiddenStatePart,
    clear_hidden_states,
    merge_hidden_states,
    next_attempt,
)
from robustlm.evaluation.session import KeptStates
from robustlm.models.base import LanguageModel, Pooling
from robustlm.modules.answering import Answered


class HoldsModel(Protocol):
    """A Lightning module, as this callback sees it."""

    backbone: LanguageModel


class HiddenStateWriter(Callback):
    """Writes a hidden state for each tested row to `states.parquet` beside the predictions; see `robustlm states`.

    It takes one more forward pass over each row.

    Args:
        layer: Layer of the states: -1 is the input of the head (after the last norm), -2 the penultimate layer, 0 the
            embeddings; null writes no states.
        position: Token position that gives the state of a row. `prompt_end`: last token of the prompt, whose state
            gives the first token of the answer; `last`: last token of prompt and true answer; `mean`, `max`: over all
            tokens of prompt and true answer. For an encoder–decoder, positions are those of the decoder.
    """

    def __init__(self, layer: int | None = None, position: Pooling = "prompt_end") -> None:
        if position not in get_args(Pooling):
            raise ValueError(f"states.position: found {position!r}; expected one of {', '.join(get_args(Pooling))}")
        self.layer = layer
        self.position: Pooling = position
        self._file: HiddenStatePart | None = None
        self._table = Path()
        self._whole = False

    def check(self, module: HoldsModel) -> None:
        """Raise `ValueError` if the module's model does not have the layer."""
        if self.layer is not None:
            module.backbone.check_layer(self.layer)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Call `check`, and tell the evaluation that hidden states are written."""
        if stage in ("test", "predict"):
            self.check(cast(HoldsModel, pl_module))
            if self.layer is not None:
                if (draws := data_of(trainer).draws) > 1:
                    raise ValueError(
                        f"states.layer: found {self.layer} with data.draws {draws}; expected null or 1 draw, since all "
                        "draws of a question have the state of its prompt"
                    )
                data_of(trainer).session.kept_states = KeptStates(self.layer, self.position)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the file of this process."""
        if self.layer is None:
            return
        session = data_of(trainer).session
        self._table, self._whole = (session.folder or run_folder(trainer)) / HIDDEN_STATES, False
        attempt = next_attempt(self._table) if session.resumed else 0
        trainer.strategy.barrier("states counted")
        if trainer.is_global_zero and not session.resumed:
            clear_hidden_states(self._table)
        trainer.strategy.barrier("states")
        self._file = HiddenStatePart(self._table, trainer.global_rank, attempt)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Answered | None,  # type: ignore[override]
        batch: InstructionBatch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the states of the batch's rows."""
        if self._file is None or outputs is None or self.layer is None:
            return
        if self.position != "prompt_end" and not all(batch.targets):
            alone = batch.ids[batch.targets.index("")]
            raise ValueError(
                f"states.position: {self.position!r} reads the true answer, but the row {alone} has none; expected "
                "prompt_end, or rows with answers"
            )
        view = batch.prompt if self.position == "prompt_end" else batch.raw
        backbone = cast(HoldsModel, pl_module).backbone
        assert view is not None, "a test batch has prompts"
        with trainer.precision_plugin.forward_context():
            states = backbone.hidden_states(view, self.layer, self.position)
        self._file.write([row.cell for row in outputs["rows"]], states.float().cpu().numpy())

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the table. It is written before the predictions, so complete predictions imply complete states."""
        if self._file is None:
            return
        self._file.close()
        self._file = None
        trainer.strategy.barrier("states written")
        if trainer.is_global_zero:
            conditions = [condition.name for condition in data_of(trainer).conditions]
            merge_hidden_states(self._table, conditions, {"layer": self.layer, "position": self.position})
            pl_module.print(f"states: {self._table}")
        self._whole = True

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the part files. Until the predictions are complete they are kept, so that the test can be resumed."""
        if self._whole and trainer.is_global_zero:
            clear_hidden_states(self._table)

    on_predict_start = on_test_start
    on_predict_batch_end = on_test_batch_end
    on_predict_epoch_end = on_test_epoch_end

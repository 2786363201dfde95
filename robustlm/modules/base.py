"""Instruction tuning: the training step that all objectives share. A new objective is a subclass."""

from __future__ import annotations

import inspect
import logging
import math
import os
from collections.abc import Collection
from typing import Any, ClassVar, Literal, Protocol

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor

from robustlm.batch import InstructionBatch
from robustlm.checks.numbers import check_number
from robustlm.evaluation.scores import Scores
from robustlm.models.backends import language_model
from robustlm.models.base import LanguageModel, Pooling
from robustlm.models.heads import ChunkLogits
from robustlm.models.hosted import Hosting
from robustlm.models.loading import Loading
from robustlm.models.sampling import Generation
from robustlm.models.tuning import LoRA, Tuning
from robustlm.modules.answering import Answering
from robustlm.modules.boundary import StepBoundary
from robustlm.modules.checkpointed import Checkpointed
from robustlm.modules.mixed import Mixed
from robustlm.modules.passes import Passes, ViewName
from robustlm.modules.terms import Term
from robustlm.optim.config import AdamW, Groups, Optimizer, Schedule, parameter_groups
from robustlm.utils.finite import step_extent

log = logging.getLogger(__name__)

Stage = Literal["val", "test"]
TrainOn = Literal["raw", "variant", "both"]
VIEWS: dict[TrainOn, tuple[ViewName, ...]] = {"raw": ("raw",), "variant": ("variant",), "both": ("raw", "variant")}
"""The views for each value of `train_on`."""


class TrainingData(Protocol):
    """The properties of a datamodule that an objective checks before training."""

    @property
    def views(self) -> Collection[str]:
        """Names of the views in its batches: `raw`, `variant`, `negative`."""

    @property
    def replays(self) -> int:
        """How many times in a row each batch is served."""


class InstructionTuning(Answering, Checkpointed, Mixed):
    """Plain instruction tuning: cross-entropy of the answers under each row's own instruction. The baseline.

    A new objective is a subclass that extends `losses`. A step returns one summed loss under automatic optimisation. So
    Lightning handles accumulation, clipping, precision and multi-GPU.

    Args:
        backbone: Hub name or folder of a transformers model, or of a PEFT adapter; or `openai:NAME`, a model behind an
            OpenAI-compatible endpoint, which can only be tested.
        loading: How the model is loaded: type, attention, 4-bit, checkpointing, from scratch.
        tuning: What is trained: `LoRA`, `PrefixTuning`, `PromptTuning`, `FullTuning`; null uses the model unchanged.
        optimizer: `AdamW` or `Muon`.
        schedule: Warm-up and decay of the learning rate.
        max_new_tokens: Longest generated answer, in tokens.
        generate_in_validation: Also generate and score answers in validation, as in a test (slower than only the loss).
        train_on: Views whose answers are trained by cross-entropy: `raw` (each row under its own instruction),
            `variant` (under its noisy or paraphrased instructions), `both`; null: the method's default, which is `raw`
            for plain tuning.
        chunk_rows: Run larger views in chunks of this many rows, each chunk twice, so that memory holds the activations
            of one chunk only. This allows batches larger than memory (many candidates for a contrast) at about a third
            more cost.
        max_skipped_steps: Most skipped steps in a row; one more stops the run. Optimiser steps whose loss or gradient
            is not finite are skipped and counted (`train/skipped_steps`).
        hosting: How requests are sent to a hosted model; no effect on other models.
        generation: How a local model chooses the tokens of an answer: the likeliest ones, or drawn at a temperature;
            and texts that end it. No effect on hosted models and vLLM, which have `hosting`.
        chunk_logits: Most logits (answer tokens × vocabulary) that a loss computes at once. `auto`: if there are over a
            million of them, as many as the pass has hidden values in one layer (rows × tokens × width), and at least a
            million, or with a frozen head eight million in all tensors of that size that a cross-entropy (one tensor)
            or a divergence (three or four) holds; null: all of them. The losses and their gradients are the same.
        replay_weight: Weight of the mean loss of replayed text (`data.replay`) beside the mean loss of answers.
    """

    own_views: ClassVar[TrainOn] = "raw"
    """The value that `train_on: null` stands for."""

    def __init__(
        self,
        backbone: str,
        loading: Loading = Loading(),  # noqa: B008 - read only
        tuning: Tuning | None = LoRA(),  # noqa: B008
        optimizer: Optimizer = AdamW(),  # noqa: B008
        schedule: Schedule = Schedule(),  # noqa: B008
        max_new_tokens: int = 128,
        generate_in_validation: bool = False,
        train_on: TrainOn | None = None,
        chunk_rows: int | None = None,
        max_skipped_steps: int = 20,
        hosting: Hosting = Hosting(),  # noqa: B008 - read only
        generation: Generation = Generation(),  # noqa: B008 - read only
        chunk_logits: ChunkLogits = "auto",
        replay_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.keep_plain_hyperparameters()
        check_number("max_new_tokens", max_new_tokens, least=1, below=2**31, whole=True)
        check_number("chunk_rows", chunk_rows, least=1, whole=True, or_null="for all rows at once")
        if chunk_logits != "auto":
            check_number("chunk_logits", chunk_logits, least=1, whole=True, or_null="for all at once, or auto")
        check_number("max_skipped_steps", max_skipped_steps, least=0, whole=True)
        if train_on is not None and train_on not in VIEWS:
            known = ", ".join(VIEWS)
            raise ValueError(f"train_on: found {train_on!r}; expected one of {known}, or null for the method's own")
        self.backbone: LanguageModel = language_model(
            backbone, loading, tuning, hosting, generation, usual_tuning=self._default("tuning")
        )
        self.optimizer = optimizer
        self.schedule = schedule
        self.max_new_tokens = max_new_tokens
        self.generate_in_validation = generate_in_validation
        self.train_on: TrainOn | None = train_on
        self.chunk_rows = chunk_rows
        self.chunk_logits: ChunkLogits = chunk_logits
        self.pooling: Pooling = "last"
        """Which hidden state `Passes.answers` returns for a row."""
        check_number("replay_weight", replay_weight, least=0)
        self.weights: dict[str, float] = {"replay": replay_weight}
        """Factor of each named loss; a missing one counts as 1."""
        self.scores = Scores()
        self.failures: list[str | None] = []
        self.max_skipped_steps = max_skipped_steps
        self.skipped_steps = 0
        """Number of optimiser steps skipped because their loss or gradient was not finite."""
        self.updating = False
        """Whether the optimiser is changing weights at this moment."""
        self._skipped_in_a_row = 0
        self._step_loss: Tensor | float = 0.0
        self._seed: int | None = None

    @classmethod
    def _default(cls, argument: str) -> Any:
        """The default of a constructor argument, also if a subclass passes the argument on by `**kwargs`."""
        signatures = (
            inspect.signature(vars(one)["__init__"]).parameters for one in cls.__mro__ if "__init__" in vars(one)
        )
        return next(found[argument].default for found in signatures if argument in found)

    def check_data(self, datamodule: TrainingData) -> None:
        """Refuse data that does not fit this objective, before any rows are read. Subclasses extend it.

        Raises:
            ValueError: A setting of the datamodule is wrong; the message names it.
        """
        self.backbone.check_tunable()
        if "variant" in VIEWS[self.answer_views]:
            whose = type(self).__name__ if self.train_on is None else f"train_on: {self.train_on}"
            self.check_variants(datamodule, f"{whose} trains on")
        for term in self.terms:
            if term.needs_variants is not None:
                self.check_variants(datamodule, term.needs_variants)
        if getattr(datamodule, "replay", None) is not None and self.backbone.is_encoder_decoder:
            raise ValueError(
                f"data.replay: {self.backbone.name} has an encoder, and running text needs a decoder alone; expected "
                "null"
            )

        if getattr(datamodule, "unlabelled", None) is not None and not self.answers_rows:
            raise ValueError(
                f"data.unlabelled: found it with {type(self).__name__} and no model.agreement, which answers rows that "
                "bring no answer; expected RobustTuning with model.agreement, or data.unlabelled null"
            )

    @property
    def answers_rows(self) -> bool:
        """Whether the module finds answers for training rows that bring none."""
        return False

    def check_variants(self, datamodule: TrainingData, why: str) -> None:
        """Raise `ValueError` for data without variants. `why`: a clause that names what needs them; follows "which"."""
        if "variant" not in datamodule.views:
            raise ValueError(
                f"data: {type(datamodule).__name__} makes no noisy or paraphrased variants, which {why}; expected "
                "NoisyInstructionDataModule (noise), ParaphraseDataModule or ContrastiveDataModule"
            )

    @property
    def answer_views(self) -> TrainOn:
        """The views whose answers are trained."""
        return self.train_on or self.own_views

    def check_trained(self) -> None:
        """Raise `ValueError` for a loaded model without trained parameters."""
        if not any(p.requires_grad for p in self.parameters()):
            raise ValueError(
                "model.tuning: nothing is trained; expected LoRA, PrefixTuning, PromptTuning or FullTuning to fit"
            )

    # --- the objective -----------------------------------------------------------------------------------------

    def losses(self, passes: Passes) -> dict[str, Tensor]:
        """The named losses of a step, each a scalar: the losses of answers and the losses of `terms`.

        `training_step` weighs, sums and logs them. Extend it in a subclass:
        `return {**super().losses(passes), "mine": ...}`.
        """
        found = self.supervised(passes)
        if any(term.name not in found for term in self.terms):
            self.compare(passes, found)
        return found

    def compare(self, passes: Passes, found: dict[str, Tensor]) -> None:
        """Add the losses of `terms` to those that were found, and log the terms' curves."""
        for term in self.terms:
            answers = found["answer"] if "answer" in found else found["adversarial"]
            found[term.name], curves = term.losses(passes, answers)
            self.log_dict({f"{term.name}/{name}": value for name, value in curves.items()}, batch_size=1)

    def supervised(self, passes: Passes) -> dict[str, Tensor]:
        """The cross-entropy of true answers, as `answer`."""
        return {"answer": passes.cross_entropy(*VIEWS[self.answer_views])}

    def replayed(self, passes: Passes) -> Tensor:
        """The loss of replayed text: its part of the mean over the expected targets of the optimiser step."""
        losses, tokens = passes.row_losses("replay"), passes.batch.replay_tokens
        count = len(passes.view("replay").layout.tokens)
        self.log("replay/loss", losses.detach().sum() / count, batch_size=count)
        return losses.sum() / (count if tokens is None else tokens)

    @property
    def terms(self) -> tuple[Term, ...]:
        """The losses that are added to those of the answers; subclasses choose them by their settings."""
        return ()

    def weigh_terms(self) -> None:
        """Set the loss factors that `terms` require. Constructors call this after they have stored their settings."""
        for term in self.terms:
            self.weights = term.weigh(self.weights)

    def training_step(self, batch: InstructionBatch, batch_idx: int) -> Tensor:
        """Return the weighted sum of the losses, and log each of them."""
        passes = self.passes(batch)
        terms = self.step_losses(passes)
        parts = [self.weights.get(name, 1.0) * term for name, term in terms.items()]
        total = torch.stack(parts).sum()
        size = len(batch)
        self._step_loss = self._step_loss + total.detach()
        self.log("train/skipped_steps", float(self.skipped_steps), batch_size=size)
        self.log("train/padding", passes.padding, batch_size=size)
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=size)
        self.log_dict({f"train/{name}": term.detach() for name, term in terms.items()}, batch_size=size)
        return total

    def step_losses(self, passes: Passes) -> dict[str, Tensor]:
        """The named losses that a step trains on: `losses`, and that of running text if the batch brings some.

        A subclass may take them at other weights (SAM).
        """
        found = self.losses(passes)
        if passes.batch.replay is not None:
            found["replay"] = self.replayed(passes)
        return found

    def passes(self, batch: InstructionBatch) -> Passes:
        """The forward passes over a batch, by this module's settings (`pooling`, `chunk_rows`, `chunk_logits`)."""
        if batch.unanswered is not None:
            raise ValueError(
                f"training: {len(batch.unanswered.rows)} of the {len(batch)} rows of a batch bring no answer; expected "
                "RobustTuning with model.agreement, which finds one"
            )
        alone = self._trainer is None or self._trainer.world_size == 1
        gather = None if alone else self._gather
        return Passes(
            self.backbone,
            batch,
            pooling=self.pooling,
            all_gather=gather,
            chunk_rows=self.chunk_rows,
            chunk_logits=self.chunk_logits,
        )

    def _gather(self, values: Tensor) -> Tensor:
        """Stack a tensor over ranks; its gradient, if any, is passed through."""
        found: Tensor = self.all_gather(values, sync_grads=values.requires_grad)  # type: ignore[assignment]
        return found

    # --- Lightning's hooks -------------------------------------------------------------------------------------

    def configure_callbacks(self) -> list[Callback]:
        """The callback that makes exact resuming possible."""
        return [StepBoundary()]

    def configure_model(self) -> None:
        """Load the weights, and divide them among devices if the strategy does (`FSDP2`)."""
        mesh = getattr(self, "_device_mesh", None)
        if mesh is not None:
            self.check_sharded()
        super().configure_model()
        if mesh is not None:
            self.backbone.shard(mesh["data_parallel"])

    def check_sharded(self) -> None:
        """Refuse settings that do not work if weights are divided among devices. Subclasses extend it.

        Raises:
            ValueError: A setting is wrong; the message says why.
        """
        self.backbone.check_shardable()
        if self.chunk_rows is not None:
            raise ValueError(
                f"chunk_rows: found {self.chunk_rows}; expected null with FSDP2, because ranks with other numbers of "
                "chunks would wait for each other"
            )
        if getattr(getattr(self._trainer, "datamodule", None), "replay", None) is not None:
            raise ValueError(
                "data.replay: found text with FSDP2; expected null, because ranks whose batches have no text would not "
                "wait for those whose batches have some. Use ddp"
            )

    def optimizer_groups(self) -> Groups:
        """The trained parameters in groups, as `optimizer` takes them."""
        groups = parameter_groups(self.backbone.base)
        grouped = {id(p) for group in groups for p in group["params"]}
        outside = [p for p in self.parameters() if p.requires_grad and id(p) not in grouped]
        if outside:  # prefixes and soft prompts are in the PEFT wrapper; a subclass may have its own head
            groups.append({"params": outside, "hidden": False})
        return groups

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser of the trained parameters, and its schedule."""
        self.check_trained()
        optimizer = self.optimizer.build(self.optimizer_groups())
        total = int(self.trainer.estimated_stepping_batches)
        scheduler = self.schedule.build(optimizer, total)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_fit_start(self) -> None:
        """Choose the seed from which every step derives its random numbers."""
        if not any(isinstance(one, StepBoundary) for one in self.trainer.callbacks):  # type: ignore[attr-defined]
            raise TypeError(
                f"{type(self).__name__}.configure_callbacks drops a callback; add to super().configure_callbacks()"
            )
        for one in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(one, WeightAveraging):
                raise ValueError(
                    f"trainer.callbacks: found {type(one).__name__}, which writes the frozen model into checkpoints "
                    "and cannot resume from trained weights alone; expected "
                    "robustlm.callbacks.averaging.AverageWeights"
                )
        if self._seed is None:
            own = int(os.environ.get("PL_GLOBAL_SEED", torch.initial_seed() % 2**31))
            self._seed = self.trainer.strategy.broadcast(own)  # a checkpoint stores one seed for all ranks
        super().on_fit_start()
        self.backbone.compile_layers()

    def teardown(self, stage: str) -> None:
        """Leave the model as it was before the run."""
        self.backbone.forget_compiled()
        super().teardown(stage)

    def on_train_start(self) -> None:
        """Check the model's passes before the first step."""
        self.backbone.check_passes()

    def on_train_batch_start(self, batch: InstructionBatch, batch_idx: int) -> None:
        """Seed random numbers from seed, step and rank only, so that a resumed run draws the same numbers."""
        assert self._seed is not None
        step = self.trainer.fit_loop.epoch_loop.total_batch_idx
        torch.manual_seed((self._seed * 1_000_003 + step) * 4_099 + self.global_rank)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Skip an optimiser step whose loss or gradient is not finite.

        Raises:
            ValueError: More than `max_skipped_steps` steps in a row were skipped.
        """
        gradient, loss = step_extent(self.parameters(), self._step_loss)
        finite = math.isfinite(gradient) and math.isfinite(loss)
        if self.trainer.world_size > 1:  # the non-finite value may occur on one rank only
            finite = self.trainer.strategy.reduce_boolean_decision(finite)
        if finite:
            self._skipped_in_a_row = 0
        else:
            self._skip(optimizer, gradient, loss)
        self._step_loss = 0.0
        self.updating = True

    def skip_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Undo a step: delete its gradients, so that the optimiser changes nothing. Subclasses extend it."""
        optimizer.zero_grad(set_to_none=True)

    def _skip(self, optimizer: torch.optim.Optimizer, gradient: float, loss: float) -> None:
        self.skipped_steps += 1
        self._skipped_in_a_row += 1
        self.skip_step(optimizer)
        what = f"optimiser step {self.trainer.global_step + 1}: loss {loss:g}, largest gradient {gradient:g}"
        if self._skipped_in_a_row > self.max_skipped_steps:
            raise ValueError(
                f"training: {self._skipped_in_a_row} steps in a row had a loss or gradient that is not finite (last "
                f"{what}); they changed no weights. Expected at most model.max_skipped_steps {self.max_skipped_steps}; "
                "try a lower model.optimizer.lr, trainer.gradient_clip_val, or trainer.precision bf16-mixed or 32-true"
            )
        if self._skipped_in_a_row == 1:
            log.warning("%s; the step is skipped (train/skipped_steps: %d)", what, self.skipped_steps)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Run Lightning's step, then clear `updating`."""
        super().optimizer_step(*args, **kwargs)
        self.updating = False
        self.after_step()

    def after_step(self) -> None:
        """Called after each optimiser step, before a checkpoint of it can be written. Subclasses extend it."""

    def progress(self) -> dict[str, object]:
        """The seed, and the count of skipped steps.

        Raises:
            RuntimeError: The optimiser is changing weights at this moment.
        """
        if self.updating:
            raise RuntimeError(
                "no checkpoint can be saved while the optimiser changes weights; save between two batches"
            )
        skipped = {"skipped_steps": self.skipped_steps, "skipped_in_a_row": self._skipped_in_a_row}
        return {**super().progress(), "seed": self._seed, **skipped}

    def resume(self, progress: dict[str, Any]) -> None:
        """Restore the seed and the count of skipped steps; a new run, which does not resume, has a seed of its own."""
        super().resume(progress)
        self._seed = progress["seed"]
        self.skipped_steps = progress.get("skipped_steps", 0)
        self._skipped_in_a_row = progress.get("skipped_in_a_row", 0)

    def on_train_end(self) -> None:
        """Raise `ValueError` if every step was skipped, before an adapter is exported."""
        if 0 < self.trainer.global_step <= self.skipped_steps:
            raise ValueError(
                f"training: each of the {self.trainer.global_step} optimiser steps had a loss or gradient that is not "
                "finite, so nothing is trained; check data and model, or try a lower model.optimizer.lr"
            )
        if self.skipped_steps:
            log.warning(
                "%d of %d optimiser steps were skipped: their loss or gradient was not finite",
                self.skipped_steps, self.trainer.global_step,
            )  # fmt: skip


def filled(*slots: Term | None) -> tuple[Term, ...]:
    """The terms among the slots, without the empty slots."""
    return tuple(term for term in slots if term is not None)

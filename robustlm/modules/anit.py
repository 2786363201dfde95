"""Adversarial noisy instruction tuning [ANIT]: Bai et al., AAAI 2025."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor
from torch.optim import Optimizer

from robustlm.adversaries import NRM, PGD, Adversary, FreeAT, Problem
from robustlm.batch import InstructionBatch, Scope
from robustlm.checks.numbers import check_number
from robustlm.modules.base import VIEWS, InstructionTuning, TrainingData, TrainOn
from robustlm.modules.boundary import inside_step
from robustlm.modules.passes import Passes, ViewName
from robustlm.modules.settled import settled

_HEAVIEST = 1e6
"""Largest weight. Beside a loss with a larger weight, other losses would vanish in single precision."""


def adversarial_losses(
    passes: Passes,
    adversary: Adversary,
    problem: Problem,
    views: tuple[ViewName, ...],
    *,
    chosen: bool,
    early: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The cross-entropies of the true answers without (`answer`) and with (`adversarial`) perturbation.

    Args:
        passes: With the view `variant`.
        adversary: The strategy that finds δ.
        problem: The variants, in the form that the adversary takes.
        views: The views whose answers are trained without perturbation.
        chosen: Whether the user chose these views. If not, an adversary without a clean term (FreeLB) replaces the
            variants' own loss.
        early: Losses whose backward pass is done when the adversary has released the clean pass, `answer` among them;
            it is filled by then.

    Returns:
        The losses, those of `early` among them, and values to log: the adversary's measurements, and `loss_gap`, which
            is L(f(X_n + δ), y) − L(f(X_n), y) per answer token.
    """
    outcome = adversary.attack(problem)
    curves = dict(outcome.logs)
    if outcome.clean is not None:  # per answer token, like the losses
        if not early:
            passes.keep_row_losses("variant", outcome.clean)
        answers = (passes.view("variant").labels >= 0).sum().clamp(min=1)
        curves["loss_gap"] = (outcome.adversarial - outcome.clean).detach().sum() / answers
    elif not chosen:
        views = tuple(name for name in views if name != "variant")
    terms = early or ({"answer": passes.cross_entropy(*views)} if views else {})
    return {**terms, "adversarial": outcome.adversarial.sum() / passes.token_count("variant")}, curves


class ANIT(InstructionTuning):
    """Tuning on noisy instructions, with an adversary that perturbs their embeddings.

    L = L(f(X_n), y) + λ·L(f(X_n + δ), y) ([ANIT] eq. 8), over the datamodule's variants. The share `data.noise.phi` (φ)
    of the variants is noisy, the others are clean.

    Args:
        adversary: The strategy that finds δ: `NRM` (as in the paper), `FGM`, `FGSM`, `PGD`, `FreeLB`, `FreeAT`,
            `NEFTune`; null trains only on noisy instructions.
        adversarial_weight: λ.
        perturb: Positions that δ changes: `prompt` (instruction and context), `instruction`, or `all` positions.
        kwargs: Arguments of `InstructionTuning`.
    """

    own_views: ClassVar[TrainOn] = "variant"

    def __init__(
        self,
        *args: Any,
        adversary: Adversary | None = NRM(),  # noqa: B008 - copied before use
        adversarial_weight: float = 1.0,
        perturb: Scope = "prompt",
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        adversary_off = "set adversary to null for none"
        check_number("adversarial_weight", adversarial_weight, least=0, most=_HEAVIEST, why=adversary_off)
        self.adversary = copy.deepcopy(adversary)
        self.perturb: Scope = perturb
        self.weights["adversarial"] = adversarial_weight
        self._before: dict[str, Tensor] | None = None

    def check_data(self, datamodule: TrainingData) -> None:
        """Refuse data without variants, or without the replays that `FreeAT` needs."""
        super().check_data(datamodule)
        if self.adversary is not None:
            self.check_variants(datamodule, f"{self.adversary_name} perturbs")
        if isinstance(self.adversary, FreeAT) and datamodule.replays != self.adversary.replays:
            raise ValueError(
                f"data.replays: found {datamodule.replays}; expected {self.adversary.replays} as in "
                "model.adversary.replays, since FreeAT's perturbation grows while the same batch comes again"
            )

    def check_sharded(self) -> None:
        """Also refuse adversaries that compute the weights' gradients themselves."""
        super().check_sharded()
        if self.adversary is not None and self.adversary.shares_backward:
            raise ValueError(
                f"adversary: {type(self.adversary).__name__} takes the gradients of the weights together with those "
                "of the embeddings, which FSDP2 does not support; expected NRM with ascent: full and low_memory: "
                "false, PGD with low_memory: false, or NEFTune; or trainer.strategy ddp"
            )

    def supervised(self, passes: Passes) -> dict[str, Tensor]:
        """`answer` and `adversarial` ([ANIT] eq. 8); logs the adversary's measurements under its name."""
        if self.adversary is None:
            return super().supervised(passes)
        scale = self.loss_scale
        views, early = VIEWS[self.answer_views], dict[str, Tensor]()

        def release() -> None:
            """Run the backward pass of all losses but the adversarial one, and let go of their passes."""
            losses = {"answer": passes.cross_entropy(*views)}
            self.compare(passes, losses)
            trained = [p for p in self.parameters() if p.requires_grad]
            early.update(settled(losses, self.weights, trained, scale))
            passes.forget()

        early_wanted = isinstance(self.adversary, NRM | PGD) and self.adversary.low_memory
        problem = passes.problem(
            "variant", self.perturb, scale, held=self.holds_variants, release=release if early_wanted else None
        )
        terms, curves = adversarial_losses(
            passes, self.adversary, problem, views, chosen=self.train_on is not None, early=early
        )
        self.log_dict({f"{self.adversary_name}/{name}": value.float() for name, value in curves.items()}, batch_size=1)
        return terms

    @property
    def holds_variants(self) -> bool:
        """Whether other losses use the same forward pass over the variants."""
        return False

    @property
    def adversary_name(self) -> str:
        """Prefix of logged quantities (`nrm/loss_gap`)."""
        return type(self.adversary).__name__.lower()

    def on_train_start(self) -> None:
        """Copy the adversary's state before an optimiser step, since each micro-batch may change it."""
        super().on_train_start()
        self._keep_adversary()

    def on_train_batch_end(self, outputs: object, batch: InstructionBatch, batch_idx: int) -> None:
        """At the end of an optimiser step, copy the adversary's state for the next one."""
        if not inside_step(self.trainer):
            self._keep_adversary()

    def _keep_adversary(self) -> None:
        self._before = None if self.adversary is None else copy.deepcopy(self.adversary.state_dict())

    def skip_step(self, optimizer: Optimizer) -> None:
        """Also restore the adversary's state from before the step."""
        super().skip_step(optimizer)
        if self.adversary is not None and self._before is not None:
            self.adversary.load_state_dict(copy.deepcopy(self._before))

    def progress(self) -> dict[str, object]:
        """Also the adversary's state at the end of the last optimiser step."""
        if self.adversary is None:
            return super().progress()
        before = self._before
        state = self.adversary.state_dict() if before is None or not inside_step(self.trainer) else before
        return {**super().progress(), "adversary": {name: value.cpu() for name, value in state.items()}}

    def resume(self, progress: dict[str, Any]) -> None:
        """Also restore the adversary's state."""
        super().resume(progress)
        if self.adversary is not None:
            self.adversary.load_state_dict(progress.get("adversary", {}))

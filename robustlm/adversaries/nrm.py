"""NRM: one ascent step from a random start, which is smaller for noisier texts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from robustlm.adversaries.autograd import ascent_gradient, clean_gradient, clean_losses, row_losses
from robustlm.adversaries.base import BoundedAdversary, Outcome, Problem, measure, row_mean
from robustlm.adversaries.control import GapController
from robustlm.adversaries.geometry import TINY, dimension, drop_nonfinite, perturb, project, size, steepest, uniform


@dataclass
class NRM(BoundedAdversary):
    """Noise Response Method, Bai et al. 2025 [ANIT] eqs. 5 to 7 and algorithm 1.

    For each row, with N its perturbed tokens × hidden size and β its semantic distortion::

        δ0 = (init_scale / √N) · U(−ε, ε) · (1 − β)
        g  = ∇_δ L(f(X + δ0), y)
        δ1 = Π_{‖δ‖ ≤ ε}(δ0 + α · g/‖g‖)

    and the model trains on L(f(X), y) + λ · L(f(X + δ1), y) (eq. 8), where the caller applies λ. A row whose g is not
    finite takes no step: its δ1 is Π(δ0). The paper's main text gives no values for ε, α or λ.

    E‖δ0‖ is 0.577 · init_scale · ε · (1 − β). So with the paper's `init_scale` of 10, δ0 lies outside the ball unless
    β > 0.83. Then the projection always binds, and (1 − β) decides how far δ1 points along g, but not its length. So
    the attack grows with β, while the paper's text says that it shrinks. `scale_radius_by_beta` makes it shrink if β
    does not also turn δ1 towards g: with `init_scale: 1`, or with `scale_start_by_beta: false` (`benchmarks/beta.py`
    measures all forms).

    Cost with LoRA, plain tuning = 1: 3.0 (`ascent: full`: three forward and three backward passes) or 2.0
    (`clean`).

    The authors' released code has no ball, a norm over the whole batch, an unscaled unit and a tiny step:
    `{unit: absolute, epsilon: 1, init_scale: 10, norm: batch, alpha: 1e-3 … 5e-3, project: false}`, with a mask that
    is true everywhere. Its δ0 has the length 5.77 · (1 − β), beside which α is negligible. In effect, this is NEFTune
    at magnitude 10 with a clean term.
    """

    alpha: float | None = None
    """Length of the ascent step, in the unit and norm of epsilon; null: equal to epsilon."""
    init_scale: float = 10.0
    """Size of the random start δ0 = (init_scale / √N) · U(−ε, ε) · (1 − β). Under every norm, N counts the row's
    perturbed coordinates and ε is a length (also under `linf`). 0 starts the ascent at the embeddings themselves."""
    scale_start_by_beta: bool = True
    """Shrink the random start of each row by 1 − β, as the paper does. With false, β does not change the start: with
    `scale_radius_by_beta`, it then changes the radius alone, and otherwise nothing."""
    scale_radius_by_beta: bool = False
    """Shrink the ball of each row to ε · (1 − β)."""
    project: bool = True
    """Project δ1 onto the ball; false leaves it unprojected."""
    token_share: float | None = None
    """A ball for each token inside the ball of the row: no token moves by more than this share of ε, in (0, 1). Tokens
    that lie outside are shortened first, and the row's projection follows. Unlike under `norm: token`, the step stays
    that of the row, so a token moves as far as its gradient is long. null: only the ball of `norm` bounds tokens."""
    ascent: Literal["full", "clean"] = "full"
    """Where the gradient is computed. `full`: at δ0, in a separate pass. `clean`: at δ = 0, where the clean term's
    backward pass yields it together with the weights' gradient, which is a third cheaper and needs less memory. If
    other losses use the clean pass (a contrast, an alignment), `clean` saves only a forward pass; `low_memory` saves
    memory there."""
    target_gap: float | None = None
    """Keep the loss gap L(X+δ1) − L(X) at this share of the clean loss, by changing epsilon (and alpha with it);
    `epsilon` is then only the start value. null: epsilon is fixed."""
    gap_rate: float = 0.05
    """Largest change of log epsilon in one step under target_gap."""
    low_memory: bool = False
    """Run the backward pass of the clean term before the adversarial pass, so that memory does not hold the activations
    of both. Losses, gradients and time are the same. If other losses use the clean pass (a contrast, an alignment),
    their backward passes run early too. Memory holds one more gradient of each trained weight."""

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        self.check_step("alpha")
        self.check("init_scale", 0 <= self.init_scale < math.inf, "a finite number ≥ 0")
        self.check("ascent", self.ascent in ("full", "clean"), "one of full, clean")
        per_row = not self.scale_radius_by_beta or self.norm != "batch"
        self.check("norm", per_row, "row, token or linf with scale_radius_by_beta, as a batch has no β of its own")
        starts = self.scale_start_by_beta or self.init_scale > 0
        self.check("init_scale", starts, "a number > 0 with scale_start_by_beta false, which changes nothing else")
        binds = not self.scale_radius_by_beta or self.project
        self.check("project", binds, "true with scale_radius_by_beta, which changes nothing else")
        share = self.token_share
        self.check("token_share", share is None or 0 < share < 1, "a number in (0, 1), or null")
        self.check("project", share is None or self.project, "true with token_share, which is a projection")
        rows = share is None or self.norm in ("row", "batch")
        self.check("norm", rows, "row or batch with token_share, as token and linf bound every token already")
        gap = self.target_gap
        self.check("target_gap", gap is None or 0 < gap < math.inf, "a finite number > 0, or null")
        self.check("epsilon", gap is None or self.radius > 0, "a number > 0 for target_gap to start from")
        self.check("gap_rate", 0 < self.gap_rate <= 1, "a number in (0, 1]")
        self._controller = None if gap is None else GapController(gap, self.gap_rate)

    @property
    def shares_backward(self) -> bool:
        """See `Adversary.shares_backward`."""
        return self.ascent == "clean" or self.low_memory

    def attack(self, problem: Problem) -> Outcome:
        """Take one step of ascent from the random start, and return both losses."""
        embeds, mask = problem.embeds, problem.mask
        unit, row_unit = self.length(problem), self.length(problem, "row")
        factor = self._controller.factor(unit) if self._controller else torch.ones_like(unit)
        epsilon = self.radius * factor
        alpha = (self.radius if self.alpha is None else self.alpha) * factor
        keep = (1 - problem.beta).to(unit)[:, None, None]

        count = dimension(mask, embeds.shape[2], "row")
        noise = epsilon * row_unit * uniform(embeds, mask, problem.seeds)
        delta0 = self.init_scale / count.sqrt() * noise * (keep if self.scale_start_by_beta else 1)
        if self.ascent == "clean":
            gradient, clean = clean_gradient(problem)
        else:
            gradient = ascent_gradient(problem, delta0)
            clean = clean_losses(problem, self.low_memory)
        gradient, broken = drop_nonfinite(gradient)
        stepped = delta0 + alpha * unit * steepest(gradient, self.norm)
        radius = epsilon * unit * (keep if self.scale_radius_by_beta else 1)
        delta = self._projected(stepped, radius)
        adversarial = row_losses(problem, perturb(embeds, delta))

        logs = measure(problem, row_unit, delta, gradient, broken, adversarial, clean)
        logs["epsilon"] = epsilon
        reach = (epsilon * row_unit).clamp_min(TINY)
        logs["init_radius"] = row_mean(problem, size(delta0, "row").flatten() / reach)
        logs["clipped_share"] = row_mean(problem, (delta != stepped).flatten(1).any(1))
        logs["gradient_cosine"] = row_mean(problem, torch.cosine_similarity(delta.flatten(1), gradient.flatten(1)))
        if self._controller and torch.is_grad_enabled():  # an attack in evaluation must not change ε
            self._controller.update(clean, adversarial)
        return Outcome(adversarial, clean, delta, logs)

    def _projected(self, stepped: Tensor, radius: Tensor) -> Tensor:
        """The perturbation `[R, T, H]` in the balls of tokens and row, as far as the fields ask for them."""
        if not self.project:
            return stepped
        inside = stepped if self.token_share is None else project(stepped, "token", self.token_share * radius)
        return project(inside, self.norm, radius)

    def state_dict(self) -> dict[str, Tensor]:
        """The controller's state under `target_gap`, otherwise empty."""
        return {"controller": self._controller.state.clone()} if self._controller else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore a state from `state_dict`.

        Raises:
            ValueError: If the state belongs to another adversary, or if only one of the state and this adversary has
                `target_gap`.
        """
        if set(state) != set(self.state_dict()):
            raise ValueError(
                f"NRM with target_gap {self.target_gap} has state {sorted(self.state_dict())}, but the "
                f"checkpoint holds {sorted(state)}: resume with the adversary of that training"
            )
        if self._controller:
            self._controller.state = state["controller"].clone()

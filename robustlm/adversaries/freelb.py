"""FreeLB: several ascent steps, whose backward passes all contribute to the weights' gradient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from robustlm.adversaries.autograd import row_losses, shared_backward
from robustlm.adversaries.base import BoundedAdversary, Outcome, Problem, measure
from robustlm.adversaries.geometry import ball_start, drop_nonfinite, perturb, project, steepest


@dataclass
class FreeLB(BoundedAdversary):
    """Free large-batch adversarial training, Zhu et al. 2020 alg. 1.

    With N perturbed tokens × hidden size::

        δ_0 = (1/√N) · U(−ε, ε),   δ_{t+1} = Π_{‖δ‖ ≤ ε}(δ_t + α · g_t/‖g_t‖),   g_t = ∇_δ L(f(X + δ_t), y)

    and the loss is the mean of L(f(X + δ_t), y) over t = 0 … K − 1, without a clean term. The backward pass of a step
    yields both g_t and the weights' gradient. Only one graph exists at a time; a step stores one gradient per trained
    tensor. A row whose gradient is not finite keeps its δ for that step. β is not used.

    Cost with LoRA, plain tuning = 1: K (K forward and backward passes).
    """

    default_epsilon: ClassVar[float] = 0.3

    alpha: float | None = None
    """Length of one ascent step, in the unit and norm of epsilon; null: equal to epsilon."""
    steps: int = 3
    """K, the number of points whose losses are averaged; K − 1 steps lead to the last one."""

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        self.check_step("alpha")
        self.check("steps", self.steps >= 2, "an integer ≥ 2, as the first point is random")

    @property
    def shares_backward(self) -> bool:
        """See `Adversary.shares_backward`."""
        return True

    def attack(self, problem: Problem) -> Outcome:
        """Take K − 1 ascent steps, and return the mean loss of the K points."""
        unit = self.length(problem)
        radius = self.radius * unit
        step = unit * (self.radius if self.alpha is None else self.alpha)
        delta = ball_start(problem.embeds, problem.mask, problem.seeds, self.norm, radius)
        met = []
        for _ in range(self.steps - 1):
            gradient, rows = shared_backward(problem, delta, 1 / self.steps)
            met.append(rows)
            gradient, broken = drop_nonfinite(gradient)
            delta = project(delta + step * steepest(gradient, self.norm), self.norm, radius)
        last = row_losses(problem, perturb(problem.embeds, delta))
        logs = measure(problem, self.length(problem, "row"), delta, gradient, broken, last)
        return Outcome(torch.stack([*met, last / self.steps]).sum(0), None, delta, logs)

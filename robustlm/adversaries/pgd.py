"""PGD: several ascent steps, each projected onto the ball."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from robustlm.adversaries.autograd import ascent_gradient, clean_losses, row_losses
from robustlm.adversaries.base import BoundedAdversary, Outcome, Problem, measure
from robustlm.adversaries.geometry import ball_start, drop_nonfinite, perturb, project, steepest


@dataclass
class PGD(BoundedAdversary):
    """Projected gradient descent on the negative loss, Madry et al. 2018 sec. 2.1, with the clean term.

        δ_{t+1} = Π_{‖δ‖ ≤ ε}(δ_t + α · g_t/‖g_t‖),   g_t = ∇_δ L(f(X + δ_t), y),   t < K

    then L(f(X), y) and L(f(X + δ_K), y). A row whose gradient is not finite keeps its δ for that step.
    β is not used.

    Cost with LoRA, plain tuning = 1: K + 2 (K + 2 forward and backward passes).
    """

    default_epsilon: ClassVar[float] = 0.3

    alpha: float | None = None
    """Length of one ascent step, in the unit and norm of epsilon; null: 2.5 · epsilon / steps, so that the steps reach
    the edge from any start and can still move along it."""
    steps: int = 3
    """K, the number of ascent steps."""
    random_start: bool = True
    """Start at a random point of the ball: (1/√N) · U(−ε, ε), where N is the number of coordinates that the norm
    measures together (1 for `linf`: uniform in the cube). false starts at the embeddings themselves."""
    low_memory: bool = False
    """Run the backward pass of the clean term before the adversarial pass, so that memory does not hold the activations
    of both. Losses, gradients and time are the same. If other losses use the clean pass (a contrast, an alignment),
    their backward passes run early too. Memory holds one more gradient of each trained weight."""

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        self.check_step("alpha")
        self.check("steps", self.steps >= 1, "an integer ≥ 1")

    @property
    def shares_backward(self) -> bool:
        """See `Adversary.shares_backward`."""
        return self.low_memory

    def attack(self, problem: Problem) -> Outcome:
        """Take K ascent steps, and return both losses."""
        unit = self.length(problem)
        radius = self.radius * unit
        step = unit * (2.5 * self.radius / self.steps if self.alpha is None else self.alpha)
        start = radius if self.random_start else 0 * radius
        delta = ball_start(problem.embeds, problem.mask, problem.seeds, self.norm, start)
        for _ in range(self.steps):
            gradient, broken = drop_nonfinite(ascent_gradient(problem, delta))
            delta = project(delta + step * steepest(gradient, self.norm), self.norm, radius)
        clean = clean_losses(problem, self.low_memory)
        adversarial = row_losses(problem, perturb(problem.embeds, delta))
        logs = measure(problem, self.length(problem, "row"), delta, gradient, broken, adversarial, clean)
        return Outcome(adversarial, clean, delta, logs)

"""FGM: one step along the gradient at the clean embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from robustlm.adversaries.autograd import clean_gradient, row_losses
from robustlm.adversaries.base import BoundedAdversary, Outcome, Problem, measure
from robustlm.adversaries.geometry import drop_nonfinite, perturb, steepest


@dataclass
class FGM(BoundedAdversary):
    """Fast gradient method, Miyato et al. 2017 eq. 5, with the clean term.

        g = ∇_X L(f(X), y),   δ = ε · g/‖g‖,   L(f(X), y) and L(f(X + δ), y)

    The clean term's backward pass yields both g and the weights' gradient. If other losses use the clean pass, g takes
    one more backward pass. A row whose g is not finite is not perturbed. β is not used.

    Cost with LoRA, plain tuning = 1: 2.0 (two forward and two backward passes).
    """

    default_epsilon: ClassVar[float] = 0.3

    @property
    def shares_backward(self) -> bool:
        """See `Adversary.shares_backward`."""
        return True

    def attack(self, problem: Problem) -> Outcome:
        """Step from the clean embeddings to the edge of the ball, and return both losses."""
        unit = self.length(problem)
        gradient, clean = clean_gradient(problem)
        gradient, broken = drop_nonfinite(gradient)
        delta = self.radius * unit * steepest(gradient, self.norm)
        adversarial = row_losses(problem, perturb(problem.embeds, delta))
        logs = measure(problem, self.length(problem, "row"), delta, gradient, broken, adversarial, clean)
        return Outcome(adversarial, clean, delta, logs)

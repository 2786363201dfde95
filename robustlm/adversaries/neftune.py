"""NEFTune: uniform noise on the embeddings, without ascent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import get_args

from robustlm.adversaries.autograd import row_losses
from robustlm.adversaries.base import Adversary, Outcome, Problem, Unit, embedding_unit, row_mean
from robustlm.adversaries.geometry import dimension, perturb, size, uniform


@dataclass
class NEFTune(Adversary):
    """Noisy embedding fine-tuning, Jain et al. 2024 alg. 1.

    For a row of L tokens and hidden size H::

        X' = X + (α / √(L · H)) · U(−1, 1),   L(f(X'), y)

    The length of a row's noise is 0.577 · α, whatever the length of the row. In the paper, L is the padded length, and
    the whole sequence is perturbed, including the answer. Here L counts a row's perturbed positions, so that padding
    and other rows have no influence. There is no clean term, and β is not used.

    Cost with LoRA, plain tuning = 1: 1 (one forward and one backward pass).
    """

    magnitude: float = 5.0
    """α, the size of the noise; the paper uses 5, 10 or 15."""
    unit: Unit = "embedding"
    """Unit of `magnitude`: `embedding`: the mean norm of the model's token embeddings; `absolute`: the raw embedding
    coordinates (as in the paper)."""

    def __post_init__(self) -> None:
        """Check the fields."""
        self.check("magnitude", 0 <= self.magnitude < math.inf, "a finite number ≥ 0")
        self.check("unit", self.unit in get_args(Unit), f"one of {', '.join(get_args(Unit))}")

    def attack(self, problem: Problem) -> Outcome:
        """Draw the noise, and return the loss under it."""
        embeds = problem.embeds
        unit = embedding_unit(problem, self.unit)
        count = dimension(problem.mask, embeds.shape[2], "row")
        noise = uniform(embeds, problem.mask, problem.seeds)
        delta = self.magnitude * unit / count.sqrt() * noise
        adversarial = row_losses(problem, perturb(embeds, delta))
        logs = {"delta_norm": row_mean(problem, size(delta, "row").flatten()) / unit}
        return Outcome(adversarial, None, delta, logs)

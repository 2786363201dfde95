"""FreeAT: one pass per step, on batches that are repeated while the perturbation grows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robustlm.adversaries.autograd import no_perturbation, shared_backward
from robustlm.adversaries.base import BoundedAdversary, Outcome, Problem, measure
from robustlm.adversaries.geometry import drop_nonfinite, project, steepest


@dataclass
class FreeAT(BoundedAdversary):
    """Free adversarial training, Shafahi et al. 2019 alg. 1.

    The loader must serve every batch K times in a row (its `replays` option)::

        δ_0 = 0,   δ_{t+1} = Π_{‖δ‖ ≤ ε}(δ_t + α · g_t/‖g_t‖),   g_t = ∇_δ L(f(X + δ_t), y)

    Optimiser step t trains on L(f(X + δ_t), y), and its one backward pass also yields g_t. δ is reset to 0 when other
    rows come (`Problem.seeds` shows this) and after K replays. The paper instead keeps δ for the next images, but δ
    does not fit texts of other lengths. Step 0 of each K is a clean one. With accumulated batches, the weights change
    only after the last of them, so replays within one accumulation use the same weights. A checkpoint stores the
    perturbation of the process that writes it: other ranks resume an unfinished round of replays at δ = 0. A row
    whose gradient is not finite keeps its δ for that step. β is not used.

    The paper uses `norm: linf`. Cost with LoRA, plain tuning = 1: 1 (one forward and one backward pass), but an
    epoch takes K times the steps.
    """

    default_epsilon: ClassVar[float] = 0.3

    alpha: float | None = None
    """Length of one ascent step, in the unit and norm of epsilon; null: equal to epsilon."""
    replays: int = 3
    """K: the perturbation is reset after this many consecutive steps on the same rows. Must equal the loader's."""

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        self.check_step("alpha")
        self.check("replays", self.replays >= 2, "an integer ≥ 2: a row seen once is never perturbed")
        self._state: dict[str, Tensor] = {}
        self._count = 0

    @property
    def shares_backward(self) -> bool:
        """See `Adversary.shares_backward`."""
        return True

    def attack(self, problem: Problem) -> Outcome:
        """Train at the perturbation that earlier replays have reached, and update it for the next one."""
        unit = self.length(problem)
        delta, count = self._resume(problem)
        gradient, rows = shared_backward(problem, delta)
        gradient, broken = drop_nonfinite(gradient)
        step = unit * (self.radius if self.alpha is None else self.alpha)
        moved = project(delta + step * steepest(gradient, self.norm), self.norm, self.radius * unit)
        if torch.is_grad_enabled():  # an attack in evaluation must not change the state of the replays
            self._state, self._count = {"delta": moved, "seeds": problem.seeds}, count + 1
        logs = measure(problem, self.length(problem, "row"), delta, gradient, broken, rows)
        return Outcome(rows, None, delta, logs)

    def _resume(self, problem: Problem) -> tuple[Tensor, int]:
        """The perturbation for these rows, and how often they were seen before."""
        embeds, state = problem.embeds, self._state
        if (
            state
            and self._count < self.replays
            and torch.equal(state["seeds"], problem.seeds)  # both are on the CPU
            and state["delta"].shape == embeds.shape  # another shape means another padding, so another batch
        ):
            return state["delta"].to(embeds.device), self._count
        return no_perturbation(problem), 0

    def state_dict(self) -> dict[str, Tensor]:
        """The perturbation, the rows it belongs to, and how often they were seen."""
        count = {"count": torch.tensor(self._count)} if self._state else {}
        return {name: value.clone() for name, value in self._state.items()} | count

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore a state from `state_dict`.

        Raises:
            ValueError: If the state belongs to another adversary.
        """
        if state and set(state) != {"delta", "seeds", "count"}:
            raise ValueError(
                f"FreeAT has state count, delta and seeds, but the checkpoint holds {sorted(state)}: resume "
                "with the adversary of that training"
            )
        self._state = {name: value.clone() for name, value in state.items() if name != "count"}
        if self._state:
            self._state["seeds"] = self._state["seeds"].cpu()
            self._count = int(state["count"])

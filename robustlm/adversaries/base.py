"""The interface of an adversary: it receives embeddings and a loss, and returns the losses to train on.

An adversary uses tensors and a callable, never a model class. It computes gradients only with
`torch.autograd.grad`, so it changes no `.grad`, and the training step stays one summed loss with one backward pass.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor

from robustlm.adversaries.geometry import Norm, size, working_dtype

Unit = Literal["embedding", "absolute"]
"""Unit of lengths: `embedding`, the mean norm of the model's token embeddings, or `absolute`, raw coordinates."""


@dataclass
class Problem:
    """The input of an adversary: one view of a batch, with R rows of T positions and hidden size H."""

    embeds: Tensor
    """Input embeddings `[R, T, H]`; part of the graph if the embedding table itself is trained."""
    mask: Tensor
    """Bool `[R, T]`: the positions that may be perturbed. Never padding, special tokens or answers."""
    loss: Callable[[Tensor], Tensor]
    """Maps embeddings `[R, T, H]` to the loss of each row `[R]` (fp32), in a new graph for each call.

    Rows are independent, and every call uses the same dropout masks. Weights of rows must be applied in here; see
    `Outcome`.
    """
    beta: Tensor
    """Semantic distortion of each row in [0, 1], `[R]` (fp32); 0 for rows without noise."""
    seeds: Tensor
    """Int64 `[R]`, on the CPU: seeds of the random draws for each row, so that draws do not depend on batching."""
    scale: Tensor
    """Scalar (fp32): mean norm of the model's token embeddings, in the space of `embeds`; unit of
    `epsilon`."""
    parameters: Sequence[Tensor] = ()
    """Every trained tensor that `loss` depends on, for adversaries that also compute the weights' gradients.

    A missing tensor would get no gradient from those adversaries, without an error. The embedding table can be left out
    if only `embeds` depends on it, because `embeds` has its own graph.
    """
    loss_scale: float = 1.0
    """Factor on the loss for an ascent gradient, which is then divided by it.

    Under fp16, use the `GradScaler`'s scale; without it, gradients would underflow.
    """
    held: bool = False
    """Whether other losses of the step use the graph of `clean_loss()`, and `embeds` requires a gradient.

    The gradient at the embeddings then comes from that graph, which is kept, and no pass runs twice. An early backward
    pass for the weights would then free nothing, and would need another forward pass.
    """
    clean: Callable[[], Tensor] | None = None
    """Returns `loss(embeds)` from a pass that the caller shares with other losses; null: no pass is shared."""
    release: Callable[[], None] | None = None
    """Runs the backward pass of all losses that use a held clean pass, and lets its graph go; null: it is kept.

    An adversary may call it once, after it has taken what it needs from that graph. The caller then trains on the clean
    term; the adversary returns its values without a graph.
    """

    def clean_loss(self) -> Tensor:
        """Row losses `[R]` without perturbation, in the graph of `embeds`; from the caller's shared pass if it exists.

        Use this method for the clean pass: `loss(embeds)` gives the same numbers, but runs another pass.
        """
        return self.loss(self.embeds) if self.clean is None else self.clean()


@dataclass
class Outcome:
    """The result of an adversary.

    The row losses of `clean` and of `adversarial` must be added to the total loss as plain sums, with one common factor
    (`rows.sum()`, `rows.mean()`, `weight * rows.sum() / tokens`), because some adversaries have stored the gradient of
    the sum. Other uses raise an error in the backward pass.
    """

    adversarial: Tensor
    """Row losses `[R]` under perturbation, differentiable with respect to the weights."""
    clean: Tensor | None = None
    """Row losses `[R]` without perturbation, differentiable; `None` if the method has no clean term."""
    delta: Tensor | None = None
    """The final perturbation `[R, T, H]` (fp32, detached): for tests and for logging."""
    logs: dict[str, Tensor] = field(default_factory=dict)
    """Scalars to log, by name without prefix (`loss_gap`, `clipped_share`, …), detached."""


class Adversary(ABC):
    """A strategy that perturbs the input embeddings.

    Subclasses are dataclasses of plain numbers and strings, with a docstring under each field. So YAML, `--help`,
    checkpoints and Python all use the same settings.
    """

    @property
    def shares_backward(self) -> bool:
        """Whether it takes the weights' gradients itself (`shared_backward`, `clean_gradient`).

        This does not work if weights are divided among devices. An adversary that uses these functions overrides it.
        """
        return False

    @abstractmethod
    def attack(self, problem: Problem) -> Outcome:
        """Perturb, and return the losses to be trained on.

        It also works under `torch.no_grad()`, for evaluation, and then does not change its state. It does not work
        under `torch.inference_mode()`, where no gradients exist.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """Everything that the next step depends on, except the fields; empty for stateless adversaries."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore a state from `state_dict`.

        Raises:
            ValueError: If the state belongs to another adversary.
        """
        if state:
            raise ValueError(f"{type(self).__name__} has no state, but the checkpoint holds {sorted(state)}")

    def check(self, name: str, ok: bool, expected: str) -> None:
        """Raise a `ValueError` that names the field, the value found and what was expected, unless `ok`."""
        if not ok:
            raise ValueError(f"{type(self).__name__}: {name} is {getattr(self, name)!r}; expected {expected}")


def embedding_unit(problem: Problem, unit: Unit) -> Tensor:
    """The length that `unit` names: a scalar on the embeddings' device, in the dtype of perturbations."""
    scale = problem.scale.to(problem.embeds.device, working_dtype(problem.embeds))
    return scale if unit == "embedding" else torch.ones_like(scale)


@dataclass
class BoundedAdversary(Adversary):
    """An adversary whose perturbation stays in a ball, `‖δ‖ ≤ epsilon`."""

    default_epsilon: ClassVar[float] = 1.0

    epsilon: float | None = None
    """Radius of the ball; null: the method's default (NRM 1; FGM, PGD, FreeLB and FreeAT 0.3; FGSM 0.03). With norm
    `row`, it bounds the Frobenius norm of a row's whole perturbation, whatever the length of the row: at 1, one token
    may move by the length of an average embedding, or n tokens by 1/√n of that length each."""
    norm: Norm = "row"
    """What the radius bounds and the step normalises: `row`: the perturbation of a whole row; `token`: of each token;
    `linf`: each coordinate; `batch`: all rows together, so that a row's perturbation depends on the other rows."""
    unit: Unit = "embedding"
    """Unit of lengths: `embedding`: the mean norm of the model's token embeddings (for `linf`, that norm / √hidden, a
    typical coordinate); `absolute`: the raw embedding coordinates."""

    def __post_init__(self) -> None:
        """Check the fields."""
        self.check("epsilon", 0 <= self.radius < math.inf, "a finite number ≥ 0, or null")
        self.check("norm", self.norm in get_args(Norm), f"one of {', '.join(get_args(Norm))}")
        self.check("unit", self.unit in get_args(Unit), f"one of {', '.join(get_args(Unit))}")

    @property
    def radius(self) -> float:
        """Epsilon, or the method's default if epsilon is null."""
        return self.default_epsilon if self.epsilon is None else self.epsilon

    def check_step(self, name: str) -> None:
        """Check an optional step length."""
        value = getattr(self, name)
        self.check(name, value is None or 0 <= value < math.inf, "a finite number ≥ 0, or null")

    def length(self, problem: Problem, norm: Norm | None = None) -> Tensor:
        """The unit of `epsilon`, as a scalar in raw coordinates; `norm`, if given, replaces the field `norm`."""
        unit = embedding_unit(problem, self.unit)
        per_coordinate = (norm or self.norm) == "linf" and self.unit == "embedding"
        return unit / math.sqrt(problem.embeds.shape[2]) if per_coordinate else unit


def row_mean(problem: Problem, values: Tensor) -> Tensor:
    """Mean of `[R]` over the rows that have a position to perturb; 0 if none has."""
    active = problem.mask.any(1)
    return (values * active).sum() / active.sum().clamp_min(1)


def measure(
    problem: Problem,
    unit: Tensor,
    delta: Tensor,
    gradient: Tensor,
    broken: Tensor,
    adversarial: Tensor,
    clean: Tensor | None = None,
) -> dict[str, Tensor]:
    """The values that every gradient-based adversary logs.

    Args:
        problem: The view that was attacked.
        unit: Unit of `delta_norm`, a scalar.
        delta: The final perturbation `[R, T, H]`.
        gradient: The last ascent gradient `[R, T, H]`, zero in the broken rows.
        broken: Bool `[R]`: rows whose gradient was not finite.
        adversarial: Row losses under perturbation `[R]`.
        clean: Row losses without perturbation `[R]`, if the method has them.

    Returns:
        `delta_norm` and `gradient_norm` (Frobenius, mean over rows), `nonfinite_rows` (a count), and
        `loss_gap`, the mean over rows of L(X+δ) − L(X), if the clean losses are known.
    """
    logs = {
        "delta_norm": row_mean(problem, size(delta, "row").flatten()) / unit,
        "gradient_norm": row_mean(problem, size(gradient, "row").flatten()),
        "nonfinite_rows": broken.sum(),
    }
    if clean is not None:
        logs["loss_gap"] = (adversarial - clean).detach().mean()
    return logs

"""The contract of an adversary: it is given embeddings and a loss, and gives back the losses to train on.

An adversary knows tensors and a callable, never a model class. It takes gradients with `torch.autograd.grad`
alone, so no `.grad` is touched and the training step stays one summed loss with one backward.
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
"""What 1 means in a length: the mean norm of the model's token embeddings, or raw coordinates."""


@dataclass
class Problem:
    """What an adversary works on: one view of a batch, with R rows of T positions and hidden size H."""

    embeds: Tensor
    """Input embeddings `[R, T, H]`; part of the graph where the embedding table itself is trained."""
    mask: Tensor
    """Bool `[R, T]`: the positions that may be perturbed. Never padding, special tokens or answers."""
    loss: Callable[[Tensor], Tensor]
    """Maps embeddings `[R, T, H]` to the loss of each row `[R]` (fp32), through a graph of its own.

    Rows are independent, and every call replays the same dropout masks. A row that shall weigh more than
    others is weighted in here: see `Outcome`.
    """
    beta: Tensor
    """Semantic distortion of each row in [0, 1], `[R]` (fp32); 0 for rows that are not noisy."""
    seeds: Tensor
    """Int64 `[R]`, on the CPU: what random draws for a row must depend on, so that they do not depend on
    batching."""
    scale: Tensor
    """Scalar (fp32): mean norm of the model's token embeddings, in the space of `embeds`; unit of
    `epsilon`."""
    parameters: Sequence[Tensor] = ()
    """Every trained tensor that `loss` depends on, for adversaries whose ascent gradient also serves the
    weights.

    One that is missing here would silently get no gradient from those adversaries. The embedding table need
    not be here for the sake of `embeds`, which carries its own graph.
    """
    loss_scale: float = 1.0
    """Factor on the loss while an ascent gradient is taken, and divided out again.

    Give the `GradScaler`'s scale under fp16, where gradients would underflow without it.
    """
    held: bool = False
    """Whether other losses of the step hold the graph of `clean_loss()`, and `embeds` requires a gradient.

    The gradient at the embeddings is then taken from that graph, which stays, and no pass is run twice. A
    backward pass for the weights that is done early would free nothing, and need a pass of its own.
    """
    clean: Callable[[], Tensor] | None = None
    """Gives `loss(embeds)` from a pass that the caller shares with other losses; null: there is no such pass."""

    def clean_loss(self) -> Tensor:
        """Row losses `[R]` without perturbation, in the graph of `embeds`; the pass is shared where the caller has one.

        Ask for the clean pass by this name: `loss(embeds)` gives the same numbers by a pass of its own.
        """
        return self.loss(self.embeds) if self.clean is None else self.clean()


@dataclass
class Outcome:
    """What an adversary gives back.

    The row losses of `clean`, and those of `adversarial`, must enter the total by plain summation with one
    common factor (`rows.sum()`, `rows.mean()`, `weight * rows.sum() / tokens`): some adversaries have stored
    the gradient of the sum. Anything else raises in the backward pass.
    """

    adversarial: Tensor
    """Row losses `[R]` under perturbation, differentiable with respect to the weights."""
    clean: Tensor | None = None
    """Row losses `[R]` without perturbation, differentiable; `None` where the method has no clean term."""
    delta: Tensor | None = None
    """The final perturbation `[R, T, H]` (fp32, detached): for tests and for logging."""
    logs: dict[str, Tensor] = field(default_factory=dict)
    """Scalars worth a curve, without prefix (`loss_gap`, `clipped_share`, …), detached."""


class Adversary(ABC):
    """A perturbation strategy of the input embeddings.

    Subclasses are dataclasses of plain numbers and strings with a docstring under each field, so that YAML,
    `--help`, checkpoints and Python agree.
    """

    @abstractmethod
    def attack(self, problem: Problem) -> Outcome:
        """Perturb, and return the losses to be trained on.

        Under `torch.no_grad()` it attacks as well, for evaluation, and leaves its state alone; under
        `torch.inference_mode()` no gradient can be taken.
        """

    def state_dict(self) -> dict[str, Tensor]:
        """Everything besides the fields that the next step depends on; empty for stateless adversaries."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave.

        Raises:
            ValueError: If the checkpoint's adversary was another one.
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
    """Radius of the ball; null: the method's own (NRM 1; FGM, PGD, FreeLB and FreeAT 0.3; FGSM 0.03). With norm
    `row`, the Frobenius norm of a row's whole perturbation, however long the row: 1 lets one token move by the
    length of an average embedding, or n tokens by 1/√n of it each."""
    norm: Norm = "row"
    """What the radius bounds and the step normalises: `row` the perturbation of a whole row, `token` that of
    each token, `linf` each coordinate, `batch` all rows together (then a row's perturbation depends on its
    neighbours)."""
    unit: Unit = "embedding"
    """What 1 means in lengths: `embedding` the mean norm of the model's token embeddings (for
    `linf` that norm / √hidden, a typical coordinate), `absolute` the raw embedding coordinates."""

    def __post_init__(self) -> None:
        """Check the fields."""
        self.check("epsilon", 0 <= self.radius < math.inf, "a finite number ≥ 0, or null")
        self.check("norm", self.norm in get_args(Norm), f"one of {', '.join(get_args(Norm))}")
        self.check("unit", self.unit in get_args(Unit), f"one of {', '.join(get_args(Unit))}")

    @property
    def radius(self) -> float:
        """Epsilon, or the method's own where none is given."""
        return self.default_epsilon if self.epsilon is None else self.epsilon

    def check_step(self, name: str) -> None:
        """Check an optional step length."""
        value = getattr(self, name)
        self.check(name, value is None or 0 <= value < math.inf, "a finite number ≥ 0, or null")

    def length(self, problem: Problem, norm: Norm | None = None) -> Tensor:
        """What 1 means in `epsilon`, as a scalar in raw coordinates; `norm` replaces the field's."""
        unit = embedding_unit(problem, self.unit)
        per_coordinate = (norm or self.norm) == "linf" and self.unit == "embedding"
        return unit / math.sqrt(problem.embeds.shape[2]) if per_coordinate else unit


def row_mean(problem: Problem, values: Tensor) -> Tensor:
    """Mean of `[R]` over the rows that have a position to perturb; 0 where none has."""
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
    """What every adversary that climbs a gradient logs.

    Args:
        problem: What was attacked.
        unit: Length that `delta_norm` is expressed in, a scalar.
        delta: The final perturbation `[R, T, H]`.
        gradient: The last ascent gradient `[R, T, H]`, zero in the broken rows.
        broken: Bool `[R]`: rows whose gradient was not finite.
        adversarial: Row losses under perturbation `[R]`.
        clean: Row losses without it `[R]`, where the method has them.

    Returns:
        `delta_norm` and `gradient_norm` (Frobenius, mean over rows), `nonfinite_rows` (a count), and
        `loss_gap`, the mean over rows of L(X+δ) − L(X), where the clean losses are known.
    """
    logs = {
        "delta_norm": row_mean(problem, size(delta, "row").flatten()) / unit,
        "gradient_norm": row_mean(problem, size(gradient, "row").flatten()),
        "nonfinite_rows": broken.sum(),
    }
    if clean is not None:
        logs["loss_gap"] = (adversarial - clean).detach().mean()
    return logs

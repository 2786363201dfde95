"""The contract of an adversary: it is given embeddings and a loss, and gives back the losses to train on.

An adversary knows tensors and a callable, never a model class. It takes gradients with `torch.autograd.grad` alone, so no
`.grad` is touched and the training step stays one summed loss with one backward.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Problem:
    """What an adversary works on: one view of a batch, with R rows of T positions and hidden size H."""

    embeds: Tensor
    """Input embeddings `[R, T, H]`; part of the graph where the embedding table itself is trained."""
    mask: Tensor
    """Bool `[R, T]`: the positions that may be perturbed. Never padding, special tokens or answers."""
    loss: Callable[[Tensor], Tensor]
    """Maps embeddings `[R, T, H]` to the loss of each row `[R]` (fp32).

    Rows are independent, and every call replays the same dropout masks.
    """
    beta: Tensor
    """Semantic distortion of each row in [0, 1], `[R]` (fp32); 0 for rows that are not noisy."""
    seeds: Tensor
    """Int64 `[R]`, on the CPU: what random draws for a row must depend on, so that they do not depend on batching."""
    scale: Tensor
    """Scalar (fp32): mean norm of the model's token embeddings, the unit of `epsilon`."""
    parameters: Sequence[Tensor] = ()
    """The trained tensors, for adversaries whose ascent gradient also serves the weights."""


@dataclass
class Outcome:
    """What an adversary gives back."""

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

    Subclasses are dataclasses of plain numbers and strings with a docstring under each field, so that YAML, `--help`,
    checkpoints and Python agree.
    """

    @abstractmethod
    def attack(self, problem: Problem) -> Outcome:
        """Perturb, and return the losses to be trained on."""

    def state_dict(self) -> dict[str, Tensor]:
        """Everything besides the fields that the next step depends on; empty for stateless adversaries."""
        return {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore what `state_dict` gave."""
        if state:
            raise ValueError(f"{type(self).__name__} has no state, but the checkpoint holds {sorted(state)}")


def shared_backward(rows: Tensor, delta: Tensor, parameters: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """One backward pass that serves the perturbation and the weights.

    Args:
        rows: Row losses `[R]`, function of `delta` and of `parameters`.
        delta: The perturbation, a leaf that requires grad.
        parameters: The trained tensors.

    Returns:
        The gradient of `rows.sum()` for `delta`, and row losses `[R]` of the same values whose gradient for
        `parameters` is the one just computed. The graph of `rows` is freed. Rows must enter the total loss by plain
        summation with one common factor, since the gradient is stored for the sum.
    """
    trained = [p for p in parameters if p.requires_grad]
    found = torch.autograd.grad(rows.sum(), [delta, *trained], allow_unused=True)
    gradient = found[0] if found[0] is not None else torch.zeros_like(delta)
    kept = [(p, g) for p, g in zip(trained, found[1:], strict=True) if g is not None]
    if not kept:
        return gradient, rows.detach()
    injected = _Inject.apply(rows.detach(), len(kept), *(p for p, _ in kept), *(g for _, g in kept))
    assert isinstance(injected, Tensor)
    return gradient, injected


class _Inject(torch.autograd.Function):
    """Identity on its first argument; hands stored gradients to the parameters, times the incoming one."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, rows: Tensor, count: int, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors[count:])
        ctx.count = count  # type: ignore[attr-defined]
        return rows.clone()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        factor = grads[0].mean()
        stored = ctx.saved_tensors  # type: ignore[attr-defined]
        count: int = ctx.count  # type: ignore[attr-defined]
        return (None, None, *(factor.to(g.dtype) * g for g in stored), *([None] * count))

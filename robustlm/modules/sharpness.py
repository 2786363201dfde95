"""SAM: losses at the worst weights nearby. Foret et al., ICLR 2021."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from robustlm.checks.numbers import check_number
from robustlm.modules.settled import settled

_TINY = 1e-12
"""Smallest gradient norm used as a divisor, so that a zero gradient gives a zero step and not NaN."""


@dataclass
class SAM:
    """Trains on the losses at w + e, where e climbs the loss from the weights w (eqs. 2 and 3 of the paper).

    With g the gradient of the step's weighted loss at w, over all trained weights together (with LoRA: the adapter)::

        e = rho · g / ‖g‖₂,   and the optimiser steps from w with the gradient taken at w + e

    Each micro-batch and each process climbs by its own gradient, as in the paper's parallel form. Losses are logged at
    w + e, and `sam/gap` is how much higher their weighted sum is than at w. Both points use the same dropout masks.
    It does not combine with an adversary, whose perturbation would belong to other weights.
    Cost with LoRA, plain tuning = 1: 2.0, and memory for two more copies of the trained weights.
    """

    rho: float = 0.05
    """Length of e, in the units of the weights; the paper's default."""

    def __post_init__(self) -> None:
        check_number("sam.rho", self.rho, least=0)

    def losses(
        self,
        compute: Callable[[], dict[str, Tensor]],
        weights: Mapping[str, float],
        trained: Sequence[Tensor],
        scale: float = 1.0,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The losses at w + e, whose gradient is already taken and passed on in the step's own backward pass.

        Args:
            compute: Runs the step's passes and returns its named losses, in a new graph at each call.
            weights: Factor of each loss; a missing one counts as 1.
            trained: Every trained tensor that the losses depend on.
            scale: Factor on the losses in backward passes, for fp16 gradients.

        Returns:
            The losses, and the rise of their weighted sum from w to w + e. If g is not finite, the losses are NaN, so
            that the step is skipped. The weights are w again afterwards.
        """
        own = list({id(one): one for one in trained if one.requires_grad}.values())
        before = _total(compute(), weights)
        found = torch.autograd.grad(before * scale, own, allow_unused=True)
        with _moved(own, found, self.rho):
            losses = compute()
            after = _total(losses, weights).detach()
            return settled(losses, weights, own, scale), after - before.detach()


def _total(losses: Mapping[str, Tensor], weights: Mapping[str, float]) -> Tensor:
    return torch.stack([weights.get(name, 1.0) * one for name, one in losses.items()]).sum()


@contextmanager
def _moved(weights: Sequence[Tensor], gradients: Sequence[Tensor | None], length: float) -> Iterator[None]:
    """Move weights by `length` along their gradients inside this context; afterwards they have their old values."""
    kept = [one.detach().clone() for one in weights]
    norms = [torch.linalg.vector_norm(one.double()) for one in gradients if one is not None]
    factor = length / torch.linalg.vector_norm(torch.stack(norms)).clamp_min(_TINY)
    try:
        for one, gradient in zip(weights, gradients, strict=True):
            if gradient is not None:
                one.data.add_((gradient * factor).to(one.dtype))
        yield
    finally:
        for one, value in zip(weights, kept, strict=True):
            one.data.copy_(value)

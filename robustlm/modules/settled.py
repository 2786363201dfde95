"""Losses whose backward pass is done early, so that their graph is freed before other passes of the step run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def settled(
    losses: Mapping[str, Tensor], weights: Mapping[str, float], trained: Sequence[Tensor], scale: float = 1.0
) -> dict[str, Tensor]:
    """Run the backward pass of some losses of a step now, for the trained tensors.

    The losses are returned as leaves of a new, small graph that stores one gradient per trained tensor: that of their
    weighted sum. In the step's own backward pass, it is multiplied by the incoming factor and passed on. So hooks of
    parameters (including DDP's) run once, in that backward pass. The old graph is not freed here, but as soon as
    nothing refers to it.

    Args:
        losses: Scalars by name.
        weights: The factor with which each of them enters the loss of the step; a missing one counts as 1.
        trained: Every trained tensor that the losses depend on; another one would get no gradient.
        scale: Factor on the losses in this backward pass, for fp16 gradients.

    Returns:
        The losses, in the same order. Each must enter the loss of the step with its weight, times one common factor.

    Raises:
        RuntimeError: In the step's backward pass, if they enter it otherwise.
    """
    factors = [weights.get(name, 1.0) for name in losses]
    total = torch.stack([factor * one for factor, one in zip(factors, losses.values(), strict=True)]).sum()
    own = list({id(one): one for one in trained if one.requires_grad}.values())
    found = torch.autograd.grad(total * scale, own, retain_graph=True, allow_unused=True)
    kept = [(one, gradient) for one, gradient in zip(own, found, strict=True) if gradient is not None]
    if not kept:
        raise ValueError("the losses of this step reach none of the trained tensors, so nothing would be learned")
    targets, stored = zip(*kept, strict=True)
    values = torch.stack([one.detach() for one in losses.values()])
    injected: Tensor = _Injected.apply(values, factors, scale, len(kept), *targets, *stored)  # type: ignore[no-untyped-call]
    return dict(zip(losses, injected.unbind(), strict=True))


class _Injected(torch.autograd.Function):
    """Identity on some losses `[k]`. Backward passes on the stored gradients of their weighted sum."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        values: Tensor,
        factors: Sequence[float],
        scale: float,
        count: int,
        *tensors: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(*tensors[count:])
        ctx.factors, ctx.scale = factors, scale  # type: ignore[attr-defined]
        return values.clone()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (incoming,) = grads
        factors: Sequence[float] = ctx.factors  # type: ignore[attr-defined]
        largest = max(range(len(factors)), key=lambda at: abs(factors[at]))
        common = incoming[largest] / (factors[largest] or 1.0)
        for factor, one in zip(factors, incoming.unbind(), strict=True):
            # an overflowing loss scale arrives as inf or NaN: it is let through, since the GradScaler must see it
            apart = (one - factor * common).abs() > 1e-4 * incoming[largest].abs()
            torch._assert_async(
                ~apart,
                "losses whose backward pass is already done must enter the total with the weights of `self.weights`; "
                "change these, and not what `losses` returns, or set low_memory to false",
            )
        stored = ctx.saved_tensors  # type: ignore[attr-defined]
        shared = common / ctx.scale  # type: ignore[attr-defined]
        passed = (shared.to(one.dtype) * one for one in stored)
        return (None, None, None, None, *passed, *([None] * len(stored)))

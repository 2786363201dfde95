"""Gradients with respect to perturbed embeddings, and backward passes that also serve the weights."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from robustlm.adversaries.base import Problem
from robustlm.adversaries.geometry import perturb, working_dtype


def row_losses(problem: Problem, embeds: Tensor) -> Tensor:
    """`problem.loss(embeds)`. Raises `ValueError` unless it is one number per row."""
    return _one_a_row(problem, problem.loss(embeds))


def clean_row_losses(problem: Problem) -> Tensor:
    """`problem.clean_loss()`. Raises `ValueError` unless it is one number per row."""
    return _one_a_row(problem, problem.clean_loss())


def _one_a_row(problem: Problem, rows: Tensor) -> Tensor:
    if rows.shape != problem.embeds.shape[:1]:
        raise ValueError(
            f"Problem.loss gave shape {tuple(rows.shape)} for {problem.embeds.shape[0]} rows; expected one loss "
            "for each row, without a sum or mean over the batch"
        )
    return rows


def ascent_gradient(problem: Problem, delta: Tensor) -> Tensor:
    """∇_δ Σ_rows L(f(X + δ), y), `[R, T, H]`, zero outside the mask; the weights get no gradient from this pass.

    Reentrant `torch.utils.checkpoint` (`use_reentrant=True`) raises here, since it does not support
    `torch.autograd.grad`.
    """
    shift = delta.detach().requires_grad_()
    with torch.enable_grad():  # attacks also run in validation, which is under no_grad
        rows = row_losses(problem, perturb(problem.embeds.detach(), shift))
        (gradient,) = torch.autograd.grad(rows.sum() * problem.loss_scale, [shift])
    return masked(problem, gradient / problem.loss_scale)


def clean_losses(problem: Problem, low_memory: bool) -> Tensor:
    """Row losses `[R]` at the embeddings; with `low_memory`, their backward pass runs immediately.

    If other losses use the clean pass, theirs runs with it, where the caller offers that (`Problem.release`).
    """
    if not low_memory:
        return clean_row_losses(problem)
    if problem.held:
        return _released(problem, clean_row_losses(problem))
    return shared_backward(problem, no_perturbation(problem))[1]


def _released(problem: Problem, rows: Tensor) -> Tensor:
    """Values of the clean row losses, after the graph of the clean pass was let go, if the caller offers that."""
    if problem.release is None or not torch.is_grad_enabled():
        return rows
    problem.release()
    return rows.detach()


def clean_gradient(problem: Problem) -> tuple[Tensor, Tensor]:
    """Gradient of the summed row losses at the embeddings, `[R, T, H]`, zero outside the mask; and the losses `[R]`.

    This takes one forward and one backward pass, which also serve the weights (`shared_backward`). If other losses use
    that forward pass (`problem.held`), one more backward pass through it yields only this gradient; the caller may then
    run theirs at once (`Problem.release`).
    """
    if not problem.held:
        return shared_backward(problem, no_perturbation(problem))
    with torch.enable_grad():
        rows = clean_row_losses(problem)
        (gradient,) = torch.autograd.grad(rows.sum() * problem.loss_scale, [problem.embeds], retain_graph=True)
    return masked(problem, gradient.to(working_dtype(gradient)) / problem.loss_scale), _released(problem, rows)


def no_perturbation(problem: Problem) -> Tensor:
    """δ = 0, `[R, T, H]`."""
    return torch.zeros_like(problem.embeds, dtype=working_dtype(problem.embeds))


def shared_backward(problem: Problem, delta: Tensor, share: float = 1.0) -> tuple[Tensor, Tensor]:
    """One forward and one backward pass that serve both perturbation and weights; their graph is then freed.

    Args:
        problem: The view to attack; `parameters` must contain every trained tensor.
        delta: The perturbation `[R, T, H]`.
        share: A factor on the returned row losses and on the weights' gradients.

    Returns:
        The gradient of the summed row losses for `delta` (`[R, T, H]`, zero outside the mask), and the row
        losses `[R]`, times `share`. The row losses are leaves of a new, small graph that stores the weights'
        gradients. In the backward pass of the training step, these gradients are multiplied by the incoming
        factor and passed on to the weights. So hooks of parameters (including DDP's) run once, in that backward
        pass, and accumulation and gradient scaling work as usual. One gradient per trained tensor is stored.
        Sharded parameters (FSDP2) are refused, because `torch.autograd.grad` does not see their shards.

    Raises:
        ValueError: If the loss depends on no trained tensor, so that nothing would be learned from it; or if a trained
            tensor is divided among devices.
        RuntimeError: In the backward pass, if the rows do not all have one common factor. With reentrant checkpointing,
            already in this function.
    """
    embeds = problem.embeds
    shift = delta.detach().requires_grad_()
    trained = list({id(p): p for p in problem.parameters if p.requires_grad}.values())
    if any(isinstance(p, DTensor) for p in trained):
        raise ValueError(
            "shared_backward: found trained weights that are divided among devices (FSDP2), whose gradients it cannot "
            "take; expected trainer.strategy ddp, or an adversary that leaves them to the step's own backward pass"
        )
    with torch.enable_grad():
        rows = row_losses(problem, perturb(embeds.detach(), shift))
        total = rows.sum() * problem.loss_scale
        gradient, *found = torch.autograd.grad(total, [shift, *trained], allow_unused=True)
    if gradient is None:
        raise ValueError("Problem.loss does not depend on the embeddings it is given")
    kept = [(p, g) for p, g in zip(trained, found, strict=True) if g is not None]
    if embeds.requires_grad:
        # d/dδ equals d/dX: pass it on to a trained embedding table, whose graph other passes still use
        kept.append((embeds, gradient.to(embeds.dtype)))
    if not kept:
        raise ValueError(
            f"Problem.loss reaches none of the {len(trained)} trained tensors in Problem.parameters, so the "
            "gradient shared with the weights would be lost; expected all trained tensors there"
        )
    targets, stored = zip(*kept, strict=True)
    injected: Tensor = _Inject.apply(  # type: ignore[no-untyped-call]
        rows.detach() * share, share / problem.loss_scale, len(kept), *targets, *stored
    )
    return masked(problem, gradient / problem.loss_scale), injected


def masked(problem: Problem, gradient: Tensor) -> Tensor:
    """The gradient `[R, T, H]`, zero at positions that must not be perturbed."""
    return gradient.masked_fill(~problem.mask[:, :, None], 0)


def _check_common(factors: Tensor) -> None:
    """Raise `RuntimeError` unless all factors `[R]` are equal; on a GPU, the host waits for them."""
    low, high = factors.aminmax()
    # an overflowing loss scale arrives as inf or NaN: it is let through, since the GradScaler must see it
    if bool(high - low > 1e-5 * factors.abs().amax()):
        raise RuntimeError(
            "row losses whose backward pass is already done must enter the total with one common factor, "
            f"but factors from {low.item():.6g} to {high.item():.6g} arrived; weight rows inside "
            "Problem.loss instead"
        )


class _Inject(torch.autograd.Function):
    """Identity on its first argument. Backward passes on the stored gradients, times the incoming factor."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx, rows: Tensor, factor: float, count: int, *tensors: Tensor
    ) -> Tensor:
        ctx.save_for_backward(*tensors[count:])
        ctx.factor = factor  # type: ignore[attr-defined]
        return rows.clone()

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (incoming,) = grads
        if incoming.stride() != (0,):  # the gradient of a plain sum is one number, repeated: nothing to compare
            _check_common(incoming)
        factor = incoming[0] * ctx.factor  # type: ignore[attr-defined]
        stored = ctx.saved_tensors  # type: ignore[attr-defined]
        return (None, None, None, *(factor.to(g.dtype) * g for g in stored), *([None] * len(stored)))

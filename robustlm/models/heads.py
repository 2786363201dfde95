"""Logits that a head computes when they are asked for, and in chunks where they are many.

The n × V logits of the answer tokens are often the largest tensor of a step, and losses make several tensors of the
same size from them. So a pass keeps the n states that the head reads, `[n, H]`, and a loss of each token is computed
for some of the states at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from robustlm.losses import Take

log = logging.getLogger(__name__)

ChunkLogits = int | Literal["auto"] | None
"""Most logits that a loss computes at once; `auto`: see `chunk_length`; null: all of them."""

FEWEST = 2**20
"""Fewest logits of a chunk under `auto`, 4 MiB in fp32: below this, a chunk saves no memory worth the extra calls."""

ROOM = 2**23
"""Most numbers of all tensors as large as a chunk of logits, under `auto` and for a loss that overwrites its logits:
32 MiB in fp32. A matrix product with few tokens reads all weights of the head for little work: on a CPU, 32 tokens at a
time take twice the time of 192."""

_HALF_SCALE = 1024.0
"""Scale of the loss while gradients are in fp16, which would lose those of unlikely words otherwise."""


class LateLogits:
    """Logits `[n, V]` that are not computed yet: the states that the head reads, and the head.

    Args:
        head: Maps states `[m, H]` to logits `[m, V]`, each row on its own.
        states: `[n, H]`.
        words: V.
        values: Number of all hidden values in the pass that the states are from, R · T · H.
        trained: Whether the head has a trained weight.
        linear: Whether the head is a linear layer. Its gradient does not need its logits, so they may be overwritten.
    """

    def __init__(
        self,
        head: Callable[[Tensor], Tensor],
        states: Tensor,
        *,
        words: int,
        values: int,
        trained: bool,
        linear: bool = False,
    ) -> None:
        self.head = head
        self.states = states
        self.words = words
        self.values = values
        self.trained = trained
        self.linear = linear
        kind = states.device.type
        self.autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        self.graph = torch.is_grad_enabled()

    def whole(self) -> Tensor:
        """All logits `[n, V]`, with a gradient exactly if the pass was run with one."""
        with torch.set_grad_enabled(self.graph):
            return self.of(self.states)

    def of(self, states: Tensor) -> Tensor:
        """Logits `[m, V]` of states `[m, H]`, under the autocast of the pass; no gradient if the pass has none."""
        kind, dtype, enabled = self.autocast
        with torch.set_grad_enabled(self.graph and torch.is_grad_enabled()), torch.autocast(kind, dtype, enabled):
            return self.head(states)

    def take(self, places: Tensor) -> LateLogits:
        """The logits at some of the n places (int64 `[m]`)."""
        return self.at(self.states.index_select(0, places), self.values)

    def at(self, states: Tensor, values: int) -> LateLogits:
        """The logits of other states of the same head, in a pass with so many hidden values."""
        found = LateLogits(self.head, states, words=self.words, values=values, trained=self.trained, linear=self.linear)
        found.autocast, found.graph = self.autocast, self.graph
        return found


class WholeHead:
    """Why a model's logits cannot be computed in chunks; it is said once, when it costs memory.

    Args:
        reason: A clause that follows "since".
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        self._told = False

    def tell(self) -> None:
        """Log the reason, at the first call only."""
        if not self._told:
            log.warning("the logits of all answer tokens are computed at once, not in chunks, since %s", self.reason)
        self._told = True


@dataclass
class HeadCheck:
    """What was found out about a loaded model's head."""

    whole: WholeHead | None = None
    """Why the head always runs within the model's own forward."""
    simple: bool = False
    """Whether the head alone makes the model's logits, each token's on its own."""


def why_whole(head: nn.Module, own_hooks: int) -> str | None:
    """Why a head must run within the model's own forward, and once for all tokens; null if it need not.

    Args:
        head: The head.
        own_hooks: How many forward pre-hooks of the head belong to this package.
    """
    for module in head.modules():
        most = own_hooks if module is head else 0
        hooks: tuple[object, ...] = (module._forward_hooks, module._backward_hooks, module._backward_pre_hooks)
        if any(hooks) or len(module._forward_pre_hooks) > most or "forward" in vars(module):
            return "other code has hooks on the head"
        if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
            return "the head has dropout"
    for weight in (*head.parameters(), *head.buffers()):
        if hasattr(weight, "device_mesh"):  # a DTensor
            return "the head's weights are sharded"
        if not weight.is_floating_point():
            return "the head's weights are quantised"
    return None


class Spending(Protocol):
    """Losses of each token that can also overwrite the logits, to need little memory; see `losses.AnswerLoss`."""

    @property
    def buffers(self) -> int:
        """Tensors as large as the logits that `spend` holds at once, the logits included."""

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The losses `[m]` of logits `[m, V]` and tensors `[m]`, differentiable."""

    def spend(self, logits: Sequence[Tensor], beside: Sequence[Tensor], take: Take) -> tuple[Tensor, ...]:
        """The same losses without a graph; their gradients go to `take`."""


def chunk_length(lates: Sequence[LateLogits], most: ChunkLogits, buffers: int | None = None) -> int | None:
    """How many tokens of each of some equally long logits are computed at once; null: all of them.

    Under `auto`, a chunk has as many logits as the pass has hidden values in one layer, R · T · H, and at least
    `FEWEST`. A training step keeps many tensors of this size for each layer, so a chunk is small beside them, and still
    has enough tokens for a fast matrix product on large models.

    Args:
        lates: The logits.
        most: The setting.
        buffers: For a loss that overwrites its logits (`Spending`): under `auto`, all its tensors together then have as
            many numbers as the pass has hidden values in one layer, and at least `ROOM`.
    """
    first = lates[0]
    count, words = len(first.states), first.words
    limit = max(FEWEST, first.values) if most == "auto" else most
    if limit is None:
        return None
    if most == "auto" and buffers is not None:
        if count * words <= FEWEST:
            return None
        length = max(1, max(ROOM, first.values) // (words * buffers))
    elif count * words <= limit:
        return None
    else:
        length = max(1, limit // (words * len(lates)))
    return -(-count // -(-count // length))  # as many chunks, of equal length


def by_token(loss: Callable[..., Tensor], lates: Sequence[LateLogits], beside: Sequence[Tensor], length: int) -> Tensor:
    """Losses `[n]` of n tokens, each from the token's own logits, without all logits at a time.

    A frozen head: the forward pass computes the losses and the gradient of each at its own states, chunk by chunk, and
    keeps only these n × H numbers, as fused kernels for linear layer and cross-entropy do (Hsu et al., 2024, Liger
    Kernel). A trained head: a chunk is computed again in the backward pass, since the gradient of each loss at the
    head's weights would be large.

    Args:
        loss: Maps logits `[m, V]`, one tensor for each of `lates`, and parts `[m]` of `beside` to losses `[m]`.
        lates: Logits of the same n tokens, under one or several prompts.
        beside: Tensors `[n]`.
        length: Tokens of a chunk.
    """
    states = [late.states for late in lates]
    slices = [slice(start, start + length) for start in range(0, len(states[0]), length)]

    def part(at: slice, *own: Tensor) -> Tensor:
        return loss(*(late.of(one) for late, one in zip(lates, own, strict=True)), *(one[at] for one in beside))

    grad = torch.is_grad_enabled()
    if grad and any(late.trained and late.graph for late in lates):
        parts = [
            checkpoint(part, at, *(one[at] for one in states), use_reentrant=False, preserve_rng_state=False)
            for at in slices
        ]
        return torch.cat(parts)
    if grad and any(one.requires_grad for one in states):
        _, dtype, enabled = lates[0].autocast
        half = torch.float16 in (states[0].dtype, dtype if enabled else None)
        found: Tensor = _Fused.apply(part, slices, _HALF_SCALE if half else 1.0, *states)  # type: ignore[no-untyped-call]
        return found
    with torch.no_grad():
        return torch.cat([part(at, *(one[at] for one in states)) for at in slices])


def spent(loss: Spending, lates: Sequence[LateLogits], beside: Sequence[Tensor], length: int) -> tuple[Tensor, ...]:
    """As `by_token`, for losses that overwrite their logits. With a trained head, they are computed as in `by_token`.

    Args:
        loss: The losses.
        lates: Logits of the same n tokens, under one or several prompts.
        beside: Tensors `[n]`.
        length: Tokens of a chunk.

    Returns:
        Each loss `[n]`.
    """
    states = [late.states for late in lates]
    slices = [slice(start, start + length) for start in range(0, len(states[0]), length)]

    def part(at: slice, *own: Tensor) -> tuple[Tensor, ...]:
        return loss(*(late.of(one) for late, one in zip(lates, own, strict=True)), *(one[at] for one in beside))

    if torch.is_grad_enabled() and any(late.trained and late.graph for late in lates):
        parts = [
            checkpoint(part, at, *(one[at] for one in states), use_reentrant=False, preserve_rng_state=False)
            for at in slices
        ]
        return tuple(torch.cat(pieces) for pieces in zip(*parts, strict=True))
    wanted = [torch.is_grad_enabled() and late.graph and late.states.requires_grad for late in lates]
    found: tuple[Tensor, ...] = _Spent.apply(loss, lates, wanted, slices, beside, *states)  # type: ignore[no-untyped-call]
    return found


class _Spent(torch.autograd.Function):
    """Losses `[n]` of states. Their gradients at the states are computed in the forward pass, in place of the logits.

    The losses may come from the same logits. Each has gradients of its own, since each may enter the step with another
    factor, or be asked alone for the gradient at the embeddings.
    """

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        loss: Spending,
        lates: Sequence[LateLogits],
        wanted: Sequence[bool],
        slices: Sequence[slice],
        beside: Sequence[Tensor],
        *states: Tensor,
    ) -> tuple[Tensor, ...]:
        kept: dict[tuple[int, int], Tensor] = {}
        parts = []
        for at in slices:
            with torch.enable_grad():
                own = [one[at].detach().requires_grad_(want) for one, want in zip(states, wanted, strict=True)]
                made = [late.of(one) for late, one in zip(lates, own, strict=True)]
            take = _taking(kept, at, [len(one) for one in states], own, made)
            with torch.autocast(states[0].device.type, enabled=False):
                wide = [_own(one, late) for one, late in zip(made, lates, strict=True)]
                parts.append(loss.spend(wide, [one[at] for one in beside], take))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*kept.values())
        ctx.places, ctx.dtypes = [*kept], [one.dtype for one in states]  # type: ignore[attr-defined]
        return tuple(torch.cat(pieces) for pieces in zip(*parts, strict=True))

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        _refuse_second_gradient()
        found: list[Tensor | None] = [None for _ in ctx.dtypes]  # type: ignore[attr-defined]
        for (loss, which), gradient in zip(ctx.places, ctx.saved_tensors, strict=True):  # type: ignore[attr-defined]
            incoming = grads[loss]
            if incoming is not None:
                part = incoming[:, None].to(gradient.dtype) * gradient
                before = found[which]
                found[which] = part if before is None else before.add_(part)
        kinds: list[torch.dtype] = ctx.dtypes  # type: ignore[attr-defined]
        passed = (None if one is None else one.to(dtype) for one, dtype in zip(found, kinds, strict=True))
        return (None, None, None, None, None, *passed)


def _own(logits: Tensor, late: LateLogits) -> Tensor:
    """Logits in fp32 (or fp64) that may be overwritten."""
    found = logits.detach().to(torch.promote_types(logits.dtype, torch.float32))
    return found.clone() if found.dtype == logits.dtype and not late.linear else found


def _taking(
    kept: dict[tuple[int, int], Tensor],
    at: slice,
    counts: Sequence[int],
    states: Sequence[Tensor],
    logits: Sequence[Tensor],
) -> Take:
    """Store gradients at a chunk of logits as gradients at the states `[n, H]`, by loss and number of the logits."""

    def take(loss: int, which: int, gradient: Tensor) -> None:
        if not states[which].requires_grad:
            return
        scores = logits[which]
        scale = _HALF_SCALE if torch.float16 in (scores.dtype, states[which].dtype) else 1.0
        gradient = gradient if scale == 1 else gradient * scale
        (found,) = torch.autograd.grad(scores, states[which], gradient.to(scores.dtype), retain_graph=True)
        if (loss, which) not in kept:
            wide = torch.promote_types(found.dtype, torch.float32)
            kept[loss, which] = found.new_empty(counts[which], *found.shape[1:], dtype=wide)
        kept[loss, which][at] = found if scale == 1 else found.to(kept[loss, which].dtype) / scale

    return take


def _refuse_second_gradient() -> None:
    if torch.is_grad_enabled():
        raise RuntimeError(
            "a gradient of a gradient was asked for (`create_graph=True`), which losses over chunks of logits do "
            "not have; set model.chunk_logits to null"
        )


class _Fused(torch.autograd.Function):
    """Losses `[n]` of states; the gradients of each loss at its states are computed in the forward pass."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        part: Callable[..., Tensor],
        slices: Sequence[slice],
        scale: float,
        *states: Tensor,
    ) -> Tensor:
        losses = []
        wide = [one.dtype if one.dtype == torch.float64 else torch.float32 for one in states]
        kept: list[Tensor | None] = [
            torch.empty_like(one, dtype=dtype) if one.requires_grad else None
            for one, dtype in zip(states, wide, strict=True)
        ]
        for at in slices:
            with torch.enable_grad():
                own = [one[at].detach().requires_grad_(one.requires_grad) for one in states]
                found = part(at, *own)
                wanted = [one for one in own if one.requires_grad]
                # a loss may not depend on all of them: a reference that is a fixed target gets no gradient
                gradients = iter(_gradients(found.sum() * scale, wanted))
            for number, one in enumerate(own):
                gradient = next(gradients) if one.requires_grad else None
                if gradient is None:
                    kept[number] = None
                elif (buffer := kept[number]) is not None:
                    buffer[at] = gradient.to(buffer.dtype) / scale
            losses.append(found.detach())
        ctx.save_for_backward(*kept)  # type: ignore[arg-type]  # takes null too
        ctx.dtypes = [one.dtype for one in states]  # type: ignore[attr-defined]
        return torch.cat(losses)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        _refuse_second_gradient()
        (incoming,) = grads
        factors = incoming[:, None]
        kept = zip(ctx.saved_tensors, ctx.dtypes, strict=True)  # type: ignore[attr-defined]
        found = [None if one is None else (factors.to(one.dtype) * one).to(dtype) for one, dtype in kept]
        return (None, None, None, *found)


def _gradients(total: Tensor, at: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """Gradients of a scalar, computed outside of autocast as in a usual backward pass; null where it has none."""
    kind = total.device.type
    with torch.autocast(kind, enabled=False):
        return torch.autograd.grad(total, at, allow_unused=True)

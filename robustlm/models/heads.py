"""Logits that a head computes when they are asked for, and in chunks where they are many.

The n × V logits of the answer tokens are often the largest tensor of a step, and losses make several tensors of the
same size from them. So a pass keeps the n states that the head reads, `[n, H]`, and a loss of each token is computed
for some of the states at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

log = logging.getLogger(__name__)

ChunkLogits = int | Literal["auto"] | None
"""Most logits that a loss computes at once; `auto`: see `chunk_length`; null: all of them."""

FEWEST = 2**20
"""Fewest logits of a chunk under `auto`, 4 MiB in fp32: below this, a chunk saves no memory worth the extra calls."""

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
    """

    def __init__(
        self, head: Callable[[Tensor], Tensor], states: Tensor, *, words: int, values: int, trained: bool
    ) -> None:
        self.head = head
        self.states = states
        self.words = words
        self.values = values
        self.trained = trained
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
        found = LateLogits(self.head, states, words=self.words, values=values, trained=self.trained)
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


def chunk_length(lates: Sequence[LateLogits], most: ChunkLogits) -> int | None:
    """How many tokens of each of some equally long logits are computed at once; null: all of them.

    Under `auto`, a chunk has as many logits as the pass has hidden values in one layer, R · T · H, and at least
    `FEWEST`. A training step keeps many tensors of this size for each layer, so a chunk is small beside them, and still
    has enough tokens for a fast matrix product on large models.
    """
    first = lates[0]
    count = len(first.states)
    limit = max(FEWEST, first.values) if most == "auto" else most
    if limit is None or count * first.words <= limit:
        return None
    length = max(1, limit // (first.words * len(lates)))
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
        if torch.is_grad_enabled():
            raise RuntimeError(
                "a gradient of a gradient was asked for (`create_graph=True`), which losses over chunks of logits do "
                "not have; set model.chunk_logits to null"
            )
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

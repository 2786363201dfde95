"""Runs code on tensors without data, and notes every allocation and every multiplication.

The tensors are PyTorch's fake tensors: they have shape, type and device, but no memory. The code under test is the code
that trains, so its passes, casts and kept activations are counted and not estimated.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

Part = Literal["frozen weights", "trained weights", "gradients", "optimiser", "batch", "casts", "logits", "activations"]
"""What memory is for. `casts`: weights in another type, which autocast makes. `logits`: tensors as wide as the
vocabulary. `activations`: everything else that a step allocates."""


@dataclass(eq=False, slots=True)
class Block:
    """An allocation."""

    size: int
    """Bytes."""
    part: Part


@dataclass
class Peak:
    """The moment of a step at which most memory is held."""

    parts: dict[Part, float]
    """Bytes of each part at that moment."""
    phase: str
    """What the step did then: `forward`, `backward` or `optimiser`."""

    @property
    def total(self) -> float:
        """Bytes of all parts."""
        return sum(self.parts.values())


@dataclass
class Trace:
    """What was noted."""

    events: list[tuple[Block, int]] = field(default_factory=list)
    """Allocations (+1) and releases (−1), in their order."""
    phases: list[tuple[int, str]] = field(default_factory=list)
    """The number of events before each phase, and its name."""
    operations: int = 0
    """Floating-point operations of matrix products and attention; a multiplication and an addition are two."""
    traffic: int = 0
    """Bytes that the operations read and write, each tensor once for each operation."""

    def peak(self, after: str, shares: Mapping[Part, float] | None = None) -> Peak:
        """The moment with most memory.

        Args:
            after: The first phase that counts. What was allocated earlier and is still held counts, too.
            shares: Which share of a part one device holds; parts that are not named are held whole.
        """
        shares = shares or {}
        first = next(at for at, name in self.phases if name == after)
        held, most, best = 0.0, -1.0, 0
        for number, (block, sign) in enumerate(self.events):
            held += sign * block.size * shares.get(block.part, 1.0)
            if held > most and number >= first:
                most, best = held, number
        parts: dict[Part, float] = {}
        for block, sign in self.events[: best + 1]:
            parts[block.part] = parts.get(block.part, 0.0) + sign * block.size * shares.get(block.part, 1.0)
        phase = next((name for at, name in reversed(self.phases) if at <= best), "")
        return Peak(parts, phase)


class Tracer(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own class hook has no types
    """Notes the allocations and operations of everything that runs inside of it.

    Args:
        vocabulary: Width of tensors that count as logits.
    """

    def __init__(self, vocabulary: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.trace = Trace()
        self._vocabulary = vocabulary
        self._blocks: weakref.WeakKeyDictionary[torch.UntypedStorage, Block] = weakref.WeakKeyDictionary()
        self._part: Part = "activations"

    def know(self, tensors: Iterable[Tensor | None], part: Part) -> None:
        """Count tensors to a part; those that exist already are allocated now."""
        for tensor in tensors:
            if tensor is not None:
                self._block(tensor, part).part = part

    @contextmanager
    def counting(self, part: Part) -> Iterator[None]:
        """Inside this context, new allocations count to this part."""
        before, self._part = self._part, part
        try:
            yield
        finally:
            self._part = before

    def begin(self, phase: str) -> None:
        """Note that a phase begins."""
        self.trace.phases.append((len(self.trace.events), phase))

    def _block(self, tensor: Tensor, part: Part) -> Block:
        storage = tensor.untyped_storage()
        known = self._blocks.get(storage)
        if known is None:
            known = self._blocks[storage] = Block(storage.nbytes(), part)
            self.trace.events.append((known, 1))
            weakref.finalize(storage, self.trace.events.append, (known, -1))
        return known

    def __torch_dispatch__(
        self, func: Any, types: object, args: Sequence[object] = (), kwargs: dict[str, object] | None = None
    ) -> object:
        """Run an operation, and note what it allocates and computes."""
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.prim.device.default:  # two of three calls, which compute nothing
            return out
        count = _COUNTS.get(func._overloadpacket)
        if count is not None:
            self.trace.operations += count(*args, **(kwargs or {}), out_val=out)
        if not func.is_view:
            self.trace.traffic += sum(one.nbytes for one in tree_iter((args, kwargs, out)) if isinstance(one, Tensor))
        for value in tree_iter(out):
            if isinstance(value, Tensor):
                self._block(value, self._part_of(func, args, value))
        return out

    def _part_of(self, func: Any, args: Sequence[object], value: Tensor) -> Part:
        first = args[0] if args and isinstance(args[0], Tensor) else None
        if func._overloadpacket is torch.ops.aten._to_copy and first is not None:
            source = self._blocks.get(first.untyped_storage())
            if source is not None and source.part in ("frozen weights", "trained weights"):
                return "casts"
        if value.ndim > 1 and value.shape[-1] == self._vocabulary:
            return "logits"
        return self._part


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object) -> int:
    return int(sdpa_flop_count(query.shape, key.shape, value.shape))  # type: ignore[no-untyped-call]


def _attention_backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object) -> int:
    shapes = grad.shape, query.shape, key.shape, value.shape
    return int(sdpa_backward_flop_count(*shapes))  # type: ignore[no-untyped-call]


_COUNTS: dict[object, Callable[..., int]] = {
    **flop_registry,
    # PyTorch's own table lacks the kernels for processors
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}


def without_data(module: nn.Module, mode: FakeTensorMode) -> None:
    """Replace the weights and buffers of a module on the meta device by fake tensors on the CPU.

    Fake tensors take the way through PyTorch that real ones take (autocast, the choice of a kernel); tensors on the
    meta device take another one. Weights that modules share stay shared.
    """
    made: dict[int, tuple[Tensor, Tensor]] = {}
    for part in module.modules():
        others = [value for value in vars(part).values() if isinstance(value, dict)]  # peft keeps tensors in some
        for store in (vars(part), *others):
            for name, old in store.items():
                if isinstance(old, Tensor):
                    if id(old) not in made:
                        made[id(old)] = old, _fake(old, mode)
                    store[name] = made[id(old)][1]


def _fake(old: Tensor, mode: FakeTensorMode) -> Tensor:
    with mode:
        new = torch.empty_strided(old.shape, old.stride(), dtype=old.dtype, device="cpu")
    return nn.Parameter(new, requires_grad=old.requires_grad) if isinstance(old, nn.Parameter) else new

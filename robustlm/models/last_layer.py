"""The MLP of a decoder's last layer, at the positions that are read and not at all of them.

After the last layer's attention, no position reads another one. A training step reads the states that predict answer
tokens, and one state that represents each row. So the last MLP, its gradient and its activations are only needed there.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor, nn

_WORTH = 0.75
"""Largest share of positions that are read, for which the MLP runs at these alone."""


@dataclass
class LastCheck:
    """What was found out about a loaded model's last layer."""

    alone: bool | None = None
    """Whether its MLP may run at some positions alone; null: not known yet."""


@dataclass
class _Reading:
    """A pass that reads some positions alone."""

    mlp: nn.Module
    places: Tensor
    """Int64 `[m]`: the positions that are read, row · T + column; none twice."""
    shape: torch.Size | None = None
    """That of the MLP's input, `[R, T, H]`."""


_CURRENT: ContextVar[_Reading | None] = ContextVar("robustlm_reading", default=None)
"""The pass that is running in this thread."""


def last_mlp(decoder: nn.Module) -> nn.Module | None:
    """The part `mlp` of a decoder's last layer; null if there is none, or if other settings exclude its use.

    Compiled layers, gradient checkpointing (which runs the layer again, outside of the pass) and weights that are
    divided among devices (where all processes must run the same operations) run the MLP at all positions.
    """
    stack = next((part for part in decoder.children() if isinstance(part, nn.ModuleList) and len(part)), None)
    if stack is None:
        return None
    layer = stack[-1]
    mlp: object = getattr(layer, "mlp", None)
    again = any(getattr(part, "gradient_checkpointing", False) for part in (decoder, layer))
    if not isinstance(mlp, nn.Module) or again or layer._compiled_call_impl is not None:
        return None
    return None if any(hasattr(weight, "device_mesh") for weight in mlp.parameters()) else mlp


def watch_last(decoder: nn.Module) -> None:
    """Prepare a loaded model's last MLP for `reading`; other calls of it are not changed."""
    mlp = last_mlp(decoder)
    if mlp is not None:
        mlp.register_forward_pre_hook(_narrow)
        mlp.register_forward_hook(_spread)


@contextmanager
def reading(mlp: nn.Module | None, places: Tensor) -> Iterator[None]:
    """Inside this context, the MLP runs at the positions `places` alone and gives zeros elsewhere; null: everywhere."""
    token = _CURRENT.set(None if mlp is None else _Reading(mlp, places))
    try:
        yield
    finally:
        _CURRENT.reset(token)


def read_places(places: Tensor, rows: int, length: int) -> Tensor | None:
    """The answer positions and the last position of each row, int64 `[n + R]`; null if these are most positions.

    Args:
        places: Int64 `[n]`: the positions that predict an answer token, row · T + column.
        rows: R.
        length: T.
    """
    if len(places) + rows > _WORTH * rows * length:
        return None
    return torch.cat([places, torch.arange(rows, device=places.device) * length + (length - 1)])


def _narrow(mlp: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    current = _CURRENT.get()
    if current is None or current.mlp is not mlp or not args or args[0].ndim != 3:
        return None
    current.shape = args[0].shape
    return (args[0].flatten(0, 1).index_select(0, current.places).unsqueeze(0), *args[1:])


def _spread(mlp: nn.Module, args: tuple[Tensor, ...], out: object) -> Tensor | None:
    current = _CURRENT.get()
    if current is None or current.mlp is not mlp or current.shape is None:
        return None
    if not isinstance(out, Tensor):
        raise TypeError(f"{type(mlp).__name__} gives {type(out).__name__}, not one tensor")
    rows, length, _ = current.shape
    whole = out.new_zeros(rows * length, out.shape[-1]).index_copy(0, current.places, out.squeeze(0))
    current.shape = None
    return whole.view(rows, length, -1)

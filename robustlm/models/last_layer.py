"""Runs the last layer only at the positions that are read after it.

The head reads the answer positions alone. So nothing reads what the last layer's MLP and the end of its attention
compute elsewhere: of the last layer, only keys and values are needed at all positions. The results are those of the
whole layer; gradients too, because the gradient of a state that nothing reads is 0.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from robustlm.models.loaded import LoadedModel

_ATTENTION = ("self_attn", "attn", "attention")
"""Names of the attention in a layer."""
_BY_POSITION = ("q_proj", "o_proj", "c_proj", "dense", "out_proj")
"""Names of layers in the attention that read each position by itself, and whose result only that position reads: the
queries and what follows the weighted values."""
_LINEAR = (nn.Linear, Conv1D, BaseTunerLayer)


@dataclass
class _Narrowed:
    """The pass that is running."""

    parts: frozenset[int]
    """`id` of each module that runs only at `read`."""
    read: Tensor
    """Int64 `[n]`: the positions that are read, row · T + column; none twice."""
    shape: tuple[int, int] = (0, 0)
    """R and T."""


_CURRENT: ContextVar[_Narrowed | None] = ContextVar("robustlm_last_layer", default=None)
"""The pass that is running in this thread."""


def watch_last_layer(loaded: LoadedModel) -> None:
    """Prepare the last layer of a loaded model for `only_read`; other passes are not changed."""
    for part in _parts(loaded):
        part.register_forward_pre_hook(_select)
        part.register_forward_hook(_put_back)


@contextmanager
def only_read(loaded: LoadedModel, read: Tensor | None) -> Iterator[None]:
    """Inside this context, parts of the model's last layer run only at some positions; elsewhere they give 0.

    Every position is run if the layer has another structure than attention, MLP and norms, if dropout is active in it
    (its random numbers would be others), if gradient checkpointing is active (the layer runs again later), and inside
    compiled code.

    Args:
        loaded: The model.
        read: Int64 `[n]`: all positions whose final states are read, row · T + column, none twice; null: all.
    """
    parts = [] if read is None else _parts(loaded)
    if any(_random(part) for part in parts) or (loaded.base.training and loaded.base.is_gradient_checkpointing):
        parts = []
    token = _CURRENT.set(None if read is None or not parts else _Narrowed(frozenset(map(id, parts)), read))
    try:
        yield
    finally:
        _CURRENT.reset(token)


def _parts(loaded: LoadedModel) -> list[nn.Module]:
    """The MLP of the last layer, and the layers of its attention for which a position needs itself alone."""
    if loaded.is_encoder_decoder:
        return []
    lists = (m for m in loaded.base.get_decoder().modules() if isinstance(m, nn.ModuleList) and len(m) == loaded.depth)
    layers = next(lists, None)
    if not layers:
        return []
    named = dict(layers[-1].named_children())
    attention = next((named.pop(name) for name in _ATTENTION if name in named), None)
    mlp = named.pop("mlp", None)
    if attention is None or mlp is None or any(not _norm(name, module) for name, module in named.items()):
        return []
    found = [getattr(attention, name, None) for name in _BY_POSITION]
    parts = [module for module in found if isinstance(module, _LINEAR)]
    return [*parts, mlp] if _dense(mlp) else parts


def _norm(name: str, module: nn.Module) -> bool:
    return "norm" in name or name.startswith("ln_") or isinstance(module, nn.Dropout)


def _dense(mlp: nn.Module) -> bool:
    """Whether all weights of a MLP are those of linear layers: no router, no convolution."""
    weighted = [m for m in mlp.modules() if next(m.parameters(recurse=False), None) is not None]
    several = any(isinstance(m, nn.ModuleList) for m in mlp.modules())
    return not several and all(isinstance(m, (nn.Linear, Conv1D)) for m in weighted)


def _random(part: nn.Module) -> bool:
    return any(isinstance(m, nn.Dropout) and m.p > 0 and m.training for m in part.modules())


def _running(part: nn.Module) -> _Narrowed | None:
    if torch.compiler.is_compiling():
        return None
    current = _CURRENT.get()
    return current if current is not None and id(part) in current.parts else None


def _select(part: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """Before a part: pass on only the positions that are read, `[1, n, H]`."""
    current = _running(part)
    if current is None or len(args) != 1:
        return None
    states = args[0]
    current.shape = (states.shape[0], states.shape[1])
    return (states.flatten(0, 1).index_select(0, current.read).unsqueeze(0),)


def _put_back(part: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor | None:
    """After a part: its results at their positions in `[R, T, H]`, 0 elsewhere."""
    current = _running(part)
    if current is None or len(args) != 1:
        return None
    rows, width = current.shape
    full = out.new_zeros(rows * width, out.shape[-1])
    return full.index_copy(0, current.read, out[0]).view(rows, width, -1)

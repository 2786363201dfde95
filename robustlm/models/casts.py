"""Frozen layers that keep their weights in the type of mixed precision, instead of casting them at each pass.

Under autocast, torch casts the float32 weights of each matrix product to the lower type. It remembers the result within
a step if the weight is trained, and never if it is frozen: a frozen weight is cast again by every pass of every step
and for every generated token. Here a frozen layer casts its weights once and keeps the copy beside them. The numbers
are those of autocast to the last bit, since the same values are rounded the same way.

The weights stay float32, so checkpoints, exports, merging and every use outside of autocast are not changed. Autocast
holds such a copy of each weight too, from the forward pass to the end of the backward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

_REPLACED = ".original_module"
"""End of the name of a layer that peft keeps but does not run, because a trained copy replaces it."""


Cast = tuple[Tensor, Tensor | None]
"""Copies of a layer's weight and bias in the lower type."""


class _CastLinear(nn.Linear):
    """`nn.Linear` with frozen weights."""

    cast: Cast

    def forward(self, input: Tensor) -> Tensor:
        """See `nn.Linear`."""
        weight, bias = self.cast if _uses(self.cast, self.weight, input) else (self.weight, self.bias)
        return nn.functional.linear(input, weight, bias)


class _CastConv1D(Conv1D):
    """The linear layer of GPT-2, whose matrix is transposed, with frozen weights."""

    cast: Cast

    def forward(self, x: Tensor) -> Tensor:
        """See `Conv1D`."""
        weight, bias = self.cast if _uses(self.cast, self.weight, x) else (self.weight, self.bias)
        assert bias is not None
        return torch.addmm(bias, x.flatten(0, -2), weight).view(*x.shape[:-1], self.nf)


def _uses(cast: Cast, weight: Tensor, input: Tensor) -> bool:
    """Whether a layer with this weight uses the copy: under autocast to its type, on its device, while frozen."""
    kind, own = input.device.type, cast[0]
    mixed = torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == own.dtype
    return mixed and own.device == input.device and not weight.requires_grad


_KINDS: dict[type[nn.Module], type[_CastLinear] | type[_CastConv1D]] = {nn.Linear: _CastLinear, Conv1D: _CastConv1D}
"""The layers that can keep a copy. Others are left to autocast, which gives the same numbers."""
_PLAIN: dict[type[nn.Module], type[nn.Module]] = {cast: plain for plain, cast in _KINDS.items()}


@torch.no_grad()
def keep_casts(model: nn.Module, dtype: torch.dtype) -> int:
    """Let the frozen float32 layers of a model keep their weights in `dtype` too, for use under autocast.

    Call this when the weights are on their device and hold their values. Copies of an earlier call are made anew.
    Weights must not be changed before `drop_casts`, which checks it.

    Returns:
        The number of weights with a copy.
    """
    count = 0
    for name, layer in model.named_modules():
        kind = type(layer)
        if not (kind in _KINDS or kind in _PLAIN) or name.endswith(_REPLACED):
            continue
        own = list(layer.parameters(recurse=False))
        if any(p.requires_grad or p.dtype != torch.float32 or p.is_meta for p in own):
            continue
        layer.__class__ = _KINDS[_PLAIN.get(kind, kind)]
        assert isinstance(layer, _CastLinear | _CastConv1D)
        layer.cast = (layer.weight.to(dtype), None if layer.bias is None else layer.bias.to(dtype))
        count += sum(p.numel() for p in own)
    return count


@torch.no_grad()
def drop_casts(model: nn.Module) -> None:
    """Remove the copies.

    Raises:
        RuntimeError: A weight has changed since its copy was made, so passes since then may have used old values.
    """
    changed = []
    for name, layer in model.named_modules():
        if not isinstance(layer, _CastLinear | _CastConv1D):
            continue
        for own, cast in zip((layer.weight, layer.bias), layer.cast, strict=True):
            same = own is None or cast is None or torch.equal(own.to(cast.dtype), cast.to(own.device))
            if not same and not layer.weight.requires_grad:  # a layer that is trained by now has not used its copy
                changed.append(name)
        del layer.cast
        layer.__class__ = _PLAIN[type(layer)]  # type: ignore[assignment]  # mypy keeps the narrower type
    if changed:
        raise RuntimeError(
            f"mixed precision: {len(changed)} frozen weights were changed during the run, which used copies made at "
            f"its start ({', '.join(changed[:3])}{' …' if len(changed) > 3 else ''}); expected frozen weights to stay "
            "as they are, or model.loading.cast_once: false"
        )

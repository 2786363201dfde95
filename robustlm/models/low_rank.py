"""The second matrix of adapters of very low rank, with a gradient that a CPU computes fast."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_FEWEST = 12
"""Ranks from here on are as fast in `nn.Linear`."""


class _Widening(nn.Linear):
    """A linear layer `[m, n]` from few inputs to many outputs, as `nn.Linear`.

    torch takes the gradient of the weight as gᵀ·x, `[m, n]`. In fp32 with n ≤ 8, MKL takes longer for it than for the
    frozen layer's own product (6.5 ms with 1536 tokens, m = 1024, n = 8; xᵀ·g takes 0.9 ms; no difference at n = 16).
    torch takes xᵀ·g where the weight is stored the other way round, so a copy `[n, m]` of it is used.
    """

    def forward(self, input: Tensor) -> Tensor:
        """See `nn.Linear`."""
        usual = input.device.type != "cpu" or torch.is_autocast_enabled("cpu") or input.dtype != torch.float32
        if usual or not torch.is_grad_enabled():
            return super().forward(input)
        return input @ self.weight.t().contiguous()


def widen(model: nn.Module) -> int:
    """Let the adapters of a PEFT model compute the gradients of their second matrices fast; returns how many.

    Weights, their names and the numbers are the same, up to the order of summation.
    """
    count = 0
    for module in model.modules():
        adapters = getattr(module, "lora_B", None)
        for layer in adapters.values() if isinstance(adapters, nn.ModuleDict) else ():
            if type(layer) is nn.Linear and layer._parameters["bias"] is None and layer.in_features < _FEWEST:
                layer.__class__ = _Widening
                count += 1
    return count

"""Find weights with NaN or infinity before they are written or used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def step_extent(parameters: Iterable[nn.Parameter], loss: Tensor | float) -> tuple[float, float]:
    """The largest absolute gradient of an optimiser step, and its loss. NaN and infinity are kept.

    Each gradient is read once, and the host waits for the device once.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    largest = torch.nn.utils.get_total_norm(gradients, float("inf"))
    if isinstance(largest, DTensor):  # gradients that are divided among devices
        largest = largest.full_tensor()
    largest = largest.float()
    both: list[float] = torch.stack([largest, torch.as_tensor(loss, device=largest.device).float()]).tolist()
    return both[0], both[1]


class NonFiniteError(ValueError):
    """Weights hold NaN or infinity."""


@torch.no_grad()
def refuse_nonfinite(weights: Mapping[str, Tensor] | Iterable[tuple[str, Tensor | nn.Parameter]], what: str) -> None:
    """Refuse weights that hold NaN or infinity.

    Each tensor is read once, without a copy; the host waits for the device once.

    Args:
        weights: Tensors by name. Integer tensors and tensors without data (meta) are ignored.
        what: The owner of the weights; the message begins with it.

    Raises:
        NonFiniteError: A weight holds NaN or infinity; the message names the first few.
    """
    named = weights.items() if isinstance(weights, Mapping) else weights
    looked = [
        (name, torch.stack(torch.aminmax(value.detach())).isfinite().all())
        for name, value in named
        if isinstance(value, Tensor) and value.is_floating_point() and value.numel() and not value.is_meta
    ]
    if not looked:
        return
    device = looked[0][1].device
    good = torch.stack([flag.to(device) for _, flag in looked]).tolist()
    bad = [name for (name, _), fine in zip(looked, good, strict=True) if not fine]
    if bad:
        shown = "; ".join(bad[:3]) + (" …" if len(bad) > 3 else "")
        raise NonFiniteError(
            f"{what}: {len(bad)} of {len(looked)} tensors hold NaN or infinity ({shown}); expected numbers alone"
        )

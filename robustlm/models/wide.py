"""Numbers in float64, also on devices that have none."""

from __future__ import annotations

from torch import Tensor

_NARROW = ("mps",)
"""Kinds of devices that have no float64."""


def wide(values: Tensor) -> Tensor:
    """The values in float64: on their device, or on the CPU if the device has no float64."""
    values = values.detach()
    return (values.cpu() if values.device.type in _NARROW else values).double()

"""What counts as equal when a model is asked what it can do, on a few tokens."""

from __future__ import annotations

import torch

_CLOSE = {torch.float64: 1e-6, torch.float32: 1e-3}
_CLOSE_IN_HALF = 0.05


def tolerance(dtype: torch.dtype) -> float:
    """Largest distance of two results that are equal but for rounding, as a share of their length."""
    return _CLOSE.get(dtype, _CLOSE_IN_HALF)

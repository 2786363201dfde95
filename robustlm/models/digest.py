"""A hash of a model's weights."""

from __future__ import annotations

import hashlib

import torch
from torch import nn


def weights_digest(backbone: nn.Module, *, frozen: bool = False) -> str:
    """A hash of a model's weights by name, shape and sums: fast for large models too, and collisions are unlikely.

    Args:
        backbone: The model.
        frozen: Only hash frozen weights.
    """
    found = hashlib.blake2b(digest_size=16)
    with torch.no_grad():
        for name, value in sorted(backbone.named_parameters()):
            if frozen and value.requires_grad:
                continue
            wide = value.detach().double() if value.is_floating_point() else value.detach().float().double()
            found.update(f"{name} {tuple(value.shape)} {wide.sum():.12e} {wide.abs().sum():.12e}".encode())
    return found.hexdigest()

"""A hash of a model's weights."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from robustlm.models.wide import wide


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
            precise = wide(value if value.is_floating_point() else value.float())
            found.update(f"{name} {tuple(value.shape)} {precise.sum():.12e} {precise.abs().sum():.12e}".encode())
    return found.hexdigest()

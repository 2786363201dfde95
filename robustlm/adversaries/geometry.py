"""Lengths, steps and balls of perturbations: functions that all adversaries share.

A perturbation has the shape `[R, T, H]`. A *norm* says what is measured as one vector: the whole row (`row`,
Frobenius), each token (`token`), each coordinate (`linf`), or all rows together (`batch`).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Norm = Literal["row", "token", "linf", "batch"]
"""The part of a perturbation that counts as one vector when it is measured, normalised or projected."""

TINY = 1e-12
"""Smallest length used as a divisor, so that a zero gradient gives a zero step and not NaN."""


def working_dtype(embeds: Tensor) -> torch.dtype:
    """Dtype of perturbations and their norms: fp32 for half precision, otherwise the embeddings' own."""
    return torch.promote_types(embeds.dtype, torch.float32)


def perturb(embeds: Tensor, delta: Tensor) -> Tensor:
    """Add in the precision of `delta` (fp32 or better), then cast to that of `embeds`: `[R, T, H]`."""
    return (embeds.to(delta.dtype) + delta).to(embeds.dtype)


def uniform(embeds: Tensor, mask: Tensor, seeds: Tensor) -> Tensor:
    """Draw U(−1, 1) for each perturbed coordinate, zeros elsewhere: `[R, T, H]`.

    Each row has its own generator, which draws for the row's perturbed positions in order. So a row's noise depends
    only on its seed, not on padding, other rows or the rank.
    """
    dtype, device, hidden = working_dtype(embeds), embeds.device, embeds.shape[2]
    generator = torch.Generator(device=device)
    noise = [
        torch.rand((count, hidden), generator=generator.manual_seed(seed), dtype=dtype, device=device)
        for seed, count in zip(seeds.tolist(), mask.sum(1).tolist(), strict=True)
    ]
    draws = torch.zeros(embeds.shape, dtype=dtype, device=device)
    draws[mask] = 2 * torch.cat(noise) - 1
    return draws


def dimension(mask: Tensor, hidden: int, norm: Norm) -> Tensor:
    """Number of coordinates that the norm takes as one vector: `[R, 1, 1]` for rows, otherwise a scalar.

    For `linf` it is 1, since coordinates are bounded one by one. Rows without a perturbed position count one token, to
    avoid division by zero.
    """
    if norm == "row":
        return (mask.sum(1).clamp_min(1) * hidden)[:, None, None]
    if norm == "batch":
        return mask.sum().clamp_min(1) * hidden
    return mask.new_tensor(hidden if norm == "token" else 1, dtype=torch.int64)


def ball_start(embeds: Tensor, mask: Tensor, seeds: Tensor, norm: Norm, radius: Tensor) -> Tensor:
    """A random perturbation `[R, T, H]` inside the ball: (radius / √N) · U(−1, 1), N as in `dimension`."""
    return radius / dimension(mask, embeds.shape[2], norm).sqrt() * uniform(embeds, mask, seeds)


def size(delta: Tensor, norm: Norm) -> Tensor:
    """Length of each vector, broadcastable to `delta`: `[R, 1, 1]`, for tokens `[R, T, 1]`."""
    over = {"row": (1, 2), "token": (2,), "linf": (1, 2), "batch": (0, 1, 2)}[norm]
    order = math.inf if norm == "linf" else 2
    length: Tensor = torch.linalg.vector_norm(delta, ord=order, dim=over, keepdim=True)
    return length


def steepest(gradient: Tensor, norm: Norm) -> Tensor:
    """The unit step that increases the linearised loss most: g/‖g‖, and sign(g) for `linf`."""
    if norm == "linf":
        return gradient.sign()
    return gradient / size(gradient, norm).clamp_min(TINY)


def project(delta: Tensor, norm: Norm, radius: Tensor) -> Tensor:
    """The nearest perturbation of length ≤ `radius` (a scalar, or `[R, 1, 1]`)."""
    if norm == "linf":
        return delta.clamp(-radius, radius)
    return delta * (radius / size(delta, norm).clamp_min(TINY)).clamp_max(1)


def drop_nonfinite(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Zero the rows that contain inf or NaN; also returns which rows these are (bool `[R]`)."""
    broken = ~gradient.isfinite().flatten(1).all(1)
    return gradient.masked_fill(broken[:, None, None], 0), broken

"""Lengths, steps and balls of perturbations: the few functions that every adversary shares.

A perturbation is `[R, T, H]`. A *norm* says what is measured as one vector: the whole row (`row`, Frobenius),
each token on its own (`token`), each coordinate (`linf`), or all rows together (`batch`).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

Norm = Literal["row", "token", "linf", "batch"]
"""What counts as one vector when a perturbation is measured, normalised or projected."""

TINY = 1e-12
"""Lengths are clamped here before they divide, so that a zero gradient is a zero step and not NaN."""


def working_dtype(embeds: Tensor) -> torch.dtype:
    """Dtype of perturbations and their norms: fp32 for half precision, otherwise the embeddings' own."""
    return torch.promote_types(embeds.dtype, torch.float32)


def perturb(embeds: Tensor, delta: Tensor) -> Tensor:
    """Add in the precision of `delta` (fp32 or better), then cast back to that of `embeds`: `[R, T, H]`."""
    return (embeds.to(delta.dtype) + delta).to(embeds.dtype)


def uniform(embeds: Tensor, mask: Tensor, seeds: Tensor) -> Tensor:
    """Draw U(−1, 1) for each perturbed coordinate, zeros elsewhere: `[R, T, H]`.

    Each row has its own generator and draws for its perturbed positions in order, so that a row's noise
    depends on its seed alone: not on padding, on the other rows, or on the rank that holds it.
    """
    draws = torch.zeros(embeds.shape, dtype=working_dtype(embeds), device=embeds.device)
    generator = torch.Generator(device=embeds.device)
    counts = mask.sum(1).tolist()
    for row, (seed, count) in enumerate(zip(seeds.tolist(), counts, strict=True)):
        shape = (count, embeds.shape[2])
        noise = torch.rand(
            shape, generator=generator.manual_seed(seed), dtype=draws.dtype, device=draws.device
        )
        draws[row, mask[row]] = 2 * noise - 1
    return draws


def dimension(mask: Tensor, hidden: int, norm: Norm) -> Tensor:
    """Number of coordinates that the norm takes as one vector: `[R, 1, 1]` for rows, otherwise a scalar.

    For `linf` it is 1, since coordinates are bounded one by one. Rows without a perturbed position count one
    token, so that they divide by something.
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
    """The unit step that raises the linearised loss most: g/‖g‖, and sign(g) for `linf`."""
    if norm == "linf":
        return gradient.sign()
    return gradient / size(gradient, norm).clamp_min(TINY)


def project(delta: Tensor, norm: Norm, radius: Tensor) -> Tensor:
    """The nearest perturbation of length ≤ `radius` (a scalar, or `[R, 1, 1]`)."""
    if norm == "linf":
        return delta.clamp(-radius, radius)
    return delta * (radius / size(delta, norm).clamp_min(TINY)).clamp_max(1)


def drop_nonfinite(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Zero the rows that hold an inf or NaN, and say which those were (bool `[R]`)."""
    broken = ~gradient.isfinite().flatten(1).all(1)
    return gradient.masked_fill(broken[:, None, None], 0), broken

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

_GOLDEN, _FIRST, _SECOND = (one - 2**64 for one in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
"""The constants of SplitMix64 as signed numbers."""
_MOST = 2**24 - 1
"""The largest number of 24 bits."""
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

    A number is the hash of its row's seed and of its own place among the row's perturbed coordinates (SplitMix64,
    Steele et al. 2014, in counter mode). So a row's noise depends only on its seed, not on padding, other rows, the
    rank, the device or the dtype, and all rows are drawn at once. Each 64-bit hash gives two numbers of 24 bits: odd
    multiples of 2⁻²⁴, so that no number is 0 or ±1, and fp32 holds all of them exactly.
    """
    hidden = embeds.shape[2]
    pairs = (hidden + 1) // 2
    positions = mask.cumsum(1) - 1  # among the row's perturbed positions
    places = positions[:, :, None] * pairs + torch.arange(pairs, device=mask.device)
    start = _mixed(seeds.to(mask.device, non_blocking=True, copy=True))[:, None, None]
    hashes = _mixed(places.mul_(_GOLDEN).add_(start))
    bits = torch.stack([hashes >> 40, hashes >> 16], dim=-1).bitwise_and_(_MOST)
    odd = bits.mul_(2).sub_(_MOST).flatten(2)[:, :, :hidden]
    return odd.to(working_dtype(embeds)).mul_(2.0**-24).masked_fill_(~mask[:, :, None], 0)


def _mixed(values: Tensor) -> Tensor:
    """The output function of SplitMix64: a permutation of the 64-bit numbers, in place; products wrap around."""
    moved = torch.empty_like(values)
    for bits, factor in ((30, _FIRST), (27, _SECOND), (31, None)):
        torch.bitwise_right_shift(values, bits, out=moved)
        values.bitwise_xor_(moved.bitwise_and_(2 ** (64 - bits) - 1))
        if factor is not None:
            values.mul_(factor)
    return values


def dimension(mask: Tensor, hidden: int, norm: Norm) -> Tensor:
    """Number of coordinates that the norm takes as one vector: `[R, 1, 1]` for rows, otherwise a scalar.

    For `linf` it is 1, since coordinates are bounded one by one. Rows without a perturbed position count one token, to
    avoid division by zero.
    """
    if norm == "row":
        return (mask.sum(1).clamp_min(1) * hidden)[:, None, None]
    if norm == "batch":
        return mask.sum().clamp_min(1) * hidden
    return mask.new_full((), hidden if norm == "token" else 1, dtype=torch.int64)


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

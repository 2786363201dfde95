"""How far two runs of one step may be apart, derived from the type that was calculated in.

**The rule.** A result goes through n roundings, each wrong by at most u, the unit roundoff of the type (2⁻²⁴ for
float32, 2⁻¹¹ for float16, 2⁻⁸ for bfloat16). Their errors are independent of each other, so they grow as √n:

    limit = FACTOR · u · √n · gain,   n = ROUNDINGS · layers · passes · summands

Products of matrices of 16-bit types are summed up in float32, and rounded once: `summands` is 1. In float32 each
addition of a sum is rounded, so it is the hidden size. `passes` counts the passes forward and backward that are
chained: a step of plain tuning has 2; a perturbation that is found by K steps of ascent before the pass that is trained
on has 2·K more. `gain` is what a method multiplies errors by: a contrast divides its similarities by a temperature.

A limit is relative: to the loss, to ‖δ‖, to the norm of the gradient. Steps along the sign of a gradient turn an error
e of the gradient into flipped signs, for a share of about e of the coordinates, each of which is then wrong by 2: their
δ is allowed 2·√limit. Whether these limits are narrow enough to find mistakes is a check of its own, with broken
variants.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

ROUNDOFF = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
"""u by type."""
FACTOR = 2.0
ROUNDINGS = 12
"""Roundings on the way through one layer, in one direction: two norms, two residual sums, seven products, a softmax."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One comparison."""

    name: str
    error: float
    limit: float

    @property
    def ok(self) -> bool:
        """Whether the error is within the limit; NaN is not."""
        return self.error <= self.limit

    @property
    def share(self) -> float:
        """Error ÷ limit."""
        return self.error / self.limit if self.limit else (0.0 if self.error == 0 else math.inf)


@dataclass
class Step:
    """What is compared of a training step; tensors in float32 on the CPU."""

    losses: dict[str, float]
    """Logged losses by name; `train/loss` is their sum."""
    gradients: dict[str, Tensor]
    rows: dict[str, Tensor]
    """Row losses `[R]` that the adversary gave back: `clean` and `adversarial`."""
    delta: Tensor | None = None
    """The adversary's perturbation `[R, T, H]`."""
    broken_rows: int = 0
    """Rows whose ascent gradient was not finite, and which the adversary therefore left as they were."""
    scale: float = 1.0
    """What the gradient scaler multiplied the loss by."""

    @property
    def finite(self) -> bool:
        """Whether nothing overflowed."""
        return not self.broken_rows and all(bool(g.isfinite().all()) for g in self.gradients.values())


def limit(dtype: torch.dtype, layers: int, hidden: int, passes: int, gain: float = 1.0) -> float:
    """The relative error that is allowed: see the module's text."""
    summands = hidden if dtype in (torch.float32, torch.float64) else 1
    return FACTOR * ROUNDOFF[dtype] * math.sqrt(ROUNDINGS * layers * passes * summands) * gain


def relative(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖; infinite for other shapes, NaN for NaN."""
    if found.shape != expected.shape:
        return math.inf
    size = float(expected.double().norm())
    return float((found.double() - expected.double()).norm()) / size if size else float(found.double().norm())


def compare(found: Step, expected: Step, allowed: float, *, sign: bool = False) -> list[Measure]:
    """Everything of a step against the reference.

    Args:
        found: The step on the device.
        expected: The reference.
        allowed: The limit of relative errors.
        sign: Whether δ is made of signs.
    """
    total = abs(expected.losses["train/loss"])
    found_names = [name for name in expected.losses if name in found.losses]
    measures = [Measure(name, abs(found.losses[name] - expected.losses[name]) / total, allowed) for name in found_names]
    names = sorted(expected.gradients)
    measures += [
        Measure("names", float(set(found.losses) != set(expected.losses)), 0.0),
        Measure("gradient names", float(sorted(found.gradients) != names), 0.0),
    ]
    if sorted(found.gradients) == names:
        whole = relative(flat(found.gradients, names), flat(expected.gradients, names))
        measures.append(Measure("gradient", whole, allowed))
        measures.append(Measure("worst tensor's gradient", _worst(found, expected, names), 4 * allowed))
    for name, rows in expected.rows.items():
        measures.append(Measure(f"row losses, {name}", relative(found.rows.get(name, torch.empty(0)), rows), allowed))
    if expected.delta is not None:
        error = math.inf if found.delta is None else relative(found.delta, expected.delta)
        measures.append(Measure("delta", error, 2 * math.sqrt(allowed) if sign else allowed))
    return measures


def _worst(found: Step, expected: Step, names: Sequence[str]) -> float:
    """The largest error of a tensor's gradient, relative to its own norm or a tenth of the mean tensor's."""
    mean = float(flat(expected.gradients, names).double().norm()) / math.sqrt(len(names))
    errors = []
    for name in names:
        a, b = found.gradients[name].double(), expected.gradients[name].double()
        errors.append(float((a - b).norm()) / max(float(b.norm()), 0.1 * mean))
    return max((error for error in errors), key=lambda error: math.inf if math.isnan(error) else error)


def flat(gradients: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    """All gradients as one vector."""
    return torch.cat([gradients[name].flatten() for name in names])


def worst(measures: Sequence[Measure]) -> Measure:
    """The measure that is nearest to its limit, or furthest beyond."""
    return max(measures, key=lambda one: math.inf if math.isnan(one.share) else one.share)

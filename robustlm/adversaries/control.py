"""A controller that keeps the loss gap of an adversary at a chosen share of the clean loss."""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor

MEMORY = 0.9
"""Weight of the previous value in the running means of gap and clean loss."""
REACH = 100.0
"""Largest factor by which ε may grow or shrink from its start value."""


class GapController:
    """Adjusts a factor on ε so that the running loss gap stays at `target` × the running clean loss.

    After each step, log factor ← log factor + rate · clamp((target − share) / target, −1, 1), where share is the
    running gap / the running clean loss. Gap and clean loss have separate running means: their ratio varies much less
    than a mean of ratios, and needs no correction for the start at zero. All values stay on the device, so that no
    step waits for the host.
    """

    def __init__(self, target: float, rate: float) -> None:
        self.target = target
        self.rate = rate
        self.state = torch.zeros(3)
        """log factor, running gap, running clean loss."""

    def factor(self, like: Tensor) -> Tensor:
        """The current factor, a scalar with the dtype and device of `like`."""
        self.state = self.state.to(like.device)
        return self.state[0].exp().to(like.dtype)

    def update(self, clean: Tensor, adversarial: Tensor) -> None:
        """Update the running means with the row losses `[R]` of this step (averaged over ranks), then the factor."""
        seen = torch.stack([(adversarial - clean).detach().mean(), clean.detach().mean()])
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(seen)  # a sum, since gloo does not support the mean
            seen = seen / dist.get_world_size()
        running = MEMORY * self.state[1:] + (1 - MEMORY) * seen.to(self.state)
        error = ((self.target - running[0] / running[1]) / self.target).clamp(-1, 1)
        reach = math.log(REACH)
        moved = torch.cat([(self.state[:1] + self.rate * error).clamp(-reach, reach), running])
        self.state = torch.where(moved.isfinite().all(), moved, self.state)

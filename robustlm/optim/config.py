"""Optimisers and schedules as plain data, so that YAML, `--help`, checkpoints and Python use the same settings."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from robustlm.checks.numbers import check_number
from robustlm.optim.muon import MuonAdamW

Groups = list[dict[str, Any]]
"""Parameter groups as torch's optimisers take them."""
_FASTEST = 10.0
"""Largest learning rate. A step of AdamW changes each weight by about this rate, and weights are below 10."""
_LONGEST_WARMUP = 10**9


@dataclass
class Optimizer(ABC):
    """Builds a torch optimiser for a model's trained parameters."""

    def __post_init__(self) -> None:
        """Check the fields: rates are finite and not negative, momenta in [0, 1)."""
        for item in fields(self):
            value = getattr(self, item.name)
            if item.name.endswith("lr"):
                check_number(f"optimizer.{item.name}", value, least=0, most=_FASTEST)
            if item.name.endswith("weight_decay"):
                rate = getattr(self, item.name.removesuffix("weight_decay") + "lr")
                check_number(f"optimizer.{item.name}", value, least=0)
                if value * rate > 1:
                    raise ValueError(
                        f"optimizer.{item.name}: found {value}; expected a number from 0 to {1 / rate:g}, because "
                        "each step makes a weight smaller by this share times the learning rate"
                    )
            if item.name.endswith(("betas", "momentum")):
                for share in value if isinstance(value, tuple | list) else (value,):
                    check_number(f"optimizer.{item.name}", share, least=0, below=1)

    @abstractmethod
    def build(self, groups: Groups) -> torch.optim.Optimizer:
        """The optimiser for `groups`, which `parameter_groups` creates."""


@dataclass
class AdamW(Optimizer):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    lr: float = 1e-4
    """Peak learning rate."""
    weight_decay: float = 0.0
    """Weight decay of matrices; vectors (norms, biases) never decay."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay rates of the two moments."""

    def build(self, groups: Groups) -> torch.optim.Optimizer:
        """See `Optimizer.build`."""
        return torch.optim.AdamW(groups, lr=self.lr, betas=self.betas, weight_decay=self.weight_decay)


@dataclass
class Muon(Optimizer):
    """Muon (Jordan et al., 2024) for hidden matrices, AdamW for the rest; small models learn fast with it."""

    muon_lr: float = 0.01
    """Peak learning rate of hidden matrices."""
    muon_weight_decay: float = 0.01
    """Weight decay of hidden matrices."""
    momentum: float = 0.95
    """Momentum of hidden matrices."""
    adamw_lr: float = 3e-3
    """Peak learning rate of everything else."""
    adamw_betas: tuple[float, float] = (0.9, 0.98)
    """Decay rates of the two moments of everything else."""
    adamw_weight_decay: float = 0.0
    """Weight decay of everything else."""

    def build(self, groups: Groups) -> torch.optim.Optimizer:
        """See `Optimizer.build`."""
        return MuonAdamW(
            groups,
            lr=self.muon_lr,
            weight_decay=self.muon_weight_decay,
            momentum=self.momentum,
            adamw_lr=self.adamw_lr,
            adamw_betas=self.adamw_betas,
            adamw_weight_decay=self.adamw_weight_decay,
        )


@dataclass
class Schedule:
    """Learning rate over a run: linear warm-up, then a decay."""

    warmup: float = 0.04
    """Number of warm-up steps; a value below 1 is their share of the run."""
    decay: Literal["cosine", "linear", "constant"] = "cosine"
    """Shape of the decay after the warm-up."""
    final: float = 0.0
    """Learning rate at the end, as a share of the peak."""
    decay_share: float = 1.0
    """Share of the run, its last steps, in which the rate falls; before, it stays at the peak. 1: it falls from the end
    of the warm-up on."""

    def __post_init__(self) -> None:
        check_number("schedule.warmup", self.warmup, least=0, most=_LONGEST_WARMUP, why="steps, or a share below 1")
        check_number("schedule.final", self.final, least=0, most=1)
        check_number("schedule.decay_share", self.decay_share, least=0, most=1)

    def factor(self, step: int, total: int) -> float:
        """Learning rate at `step` of `total`, as a share of the peak."""
        warmup = self.warmup * total if self.warmup < 1 else self.warmup
        if step < warmup:
            return (step + 1) / (math.ceil(warmup) + 1)
        if self.decay == "constant":
            return 1.0
        start = max(warmup, (1 - self.decay_share) * total)
        if step < start:
            return 1.0
        progress = min(1.0, (step - start) / max(1.0, total - start))
        shape = 1 - progress if self.decay == "linear" else 0.5 * (1 + math.cos(math.pi * progress))
        return self.final + (1 - self.final) * shape

    def build(self, optimizer: torch.optim.Optimizer, total: int) -> LambdaLR:
        """The torch scheduler, which advances once per optimiser step."""
        return LambdaLR(optimizer, lambda step: self.factor(step, total))


def parameter_groups(model: nn.Module) -> Groups:
    """Trained parameters as groups: hidden matrices (`hidden: True`), embeddings and head, and vectors (no decay)."""
    outer = set()
    for getter in ("get_input_embeddings", "get_output_embeddings"):
        layer = getattr(model, getter)()
        outer |= {id(p) for p in layer.parameters()} if layer is not None else set()
    trained = [p for p in model.parameters() if p.requires_grad]
    vectors = [p for p in trained if p.ndim < 2]
    hidden = [p for p in trained if p.ndim == 2 and id(p) not in outer]
    taken = {id(p) for p in (*vectors, *hidden)}
    rest = [p for p in trained if id(p) not in taken]
    groups = [
        {"params": hidden, "hidden": True},
        {"params": rest, "hidden": False},
        {"params": vectors, "hidden": False, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]

"""FGSM: one step along the sign of the gradient at the clean embeddings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from robustlm.adversaries.fgm import FGM
from robustlm.adversaries.geometry import Norm


@dataclass
class FGSM(FGM):
    """Fast gradient sign method, Goodfellow et al. 2015: FGM under the `linf` norm, δ = ε · sign(g).

    Every coordinate moves by ε, so a row of n tokens moves by √n · ε mean embedding norms. With 100 tokens, the default
    moves a row as far as FGM's default.

    Cost with LoRA, plain tuning = 1: 2.0 (two forward and two backward passes).
    """

    default_epsilon: ClassVar[float] = 0.03

    norm: Norm = field(default="linf", init=False)

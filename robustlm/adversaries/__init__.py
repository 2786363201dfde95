"""Strategies that perturb input embeddings. Each file holds one strategy."""

from robustlm.adversaries.autograd import shared_backward
from robustlm.adversaries.base import Adversary, BoundedAdversary, Outcome, Problem
from robustlm.adversaries.fgm import FGM
from robustlm.adversaries.fgsm import FGSM
from robustlm.adversaries.freeat import FreeAT
from robustlm.adversaries.freelb import FreeLB
from robustlm.adversaries.neftune import NEFTune
from robustlm.adversaries.nrm import NRM
from robustlm.adversaries.pgd import PGD

__all__ = [
    "FGM",
    "FGSM",
    "NRM",
    "PGD",
    "Adversary",
    "BoundedAdversary",
    "FreeAT",
    "FreeLB",
    "NEFTune",
    "Outcome",
    "Problem",
    "shared_backward",
]

"""LightningModules: one training objective a file."""

from robustlm.modules.alignment import Alignment, PrefixAlignment
from robustlm.modules.anit import ANIT
from robustlm.modules.base import InstructionTuning
from robustlm.modules.contrastive import Contrast, ContrastiveTuning
from robustlm.modules.passes import Passes
from robustlm.modules.robust import RobustTuning

__all__ = [
    "ANIT",
    "Alignment",
    "Contrast",
    "ContrastiveTuning",
    "InstructionTuning",
    "Passes",
    "PrefixAlignment",
    "RobustTuning",
]

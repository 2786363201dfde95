"""LightningModules. Each file holds one training objective."""

from robustlm.modules.alignment import Alignment, AlignmentTuning
from robustlm.modules.anit import ANIT
from robustlm.modules.base import InstructionTuning
from robustlm.modules.contrastive import Contrast, ContrastiveTuning
from robustlm.modules.passes import Passes
from robustlm.modules.pretraining import Pretraining
from robustlm.modules.robust import RobustTuning
from robustlm.utils.public import old_names

__all__ = [
    "ANIT",
    "Alignment",
    "AlignmentTuning",
    "Contrast",
    "ContrastiveTuning",
    "InstructionTuning",
    "Passes",
    "Pretraining",
    "RobustTuning",
]

__getattr__ = old_names(__name__)

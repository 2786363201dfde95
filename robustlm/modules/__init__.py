"""LightningModules. Each file holds one training objective."""

from robustlm.modules.agreement import Agreement
from robustlm.modules.alignment import Alignment, AlignmentTuning
from robustlm.modules.anit import ANIT
from robustlm.modules.base import InstructionTuning
from robustlm.modules.contrastive import Contrast, ContrastiveTuning
from robustlm.modules.guard import Guard
from robustlm.modules.passes import Passes
from robustlm.modules.preference import Preference
from robustlm.modules.pretraining import Pretraining
from robustlm.modules.rdrop import RDrop
from robustlm.modules.robust import RobustTuning
from robustlm.modules.selection import Selection
from robustlm.modules.sharpness import SAM
from robustlm.utils.public import old_names

__all__ = [
    "ANIT",
    "SAM",
    "Agreement",
    "Alignment",
    "AlignmentTuning",
    "Contrast",
    "ContrastiveTuning",
    "Guard",
    "InstructionTuning",
    "Passes",
    "Preference",
    "Pretraining",
    "RDrop",
    "RobustTuning",
    "Selection",
]

__getattr__ = old_names(__name__)

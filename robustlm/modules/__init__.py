"""LightningModules: one training objective a file."""

from robustlm.modules.anit import ANIT
from robustlm.modules.base import InstructionTuning
from robustlm.modules.passes import Passes

__all__ = ["ANIT", "InstructionTuning", "Passes"]

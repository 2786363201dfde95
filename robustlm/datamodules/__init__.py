"""LightningDataModules: they choose the rows and make the views and loaders."""

from robustlm.datamodules.base import InstructionDataModule
from robustlm.datamodules.contrastive import ContrastiveDataModule
from robustlm.datamodules.noisy import NoisyInstructionDataModule
from robustlm.datamodules.paraphrase import ParaphraseDataModule
from robustlm.datamodules.robustness import RobustnessDataModule
from robustlm.datamodules.text import TextDataModule
from robustlm.utils.public import old_names

__all__ = [
    "ContrastiveDataModule",
    "InstructionDataModule",
    "NoisyInstructionDataModule",
    "ParaphraseDataModule",
    "RobustnessDataModule",
    "TextDataModule",
]

__getattr__ = old_names(__name__)

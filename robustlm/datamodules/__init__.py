"""LightningDataModules: which rows, which views, which loaders."""

from robustlm.datamodules.base import InstructionDataModule
from robustlm.datamodules.contrastive import ContrastiveDataModule
from robustlm.datamodules.noisy import NLUDataModule
from robustlm.datamodules.paraphrase import ParaphraseDataModule
from robustlm.datamodules.robustness import RobustnessDataModule

__all__ = [
    "ContrastiveDataModule",
    "InstructionDataModule",
    "NLUDataModule",
    "ParaphraseDataModule",
    "RobustnessDataModule",
]

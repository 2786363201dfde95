"""LightningDataModules: which rows, which views, which loaders."""

from robustlm.datamodules.base import InstructionDataModule
from robustlm.datamodules.nlu import NLUDataModule

__all__ = ["InstructionDataModule", "NLUDataModule"]

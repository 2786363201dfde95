"""Functions that read from a trainer the folder of the run, the datamodule and the current evaluation."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer

from robustlm.datamodules.base import InstructionDataModule
from robustlm.evaluation.session import EvaluationSession


def run_folder(trainer: Trainer) -> Path:
    """Folder of a run's files: the logger's folder, or the trainer's root. The same on every rank."""
    return Path(trainer.log_dir or trainer.default_root_dir)


def data_of(trainer: Trainer) -> InstructionDataModule:
    """The datamodule of a trainer. Raises `TypeError` if it is no `InstructionDataModule`."""
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, InstructionDataModule):
        raise TypeError(
            f"predictions: found {'loaders without a datamodule' if data is None else type(data).__name__}; expected "
            "an InstructionDataModule, such as RobustnessDataModule, which knows the conditions of a test"
        )
    return data


def session_of(trainer: Trainer) -> EvaluationSession | None:
    """The evaluation that a trainer runs; null if its rows do not come from an `InstructionDataModule`."""
    data = getattr(trainer, "datamodule", None)
    return data.session if isinstance(data, InstructionDataModule) else None

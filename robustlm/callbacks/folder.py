"""The folder that a run logs in."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import Trainer


def run_folder(trainer: Trainer) -> Path:
    """Where a run's files go: the logger's folder, or the trainer's root. The same on every rank."""
    return Path(trainer.log_dir or trainer.default_root_dir)

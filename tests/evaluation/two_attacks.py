"""Attacks a model and tests it, as one process alone or one of two."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from robustlm.callbacks.predictions import PredictionWriter
from robustlm.datamodules import RobustnessDataModule
from robustlm.datamodules.attacking import Attacks
from robustlm.modules import InstructionTuning
from robustlm.sources.source import Source
from tests.tiny import trainer

CONDITION = "attack:textbugger@0.2"


def results(folder: Path, rows: str, **settings: Any) -> list[tuple[str, str, str]]:
    """What every row was asked with; table and manifest are in the folder."""
    run = trainer(folder, callbacks=[PredictionWriter()], **settings)
    data = RobustnessDataModule(
        test=[rows, Source("builtin:quickstart", limit=6)],
        conditions=["clean", CONDITION],
        prompts=1,
        samples=3,
        scoring="options",
        eval_batch_size=5,
        attack=Attacks(samples=2, budget=22, candidates=3),
    )
    run.test(InstructionTuning("builtin:tiny", tuning=None, max_new_tokens=24), data, verbose=False)
    return [(s.dataset, s.id, s.instruction) for s in data.conditioned[CONDITION].samples]


def results_of_rank(folder: Path, rows: str) -> None:
    """Run all of it as one process of two, and keep what came of it."""
    found = results(folder, rows, devices=2, strategy="ddp")
    torch.save(found, folder / f"rank-{torch.distributed.get_rank()}.pt")

"""A script: attacks a model as one process of two, and tests it.

`python -m tests.evaluation.two_attacks FOLDER ROWS`, started once, starts the second process itself.
"""

from __future__ import annotations

import sys
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
        attack=Attacks(samples=2, budget=8, candidates=3),
    )
    run.test(InstructionTuning("builtin:tiny", tuning=None, max_new_tokens=24), data, verbose=False)
    return [(s.dataset, s.id, s.instruction) for s in data.conditioned[CONDITION].samples]


if __name__ == "__main__":
    torch.set_num_threads(1)
    _folder, _rows = sys.argv[1:]
    _found = results(Path(_folder), _rows, devices=2, strategy="ddp")
    torch.save(_found, Path(_folder) / f"rank-{torch.distributed.get_rank()}.pt")

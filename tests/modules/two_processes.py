"""Fits, scores and validates, as one process alone or one of several, and keeps what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from robustlm.callbacks.export import AdapterExport
from robustlm.callbacks.predictions import PredictionWriter
from robustlm.datamodules import NoisyInstructionDataModule
from robustlm.models.tuning import LoRA
from robustlm.modules import ANIT
from robustlm.optim.config import AdamW
from tests.tiny import ADVERSARIES, trainer, weights_of


def results(folder: Path, backbone: str, train: str, test: str, **settings: Any) -> dict[str, Any]:
    """Weights after a fit with each adversary; scores, and the loss, of seven rows in batches of 4 and of 8."""
    found: dict[str, Any] = {}
    for name, adversary in ADVERSARIES.items():
        run = trainer(folder / name, max_epochs=2, gradient_clip_val=0.5, callbacks=[AdapterExport()], **settings)
        module = ANIT(
            backbone, tuning=LoRA(r=2, dropout=0.0), adversary=adversary, optimizer=AdamW(lr=1e-3), max_new_tokens=5
        )
        data = {"train": train, "validation": test, "test": test, "batch_size": 4}
        run.fit(module, NoisyInstructionDataModule(**data))
        found[name] = weights_of(module)
    settings.pop("accumulate_grad_batches", None)
    settings.pop("accumulate_grad_batches", None)
    for size in (4, 8):
        run = trainer(folder / f"test-{size}", callbacks=[PredictionWriter()], **settings)
        more = {"eval_batch_size": size, "conditions": ["clean", "random_typos@0.5"]}
        (*_, scores) = run.test(module, NoisyInstructionDataModule(**data, **more), verbose=False)
        (checked,) = run.validate(module, NoisyInstructionDataModule(**data, **more), verbose=False)
        found[f"scores-{size}"] = {**scores, **checked}
    return found


class LostOnOneRank(ANIT):
    """Has a loss that is no number at the second step, on the last rank alone."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        spoilt = batch_idx == 1 and self.global_rank == self.trainer.world_size - 1
        return loss * float("nan") if spoilt else loss


def lost_on_one_rank(folder: Path, backbone: str, train: str, **settings: Any) -> dict[str, Any]:
    """Weights after such a fit, and how many of how many steps were skipped."""
    run = trainer(folder / "lost", **settings)
    module = LostOnOneRank(backbone, tuning=LoRA(r=2, dropout=0.0), optimizer=AdamW(lr=1e-3))
    run.fit(module, NoisyInstructionDataModule(train=train, batch_size=2))
    return {"weights": weights_of(module), "skipped": module.skipped_steps, "steps": run.global_step}


def results_of_rank(folder: Path, *names: str) -> None:
    """Run all of it as one process of two, and keep what came of it."""
    found = results(folder, *names, devices=2, strategy="ddp")
    found["lost"] = lost_on_one_rank(folder, *names[:2], devices=2, strategy="ddp")
    torch.save(found, folder / f"rank-{torch.distributed.get_rank()}.pt")

"""Fits on a stream of rows with replayed text, as one process alone or one of two, and keeps what came of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer

from robustlm import Replay
from robustlm.adversaries import NRM
from robustlm.callbacks.checkpoints import StepCheckpoint
from robustlm.datamodules import NoisyInstructionDataModule
from robustlm.models.tuning import LoRA
from robustlm.modules import ANIT
from robustlm.noise.base import Noise
from robustlm.optim.config import AdamW, Schedule
from tests.tiny import trainer, weights_of

STEPS, STOP = 8, 3
"""Optimiser steps of a run, and the step of the checkpoint that it goes on from, within a window."""


class Seen(Callback):
    """Keeps the rows and the loss of every micro-batch."""

    def __init__(self) -> None:
        self.ids: list[list[str]] = []
        self.text: list[int] = []
        self.losses: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.ids.append(batch.ids)
        self.text.append(0 if batch.replay is None else len(batch.replay.input_ids))
        self.losses.append(float(outputs["loss"]))


def fit(
    folder: Path, backbone: str, train: str, text: str, ckpt: Path | None = None, workers: int = 0, **settings: Any
) -> dict[str, Any]:
    """What each micro-batch had, and the weights at the end. Steps have 8 rows; windows are cut at 16."""
    seen = Seen()
    kept = StepCheckpoint(dirpath=folder / "checkpoints", every_n_train_steps=1, save_top_k=-1, filename="{step}")
    run = trainer(
        folder, seed=7 if ckpt is None else 99, max_epochs=-1, max_steps=STEPS, gradient_clip_val=0.5,
        enable_checkpointing=True, callbacks=[seen, kept], **settings,
    )  # fmt: skip
    module = ANIT(
        backbone, tuning=LoRA(r=2, dropout=0.0), adversary=NRM(), optimizer=AdamW(lr=1e-3),
        schedule=Schedule(warmup=0.0, decay="constant"), replay_weight=0.5,
    )  # fmt: skip
    data = NoisyInstructionDataModule(
        train=train, batch_size=4, stream=20, group_by_length=False, noise=Noise(phi=0.7), num_workers=workers,
        replay=Replay(text, share=0.3, length=20, held_out=0), cache_dir=str(folder / "cache"),
    )  # fmt: skip
    run.fit(module, data, ckpt_path=ckpt)
    found = {"ids": seen.ids, "text": seen.text, "losses": seen.losses, "weights": weights_of(module)}
    return found | {"position": data.state_dict()}


def fits_of_rank(folder: Path, *names: str) -> None:
    """Run as one process of two, go on from a checkpoint within a window, and keep what came of both."""
    whole = fit(folder, *names, devices=2, strategy="ddp")
    checkpoint = folder / "checkpoints" / f"step={STOP}.ckpt"
    resumed = fit(folder / "resumed", *names, ckpt=checkpoint, workers=1, devices=2, strategy="ddp")
    torch.save({"whole": whole, "resumed": resumed}, folder / f"rank-{torch.distributed.get_rank()}.pt")

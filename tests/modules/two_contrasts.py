"""Contrast and alignment, as one process alone or one of two whose ranks may hold unequal numbers of rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, SequentialSampler

from robustlm.datamodules import ContrastiveDataModule
from robustlm.datamodules.batches import TrainDataset
from robustlm.datamodules.sampling import BatchKey
from robustlm.models.tuning import LoRA
from robustlm.modules import SAM, Alignment, Contrast, Preference, RobustTuning, Selection
from robustlm.optim.config import AdamW, Schedule
from tests.tiny import Record, trainer, weights_of

STEPS = ([[0, 1, 2, 3], [4, 5]], [[6], [7, 8, 9]], [[10, 2, 7], [11, 1, 3]])
"""For each optimiser step, the rows of each rank."""

MODULES: dict[str, dict[str, Any]] = {
    "balanced": {"contrast": Contrast(0.2)},
    "symmetric": {"contrast": Contrast(0.2, symmetric=True, weight=0.5)},
    "negatives": {"contrast": Contrast(0.2, symmetric=True, pooling="mean")},
    "alignment": {"alignment": Alignment(0.4, "js"), "chunk_logits": 500},
    "all": {
        "contrast": Contrast(0.2, symmetric=True),
        "alignment": Alignment(0.4),
        "chunk_rows": 3,
        "chunk_logits": 500,
    },
    "selection": {"selection": Selection(bf16=False), "contrast": Contrast(0.2)},
    "apart": {"contrast": Contrast(0.2, gather=False)},
    "own": {"sam": SAM(), "preference": Preference()},
}


class _Fixed(DistributedSampler[Any], SequentialSampler):
    """Batches that are given, in a sampler of a kind that Lightning leaves alone."""

    def __init__(self, keys: Sequence[BatchKey]) -> None:
        self._keys = keys

    def set_epoch(self, epoch: int) -> None:
        pass

    def __len__(self) -> int:
        return len(self._keys)

    def __iter__(self) -> Any:
        return iter(self._keys)


class _Gradients(Callback):
    """Keeps the gradients of the first step, as all ranks agree on them."""

    def __init__(self) -> None:
        self.first: dict[str, Tensor] = {}

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if not self.first:
            self.first = {name: p.grad.clone() for name, p in pl_module.named_parameters() if p.grad is not None}


class _Rows(ContrastiveDataModule):
    """The rows of `STEPS`: those of this rank, or of both together."""

    def train_dataloader(self) -> Any:
        rows, fitter = self.rows["train"], self.trainer
        assert fitter is not None
        dataset: TrainDataset = self.train_dataset(rows)
        keys = []
        for shares in STEPS:
            every = [row for share in shares for row in share]
            own = shares[fitter.global_rank] if fitter.world_size > 1 else every
            tokens = sum(rows.answer_tokens[row] for row in every) / fitter.world_size
            keys.append(BatchKey(0, tuple(own), float(tokens)))
        return DataLoader(dataset, batch_size=None, sampler=_Fixed(keys))


def results(folder: Path, backbone: str, rows: str, names: Sequence[str], **settings: Any) -> dict[str, Any]:
    """Weights after the steps, the first gradient, and what was logged."""
    found: dict[str, Any] = {}
    for name in names:
        record, gradients = Record(), _Gradients()
        run = trainer(folder / name, callbacks=[record, gradients], log_every_n_steps=1, **settings)
        module = RobustTuning(
            backbone,
            tuning=LoRA(r=2, dropout=0.0),
            optimizer=AdamW(lr=1e-3),
            schedule=Schedule(),
            **MODULES[name],
        )
        data = _Rows(
            train=rows,
            batch_size=4,
            bank="sentiment",
            instructions="concise",
            variants=2,
            negatives=1 if name in ("negatives", "all") else 0,
        )
        run.fit(module, data)
        found[name] = {"weights": weights_of(module), "gradients": gradients.first, "logs": record.steps}
    return found


def results_of_rank(folder: Path, backbone: str, rows: str) -> None:
    """Run all of it as one process of two, and keep what came of it."""
    found = results(folder, backbone, rows, list(MODULES), devices=2, strategy="ddp")
    folder.mkdir(exist_ok=True)
    torch.save(found, folder / f"rank-{torch.distributed.get_rank()}.pt")

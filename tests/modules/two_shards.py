"""Fits with weights divided among two processes (FSDP2), and the same in one process."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from robustlm.adversaries import NRM, PGD, NEFTune
from robustlm.callbacks.checkpoints import StepCheckpoint
from robustlm.callbacks.export import AdapterExport
from robustlm.callbacks.fsdp2 import FSDP2
from robustlm.datamodules import NoisyInstructionDataModule
from robustlm.models.loading import Loading
from robustlm.models.sharding import whole
from robustlm.models.tuning import FullTuning, LoRA
from robustlm.modules import Alignment, Contrast, InstructionTuning, RobustTuning
from robustlm.optim.config import AdamW
from tests.tiny import trainer

LOW = LoRA(r=2, dropout=0.0)
CASES: dict[str, dict[str, Any]] = {
    "nrm": {"tuning": LOW, "adversary": NRM()},
    "pgd": {"tuning": LoRA(r=2, dropout=0.0, dora=True), "adversary": PGD(steps=2)},
    "neftune": {"tuning": LOW, "adversary": NEFTune(), "loading": Loading(gradient_checkpointing=True)},
    "alignment": {"tuning": LOW, "adversary": NRM(), "alignment": Alignment()},
    "contrast": {"tuning": LOW, "contrast": Contrast()},
    "full": {"tuning": FullTuning(), "adversary": NRM()},
}
STEPS = 3


def module_of(name: str, backbone: str) -> InstructionTuning:
    """The module of a case; its passes are those of `RobustTuning`, in which every method has a slot."""
    return RobustTuning(backbone, optimizer=AdamW(lr=1e-3), **CASES[name])


def fits(folder: Path, backbone: str, train: str, names: Iterable[str] = CASES, **settings: Any) -> dict[str, Any]:
    """The trained weights after a fit of each case, gathered."""
    found: dict[str, Any] = {}
    for name in names:
        kept = [AdapterExport(), *checkpoints(folder / name)]
        own = {"enable_checkpointing": True, "gradient_clip_val": 0.5, "max_steps": STEPS, **settings}
        run = trainer(folder / name, callbacks=kept, **own)
        module = module_of(name, backbone)
        if isinstance(run.strategy, FSDP2):
            settings["strategy"] = FSDP2()
        run.fit(module, NoisyInstructionDataModule(train=train, batch_size=4))
        found[name] = {key: whole(p.detach()).clone().cpu() for key, p in module.named_parameters() if p.requires_grad}
        if "strategy" in settings:
            held = sum(p.to_local().numel() if hasattr(p, "to_local") else p.numel() for p in module.parameters())
            found[f"{name}, held"] = held / sum(p.numel() for p in module.parameters())
    return found


def checkpoints(folder: Path) -> list[StepCheckpoint]:
    """Keeps a checkpoint after each step."""
    return [StepCheckpoint(dirpath=folder / "checkpoints", every_n_train_steps=1, save_top_k=-1, filename="{step}")]


def fits_of_rank(folder: Path, backbone: str, train: str) -> None:
    """Run all of it as one process of two, resume one case, and keep what came of it."""
    found = fits(folder, backbone, train, devices=2, strategy=FSDP2())
    found["contrast, ddp"] = fits(folder / "ddp", backbone, train, ["contrast"], devices=2, strategy="ddp")["contrast"]
    module = module_of("nrm", backbone)
    run = trainer(folder / "resumed", gradient_clip_val=0.5, max_steps=STEPS, devices=2, strategy=FSDP2())
    checkpoint = folder / "nrm" / "checkpoints" / "step=2.ckpt"
    run.fit(module, NoisyInstructionDataModule(train=train, batch_size=4), ckpt_path=str(checkpoint))
    found["resumed"] = {key: whole(p.detach()).clone().cpu() for key, p in module.named_parameters() if p.requires_grad}
    torch.save(found, folder / f"rank-{torch.distributed.get_rank()}.pt")

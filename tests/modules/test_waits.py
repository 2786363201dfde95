"""A training step never waits for the device, except where this file says why."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from robustlm.adversaries import FGM, FGSM, NRM, PGD, FreeAT, FreeLB, NEFTune
from robustlm.batch import InstructionBatch
from robustlm.datamodules import NoisyInstructionDataModule
from robustlm.models.loading import Loading
from robustlm.models.tuning import FullTuning, LoRA, PrefixTuning, PromptTuning
from robustlm.modules import (
    ANIT,
    SAM,
    Alignment,
    AlignmentTuning,
    Contrast,
    ContrastiveTuning,
    InstructionTuning,
    Preference,
    RDrop,
    RobustTuning,
    Selection,
)
from tests.tiny import trainer
from tests.waits import waits

LORA = {"tuning": LoRA(r=2)}
ALL = {"contrast": Contrast(pooling="prompt_end", symmetric=True), "alignment": Alignment(direction="js")}
STEPS: dict[str, tuple[type[InstructionTuning], dict[str, Any]]] = {
    "plain": (InstructionTuning, LORA),
    "full": (InstructionTuning, {"tuning": FullTuning()}),
    "chunks": (InstructionTuning, {**LORA, "chunk_rows": 2, "train_on": "both"}),
    "coin": (ContrastiveTuning, LORA),
    "alignment": (AlignmentTuning, {"tuning": PrefixTuning(tokens=3)}),
    "nrm": (ANIT, {**LORA, "adversary": NRM(target_gap=0.2)}),
    "nrm, token share": (ANIT, {**LORA, "adversary": NRM(ascent="clean", token_share=0.3, target_gap=0.2)}),
    "nrm, low memory": (ANIT, {**LORA, "adversary": NRM(low_memory=True)}),
    "fgm": (ANIT, {**LORA, "adversary": FGM()}),
    "fgsm": (ANIT, {**LORA, "adversary": FGSM()}),
    "pgd": (ANIT, {**LORA, "adversary": PGD(steps=2)}),
    "freelb": (ANIT, {**LORA, "adversary": FreeLB(steps=2)}),
    "freeat": (ANIT, {**LORA, "adversary": FreeAT(replays=2)}),
    "neftune": (ANIT, {**LORA, "adversary": NEFTune()}),
    "all": (RobustTuning, {**LORA, "adversary": NRM(ascent="clean"), **ALL}),
    "padding-free": (InstructionTuning, {**LORA, "loading": Loading(padding_free=True)}),
    "padding-free, all": (
        RobustTuning,
        {"tuning": PromptTuning(tokens=3), "adversary": NRM(), "loading": Loading(padding_free=True), **ALL},
    ),
    "all, low memory": (
        RobustTuning,
        {**LORA, "adversary": NRM(ascent="clean", low_memory=True), **ALL, "chunk_logits": 1000},
    ),
    "all, fgm": (RobustTuning, {**LORA, "adversary": FGM(), **ALL}),
    "hardest": (RobustTuning, {**LORA, "selection": Selection(), "adversary": NRM(ascent="clean"), **ALL}),
    "soft": (RobustTuning, {**LORA, "selection": Selection("soft"), "preference": Preference()}),
    "gradient": (RobustTuning, {**LORA, "selection": Selection("gradient"), "adversary": NRM(), "train_on": "both"}),
    "random": (RobustTuning, {**LORA, "selection": Selection("random"), "chunk_rows": 2}),
    "preference, released": (RobustTuning, {**LORA, "preference": Preference("released"), "chunk_logits": 1000}),
    "sam": (RobustTuning, {**LORA, "sam": SAM(), "rdrop": RDrop(), "preference": Preference(weight=0.5)}),
}

ALLOWED = {
    "tolist at robustlm/utils/finite.py:step_extent": "the finite check, once an optimiser step",
    "equal at robustlm/models/answers.py:_more_than_the_head": "a look at the head, once for a model",
    "_local_scalar_dense at robustlm/models/answers.py:_more_than_the_head": "the same",
    "equal at robustlm/adversaries/freeat.py:_resume": "compares seeds, which stay on the CPU",
    "_local_scalar_dense at torch/optim": "AdamW's step counts, which stay on the CPU",
    "tensor at torch/optim": "a one that is added to these counts, on the CPU",
    "_local_scalar_dense at robustlm/modules/passes.py:replayed": "the seed of other dropout masks, drawn on the CPU",
    "tensor at pytorch/core/module.py:__to_tensor": "logging: Lightning copies a plain number (train/skipped_steps)",
    "tensor at site-packages/transformers/cache_utils.py:lazy_initialization": "an empty cache, for a prefix only",
}
"""What remains in a step, and why."""


class _Watch(Callback):
    """Counts the waits of one training step, from the batch on its device to the end of the optimiser's step."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.found: dict[str, int] = {}

    def on_train_batch_start(self, trainer: Any, module: Any, batch: InstructionBatch, at: int) -> None:
        self.found = self._stack.enter_context(waits())

    def on_train_batch_end(self, *_: Any) -> None:
        self._stack.close()


@pytest.mark.parametrize("name", STEPS)
def test_a_step_never_waits(name: str, llama: str, train_file: str, tmp_path: Path) -> None:
    kind, settings = STEPS[name]
    watch = _Watch()
    fitter = trainer(tmp_path, max_steps=1, callbacks=[watch], gradient_clip_val=1.0)
    many = 3 if "selection" in settings else 1
    data = NoisyInstructionDataModule(
        train=train_file, batch_size=4, replays=2 if name == "freeat" else 1, variants=many
    )
    fitter.fit(kind(llama, **settings), data)
    assert watch.found["tolist at robustlm/utils/finite.py:step_extent"] == 1
    assert set(watch.found) <= set(ALLOWED), watch.found


def test_the_counter_finds_waits() -> None:
    values, mask = torch.arange(4.0, requires_grad=True), torch.tensor([True, False, True, True])
    ways = {
        "item": lambda: values.sum().item(),
        "truth": lambda: bool(values.any()),
        "list": lambda: values.tolist(),
        "mask": lambda: values[mask],
        "nonzero": lambda: values.nonzero(),
        "bincount": lambda: torch.bincount(mask.long()),
        "unique": lambda: torch.unique(values),
        "backward": lambda: values[mask].sum().backward(),
        "host": lambda: torch.tensor(1.0, device=values.device),
        "repeat": lambda: values.repeat_interleave(mask.long()),
    }
    for name, way in ways.items():
        with waits() as found:
            way()
        assert found, name
    with waits() as found:
        (values.index_select(0, torch.arange(2)) * torch.full((), 2.0)).sum().backward()
    assert not found

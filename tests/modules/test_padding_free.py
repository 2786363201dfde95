"""Every objective and every adversary gives without padding what it gives with padding: losses, gradients and δ."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from robustlm.adversaries import FGM, FGSM, NRM, PGD, FreeAT, FreeLB, NEFTune
from robustlm.adversaries.base import Adversary
from robustlm.models.backbone import Backbone, Loading
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
from robustlm.noise.base import Noise
from tests.modules.test_robust import batch_of, phrased_file  # noqa: F401 - a fixture

LORA = {"tuning": LoRA(r=2, dropout=0.0)}
SLOTS = {"contrast": Contrast(pooling="prompt_end", symmetric=True), "alignment": Alignment(direction="js")}
ADVERSARIES: dict[str, Adversary] = {
    "nrm": NRM(scale_radius_by_beta=True, init_scale=1.0),
    "nrm, token": NRM(norm="token"),
    "nrm, batch": NRM(norm="batch"),
    "nrm, gap": NRM(target_gap=0.2),
    "nrm, low memory": NRM(low_memory=True),
    "nrm, clean": NRM(ascent="clean"),
    "nrm, clean, tokens": NRM(
        ascent="clean", init_scale=1.0, token_share=0.3, scale_start_by_beta=False, scale_radius_by_beta=True
    ),
    "fgm": FGM(),
    "fgsm": FGSM(),
    "pgd": PGD(steps=2),
    "pgd, low memory": PGD(steps=2, low_memory=True),
    "freelb": FreeLB(steps=2),
    "freeat": FreeAT(replays=2),
    "neftune": NEFTune(),
}
CASES: dict[str, tuple[type[InstructionTuning], dict[str, Any]]] = {
    "plain": (InstructionTuning, LORA),
    "plain, full": (InstructionTuning, {"tuning": FullTuning()}),
    "plain, all views": (InstructionTuning, {"tuning": PromptTuning(tokens=3), "train_on": "both"}),
    "chunks": (InstructionTuning, {**LORA, "chunk_rows": 3, "train_on": "both"}),
    "coin, last": (ContrastiveTuning, {**LORA, "contrast": Contrast()}),
    "coin, mean": (ContrastiveTuning, {**LORA, "contrast": Contrast(pooling="mean")}),
    "coin, max": (ContrastiveTuning, {**LORA, "contrast": Contrast(pooling="max")}),
    "kl": (AlignmentTuning, {"tuning": PrefixTuning(tokens=3)}),
    **{name: (ANIT, {**LORA, "adversary": one}) for name, one in ADVERSARIES.items()},
    **{f"all, {name}": (RobustTuning, {**LORA, "adversary": one, **SLOTS}) for name, one in ADVERSARIES.items()},
    "all, no adversary": (RobustTuning, {**LORA, **SLOTS}),
    "all, full": (RobustTuning, {"tuning": FullTuning(), "adversary": NRM(), "perturb": "all", **SLOTS}),
    "all, prefix": (RobustTuning, {"tuning": PrefixTuning(tokens=3), "adversary": FGM(), **SLOTS}),
    "all, logits in chunks": (RobustTuning, {**LORA, "adversary": NRM(low_memory=True), "chunk_logits": 1000, **SLOTS}),
    "kl, logits in chunks": (AlignmentTuning, {"tuning": FullTuning(), "chunk_logits": 1000}),
    "selection": (
        RobustTuning,
        {**LORA, "selection": Selection(bf16=False), "adversary": NRM(ascent="clean"), **SLOTS},
    ),
    "selection, soft": (RobustTuning, {**LORA, "selection": Selection("soft", bf16=False), "preference": Preference()}),
    "selection, gradient": (RobustTuning, {**LORA, "selection": Selection("gradient"), **SLOTS}),
    "preference, released": (RobustTuning, {**LORA, "preference": Preference("released"), "chunk_logits": 1000}),
    "sam": (RobustTuning, {**LORA, "sam": SAM(), "contrast": Contrast(), "rdrop": RDrop(view="variant")}),
    "all, chunks": (RobustTuning, {**LORA, "adversary": NRM(), "chunk_rows": 3, **SLOTS}),
}


SINGLE = ("plain", "chunks", "coin, mean", "kl", "all, nrm", "all, fgm")
"""The cases that also run in single precision."""


@pytest.mark.parametrize(
    ("name", "precision"),
    [*((name, torch.float64) for name in CASES), *((name, torch.float32) for name in SINGLE)],
)
def test_a_step_without_padding_is_the_padded_step(
    name: str,
    precision: torch.dtype,
    llama: str,
    phrased_file: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kind, settings = CASES[name]
    monkeypatch.setattr(Backbone, "embedding_scale", torch.tensor(0.5))  # it is of single precision
    found = []
    for free in (False, True):
        torch.manual_seed(0)
        module = kind(llama, loading=Loading(padding_free=free), **settings)
        batch = batch_of(module, phrased_file, variants=2, negatives=1, noise=Noise(phi=0.8))
        assert all(view is not None and view.layout.padded for view in (batch.raw, batch.variant, batch.negative))
        module.to(precision).eval()
        torch.manual_seed(1)
        for p in module.backbone.trained:
            p.data.add_(torch.randn(p.shape).to(p) * 0.1)
        values: dict[str, Tensor] = {}
        monkeypatch.setattr(module, "log", lambda key, value, values=values, **_: values.update({key: value}))
        monkeypatch.setattr(module, "log_dict", lambda more, values=values, **_: values.update(more))
        for _ in range(2 if "freeat" in name else 1):  # the second replay is perturbed
            module.zero_grad()
            module.training_step(batch, 0).backward()
        padding = values.pop("train/padding")
        assert padding == 0 if free else padding > 0
        grads = {key: p.grad for key, p in module.named_parameters() if p.grad is not None}
        found.append({**{key: torch.as_tensor(value) for key, value in values.items()}, **grads})
    padded, ours = found
    assert padded.keys() == ours.keys()
    size = max(1.0, max(float(value.abs().max()) for value in padded.values()))
    limit = 1e-9 if precision == torch.float64 else 1e-5
    for key, value in padded.items():
        assert torch.allclose(ours[key], value, rtol=limit, atol=limit * size), key

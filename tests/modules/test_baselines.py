"""R-Drop and SAM: against their equations, step by step."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from robustlm.adversaries import NRM
from robustlm.datamodules import InstructionDataModule
from robustlm.models.tuning import FullTuning, LoRA
from robustlm.modules import SAM, Contrast, RDrop, RobustTuning
from tests.modules.test_chunked_logits import batch_of, module_of
from tests.modules.test_selection import TUNINGS, gradients
from tests.tiny import load, trainer, weights_of


@pytest.mark.parametrize("view", ["raw", "variant"])
@pytest.mark.parametrize("chunk", [None, 500])
def test_rdrop_is_its_equation(view: str, chunk: int | None, llama: str) -> None:
    backbone = load(llama, LoRA(r=2, dropout=0.3)).double()
    backbone.train()
    batch = batch_of(backbone)
    module = module_of(backbone, rdrop=RDrop(0.7, view), train_on=view, chunk_logits=chunk)  # type: ignore[arg-type]
    torch.manual_seed(0)
    found = module.losses(module.passes(batch))
    torch.manual_seed(0)
    passes = module_of(backbone, chunk_logits=None).passes(batch)
    own = passes.view(view)  # type: ignore[arg-type]
    once, again = passes.run(own), passes.run(own, masks=1)
    p, q = once.logits.softmax(-1), again.logits.softmax(-1)
    assert not torch.allclose(p, q)
    apart = ((p * (p / q).log()).sum() + (q * (q / p).log()).sum()) / 2
    tokens = len(once.targets)
    first, second = (-one[torch.arange(tokens), once.targets].log().sum() / tokens for one in (p, q))
    assert float(found["answer"]) == pytest.approx(float(first), rel=1e-9)
    assert float(found["rdrop"]) == pytest.approx(float(second + 0.7 * apart / tokens), rel=1e-9)
    ours = torch.autograd.grad(torch.stack(list(found.values())).sum(), backbone.trained)
    theirs = torch.autograd.grad(first + second + 0.7 * apart / tokens, backbone.trained)
    assert all(torch.allclose(a, b, rtol=1e-7, atol=1e-12) for a, b in zip(ours, theirs, strict=True))


def test_rdrop_needs_dropout(llama: str, train_file: str, tmp_path: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(llama)
    model.config.attention_dropout = 0.0
    model.save_pretrained(tmp_path / "still")
    RobustTuning(llama).backbone.tokenizer.save_pretrained(tmp_path / "still")
    data = InstructionDataModule(train=train_file, batch_size=4)
    for tuning, drops in ((LoRA(r=2, dropout=0.0), False), (LoRA(r=2, dropout=0.1), True)):
        module = RobustTuning(str(tmp_path / "still"), tuning=tuning, rdrop=RDrop())
        if drops:
            trainer(tmp_path, max_steps=1).fit(module, data)
        else:
            with pytest.raises(ValueError, match="rdrop: neither the model nor its adapter has dropout"):
                trainer(tmp_path, max_steps=1).fit(module, data)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_sam_is_the_gradient_at_the_moved_weights(tuning: str, llama: str) -> None:
    backbone = load(llama, TUNINGS[tuning]).double()
    batch, rho = batch_of(backbone), 0.2
    slots = {"contrast": Contrast(weight=0.3), "rdrop": RDrop(0.5)}
    plain, sam = module_of(backbone, **slots), module_of(backbone, sam=SAM(rho), **slots)
    before = weights_of(plain)
    torch.manual_seed(0)
    first, slopes = gradients(plain, batch)
    length = torch.stack([one.square().sum() for one in slopes.values()]).sum().sqrt()
    with torch.no_grad():
        for name, p in plain.named_parameters():
            if p.requires_grad:
                p.add_(slopes[name] * rho / length)
    torch.manual_seed(0)
    wanted = gradients(plain, batch)
    with torch.no_grad():
        for name, p in plain.named_parameters():
            if p.requires_grad:
                p.copy_(before[name])
    logged: dict[str, Tensor] = {}
    sam.log = lambda name, value, **_: logged.update({name: value})  # type: ignore[method-assign]
    torch.manual_seed(0)
    loss, found = gradients(sam, batch)
    assert loss == pytest.approx(wanted[0], rel=1e-12)
    assert float(logged["sam/gap"]) == pytest.approx(wanted[0] - first, rel=1e-6)
    assert all(torch.allclose(value, wanted[1][name], rtol=1e-8, atol=1e-12) for name, value in found.items())
    assert all(torch.equal(value, before[name]) for name, value in weights_of(sam).items())
    assert not sam.updating


def test_sam_restores_the_weights_whatever_happens(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load(llama, LoRA(r=2))
    module, batch = module_of(backbone, sam=SAM()), batch_of(backbone)
    before = weights_of(module)
    calls = []
    supervised = RobustTuning.supervised

    def broken(self: RobustTuning, passes: object) -> dict[str, Tensor]:
        calls.append(not all(torch.equal(value, before[name]) for name, value in weights_of(module).items()))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return supervised(self, passes)  # type: ignore[arg-type]

    monkeypatch.setattr(RobustTuning, "supervised", broken)
    with pytest.raises(KeyboardInterrupt):
        module.training_step(batch, 0)
    assert calls == [False, True]
    assert all(torch.equal(value, before[name]) for name, value in weights_of(module).items())


def test_a_gradient_that_is_not_finite_is_seen(llama: str) -> None:
    """The losses are then NaN, which skips the optimiser step; the weights stay."""
    backbone = load(llama, LoRA(r=2))
    module, batch = module_of(backbone, sam=SAM(), chunk_logits=None), batch_of(backbone)
    before = weights_of(module)
    module.weights["answer"] = float("inf")
    assert not torch.isfinite(module.training_step(batch, 0))
    assert all(torch.equal(value, before[name]) for name, value in weights_of(module).items())


def test_sam_and_an_adversary_exclude_each_other(llama: str) -> None:
    with pytest.raises(ValueError, match="sam: found together with adversary NRM"):
        RobustTuning(llama, sam=SAM(), adversary=NRM())
    with pytest.raises(ValueError, match=r"sam\.rho: found -1"):
        SAM(-1)
    with pytest.raises(ValueError, match="sam: found with FSDP2"):
        RobustTuning(llama, tuning=FullTuning(), sam=SAM()).check_sharded()
    for settings, words in (({"weight": -1.0}, "rdrop.weight"), ({"view": "negative"}, "rdrop.view: found 'negative'")):
        with pytest.raises(ValueError, match=words):
            RDrop(**settings)  # type: ignore[arg-type]

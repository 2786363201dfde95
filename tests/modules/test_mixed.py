"""Mixed precision: frozen weights are cast once, trained ones stay float32, and nothing else changes."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from robustlm.adversaries import NRM
from robustlm.datamodules import NoisyInstructionDataModule
from robustlm.datamodules.sampling import BatchKey
from robustlm.models.casts import drop_casts, keep_casts
from robustlm.models.loading import Loading
from robustlm.models.tuning import FullTuning, LoRA, PrefixTuning, PromptTuning, Tuning
from robustlm.modules import ANIT, Alignment, Contrast, InstructionTuning, RobustTuning
from robustlm.noise.base import Noise
from tests.processes import side_by_side
from tests.tiny import Record, trainer, weights_of

TUNINGS: dict[str, Tuning] = {
    "lora": LoRA(r=2, dropout=0.1),
    "prefix": PrefixTuning(tokens=3),
    "prompt": PromptTuning(tokens=3),
    "head": FullTuning(freeze_embeddings=True),  # a frozen head that is tied to the table, where the model has one
}


def noisy(file: str, **settings: Any) -> NoisyInstructionDataModule:
    return NoisyInstructionDataModule(train=file, batch_size=6, noise=Noise(phi=0.8), **settings)


def step(module: InstructionTuning, batch: Any) -> dict[str, Tensor]:
    """Losses and gradients of a training step under autocast."""
    torch.manual_seed(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = module.losses(module.passes(batch))
    torch.stack(list(losses.values())).sum().backward()
    found = {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}
    module.zero_grad()
    return {**{name: loss.detach() for name, loss in losses.items()}, **found}


def batch_for(module: InstructionTuning, file: str) -> Any:
    module.configure_model()
    torch.manual_seed(5)
    for p in module.backbone.trained:
        p.data.add_(torch.randn_like(p) * 0.1)
    module.train()
    data = noisy(file)
    data.connect(module.backbone)
    data.setup("fit")
    return data.train_dataset(data.rows["train"])[BatchKey(0, tuple(range(6)))]


@pytest.mark.parametrize("kind", ["llama", "t5", "gemma"])
@pytest.mark.parametrize("tuning", TUNINGS)
def test_weights_that_are_cast_once_give_the_numbers_of_autocast(
    kind: str, tuning: str, models: dict[str, str], train_file: str
) -> None:
    settings: dict[str, Any] = {"contrast": Contrast(), "alignment": Alignment()} if tuning == "lora" else {}
    module = RobustTuning(models[kind], tuning=TUNINGS[tuning], adversary=NRM(), **settings)
    batch = batch_for(module, train_file)
    before = step(module, batch)
    frozen = (kind, tuning) != ("llama", "head")  # whose head is a matrix of its own, which is trained
    assert bool(keep_casts(module, torch.bfloat16)) is frozen
    after = step(module, batch)
    drop_casts(module)
    assert before.keys() == after.keys()
    assert len(before) > len(module.losses(module.passes(batch)))
    for name, value in before.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, after[name]), name
    assert not any(hasattr(layer, "cast") for layer in module.modules())


def test_layers_of_gpt2_are_cast_once_too(tokenizer: Any) -> None:
    config = GPT2Config(vocab_size=len(tokenizer), n_positions=64, n_embd=16, n_layer=1, n_head=2)
    model: Any = GPT2LMHeadModel(config).eval().requires_grad_(False)
    ids = torch.arange(12).view(2, 6)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        wanted = model(ids).logits
        count = keep_casts(model, torch.bfloat16)
        assert torch.equal(model(ids).logits, wanted)
    tables = model.transformer.wpe.weight.numel()
    norms = sum(p.numel() for name, p in model.named_parameters() if "ln_" in name)
    assert count == sum(p.numel() for p in model.parameters()) - tables - norms  # the head is the table of words


def test_casts_are_used_under_their_autocast_alone() -> None:
    layer = torch.nn.Linear(4, 4).requires_grad_(False)
    x = torch.randn(3, 4)
    plain = layer(x)
    keep_casts(layer, torch.bfloat16)
    layer.cast = (torch.zeros(4, 4, dtype=torch.bfloat16), layer.bias.bfloat16())  # type: ignore[assignment]
    assert torch.equal(layer(x), plain)
    with torch.autocast("cpu", dtype=torch.float16):
        assert not torch.equal(layer(x), layer.bias.half().expand(3, 4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(x), layer.bias.bfloat16().expand(3, 4))
        with torch.autocast("cpu", enabled=False):
            assert torch.equal(layer(x), plain)
        layer.requires_grad_(True)  # a callback may unfreeze a layer later
        assert layer(x).requires_grad
        assert not torch.equal(layer(x), layer.bias.bfloat16().expand(3, 4))
    layer.requires_grad_(False)
    with pytest.raises(RuntimeError, match="1 frozen weights were changed during the run"):
        drop_casts(layer)
    assert type(layer) is torch.nn.Linear


class Watch(Record):
    """Notes how many layers keep a cast in the first training batch and the first test batch."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[str, int] = {}

    def _note(self, stage: str, module: Any) -> None:
        self.kept.setdefault(stage, sum(hasattr(layer, "cast") for layer in module.modules()))

    def on_train_batch_start(self, _trainer: Any, module: Any, *_: Any) -> None:
        self._note("fit", module)

    def on_test_batch_start(self, _trainer: Any, module: Any, *_: Any) -> None:
        self._note("test", module)

    def on_validation_batch_start(self, _trainer: Any, module: Any, *_: Any) -> None:
        self._note("validate", module)


def test_a_run_is_the_same_with_casts_and_leaves_none(
    llama: str, train_file: str, test_file: str, tmp_path: Path
) -> None:
    found = []
    for once in (True, False):
        module = ANIT(llama, loading=Loading(cast_once=once), tuning=LoRA(r=2), max_new_tokens=3)
        data = noisy(train_file, validation=test_file, test=test_file)
        watch = Watch()
        run = trainer(tmp_path, precision="bf16-mixed", max_steps=3, callbacks=[watch], log_every_n_steps=1)
        run.fit(module, data)
        run.save_checkpoint(tmp_path / f"{once}.ckpt")
        scores = run.test(module, data, verbose=False)
        assert all(bool(watch.kept[stage]) is once for stage in ("fit", "validate", "test"))
        assert not any(hasattr(layer, "cast") for layer in module.modules())
        assert {p.dtype for p in module.parameters()} == {torch.float32}
        states = [s for o in run.optimizers for one in o.state.values() for s in one.values()]
        assert {s.dtype for s in states} == {torch.float32}
        found.append((watch.steps, scores, weights_of(module)))
    (one, two) = found
    assert one[:2] == two[:2]
    assert all(torch.equal(one[2][name], two[2][name]) for name in two[2])
    kept, plain = (torch.load(tmp_path / f"{once}.ckpt", weights_only=True) for once in (True, False))
    assert kept["state_dict"].keys() == plain["state_dict"].keys()
    assert kept["robustlm"]["precision"] == "bf16-mixed"


def test_casts_are_made_anew_after_a_run_that_failed(llama: str, train_file: str, tmp_path: Path) -> None:
    class Fails(Record):
        def on_train_batch_end(self, *_: Any) -> None:
            raise KeyError("here")

    module = InstructionTuning(llama, tuning=LoRA(r=2))
    with pytest.raises(KeyError):
        trainer(tmp_path, precision="bf16-mixed", callbacks=[Fails()]).fit(module, noisy(train_file))
    head = module.backbone.base.lm_head
    head.weight.data.mul_(2)  # between runs, weights may change
    watch = Watch()
    trainer(tmp_path, precision="bf16-mixed", max_steps=1, callbacks=[watch]).fit(module, noisy(train_file))
    assert watch.kept["fit"]
    assert not hasattr(head, "cast")


def test_trained_weights_of_16_bits_are_trained_in_float32(
    llama: str, train_file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for precision, dtype in (("bf16-mixed", torch.float32), ("bf16-true", torch.bfloat16)):
        module = InstructionTuning(llama, loading=Loading(dtype="bfloat16"), tuning=FullTuning())
        caplog.clear()
        run = trainer(tmp_path, precision=precision, max_steps=1)
        run.fit(module, noisy(train_file))
        assert {p.dtype for p in module.backbone.trained} == {dtype}
        assert ("they are trained in float32" in caplog.text) is (precision == "bf16-mixed")
        moments = [s for one in run.optimizers[0].state.values() for s in one.values() if s.ndim]
        assert {s.dtype for s in moments} == {dtype}


def test_another_precision_than_the_checkpoint_has_is_said(
    llama: str, train_file: str, test_file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def module() -> InstructionTuning:
        return InstructionTuning(llama, tuning=LoRA(r=2), max_new_tokens=2)

    run = trainer(tmp_path, precision="bf16-mixed", max_steps=1)
    run.fit(module(), noisy(train_file))
    path = tmp_path / "one.ckpt"
    run.save_checkpoint(path)
    caplog.set_level(logging.WARNING)
    for precision, said in (("bf16-mixed", False), ("32-true", True)):
        caplog.clear()
        trainer(tmp_path, precision=precision, max_steps=2).fit(module(), noisy(train_file), ckpt_path=path)
        assert ("was trained in bf16-mixed, and this run is in 32-true, so its steps" in caplog.text) is said
        caplog.clear()
        trainer(tmp_path, precision=precision).test(module(), noisy(train_file, test=test_file), path, verbose=False)
        assert ("was trained in bf16-mixed, and this run is in 32-true" in caplog.text) is said
        assert "its steps" not in caplog.text


def test_two_processes_have_casts_of_their_own(llama: str, train_file: str, tmp_path: Path) -> None:
    """Weights are the same with and without casts, on both; and both refuse to run in different precisions."""

    def run_one() -> None:
        rank = int(os.environ["LOCAL_RANK"])
        both: dict[str, Any] = {"devices": 2, "strategy": "ddp", "max_steps": 2}
        found: dict[str, Any] = {}
        for once in (True, False):
            module = ANIT(llama, loading=Loading(cast_once=once), tuning=LoRA(r=2, dropout=0.0))
            watch = Watch()
            trainer(tmp_path, precision="bf16-mixed", callbacks=[watch], **both).fit(module, noisy(train_file))
            found[str(once)] = weights_of(module)
            assert bool(watch.kept["fit"]) is once
        run = trainer(tmp_path, precision="32-true" if rank else "bf16-mixed", **both)
        with pytest.raises(ValueError, match="found bf16-mixed in process 0") as refused:
            run.fit(InstructionTuning(llama), noisy(train_file))
        torch.save({**found, "refused": str(refused.value)}, tmp_path / f"rank-{rank}.pt")

    side_by_side(run_one)
    found = [torch.load(tmp_path / f"rank-{rank}.pt") for rank in (0, 1)]
    for name, weight in found[0]["True"].items():
        assert all(torch.equal(weight, one[once][name]) for one in found for once in ("True", "False"))
    assert "32-true in process 1" in found[1]["refused"]

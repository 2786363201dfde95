"""`loading.compile`: the same numbers and names, and no compiled code outside of training.

The tests use the backend `eager`, which traces layers as the compiler does, and then runs what it traced as it is. The
compiler itself would take minutes here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import AutoModelForCausalLM

from robustlm.adversaries import NRM
from robustlm.callbacks.export import AdapterExport
from robustlm.models import compiling
from robustlm.models.loading import Loading
from robustlm.models.tuning import LoRA
from robustlm.modules import Alignment, Contrast, InstructionTuning, RobustTuning
from tests.modules.test_mixed import batch_for, noisy, step
from tests.tiny import Record, trainer, weights_of


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.compiler.reset()
    monkeypatch.setattr(compiling, "BACKEND", "eager")


def test_all_terms_have_the_same_numbers(llama: str, train_file: str) -> None:
    """Tracing takes seconds, so this is one model and one tuning, with all terms and several kinds of passes."""
    terms: dict[str, Any] = {"adversary": NRM(), "contrast": Contrast(), "alignment": Alignment()}
    module = RobustTuning(llama, Loading(compile=True), LoRA(r=2, dropout=0.1), **terms)
    batch = batch_for(module, train_file)
    before = step(module, batch)
    names = list(module.state_dict())
    module.backbone.compile_layers()
    assert list(module.state_dict()) == names
    after = step(module, batch)
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0


class Where(Record):
    """Notes whether layers are compiled while they run, by stage."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, set[bool]] = {}

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        def note(layer: Any, *_: Any) -> None:
            self.found.setdefault(trainer.state.stage.value, set()).add(layer._compiled_call_impl is not None)

        if not self.found:
            pl_module.configure_model()
            norm = pl_module.backbone.base.get_decoder().norm  # outside of the layers, and runs in each pass
            norm.register_forward_hook(lambda *_: note(pl_module.backbone.base.get_decoder().layers[0]))


def test_a_run_compiles_training_alone_and_leaves_nothing(
    llama: str, train_file: str, test_file: str, tmp_path: Path
) -> None:
    found = []
    for compiled in (True, False):
        where = Where()
        module = InstructionTuning(llama, Loading(compile=compiled), LoRA(r=2, dropout=0.1), max_new_tokens=2)
        run = trainer(tmp_path / str(compiled), callbacks=[where, AdapterExport()], max_steps=4, log_every_n_steps=1)
        data = noisy(train_file, validation=test_file, test=test_file)
        run.fit(module, data)
        run.save_checkpoint(tmp_path / f"{compiled}.ckpt")
        scores = run.test(module, data, verbose=False)
        assert where.found["train"] == {compiled}
        assert where.found["sanity_check"] == where.found["test"] == {False}
        assert all(part._compiled_call_impl is None for part in module.modules())
        found.append((where.steps, scores, weights_of(module)))
    (one, two) = found
    assert one[:2] == two[:2]
    assert one[2].keys() == two[2].keys()
    assert all(torch.equal(one[2][name], two[2][name]) for name in one[2])
    stored = [torch.load(tmp_path / f"{one}.ckpt", weights_only=True)["state_dict"] for one in (True, False)]
    assert stored[0].keys() == stored[1].keys()
    model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(llama), tmp_path / "True" / "adapter")
    wanted = module.backbone.model.state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())


def test_a_missing_compiler_is_said_before_the_first_step(
    llama: str, train_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("\nNo working C++ compiler found\nin a long text")

    monkeypatch.setattr(compiling, "BACKEND", fails)
    module = InstructionTuning(llama, Loading(compile=True), LoRA(r=2))
    with pytest.raises(ValueError, match=r"loading\.compile: torch cannot compile for cpu .*C\+\+ compiler") as refused:
        trainer(tmp_path).fit(module, noisy(train_file))
    assert "loading.compile: false" in str(refused.value)


@pytest.mark.parametrize("other", ["gradient_checkpointing", "padding_free"])
def test_what_compiled_layers_exclude(other: str) -> None:
    """Torch stops in the backward pass of compiled layers that keep only checkpoints."""
    with pytest.raises(ValueError, match=rf"loading\.compile: found true with {other}"):
        Loading(**{"compile": True, other: True})

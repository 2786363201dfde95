"""What a fit leaves behind is used without this library."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from robustlm.callbacks.export import AdapterExport
from robustlm.callbacks.run import RunSummary
from robustlm.datamodules import NoisyInstructionDataModule
from robustlm.models.tuning import FullTuning, LoRA, PrefixTuning, PromptTuning
from robustlm.modules import ANIT, InstructionTuning
from tests.tiny import SAMPLES, trainer, view_of

ALONE = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("robustlm", "lightning"):
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Block())
import torch
torch.set_num_threads(1)
for folder in sys.argv[1:]:
    card = open(folder + "/README.md", encoding="utf-8").read()
    code = card.split("```python")[1].split("```")[0].replace("path/to/this/folder", folder)
    names = {}
    exec(code, names)
    model, tokenizer = names["model"].eval(), names["tokenizer"]
    rows = torch.load(folder + "/../rows.pt", weights_only=True)
    with torch.no_grad():
        logits = [model(**row).logits[0] for row in rows]
    torch.save([logits, tokenizer("find the words")["input_ids"]], folder + "/../logits.pt")
assert "robustlm" not in sys.modules
"""

CASES: dict[str, tuple[str, Any]] = {
    "lora": ("llama", LoRA(r=2)),
    "lora_gemma": ("gemma", LoRA(r=2)),
    "lora_t5": ("t5", LoRA(r=2)),
    "prefix": ("llama", PrefixTuning(tokens=2)),
    "prefix_t5": ("t5", PrefixTuning(tokens=2)),
    "prompt": ("llama", PromptTuning(tokens=2)),
    "prompt_t5": ("t5", PromptTuning(tokens=2)),
    "full": ("llama", FullTuning()),
    "full_t5": ("t5", FullTuning()),
}


def test_exports_load_in_plain_transformers_and_peft(models: dict[str, str], train_file: str, tmp_path: Path) -> None:
    wanted = {}
    for name, (kind, tuning) in CASES.items():
        folder = tmp_path / name
        module = ANIT(models[kind], tuning=tuning)
        fitter = trainer(folder, callbacks=[AdapterExport()], limit_train_batches=2)
        fitter.fit(module, NoisyInstructionDataModule(train=train_file, batch_size=4))
        module.eval()
        views = [view_of(module.backbone, [sample]) for sample in SAMPLES]
        rows, ours, plain = [], [], []
        for view in views:
            row = {"input_ids": view.input_ids, "attention_mask": view.attention_mask}
            rows.append({**row, "labels": view.labels} if kind == "t5" else row)
            with torch.no_grad():
                ours.append((module.backbone(view).logits, view.labels[0]))
                plain.append(module.backbone.model(**rows[-1]).logits[0])
        torch.save(rows, folder / "rows.pt")
        wanted[name] = ours, plain, module.backbone.tokenizer("find the words")["input_ids"]
        files = {path.name for path in (folder / "adapter").iterdir()}
        assert {"tokenizer.json", "tokenizer_config.json", "README.md"} < files
        assert ("model.safetensors" if "full" in name else "adapter_model.safetensors") in files
        assert not any(path.suffix in (".bin", ".pt") for path in (folder / "adapter").iterdir())
        assert not list(folder.glob(".adapter*"))
    folders = [str(tmp_path / name / "adapter") for name in CASES]
    alone = subprocess.run([sys.executable, "-I", "-c", ALONE, *folders], capture_output=True, text=True, check=False)
    assert alone.returncode == 0, alone.stderr
    for name, (ours, plain, ids) in wanted.items():
        logits, their_ids = torch.load(tmp_path / name / "logits.pt", weights_only=True)
        assert their_ids == ids
        for full, here, (own, labels) in zip(logits, plain, ours, strict=True):
            if "lora" in name or "full" in name:
                assert torch.equal(full, here), name
            assert torch.allclose(full, here, atol=1e-6, rtol=1e-5), name
            theirs = full[-len(labels) :]  # peft counts a soft prompt among the positions
            if CASES[name][0] != "t5":
                theirs = theirs[:-1][labels[1:] >= 0]
            # a head that sees fewer positions rounds otherwise
            assert torch.allclose(theirs, own, atol=1e-5, rtol=1e-5), (name, (theirs - own).abs().max())


def test_the_card(llama: str, train_file: str, test_file: str, tmp_path: Path, capsys: Any) -> None:
    module = ANIT(llama, tuning=LoRA(r=2))
    target = tmp_path / "mine"
    target.mkdir()
    (target / "old").write_text("of an earlier run")
    data = NoisyInstructionDataModule(train=train_file, validation=test_file, batch_size=8)
    trainer(tmp_path, callbacks=[AdapterExport("mine"), RunSummary()]).fit(module, data)
    assert f"adapter: {target}" in capsys.readouterr().out
    assert not (target / "old").exists()
    assert target.stat().st_mode & 0o777 == 0o755
    card = (target / "README.md").read_text(encoding="utf-8")
    _, header, body = card.split("---\n", 2)
    assert yaml.safe_load(header) == {"base_model": llama, "library_name": "peft", "tags": ["robustlm", "ANIT"]}
    settings = yaml.safe_load(body.split("```yaml")[1].split("```")[0])
    assert settings["tuning"]["init_args"]["r"] == 2
    assert "for 4 optimiser steps (1 epochs)" in body
    assert "- val/loss: " in body
    full = ANIT(llama, tuning=FullTuning())
    trainer(tmp_path, callbacks=[AdapterExport("full")], limit_train_batches=1).fit(full, data)
    assert "AutoModelForCausalLM" in (tmp_path / "full" / "README.md").read_text()


def test_a_quick_look_exports_nothing(llama: str, train_file: str, tmp_path: Path) -> None:
    data = NoisyInstructionDataModule(train=train_file, batch_size=8)
    trainer(tmp_path, callbacks=[AdapterExport(), RunSummary()], fast_dev_run=True).fit(InstructionTuning(llama), data)
    assert not (tmp_path / "adapter").exists()


def test_an_export_is_a_backbone_to_go_on_with(llama: str, train_file: str, tmp_path: Path) -> None:
    data = NoisyInstructionDataModule(train=train_file, batch_size=8)
    for tuning in (LoRA(r=2), PrefixTuning(tokens=2)):
        first = ANIT(llama, tuning=tuning)
        trainer(tmp_path, callbacks=[AdapterExport()]).fit(first, data)
        second = ANIT(str(tmp_path / "adapter"))
        trainer(tmp_path, callbacks=[AdapterExport("again")], limit_train_batches=1).fit(second, data)
        third = InstructionTuning(str(tmp_path / "again"), tuning=None)
        third.configure_model()
        views = view_of(second.backbone, SAMPLES)
        a, b = second.eval().backbone(views).logits, third.eval().backbone(views).logits
        assert torch.allclose(a, b, atol=1e-5)
        assert a.requires_grad
        assert not b.requires_grad
        with pytest.raises(ValueError, match="nothing is trained"):
            trainer(tmp_path).fit(third, data)

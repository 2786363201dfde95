"""A merged model answers like its adapter, in plain transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from robustlm.cli import main
from robustlm.models.backbone import Backbone
from robustlm.models.tuning import LoRA, PrefixTuning, PromptTuning, Tuning
from tests.tiny import SAMPLES, load, view_of


def saved(folder: Path, model: str, tuning: Tuning) -> Backbone:
    backbone = load(model, tuning)
    backbone.model.save_pretrained(folder)
    backbone.tokenizer.save_pretrained(folder)
    return backbone


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    with pytest.raises(SystemExit) as end:
        main(list(args))
    assert end.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("kind", ["llama", "gemma", "t5"])
def test_a_merged_model_answers_like_its_adapter(
    kind: str, models: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "mine"
    adapter = saved(run / "fit" / "adapter", models[kind], LoRA(r=2))
    prompt = {"format": 1, "robustlm": "0.1.0", "base_model": models[kind], "prompt": {"template": "plain"}}
    (run / "fit/adapter/robustlm.json").write_text(json.dumps(prompt), encoding="utf-8")
    main(["merge", str(run)])
    target = run / "fit" / "merged"
    assert f"merged model: {target}" in capsys.readouterr().out
    files = {file.name for file in target.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md", "robustlm.json"} <= files
    assert json.loads((target / "robustlm.json").read_text(encoding="utf-8"))["prompt"] == {"template": "plain"}

    merged = Backbone(str(target))
    merged.load()
    merged.eval()
    view = view_of(adapter, SAMPLES)
    with torch.no_grad():
        torch.testing.assert_close(merged(view).logits, adapter(view).logits, rtol=1e-3, atol=1e-3)
        base = Backbone(models[kind])
        base.load()
        base.eval()
        assert not torch.allclose(base(view).logits, adapter(view).logits, rtol=1e-2, atol=1e-2)
    asked = view_of(adapter, SAMPLES, with_answer=False)
    assert merged.generate(asked, 6) == adapter.generate(asked, 6)
    if kind == "llama":
        tokenizer = AutoTokenizer.from_pretrained(target)
        plain = AutoModelForCausalLM.from_pretrained(target)
        ids = tokenizer("find the words", return_tensors="pt")["input_ids"]
        with torch.no_grad():
            torch.testing.assert_close(plain(ids).logits, merged.model(ids).logits)
    assert f"output: {target} exists already" in refused(capsys, "merge", str(run))


@pytest.mark.parametrize(("tuning", "scale"), [(LoRA(r=4, dora=True), 4.0), (LoRA(r=4, rslora=True), 8.0)])
def test_dora_and_rslora_are_exported_and_merged(tuning: LoRA, scale: float, llama: str, tmp_path: Path) -> None:
    adapter = saved(tmp_path / "adapter", llama, tuning)
    stored = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text(encoding="utf-8"))
    assert (stored["use_dora"], stored["use_rslora"]) == (tuning.dora, tuning.rslora)
    first = adapter.base.model.layers[0].self_attn.q_proj
    assert first.scaling["default"] == pytest.approx(scale)  # alpha 16: over r, over √r
    assert any("magnitude" in name for name, p in adapter.model.named_parameters() if p.requires_grad) is tuning.dora
    main(["merge", str(tmp_path), "--output", str(tmp_path / "merged")])
    view = view_of(adapter, SAMPLES)
    with torch.no_grad():
        wanted = adapter(view).logits
        for name in ("adapter", "merged"):
            again = Backbone(str(tmp_path / name))
            again.load()
            again.eval()
            torch.testing.assert_close(again(view).logits, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", ["llama", "t5"])
@pytest.mark.parametrize("rslora", [False, True])
def test_weights_between_base_and_tuned(kind: str, rslora: bool, models: dict[str, str], tmp_path: Path) -> None:
    """W = W_base + α · (W_tuned − W_base), for every weight; α = 0 is the base and α = 1 the tuned model."""
    saved(tmp_path / "run", models[kind], LoRA(r=2, rslora=rslora))
    found = {}
    for share in (1.0, 0.3, 0.0):
        main(["merge", str(tmp_path / "run"), "--share", str(share)])
        folder = tmp_path / ("merged" if share == 1 else f"merged-{share:g}")
        found[share] = load_file(folder / "model.safetensors")
        assert (f"W_base + {share:g}" in (folder / "README.md").read_text(encoding="utf-8")) is (share < 1)
    moved = 0
    for name, value in found[0.3].items():
        base, tuned = found[0.0][name], found[1.0][name]
        moved += not torch.equal(base, tuned)
        torch.testing.assert_close(value, base + 0.3 * (tuned - base), rtol=1e-5, atol=1e-6)
    assert moved
    plain = Backbone(models[kind])
    plain.load()
    for name, value in plain.model.state_dict().items():
        if name in found[0.0]:
            assert torch.equal(value, found[0.0][name]), name


def test_shares_that_cannot_be_taken(llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "dora", llama, LoRA(r=2, dora=True))
    said = refused(capsys, "merge", str(tmp_path / "dora"), "--share", "0.5")
    assert "share: found 0.5" in said
    assert "DoRA, whose change is no multiple of its matrices; expected 1, or plain LoRA" in said
    assert "share: found 1.5" in refused(capsys, "merge", str(tmp_path / "dora"), "--share", "1.5")
    assert not (tmp_path / "merged-0.5").exists()


@pytest.mark.parametrize("tuning", [PrefixTuning(tokens=2), PromptTuning(tokens=2)])
def test_what_changes_no_weights_is_not_merged(
    tuning: Tuning, llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved(tmp_path / "adapter", llama, tuning)
    said = refused(capsys, "merge", str(tmp_path), "--output", str(tmp_path / "out"))
    assert "which holds states that are put before a prompt and changes no weights" in said
    assert not (tmp_path / "out").exists()


def test_shared_weights_that_an_adapter_tells_apart(
    gemma: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Gemma's head is its embedding table: a merged head would change what the model reads, too."""
    saved(tmp_path / "adapter", gemma, LoRA(r=2, target_modules=["lm_head"]))
    assert "gives other logits than the adapter" in refused(capsys, "merge", str(tmp_path))
    assert not (tmp_path / "merged").exists()


def test_folders_without_an_adapter(llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "no adapter_config.json there" in refused(capsys, "merge", llama)
    assert "found nothing; expected the folder of a run" in refused(capsys, "merge", str(tmp_path / "none"))
    saved(tmp_path / "a", llama, LoRA(r=2))
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert "found several adapters" in refused(capsys, "merge", str(tmp_path))

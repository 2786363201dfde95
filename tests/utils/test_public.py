"""Public names, and the names that classes had before."""

from __future__ import annotations

import importlib
import re
import warnings
from pathlib import Path

import pytest
import torch

import robustlm
from robustlm.checkpoints.classes import SettingsCheck
from robustlm.checkpoints.words import Words
from robustlm.cli import main
from robustlm.cli.stored import model_differences, of_checkpoint
from robustlm.modules import InstructionTuning
from robustlm.utils import public
from robustlm.utils.public import HOME_OF, RENAMED, current_name


@pytest.fixture(autouse=True)
def _unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public, "_said", set())


@pytest.mark.parametrize("old", RENAMED)
def test_an_old_name_still_works_with_one_warning(old: str) -> None:
    new = RENAMED[old]
    wanted = getattr(robustlm, new)
    modules = [importlib.import_module(name) for name in ("robustlm", HOME_OF[new], wanted.__module__)]
    with pytest.warns(FutureWarning, match=f"{old} is called {new} now") as said:
        found = [getattr(module, old) for module in modules]
    assert found == [wanted] * 3
    assert len(said) == 1
    assert wanted.__name__ == new
    assert old not in HOME_OF


def test_other_names_are_left_alone() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("ANIT", "mine.NLUDataModule", "robustlm.NRM", ""):
            assert current_name(name) == name
    for module in ("robustlm", "robustlm.datamodules", "robustlm.modules"):
        with pytest.raises(AttributeError, match="has no attribute 'Nothing'"):
            _ = importlib.import_module(module).Nothing
    with pytest.raises(AttributeError):
        _ = importlib.import_module("robustlm.modules").NLUDataModule


@pytest.mark.parametrize("path", ["robustlm.PrefixAlignment", "robustlm.modules.alignment.PrefixAlignment"])
def test_a_checkpoint_may_hold_an_old_name(path: str, tmp_path: Path) -> None:
    settings = {"_class_path": path, "_instantiator": "lightning.pytorch.cli.instantiate_module", "backbone": "m"}
    file = str(tmp_path / "old.ckpt")
    counted = {"epoch": 0, "global_step": 0, "loops": {}, "pytorch-lightning_version": "2.6.6"}
    torch.save({"state_dict": {}, "robustlm": {"seed": 0}, "hyper_parameters": settings, **counted}, file)
    stored = of_checkpoint(file)
    stored.allow(Words(frozenset()))
    assert stored.model == {
        "class_path": path.replace("PrefixAlignment", "AlignmentTuning"),
        "init_args": {"backbone": "m"},
    }
    config = tmp_path / "run.yaml"
    config.write_text("model: {class_path: PrefixAlignment}\n")
    used = {"class_path": "robustlm.AlignmentTuning", "init_args": {"backbone": "m"}}
    assert not list(model_differences(file, stored.model, used, ["test", "-c", str(config)]))
    check = SettingsCheck(file, None)
    check.spec({"class_path": path}, (InstructionTuning,), "model")


NAMED = ("NLUDataModule", "robustlm.NLUDataModule", "robustlm.datamodules.NLUDataModule")


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("by", ["flag", "config"])
def test_configs_and_flags_take_an_old_name(
    by: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(f"data: {{class_path: {name}, init_args: {{variants: 3}}}}\n")
    given = ["-c", "run.yaml"] if by == "config" else ["--data", name, "--data.variants", "3"]
    with pytest.raises(SystemExit):
        main(["fit", "--model", "ANIT", *given, "--print_config"])
    shown = capsys.readouterr()
    assert re.search(r"class_path: robustlm\.(datamodules\.)?NoisyInstructionDataModule\n", shown.out)
    assert "variants: 3" in shown.out
    assert "NLUDataModule" not in shown.out
    assert shown.err.count("NLUDataModule is called NoisyInstructionDataModule now; use that name\n") == 1

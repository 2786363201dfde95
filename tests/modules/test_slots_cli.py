"""Contrast, alignment and slots from the command line: trained, resumed in the middle, loaded, exported, refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from robustlm.cli import main, run
from robustlm.models.tuning import PrefixTuning
from robustlm.modules import (
    SAM,
    Alignment,
    AlignmentTuning,
    Contrast,
    ContrastiveTuning,
    Preference,
    RDrop,
    RobustTuning,
    Selection,
)
from tests.modules.test_equivalence import flags
from tests.modules.test_robust import phrased_file

__all__ = ["phrased_file"]

DATA = {
    "data": "ContrastiveDataModule",
    "data.bank": "sentiment",
    "data.instructions": "concise",
    "data.variants": 2,
    "trainer.accumulate_grad_batches": 2,
    "trainer.max_epochs": 2,
    "checkpoint.every_n_train_steps": 1,
    "checkpoint.save_top_k": -1,
}
KINDS: dict[str, tuple[type, dict[str, Any]]] = {
    "contrastive": (
        ContrastiveTuning,
        {"model": "ContrastiveTuning", "model.contrast.symmetric": "true", "data.negatives": 1},
    ),
    "alignment": (
        AlignmentTuning,
        {
            "model": "AlignmentTuning",
            "model.tuning": "PrefixTuning",
            "model.tuning.tokens": 2,
            "model.alignment.direction": "js",
            "data": "ParaphraseDataModule",
            "data.phrasing": "fresh",
        },
    ),
    "robust": (
        RobustTuning,
        {
            "model": "RobustTuning",
            "model.tuning.dropout": 0.2,
            "model.adversary": "NRM",
            "model.adversary.target_gap": 0.2,
            "model.contrast": "{}",
            "model.alignment": "{weight: 0.3}",
            "model.chunk_rows": 5,
            "data.noise": "{omega: 0.3}",
            "data.num_workers": 1,
        },
    ),
    "beyond": (
        RobustTuning,
        {
            "model": "RobustTuning",
            "model.tuning.dropout": 0.2,
            "model.selection": "{choice: soft}",
            "model.preference": "{form: released}",
            "model.rdrop": "{view: variant}",
            "model.sam": "{rho: 0.1}",
            "data.noise": "{omega: 0.3}",
        },
    ),
}


@pytest.fixture(scope="session")
def llama(shallow: str) -> str:
    return shallow


def arguments(folder: Path, name: str, backbone: str, file: str) -> list[str]:
    more = {**DATA, "data.train": file, "checkpoint.dirpath": folder, **KINDS[name][1]}
    given = flags(folder, backbone, **more)
    if name == "alignment":
        given = [flag for flag in given if not flag.startswith(("--model.tuning.r=", "--model.tuning.dropout="))]
    return ["fit", *given]


@pytest.mark.parametrize("name", KINDS)
def test_a_run_from_the_command_line(name: str, llama: str, phrased_file: str, tmp_path: Path) -> None:
    cls = KINDS[name][0]
    run(arguments(tmp_path / "whole", name, llama, phrased_file))
    (middle,) = (tmp_path / "whole").glob("epoch=1-step=3.ckpt")  # two batches into the second epoch, or one of three
    run([*arguments(tmp_path / "again", name, llama, phrased_file), f"--ckpt_path={middle}"])
    last = tmp_path / "whole" / "last.ckpt"
    whole, again = (torch.load(path, weights_only=True) for path in (last, tmp_path / "again" / "last.ckpt"))
    assert whole["global_step"] == again["global_step"] == 4
    assert all(torch.equal(value, again["state_dict"][key]) for key, value in whole["state_dict"].items())
    half = torch.load(middle, weights_only=True)["state_dict"]
    assert any(not torch.equal(value, half[key]) for key, value in whole["state_dict"].items())
    module = cls.load_from_checkpoint(last)  # type: ignore[attr-defined]
    if name == "contrastive":
        assert module.contrast == Contrast(symmetric=True)
    elif name == "alignment":
        assert module.alignment == Alignment(direction="js")
        assert module.backbone.tuning == PrefixTuning(tokens=2)
    elif name == "beyond":
        assert (module.selection, module.preference) == (Selection("soft"), Preference("released"))
        assert (module.rdrop, module.sam) == (RDrop(view="variant"), SAM(0.1))
    else:
        assert (module.contrast, module.alignment) == (Contrast(), Alignment(weight=0.3))
        assert module.chunk_rows == 5
        assert module.weights == {"answer": 0.7, "adversarial": 0.7, "replay": 0.7, "alignment": 0.3}
    assert list((tmp_path / "whole").rglob("adapter_model.safetensors"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model.contrast.temperature": 0}, ("contrast.temperature", "> 0")),
        ({"model.contrast.pooling": "lst"}, ("model.contrast.pooling", "prompt_end")),
        ({"model.contrast.weight": -1}, ("contrast.weight", "null to balance")),
        ({"model.train_on": "varant"}, ("model.train_on", "variant")),
        ({"model.chunk_rows": 0}, ("chunk_rows", "≥ 1")),
        ({"data.group_size": 3}, ("data.group_size", "divisor")),
        ({"data.negatives": -1}, ("data.negatives", "≥ 0")),
        ({"data.phrasing": "frsh"}, ("data.phrasing", "fresh")),
        ({"data": "InstructionDataModule", "data.bank": "sentiment"}, ("InstructionDataModule", "Paraphrase")),
    ],
)
def test_bad_values_are_refused_by_name(
    settings: dict[str, Any], words: tuple[str, ...], llama: str, phrased_file: str, tmp_path: Path, capsys: Any
) -> None:
    wanted = {"model": "ContrastiveTuning", "data": "ContrastiveDataModule", "data.train": phrased_file} | settings
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *flags(tmp_path, llama, **wanted)])
    assert stopped.value.code != 0
    shown = capsys.readouterr().err
    assert all(word in shown for word in words), shown
    assert "Traceback" not in shown

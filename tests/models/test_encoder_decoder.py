"""An encoder–decoder from rows to scores through the command line: made, trained, resumed, tested, exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from robustlm.cli import main, run
from robustlm.evaluation.table import read_table
from robustlm.models.backbone import Backbone
from tests.tiny import SAMPLES, view_of, write_rows

ADVERSARIES = ("NRM", "FGM", "FGSM", "PGD", "FreeLB", "FreeAT", "NEFTune")
CASES: dict[str, dict[str, Any]] = {
    "plain": {"model": "InstructionTuning", "data": "InstructionDataModule"},
    "full": {"model": "InstructionTuning", "data": "InstructionDataModule", "model.tuning": "FullTuning"},
    "prefix": {"model": "InstructionTuning", "data": "InstructionDataModule", "model.tuning": "PrefixTuning"},
    "prompt": {"model": "InstructionTuning", "data": "InstructionDataModule", "model.tuning": "PromptTuning"},
    "noisy": {"model.adversary": "null"},
    **{name: {"model.adversary": name} for name in ADVERSARIES},
    "NRM_prefix": {"model.adversary": "NRM", "model.tuning": "PrefixTuning"},
    "NRM_prompt": {"model.adversary": "NRM", "model.tuning": "PromptTuning"},
    "KL_prefix": {"model": "PrefixAlignment", "model.tuning": "PrefixTuning"},
    "KL_full": {"model": "PrefixAlignment", "model.tuning": "FullTuning", "model.alignment.direction": "js"},
    "contrast": {"model": "ContrastiveTuning", "model.contrast.pooling": "mean"},
    "together": {
        "model": "RobustTuning",
        "model.adversary": "NRM",
        "model.contrast": "Contrast",
        "model.alignment": "Alignment",
    },
}
EVALUATED = ("plain", "full", "prefix", "prompt", "NRM", "NRM_prefix", "KL_prefix")
"""What a test does depends on the tuning; the other cases would repeat it."""
CASES["FreeAT"]["data.replays"] = CASES["FreeAT"]["model.adversary.replays"] = 2


def flags(**settings: Any) -> list[str]:
    quiet = {
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": "false",
        "trainer.enable_model_summary": "false",
        "trainer.logger": "false",
    }
    return [f"--{name}={value}" for name, value in (settings | quiet).items()]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> str:
    sentences = [("it rains", "bad"), ("all is well", "good"), ("she is ill", "bad"), ("we won", "good")]
    made = [
        {
            "id": f"r{i}",
            "instruction": "Is it good news?",
            "text": f"{text} {i}",
            "target": target,
            "choices": ["good", "bad", "neither of both"],
        }
        for i, (text, target) in enumerate(sentences * 2)
    ]
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", made)


@pytest.fixture(scope="module")
def pretrained(rows: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A T5 laid out by `init` and trained from random weights, as its export."""
    folder = tmp_path_factory.mktemp("t5")
    sizes = {"vocab_size": 300, "hidden_size": 16, "layers": 2, "heads": 2, "intermediate_size": 32}
    main(["init", str(folder / "new"), rows, "--architecture=t5", *(f"--{k}={v}" for k, v in sizes.items())])
    wanted = {
        "model": "InstructionTuning",
        "model.backbone": folder / "new",
        "model.loading.scratch": "true",
        "model.tuning": "FullTuning",
        "data": "InstructionDataModule",
        "data.train": rows,
        "trainer.default_root_dir": folder,
    }
    run(["fit", *flags(**wanted)])
    return str(folder / "adapter")


@pytest.mark.parametrize("case", CASES)
def test_from_rows_to_scores(case: str, pretrained: str, rows: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "model": "ANIT",
        "model.backbone": pretrained,
        "model.tuning": "LoRA",
        "model.max_new_tokens": 4,
        "model.generate_in_validation": str(case == "plain").lower(),
        "data": "NoisyInstructionDataModule",
        "data.train": rows,
        "data.validation": rows,
        "data.test": rows,
        "data.batch_size": 4,
        "trainer.max_epochs": 2,
        "checkpoint.every_n_train_steps": 1,
        "checkpoint.save_top_k": -1,
        **CASES[case],
    }
    settings |= {"model.tuning.tokens": 2} if settings["model.tuning"] in ("PrefixTuning", "PromptTuning") else {}
    whole = run(
        ["fit", *flags(**settings, **{"trainer.default_root_dir": tmp_path, "checkpoint.dirpath": tmp_path / "whole"})]
    )
    assert whole is not None
    first, *_, last = sorted(
        (tmp_path / "whole").glob("epoch*.ckpt"), key=lambda path: int(path.stem.rpartition("=")[2])
    )
    again = {"trainer.default_root_dir": tmp_path / "again", "checkpoint.dirpath": tmp_path / "resumed"}
    run(["fit", *flags(**settings, **again), f"--ckpt_path={first}"])
    start, wanted, found = (
        torch.load(path, weights_only=True)["state_dict"] for path in (first, last, tmp_path / "resumed" / "last.ckpt")
    )
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    assert not any(torch.equal(start[name], value) for name, value in wanted.items())

    for scoring in ("generation", "options") if case in EVALUATED else ():
        folder = tmp_path / scoring
        data = {"data": "InstructionDataModule", "data.test": rows, "data.validation": rows, "data.scoring": scoring}
        for command in ("validate", "test") if case == "plain" else ("test",):
            run([command, *flags(**data, **{"trainer.default_root_dir": folder}), f"--ckpt_path={last}"])
        table = read_table(folder / "predictions.parquet")
        assert len(table) == 8
        chosen = all(row["prediction"] in (row["choices"] or ()) for row in table)
        assert chosen is (scoring == "options")

    exported = Backbone(str(tmp_path / "adapter"))
    exported.load()
    view = view_of(exported, SAMPLES)
    ours, theirs = (
        backbone.option_scores(view, torch.arange(len(SAMPLES)), 2).log_likelihood
        for backbone in (exported, whole.model.backbone)
    )
    assert torch.allclose(ours, theirs, atol=1e-5)

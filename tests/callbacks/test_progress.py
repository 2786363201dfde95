"""The bar of an evaluation, from what it prints."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from robustlm.callbacks.progress import AnswersBar
from robustlm.cli import main
from robustlm.datamodules import InstructionDataModule
from robustlm.modules import InstructionTuning

CONDITIONS = ["clean", "random_typos@0.2", "mixed@0.2"]


def shown(text: str) -> list[str]:
    """What the bar said, one string for each time."""
    return [part for part in re.split(r"[\r\n]+", text) if "answers" in part and "%" in part]


def trainer(folder: Path, **settings: Any) -> Trainer:
    return Trainer(
        callbacks=[AnswersBar()], logger=False, enable_checkpointing=False, enable_model_summary=False,
        accelerator="cpu", default_root_dir=folder, **settings,
    )  # fmt: skip


def test_one_bar_counts_answers_over_all_conditions(
    llama: str, test_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = InstructionTuning(llama, tuning=None, max_new_tokens=2)
    data = InstructionDataModule(test=test_file, conditions=CONDITIONS, eval_batch_size=3)
    trainer(tmp_path).test(module, data, verbose=False)
    said = shown(capsys.readouterr().out)
    total = sum(len(rows) for rows in data.conditioned.values())
    assert said[-1].startswith(f"mixed@0.2: {total} of {total} answers, ")
    assert "100%" in said[-1]
    assert re.search(r"00:\d\d gone, 00:00 left$", said[-1].strip())
    counts = [int(found[1]) for one in said if (found := re.search(r"(\d+) of", one))]
    assert counts == sorted(counts)


def test_a_part_of_the_batches_is_the_whole_of_what_is_asked(
    llama: str, test_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = InstructionTuning(llama, tuning=None, max_new_tokens=2)
    data = InstructionDataModule(test=test_file, conditions=CONDITIONS, eval_batch_size=2)
    trainer(tmp_path, limit_predict_batches=1).predict(module, datamodule=data)
    assert shown(capsys.readouterr().out)[-1].startswith("mixed@0.2: 6 of 6 answers, ")


def test_loaders_of_ones_own_have_lightnings_bar(
    llama: str, test_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = InstructionTuning(llama, tuning=None, max_new_tokens=2)
    data = InstructionDataModule(test=test_file, eval_batch_size=3)
    data.connect(module.backbone)
    data.setup("test")
    batches = list(data.test_dataloader()[0])
    trainer(tmp_path).test(module, DataLoader(batches, batch_size=None), verbose=False)  # type: ignore[arg-type]
    said = capsys.readouterr().out
    assert not shown(said)
    assert "Testing DataLoader 0: 100%" in said


@pytest.mark.parametrize("bar", ["true", "false"])
def test_the_command_has_a_bar_unless_told_otherwise(
    bar: str, llama: str, test_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["test", "--model", "InstructionTuning", "--model.backbone", llama, "--model.tuning", "null"]
    args += ["--model.max_new_tokens", "2", "--data", "InstructionDataModule", "--data.test", test_file]
    args += ["--trainer.default_root_dir", str(tmp_path), "--trainer.enable_progress_bar", bar]
    main([*args, "--trainer.accelerator", "cpu"])
    assert bool(shown(capsys.readouterr().out)) == (bar == "true")

"""Flags win over what a checkpoint stores, and that over config files; differences are told."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest
import torch

from robustlm.cli import main, run

QUIET = "--trainer.accelerator cpu --trainer.enable_progress_bar false --trainer.enable_model_summary false"


def test_flags_before_checkpoint_before_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    row = '{{"id": "{0}", "instruction": "Say the word {0}.", "target": "{0}"}}\n'
    Path("rows.jsonl").write_text("".join(row.format(word) for word in ("one", "two", "three")), encoding="utf-8")
    sizes = "--vocab_size 300 --hidden_size 16 --layers 1 --heads 2 --intermediate_size 32"
    main(shlex.split(f"init model rows.jsonl {sizes}"))
    Path("base.yaml").write_text(
        "model: {class_path: ANIT, init_args: {backbone: model, loading: {scratch: true}, adversarial_weight: 3}}\n"
        "data: {class_path: NoisyInstructionDataModule, init_args: {train: rows.jsonl, batch_size: 3}}\n",
        encoding="utf-8",
    )
    main(shlex.split(f"fit -c base.yaml --model.adversarial_weight 2 --model.max_new_tokens 7 {QUIET}"))
    capsys.readouterr()

    checkpoint = "runs/version_0/checkpoints/last.ckpt"
    cli = run(
        shlex.split(
            f"fit -c base.yaml --ckpt_path {checkpoint} --model.max_new_tokens 5 --trainer.max_epochs 2 {QUIET}"
        )
    )
    assert cli is not None
    assert cli.model.max_new_tokens == 5  # the flag
    assert cli.model.weights["adversarial"] == 2  # the checkpoint
    said = capsys.readouterr().out
    assert "model.max_new_tokens: 5 (checkpoint: 7)" in said
    assert "model.adversarial_weight: 2.0 (config file: 3)" in said


def test_a_checkpoint_decides_no_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("planted.py").write_text("raise RuntimeError('imported')\n", encoding="utf-8")
    stored = {"_class_path": "robustlm.ANIT", "backbone": "m", "adversary": {"class_path": "planted.Adversary"}}
    counted = {"epoch": 0, "global_step": 0, "loops": {}, "pytorch-lightning_version": "2.6.6"}
    torch.save({"state_dict": {}, "robustlm": {"seed": 0}, "hyper_parameters": stored, **counted}, "foreign.ckpt")
    with pytest.raises(SystemExit):
        main(
            ["test", "--ckpt_path", "foreign.ckpt", "--data", "NoisyInstructionDataModule", "--data.test", "rows.jsonl"]
        )
    assert "asks for the class planted.Adversary" in capsys.readouterr().err

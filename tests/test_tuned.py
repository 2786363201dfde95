"""A run in Python: loaded by its name, asked and tested with the prompts of its training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import robustlm
from robustlm.cli import main
from robustlm.evaluation.table import read_table
from tests.cli.test_runs import FIT
from tests.cli.test_stored import QUIET, site

__all__ = ["site"]


def test_a_run_answers_as_in_its_test(site: Path) -> None:
    main([*FIT, "--trainer.max_epochs=2", "--model.optimizer=AdamW", "--model.optimizer.lr=0.05"])
    main(["test", "--data=InstructionDataModule", "--data.test=test.jsonl", "--run=mine", *QUIET])
    table = read_table(Path("runs/mine/test/predictions.parquet"))
    wanted = {row["sample_id"]: row["prediction"] for row in table}
    rows = [json.loads(line) for line in Path("test.jsonl").read_text(encoding="utf-8").splitlines()]
    asked = [{"instruction": row["instruction"], "text": row["text"]} for row in rows]
    for place in ("runs/mine", "runs/mine/fit", "runs/mine/fit/adapter", "runs/mine/fit/checkpoints/last.ckpt"):
        model = robustlm.load(place)
        assert model.prompt["template"] == "chat"
        assert dict(zip((row["id"] for row in rows), model.generate(asked, 2, batch_size=3), strict=True)) == wanted
    untuned = robustlm.load("model", template="chat")
    assert dict(zip((row["id"] for row in rows), untuned.generate(asked, 2), strict=True)) != wanted

    model = robustlm.load("runs/mine")
    scores = model.test("test.jsonl", output="out")
    assert [row["prompt"] for row in read_table(Path("out/predictions.parquet"))] == [row["prompt"] for row in table]
    assert {name.split("/")[1] for name in scores} == {"clean"}
    assert model.test(rows).keys() == {name.replace("/test/", "/rows/") for name in scores}
    assert len(model.generate(["Name a colour."])) == 1
    plain = robustlm.load("runs/mine", template="plain")
    assert plain.prompt["template"] == "plain"


def test_what_load_refuses(site: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree("model", "tuned")
    Path("tuned/robustlm.json").write_text('{"format": 1, "prompt": {"bank": "own.json"}}', encoding="utf-8")
    with pytest.raises(ValueError, match="which is a file; a checkpoint may not choose which"):
        robustlm.load("tuned")
    assert robustlm.load("tuned", bank=None).prompt == {"bank": None}
    with pytest.raises(ValueError, match="load: found the setting 'templat'; expected some of template"):
        robustlm.load("model", templat="chat")
    Path("empty").mkdir()
    with pytest.raises(ValueError, match=r"no adapter_config.json there"):
        robustlm.load("empty")
    Path("tuned/robustlm.json").write_text('{"format": 1, "prompt": {"mine": 1}}', encoding="utf-8")
    with caplog.at_level("WARNING", "robustlm.tuned"):
        assert robustlm.load("tuned").prompt == {}
        model = robustlm.load("model")
    assert "tuned: data.mine belongs to another datamodule and is not used" in caplog.text
    assert "model does not say how prompts were written in training" in caplog.text
    cases: list[tuple[Any, str]] = [
        ([{"instruction": "a", "target": "b"}], "row 1: found the key 'target'"),
        (["a", ""], "row 2: found no instruction"),
        ([3], "row 1: found 3; expected an instruction"),
        ("a", "expected a list of rows"),
    ]
    for rows, said in cases:
        with pytest.raises(ValueError, match=said):
            model.generate(rows)
    evil = {"_class_path": "evilmod.Adv", "_instantiator": "lightning.pytorch.cli.instantiate_module"}
    torch.save({"state_dict": {}, "hyper_parameters": evil, "robustlm": {"seed": 0}}, "foreign.ckpt")
    with pytest.raises(ValueError, match=r"asks for the class evilmod.Adv"):
        robustlm.load("foreign.ckpt")

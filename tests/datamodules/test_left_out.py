"""Conditions of a packaged config that rows cannot be asked under are left out with a line; a user's stop the run."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from robustlm.cli import main
from robustlm.cli.check import check
from robustlm.datamodules import RobustnessDataModule
from robustlm.evaluation.table import read_table
from robustlm.modules import InstructionTuning
from tests.tiny import write_rows

ALPACA = [{"instruction": "Name the color.", "input": f"a red ball {i}", "output": "red"} for i in range(6)]
CHAT = [
    {"messages": [{"role": "user", "content": f"Which is red, {i}?"}, {"role": "assistant", "content": "a ball"}]}
    for i in range(6)
]
QUIET = "--trainer.accelerator cpu --trainer.enable_progress_bar false --trainer.limit_test_batches 1"
SMALL = "--model.max_new_tokens 1 --data.batch_size 3 --data.max_length 200"


def made(shape: str, folder: Path) -> str:
    """Rows of a shape that brings its own instructions."""
    if shape == "alpaca":
        file = folder / "alpaca.json"
        file.write_text("[\n" + ",\n".join(map(json.dumps, ALPACA)) + "\n]", encoding="utf-8")
        return str(file)
    if shape == "chat":
        return write_rows(folder / "chat.jsonl", CHAT)
    file = folder / "own.csv"
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.DictWriter(opened, ["instruction", "text", "target"])
        writer.writeheader()
        writer.writerows({"instruction": "Name it.", "text": f"a ball {i}", "target": "red"} for i in range(6))
    return str(file)


def listed(folder: Path) -> str:
    """A bank that is a plain list."""
    file = folder / "bank.json"
    file.write_text(json.dumps({"mine": [f"Is it {i}?" for i in range(6)]}), encoding="utf-8")
    return f"{file}#mine"


@pytest.mark.parametrize("shape", ["alpaca", "chat", "csv"])
def test_packaged_conditions_that_rows_lack_are_left_out(
    shape: str, llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = made(shape, tmp_path)
    main(shlex.split(f"test -c robustness --model.backbone {llama} --data.test {rows} --model.max_new_tokens 1 {QUIET} "
                     f"--trainer.default_root_dir {tmp_path}/runs"))  # fmt: skip
    said = capsys.readouterr().err
    lines = [line for line in said.splitlines() if "left out" in line]
    assert len(lines) == 1
    assert "unseen, unseen+random_typos@0.2" in lines[0]
    assert "the rows bring their own instructions and name no bank" in lines[0]
    asked = {row["condition"] for row in read_table(tmp_path / "runs/version_0/predictions.parquet")}
    assert asked == {"clean", "random_typos@0.2", "mixed@0.2"}


@pytest.mark.parametrize("name", ["anit", "coin", "paft", "ppcl", "robust", "alignment", "presets/levels", "tiny"])
def test_every_packaged_config_tests_rows_with_their_own_instructions(
    name: str, llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = made("alpaca", tmp_path)
    flags = f"-c {name} --model.backbone {llama} --model.loading.scratch false --data.max_length 200"
    main(shlex.split(f"check {flags} --data.test {rows} --data.train null --data.validation null"))
    said = capsys.readouterr()
    assert said.err.count("left out unseen") == 1
    assert "\n  clean, 6" in said.out
    assert "\n  unseen" not in said.out


def test_fit_and_test_of_anit_on_alpaca_rows(llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = made("alpaca", tmp_path)
    common = f"-c anit --model.backbone {llama} --trainer.default_root_dir {tmp_path}/runs {SMALL} {QUIET}"
    main(shlex.split(f"fit {common} --data.train {rows} --trainer.max_epochs 1"))
    assert "left out" not in capsys.readouterr().err  # nothing is asked yet
    last = tmp_path / "runs/version_0/checkpoints/last.ckpt"
    main(shlex.split(f"test {common} --data.test {rows} --ckpt_path {last}"))
    assert "left out unseen" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["flag", "flag with =", "added by flag", "own config", "copied config"])
def test_what_the_user_named_is_an_error(
    how: str, llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "own.yaml"
    if how == "copied config":
        from robustlm.assets import config_file

        own.write_text(Path(str(config_file("robustness"))).read_text(encoding="utf-8"), encoding="utf-8")
    else:
        own.write_text("data: {init_args: {conditions: [clean, unseen]}}", encoding="utf-8")
    words = {
        "flag": ["--data.conditions", "[clean, unseen]"],
        "flag with =": ["--data.conditions=[clean, unseen]"],
        "added by flag": ["--data.conditions+=unseen+mixed@0.2"],
        "own config": ["-c", str(own)],
        "copied config": ["-c", str(own)],
    }[how]
    with pytest.raises(SystemExit):
        main(["check", "-c", "robustness", "--model.backbone", llama, "--data.test", made("alpaca", tmp_path), *words])
    said = capsys.readouterr().err
    assert "data.conditions: 'unseen" in said
    assert "needs phrasings kept from training, but the rows bring their own instructions" in said


def test_the_levels_ask_a_list_as_a_whole(llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The preset keeps no template of a list unseen, and lists `unseen` for banks that bring some."""
    labels = ["good", "bad"]
    texts = [{"text": f"text {i}", "label": labels[i % 2], "labels": labels} for i in range(4)]
    rows = write_rows(tmp_path / "rows.jsonl", texts)
    flags = f"--model.backbone {llama} --data.test '[{{path: {rows}, bank: {listed(tmp_path)}}}]'"
    main(shlex.split(f"check -c presets/levels {flags}"))
    said = capsys.readouterr()
    assert "left out unseen" in said.err
    assert "no unseen phrasings" in said.err
    assert "\n  clean, 24" in said.out  # all six templates


def test_where_nothing_is_left_the_first_problem_is_the_error(llama: str, tmp_path: Path) -> None:
    data = RobustnessDataModule(test=made("alpaca", tmp_path), conditions=["unseen"])
    data.named = []
    with pytest.raises(ValueError, match="'unseen' needs phrasings kept from training"):
        check(InstructionTuning(llama), data)


def test_in_python_every_condition_is_named(llama: str, tmp_path: Path) -> None:
    data: Any = RobustnessDataModule(test=made("alpaca", tmp_path), conditions=["clean", "unseen"])
    with pytest.raises(ValueError, match="'unseen' needs phrasings kept from training"):
        check(InstructionTuning(llama), data)

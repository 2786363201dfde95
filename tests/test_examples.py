"""The scripts of `examples/` run as they are, with flags that make them short."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from robustlm.evaluation.table import read_table
from tests.tiny import make_rows, write_rows

ROOT = Path(__file__).parents[1]
EXAMPLES = {file.name: file for file in sorted((ROOT / "examples").glob("*.py"))}


def run(name: str, *flags: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *flags])
    runpy.run_path(str(EXAMPLES[name]), run_name="__main__")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh folder, with rows of a user's own."""
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "train.jsonl", make_rows(40))
    write_rows(tmp_path / "test.jsonl", make_rows(4, seed=1))
    return tmp_path


def test_own_rows(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ("--train=train.jsonl", "--test=test.jsonl")
    run("own_rows.py", *rows, "--steps=1", "--limit=null", "--output=out", monkeypatch=monkeypatch)
    assert (folder / "out/adapter/adapter_config.json").is_file()
    assert {row["sample_id"] for row in read_table(folder / "out/after/predictions.parquet")} == {
        f"row-{number}" for number in range(4)
    }
    assert (folder / "out/report/comparison.html").is_file()
    assert "after" in capsys.readouterr().out


def test_evaluate_any_model(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = ('--conditions=["clean", "random_typos@0.2"]', "--prompts=2", "--samples=1", "--output=out")
    run("evaluate_any_model.py", *flags, monkeypatch=monkeypatch)
    rows = read_table(folder / "out/predictions.parquet")
    assert {row["condition"] for row in rows} == {"clean", "random_typos@0.2"}
    assert len({row["instruction_id"] for row in rows if row["dataset"] == rows[0]["dataset"]}) == 2
    assert (folder / "out/report/robustness.html").is_file()


@pytest.mark.parametrize(
    ("name", "curve"), [("new_objective.py", "train/rdrop"), ("new_adversary.py", "randomsigns/loss_gap")]
)
def test_extensions(name: str, curve: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(name, "--train=train.jsonl", "--steps=2", "--output=out", monkeypatch=monkeypatch)
    (log,) = folder.glob("out/*/metrics.csv")
    header, *lines = log.read_text(encoding="utf-8").splitlines()
    values = [float(line.split(",")[header.split(",").index(curve)]) for line in lines]
    assert len(values) == 2
    assert any(values)


def test_attack_and_compare(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ("--train=train.jsonl", "--test=test.jsonl")
    run("attack_and_compare.py", *rows, "--steps=1", "--samples=1", "--output=out", monkeypatch=monkeypatch)
    for arm in ("before", "after"):
        rows_of_arm = read_table(folder / f"out/{arm}/predictions.parquet")
        assert {row["condition"] for row in rows_of_arm} == {"clean", "textbugger@0.2", "attack:textbugger@0.2"}
    assert (folder / "out/report/comparison.html").is_file()


def test_all_examples_are_listed_and_run() -> None:
    text = (ROOT / "examples/README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\]\((\w+\.py)\)", text)) == set(EXAMPLES)
    own = Path(__file__).read_text(encoding="utf-8")
    assert [name for name in EXAMPLES if f'"{name}"' not in own] == []

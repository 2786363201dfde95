"""Runs `docs/extending.md`: its files are written to a folder, its commands run there, section by section."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from robustlm import tasks
from robustlm.cli import main
from robustlm.evaluation.record import Record
from robustlm.evaluation.table import read_table, write_table
from robustlm.sources import shapes

PAGE = (Path(__file__).parents[2] / "docs/extending.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")[1:]}


def files(text: str) -> dict[str, str]:
    return {name: body for _, name, body in BLOCK.findall(text) if name}


def commands(text: str) -> list[list[str]]:
    lines = [line for kind, _, body in BLOCK.findall(text) if kind == "bash" for line in body.splitlines()]
    return [shlex.split(line)[1:] for line in lines]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's files, a tiny model, and the registries put back afterwards."""
    torch.set_num_threads(1)
    for name, body in files(PAGE).items():
        (tmp_path / name).write_text(body, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    modules = [name.removesuffix(".py") for name in files(PAGE) if name.endswith(".py")]
    for name in modules:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(shapes, "SHAPES", shapes.SHAPES.copy())
    known = tasks.TASKS.copy()
    sizes = "--vocab_size 300 --hidden_size 16 --layers 1 --heads 2 --intermediate_size 32"
    main(shlex.split(f"init model rows.jsonl {sizes}"))
    yield tmp_path
    tasks.TASKS.clear()
    tasks.TASKS.update(known)
    for name in modules:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("title", SECTIONS)
def test_every_section_runs(title: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ran = commands(SECTIONS[title])
    assert ran
    for command in ran:
        main(command)


def test_noise_and_embedder_do_what_they_say(folder: Path) -> None:
    noise, _, _ = commands(SECTIONS["A kind of noise"])
    main(noise)
    shouted = (folder / "shouted.jsonl").read_text(encoding="utf-8")
    assert shouted.count('"noise_kind": "shouting.shouted"') == 3
    main(commands(SECTIONS["An embedder, and a row shape"])[0])
    measured = [json.loads(line) for line in (folder / "measured.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all(0 < row["distortion"] < 1 for row in measured)


def test_the_model_answers_and_the_figure_is_on_the_page(folder: Path) -> None:
    for command in commands(SECTIONS["A figure in the report"]):
        main(command)
    table = read_table(folder / "runs/mine/test/predictions.parquet")
    assert {record.prediction for record in table} == {"Oslo"}
    page = (folder / "report/robustness.html").read_text(encoding="utf-8")
    assert page.count("Score by length of the answer") == 2  # in the list of contents, and over the section
    assert 'aria-label="score by length' in page


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ("report runs/mine --sections '[lengths.by_length]'", "sections: found some, and no HTML page is written"),
        ("report runs/mine --output out --sections '[lengths.by_width]'", "lengths.by_width: found no function"),
        ("report runs/mine --output out --sections '[badly.made]'", "sections: badly.made returned ('a', '<b>')"),
        ("test --model.backbone answering.Nothing:x --model InstructionTuning --data RobustnessDataModule --data.test "
         "rows.jsonl", "answering.Nothing is nothing; expected a subclass of"),
        ("test --model.backbone answering.Sequence:x --model InstructionTuning --data RobustnessDataModule --data.test "
         "rows.jsonl", "expected a subclass of robustlm.models.base.LanguageModel"),
        ("check --model.backbone answering.Keyword:x --model ANIT --data NoisyInstructionDataModule --data.train "
         "rows.jsonl", "answering.Keyword:x gives text alone and cannot be tuned"),
    ],
)  # fmt: skip
def test_wrong_backends_and_sections(args: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "badly.py").write_text("def made(records, results):\n    return 'a', '<b>'\n", encoding="utf-8")
    (folder / "runs/mine").mkdir(parents=True)
    record = Record("a", "d", "generation", "clean", "own", "x", [["x"]], "x", True)
    write_table(folder / "runs/mine/predictions.parquet", [record], ["clean"])
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(args))
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_the_task_reads_back_what_it_writes(folder: Path) -> None:
    sys.path.append(str(folder))
    from keywords import Keywords  # type: ignore[import-not-found]

    task = Keywords()
    for items in ((), (("rain",),), (("rain",), ("two hours",))):
        assert task.parse(task.format(items)).items == items
    assert task.parse("<a> <b <c>").malformed == 1
    assert task.parse("").malformed == 1


def test_a_run_without_logger_can_be_repeated(folder: Path) -> None:
    for _ in range(2):
        main(["fit", "-c", "base.yaml", "--trainer.logger", "false", "--trainer.max_steps", "1"])
    assert (folder / "config.yaml").is_file()


def test_a_row_cannot_name_a_class_to_import(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = '{"instruction": "Give the keywords.", "target": "none", "task": "keywords.Keywords"}\n'
    (folder / "rows.jsonl").write_text(row, encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["fit", "-c", "base.yaml"])
    assert "unknown task: found 'keywords.Keywords'" in capsys.readouterr().err
    assert "keywords" not in sys.modules


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("task", "keywords.Nothing", "task: found 'keywords.Nothing'; expected one of"),
        ("task", "nowhere.Keywords", "nowhere.Keywords: cannot import 'nowhere'"),
        ("format", "dialogue.Sample", "format: found 'dialogue.Sample'; expected one of"),
        ("format", "chatty", "format: found 'chatty'; expected one of"),
    ],
)
def test_wrong_paths_are_explained(
    setting: str, value: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = {"data": {"init_args": {"train": [{"path": "rows.jsonl", setting: value}]}}}
    (folder / "wrong.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    with pytest.raises(SystemExit):
        main(["fit", "-c", "base.yaml", "-c", "wrong.yaml"])
    assert message in capsys.readouterr().err

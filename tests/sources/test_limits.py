"""Which rows a limit leaves, and which choices there may be."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from robustlm.datamodules import InstructionDataModule
from robustlm.rows.base import BadRowsError
from robustlm.sources.loading import load_all
from robustlm.sources.samples import load_samples
from robustlm.sources.source import Source
from tests.tiny import load, make_rows, write_rows


def ids(source: Source, seed: int = 0) -> list[str]:
    return [sample.id for sample in load_all([source], "train", seed=seed)]


def test_a_share_or_a_number(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", make_rows(100))
    every = ids(Source(path))
    for limit, count in ((1, 1), (7, 7), (0.01, 1), (0.07, 7), (0.011, 2), (0.29, 29), (1.0, 100), (500, 100)):
        assert ids(Source(path, limit=limit)) == every[:count]
        assert len(ids(Source(path, limit=limit, sampling="random"))) == count


def test_a_draw_depends_on_seed_and_ids_alone(tmp_path: Path) -> None:
    rows = make_rows(100)
    path, back = write_rows(tmp_path / "rows.jsonl", rows), write_rows(tmp_path / "back.jsonl", rows[::-1])
    every = ids(Source(path))
    few, many = (ids(Source(path, limit=limit, sampling="random")) for limit in (10, 0.3))
    assert set(few) < set(many)
    assert many == [id for id in every if id in many] != every[:30]
    assert set(ids(Source(back, limit=10, sampling="random"))) == set(few)
    assert ids(Source(path, limit=10, sampling="random"), seed=1) != few
    assert ids(Source(path, limit=10, sampling="random", seed=0), seed=1) == few


def test_the_seed_of_a_run_draws(models: dict[str, str], tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", make_rows(60))
    backbone = load(models["llama"], None)
    found = []
    for seed in (0, 0, 3):
        data = InstructionDataModule(train=[Source(path, limit=0.2, sampling="random")], seed=seed)
        data.connect(backbone)
        data.setup("fit")
        found.append([sample.id for sample in data.rows["train"].samples])
    assert found[0] == found[1] != found[2]


def test_fewer_rows_than_asked_for_are_said(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", make_rows(3))
    said: list[str] = []
    load_all([Source(path, limit=5)], "train", say=said.append)
    assert said == [f"data.train: {path}: found 3 rows, fewer than the limit of 5; all are used"]


def test_the_built_in_corpus() -> None:
    size = len(ids(Source("builtin:quickstart", split="validation")))
    assert len(ids(Source("builtin:quickstart", split="validation", limit=0.1))) == math.ceil(size / 10)
    first = ids(Source("builtin:quickstart", split="validation", limit=20))
    drawn = ids(Source("builtin:quickstart", split="validation", limit=20, sampling="random"))
    assert len(first) == len(drawn) == 20
    assert first != drawn
    assert len(ids(Source("builtin:quickstart", split="validation", limit=size + 7))) == size + 7


@pytest.mark.parametrize(
    "settings",
    [
        {"limit": 0},
        {"limit": -3},
        {"limit": 0.0},
        {"limit": 1.5},
        {"limit": -0.1},
        {"limit": float("nan")},
        {"limit": float("inf")},
        {"limit": True},
        {"sampling": "random"},
        {"limit": 3, "sampling": "last"},
        {"limit": 3, "seed": 1},
    ],
)
def test_settings_are_checked(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"^rows: .*; expected"):
        Source("rows", **settings)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (
            {"question": "q", "choices": ["a", "b", "a "], "answer": "a"},
            "unusable choices: found the answer 'a' 2 times",
        ),
        (
            {"question": "q", "choices": ["a", "a"], "answer": "a"},
            "unusable choices: found ['a', 'a']; expected two or",
        ),
        ({"question": "q", "choices": ["a"], "answer": "a"}, "unusable choices: found ['a']; expected two or more"),
        ({"instruction": "I", "target": "b", "choices": ["a", "b", "b"]}, "unusable choices: found the answer 'b' 2"),
        ({"instruction": "I", "target": "a", "choices": ["a"]}, "unusable choices: found ['a']; expected two or more"),
        ({"instruction": "I", "target": "a", "choices": ["a", ""]}, "unusable choices: found ['a', '']"),
    ],
)
def test_choices_that_leave_none(row: dict[str, Any], problem: str, tmp_path: Path) -> None:
    with pytest.raises(BadRowsError) as caught:
        load_samples(write_rows(tmp_path / "x.jsonl", [row]))
    assert caught.value.errors[0].problem.startswith(problem)


def test_a_wrong_choice_that_occurs_twice_is_said(tmp_path: Path) -> None:
    row = {"question": "q", "choices": ["a", "b", "a"], "answer": "b"}
    said: list[str] = []
    load_all([write_rows(tmp_path / "x.jsonl", [row])], "train", say=said.append)
    assert [line.partition(": a wrong")[2] for line in said] == [
        f" choice occurs twice in 1 rows ({tmp_path.name}/x:1)"
    ]

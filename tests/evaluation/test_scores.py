"""Running scores by condition and dataset."""

from __future__ import annotations

import math

import torch

from robustlm.evaluation.scores import Scores
from robustlm.tasks.base import Answer


def answer(*items: str, malformed: int = 0) -> Answer:
    return Answer(tuple((item,) for item in items), malformed)


def test_scores_of_conditions_and_datasets() -> None:
    scores = Scores()
    for gold, found in (("a", "a"), ("b", "c")):
        scores.update("clean", "mine", "generation", answer(found), answer(gold))
    scores.update("clean", "other", "generation", answer("a"), answer("a"))
    scores.update("noisy", "mine", "generation", answer(malformed=1), answer("a"))
    names = Answer((("PER", "Ada"), ("LOC", "Oslo")))
    scores.update("clean", "names", "ner", Answer((("PER", "Ada"),), malformed=1), names)
    found = {name: round(float(value), 4) for name, value in scores.compute().items()}
    assert found["clean/mine/accuracy"] == 0.5
    assert found["clean/other/accuracy"] == 1
    assert found["clean/names/f1"] == 0.5
    assert found["clean/names/precision"] == 0.5
    assert found["clean/names/unparseable"] == 1
    assert found["clean/mean"] == round((0.5 + 1 + 0.5) / 3, 4)
    assert found["noisy/mine/accuracy"] == 0
    assert found["noisy/mine/unparseable"] == 1
    assert found["noisy/mean"] == 0
    assert scores.compute() == scores.compute()
    scores.reset()
    assert scores.compute() == {}


def test_one_dataset_may_hold_several_tasks() -> None:
    scores = Scores()
    scores.update("clean", "mine", "generation", answer("a"), answer("a"))
    scores.update("clean", "mine", "ner", Answer((("PER", "Ada"),)), Answer((("PER", "Bob"),)))
    found = scores.compute()
    assert found["clean/mean"] == 0.5
    assert torch.stack([found["clean/mine/accuracy"], found["clean/mine/f1"]]).tolist() == [1, 0]
    assert not any(math.isnan(float(value)) for value in found.values())


def test_tasks_of_one_dataset_do_not_hide_each_other() -> None:
    scores = Scores()
    scores.update("clean", "mine", "generation", answer("a"), answer("a"))
    scores.update("clean", "mine", "choice", answer("a"), answer("b"))
    scores.update("noisy", "mine", "choice", answer("a"), answer("a"))
    found = {name: float(value) for name, value in scores.compute().items()}
    assert found["clean/mine-generation/accuracy"] == 1
    assert found["clean/mine-choice/accuracy"] == 0
    assert found["noisy/mine/accuracy"] == 1
    assert "clean/mine/accuracy" not in found

"""Tests between two tables, against enumeration and by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustlm.evaluation.pairing import Pairing, flips, pair, sign_test
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import Settings

Rows = list[Record]


def table(
    right: list[list[bool]], condition: str = "clean", dataset: str = "d", task: str = "generation", prefix: str = ""
) -> Rows:
    """Samples × instructions."""
    words = {True: f"{prefix}a", False: f"{prefix}b"}
    return [
        Record(
            sample_id=str(s), dataset=dataset, task=task, condition=condition, instruction_id=str(i),
            prediction=words[yes], parsed=[[words[yes]]], target=words[True], correct=yes)
        for s, row in enumerate(right)
        for i, yes in enumerate(row)
    ]  # fmt: skip


def found(first: Rows, second: Rows, name: str | None = "d", condition: str | None = "clean", **more: Any) -> Pairing:
    (one,) = [p for p in pair(first, second, **more) if (p.name, p.condition) == (name, condition)]
    return one


@settings(deadline=None, max_examples=30)
@given(better=st.integers(0, 6), worse=st.integers(0, 6))
def test_the_sign_test_counts_all_splits(better: int, worse: int) -> None:
    total = better + worse
    uneven = [
        2**-total for split in product((0, 1), repeat=total) if abs(2 * sum(split) - total) >= abs(better - worse)
    ]
    assert sign_test(better, worse) == pytest.approx(sum(uneven))


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000))
def test_the_permutation_test_is_near_all_exchanges(seed: int) -> None:
    random = np.random.default_rng(seed)
    one, other = (random.random((7, 3)) < 0.5 for _ in range(2))
    change = (other.astype(int) - one).sum(1)
    exchanges = [abs(sum(s * c for s, c in zip(sides, change, strict=True))) for sides in product((1, -1), repeat=7)]
    exact = np.mean(np.array(exchanges) >= abs(change.sum()))
    p = found(table(one.tolist()), table(other.tolist()), settings=Settings(draws=0)).permutation
    assert p == pytest.approx(exact, abs=0.02)


def test_flips_by_hand() -> None:
    first = table([[True, True], [True, False], [False, False], [True, False]])
    second = table([[True, False], [True, True], [True, True], [False, True]])
    one = found(first, second)
    assert (one.gained, one.lost, one.better, one.worse) == (4, 2, 2, 1)
    assert one.mcnemar == 1  # of three samples, two and one
    assert one.differences["mean"].value == pytest.approx(2 / 8)
    kinds = [(flip["sample_id"], flip["instruction_id"], flip["flip"]) for flip in flips(first, second)]
    assert kinds == [
        ("0", "1", "right→wrong"),
        ("1", "1", "wrong→right"),
        ("2", "0", "wrong→right"),
        ("2", "1", "wrong→right"),
        ("3", "0", "right→wrong"),
        ("3", "1", "wrong→right"),
    ]
    assert flips(first, second)[0] == {
        "flip": "right→wrong", "sample_id": "0", "dataset": "d", "task": "generation", "condition": "clean",
        "instruction_id": "1", "target": "a", "before": "a", "after": "b", "wording": None, "instruction": None,
        "prompt": None, "prompt_after": None,
    }  # fmt: skip
    assert flips(first, first) == []


def test_one_answer_a_sample_is_mcnemars_test() -> None:
    one = found(table([[False]] * 9 + [[True]]), table([[True]] * 9 + [[False]]))
    assert one.mcnemar == pytest.approx(2 * (1 + 10) / 2**10)
    assert one.permutation == pytest.approx(one.mcnemar, abs=0.01)


def test_copies_of_an_instruction_make_nothing_surer() -> None:
    random = np.random.default_rng(0)
    one, other = (random.random((40, 1)) < share for share in (0.4, 0.6))
    once = found(table(one.tolist()), table(other.tolist()), settings=Settings(200))
    often = found(table(np.repeat(one, 6, 1).tolist()), table(np.repeat(other, 6, 1).tolist()), settings=Settings(200))
    assert (often.mcnemar, often.permutation) == (once.mcnemar, once.permutation)
    assert often.differences["mean"].low == pytest.approx(once.differences["mean"].low)
    assert often.gained == 6 * once.gained


def test_conditions_of_a_sample_go_together_and_datasets_do_not() -> None:
    def both(right: list[list[bool]], dataset: str) -> Rows:
        return table(right, dataset=dataset) + table(right, "noisy", dataset)

    worse = both([[False]] * 4, "d") + both([[False]] * 4, "e")
    better = both([[True]] * 4, "d") + both([[True]] * 4, "e")
    one = found(worse, better, None, None)
    assert (one.gained, one.better) == (16, 8)
    assert one.mcnemar == pytest.approx(2 / 2**8)
    assert one.differences.keys() == {"mean"}
    assert one.differences["mean"].value == 1
    assert found(worse, better, None).mcnemar == pytest.approx(2 / 2**8)


def test_tests_reject_about_as_often_as_they_say() -> None:
    """Two equally good runs that agree within samples: 5 % of tests, or fewer, find a difference."""
    random = np.random.default_rng(0)
    rejected = np.zeros(2)
    for seed in range(100):
        chance = random.beta(0.5, 0.5, (2, 30, 1))  # a sample's answers mostly agree, run by run
        one, other = (random.random((30, 4)) < own for own in chance)
        both = found(
            table(one.tolist()), table(other.tolist()), settings=Settings(draws=0, seed=seed), permutations=500
        )
        rejected += both.mcnemar <= 0.05, both.permutation <= 0.05
    assert (rejected / 100 <= 0.11).all()


def test_a_run_against_itself() -> None:
    rows = table([[True, False], [False, False]]) + table([[False, True], [True, True]], "noisy")
    for one in pair(rows, rows, Settings(50)):
        assert (one.mcnemar, one.permutation, one.gained, one.lost) == (1, 1, 0, 0)
        for gap in one.differences.values():  # no difference was seen, and so few samples do not rule one out
            assert math.isnan(gap.value) or gap.value == 0
            assert math.isnan(gap.low) or gap.low < 0 < gap.high


def test_f1_is_exchanged_by_its_counts() -> None:
    def ner(said: list[str]) -> Rows:
        rows = table([[word == "PER: Ada; LOC: Oslo"] for word in said], task="ner")
        return [
            replace(row, prediction=word, target="PER: Ada; LOC: Oslo") for row, word in zip(rows, said, strict=True)
        ]

    one = found(ner(["PER: Ada", "None"]), ner(["PER: Ada; LOC: Oslo", "None"]))
    assert one.differences["mean"].value == pytest.approx(4 / 6 - 2 / 5)
    assert one.permutation == pytest.approx(1, abs=0.01)  # either side of one sample


@pytest.mark.parametrize(
    "other",
    [
        table([[True, True]]),
        table([[True]]) + table([[True]], "noisy"),
        table([[True]], "noisy"),
        table([[True]], dataset="e"),
        table([[True], [True]]),
    ],
)
def test_other_rows_are_refused(other: Rows) -> None:
    for first, second in ((table([[True]]), other), (other, table([[True]]))):
        with pytest.raises(ValueError, match="did not answer the same samples"):
            pair(first, second)
        with pytest.raises(ValueError, match="did not answer the same samples"):
            flips(first, second)

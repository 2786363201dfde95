"""Paired differences against computations by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from robustlm.evaluation.record import Record
from robustlm.evaluation.seeds import differences


def rows(correct: list[bool], task: str = "tc", dataset: str = "d", condition: str = "clean") -> list[Record]:
    return [
        Record(
            sample_id=str(i), task=task, dataset=dataset, condition=condition, instruction_id="i", parsed=None,
            prediction="label: a" if right else "label: b", target="label: a", correct=right)
        for i, right in enumerate(correct)
    ]  # fmt: skip


def test_accuracies_are_averaged_over_datasets_and_paired_by_seed() -> None:
    ours = [rows([True] * 4) + rows([True, False], dataset="e"), rows([True] * 4) + rows([True, True], dataset="e")]
    base = rows([True, True, False, False]) + rows([False, False], dataset="e")
    found = differences(ours, [base, base])["clean"]
    assert found.seeds == (100 * (0.75 - 0.25), 100 * (1 - 0.25))
    assert found.mean == pytest.approx(62.5)
    assert found.low <= found.mean <= found.high


def test_f1_is_micro_averaged() -> None:
    def ner(predictions: list[str]) -> list[Record]:
        made = rows([False] * 3, task="ner")
        return [replace(row, prediction=p, target=t) for row, p, t in zip(made, predictions, targets, strict=True)]

    targets = ["PER: Ada; LOC: Oslo", "None", "PER: Bo"]
    ours = ner(["PER: Ada", "None", "PER: Bo"])  # 2 hits, 2 predicted, 3 gold
    theirs = ner(["PER: Ada", "LOC: Rome", "LOC: Bo"])  # 1 hit, 3 predicted, 3 gold
    assert differences([ours], [theirs])["clean"].mean == pytest.approx(100 * (4 / 5 - 2 / 6))


def test_equal_runs_differ_by_nothing_in_every_draw() -> None:
    one = rows([True, False, True])
    found = differences([one], [one])["clean"]
    assert (found.mean, found.low, found.high) == (0, 0, 0)


def test_the_interval_is_that_of_the_paired_differences() -> None:
    random = np.random.default_rng(0)
    base = random.random(400) < 0.5
    ours = base ^ (random.random(400) < 0.2)  # changes a fifth of the rows, as often for the better as for the worse
    found = differences([rows(ours.tolist())], [rows(base.tolist())], draws=2000)["clean"]
    error = 100 * (ours.astype(float) - base).std() / 20
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    unpaired = 100 * np.sqrt(ours.var() + base.var()) / 20
    assert found.high - found.low < 2 * 1.96 * unpaired * 0.8


def test_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="same rows"):
        differences([rows([True])], [rows([True, True])])
    with pytest.raises(ValueError, match="every seed"):
        differences([rows([True])], [])


def named(made: list[Record], name: str) -> list[Record]:
    return [replace(row, sample_id=f"{name}-{row['sample_id']}") for row in made]


def test_each_seed_may_have_samples_of_its_own() -> None:
    """Then no sample joins two seeds: the variance of a mean is that of the seeds and that of each one's samples."""
    random = np.random.default_rng(1)
    ours, base, gaps = [], [], []
    for seed in range(12):
        theirs = random.random(100 + seed) < 0.5
        mine = theirs ^ (random.random(100 + seed) < 0.3)
        ours.append(named(rows(mine.tolist()), str(seed)))
        base.append(named(rows(theirs.tolist()), str(seed)))
        gaps.append(mine.astype(float) - theirs)
    found = differences(ours, base, draws=4000)["clean"]
    each = 100 * np.array([gap.mean() for gap in gaps])
    assert found.seeds == pytest.approx(each)
    assert found.mean == pytest.approx(each.mean())
    # a drawn seed counts k times, of mean 1 and variance 1 − 1/n, with the same draw of its samples
    within = sum((100 * gap.std()) ** 2 / len(gap) for gap in gaps) / 12**2
    error = np.sqrt(each.var() / 12 + within * (2 - 1 / 12))
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.1)
    one = differences(ours[3:4], base[3:4], draws=4000)["clean"]
    assert one.high - one.low == pytest.approx(2 * 1.96 * 100 * gaps[3].std() / np.sqrt(len(gaps[3])), rel=0.1)


def test_seeds_with_other_samples_are_still_paired_one_by_one() -> None:
    first, second = rows([True, False, True]), named(rows([True, True, False]), "b")
    found = differences([first, second], [first, second])["clean"]
    assert (found.mean, found.low, found.high) == (0, 0, 0)
    with pytest.raises(ValueError, match="same rows"):
        differences([first, second], [second, first])
    with pytest.raises(ValueError, match="same rows"):
        differences([first, rows([True], dataset="e")], [first, rows([True], dataset="e")])


def test_all_instructions_of_a_sample_count() -> None:
    twice = [row for way, right in (("i", True), ("j", False)) for row in asked(rows([right, right]), way)]
    base = [row for way in "ij" for row in asked(rows([False, False]), way)]
    assert differences([twice], [base])["clean"].mean == pytest.approx(50)


def asked(table: list[Record], instruction: str) -> list[Record]:
    return [replace(row, instruction_id=instruction) for row in table]

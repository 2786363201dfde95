"""Scores of guessing, and conditions in which a high score is not wanted."""

from __future__ import annotations

import math
from typing import Any

import pytest

from robustlm.conditions.condition import parse_condition
from robustlm.evaluation.baselines import baselines
from robustlm.evaluation.directions import low_means
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import Settings, robustness
from robustlm.report.number_tables import number_rows, to_markdown
from robustlm.report.page import About, to_html


def rows(*targets: str, condition: str = "clean", right: bool = True, **others: Any) -> list[Record]:
    plain = {"dataset": "mood", "task": "tc", "instruction_id": "i", "condition": condition} | others
    return [
        Record(sample_id=str(i), prediction=target if right else "label: none", parsed=[[target[7:]]], target=target,
               correct=right, **plain)
        for i, target in enumerate(targets)
    ]  # fmt: skip


GOOD, BAD, SO = "label: good", "label: bad", "label: so"


def test_chance_is_one_label_and_majority_the_most_frequent() -> None:
    found = baselines(rows(GOOD, GOOD, BAD, labels=["good", "bad", "so"]))["mood", "tc"]
    assert (found.chance, found.majority) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    # an earlier table holds no labels; those in its true answers are known
    found = baselines(rows(GOOD, GOOD, BAD))["mood", "tc"]
    assert (found.chance, found.majority) == (0.5, pytest.approx(2 / 3))
    # several instructions ask the same samples, which count once
    twice = [*rows(GOOD, BAD, BAD), *rows(GOOD, instruction_id="j")]
    assert baselines(twice)["mood", "tc"].majority == pytest.approx(2 / 3)


def test_options_of_ones_own_have_no_majority() -> None:
    def asked(options: list[str]) -> Record:
        return Record("/".join(options), "quiz", "choice", "clean", "i", options[0], [[options[0]]], options[0], True,
                      labels=options)  # fmt: skip

    found = baselines([asked(["a", "b"]), asked(["c", "d", "e", "f"])])["quiz", "choice"]
    assert found.chance == pytest.approx((1 / 2 + 1 / 4) / 2)
    assert math.isnan(found.majority)


def test_free_text_and_items_have_none() -> None:
    text = Record("s", "d", "generation", "clean", "i", "a", [["a"]], "a", True)
    names = Record("s", "d", "ner", "clean", "i", "PER: a", [["PER", "a"]], "PER: a", True, labels=["PER", "LOC"])
    assert all(math.isnan(one.chance) and math.isnan(one.majority) for one in baselines([text, names]).values())


def test_reports_show_guessing_beside_the_score() -> None:
    table = rows(GOOD, GOOD, BAD, BAD, SO, labels=["good", "bad", "so", "la"])
    results = robustness(table, Settings(0))
    text = to_markdown(results, Settings(0))
    assert "| mood    | clean     | accuracy | 100.0 | 25.0   | 40.0     |" in text
    page = to_html(table, results, Settings(0), About("run"))
    assert "guessing gives 25.0 % by chance, 40.0 % with the most frequent label" in page
    (mean, *_) = [row for row in number_rows(results) if row["number"] == "mean"]
    assert (mean["chance"], mean["majority"]) == (0.25, 0.4)
    assert not any(row["chance"] for row in number_rows(results) if row["number"] != "mean")


@pytest.mark.parametrize("name", ["incorrect", "unseen+negated", "nonsensical", "incorrect+random_typos@0.2"])
def test_under_misleading_conditions_a_high_score_is_not_wanted(name: str) -> None:
    assert "a low score means" in str(low_means(name))
    assert parse_condition(name).low_means == low_means(name)


@pytest.mark.parametrize(
    "name", ["clean", "unseen", "random_typos@0.2", "list:incorrect", "attack:deepwordbug@0.2", "my"]
)
def test_under_other_conditions_it_is(name: str) -> None:
    assert low_means(name) is None


def test_a_condition_with_a_low_score_that_is_good_is_not_the_worst() -> None:
    """The model keeps its answers under noise and follows the wrong instruction: noise is what breaks it most."""
    table = [*rows(GOOD, BAD, SO, GOOD), *rows(GOOD, BAD, SO, GOOD, condition="incorrect", right=False)]
    noisy = rows(GOOD, BAD, SO, GOOD, condition="random_typos@0.2")
    noisy[0].correct = False
    table += noisy
    results = robustness(table, Settings(0))
    page = to_html(table, results, Settings(0), About("run"))
    worst = page.partition("Worst condition")[2].partition('class="card"')[0]
    assert "75.0 %" in worst
    assert "random_typos@0.2" in worst
    assert "incorrect" not in worst
    assert "where a high score is wanted" in worst
    apart = page.partition('id="low-wanted"')[2].partition("</ul>")[0]
    assert "incorrect" in apart
    assert "a low score means that the model follows the instruction" in apart
    drops = page.partition('id="drop"')[2].partition("</section>")[0]
    assert "Left out, since a high score is not wanted there" in drops
    text = to_markdown(results, Settings(0))
    assert "- incorrect: a low score means that the model follows the instruction" in text


def test_if_only_such_conditions_were_asked_none_is_the_worst() -> None:
    table = [*rows(GOOD, BAD), *rows(GOOD, BAD, condition="nonsensical", right=False)]
    page = to_html(table, robustness(table, Settings(0)), Settings(0), About("run"))
    assert "Worst condition" not in page
    assert 'id="low-wanted"' in page

"""The top of the page: which advice follows from which numbers, and what the sentences say."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping

import pytest

from robustlm.evaluation.baselines import Baseline
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import Estimate, Result, Settings, robustness
from robustlm.evaluation.wording import Wording
from robustlm.report.advice import advice
from robustlm.report.page import About, to_html
from robustlm.report.page_verdict import verdict_box
from robustlm.report.verdict import against_guessing, worst_condition

Numbers = Mapping[str, tuple[float, float, float]]
GOOD = (0.8, 0.77, 0.83)
ALIKE = {"a": 0.8, "b": 0.8}


def result(condition: str, scores: Mapping[str, float] = ALIKE, baseline: Baseline | None = None,
           name: str | None = "d", p: float = 1.0, **numbers: tuple[float, float, float]) -> Result:  # fmt: skip
    worst = min(scores, key=scores.__getitem__)
    known = {"mean": GOOD, "worst_instruction": (scores[worst],) * 3, "cochran_holm": (p, math.nan, math.nan)}
    estimates = {key: Estimate(*value) for key, value in (known | numbers).items()}
    words = {one: Wording(f"Words of {one}.", f"Words of {one}.") for one in scores}
    return Result(name, condition, "accuracy", estimates, dict(scores), worst, 200, 100, 100, len(scores), 0,
                  wordings=words, baseline=baseline or Baseline())  # fmt: skip


def rules(*single: Result, clean: str = "clean") -> list[str]:
    return [one.rule for one in advice({one.condition: one for one in single}, {"d": single}, clean)]


def said(*single: Result) -> str:
    box = verdict_box({one.condition: one for one in single}, {"d": single}, "clean")
    return html.unescape(re.sub(r"<[^>]+>", "", box))


CLEAR, CHANCE, SMALL = (0.2, 0.1, 0.3), (0.2, -0.1, 0.4), (0.04, 0.01, 0.06)


@pytest.mark.parametrize(
    ("single", "expected"),
    [
        ([result("clean")], ["nothing"]),
        ([result("clean"), result("deepwordbug@0.2", pdr=CLEAR)], ["noise"]),
        ([result("clean"), result("synonyms@0.2", pdr=CLEAR), result("deepwordbug@0.2", pdr=CLEAR)], ["noise"]),
        ([result("clean"), result("unseen", pdr=CLEAR)], ["phrasing"]),
        ([result("clean"), result("attack:textfooler@0.2", pdr=CLEAR)], ["attack"]),
        ([result("clean"), result("options:reversed", pdr=CLEAR)], ["surface"]),
        ([result("clean"), result("my.Own@0.2", pdr=CLEAR)], ["other"]),
        ([result("clean"), result("unseen", pdr=SMALL)], ["nothing"]),
        ([result("clean"), result("unseen", pdr=CHANCE)], ["samples"]),
        ([result("clean"), result("unseen", pdr=(0.2, math.nan, math.nan))], ["nothing"]),
        ([result("clean", mean=(0.8, 0.7, 0.9))], ["samples"]),
        ([result("clean", baseline=Baseline(0.5, 0.78))], ["guessing"]),
        ([result("clean", baseline=Baseline(0.5, 0.76))], ["nothing"]),
        ([result("clean", unparseable=(0.06, 0.05, 0.07))], ["unreadable"]),
        ([result("clean", unparseable=(0.05, 0.04, 0.06))], ["nothing"]),
        ([result("clean"), result("unseen", unparseable=(1, 1, 1))], ["nothing"]),
        ([result("clean", {"a": 0.9, "b": 0.7}, p=0.01)], ["instruction"]),
        ([result("clean", {"a": 0.9, "b": 0.7}, p=0.06)], ["nothing"]),
        ([result("clean", {"a": 0.81, "b": 0.79}, p=0.01)], ["nothing"]),
        ([result("clean"), result("incorrect", pdr=(0.1, -0.1, 0.3))], ["follows"]),
        ([result("clean"), result("incorrect", pdr=(0.9, 0.8, 1.0))], ["nothing"]),
        ([result("clean", baseline=Baseline(0.9, 0.9)), result("unseen", pdr=CLEAR)], ["guessing", "phrasing"]),
    ],
)  # fmt: skip
def test_each_piece_of_advice_follows_from_its_rule(single: list[Result], expected: list[str]) -> None:
    assert rules(*single) == expected


def test_the_number_of_samples_follows_from_the_width_of_the_interval() -> None:
    # 20 points from 100 samples are 10 points from four times as many
    assert "About 400 samples make it 10 points" in said(result("clean", mean=(0.8, 0.7, 0.9)))


def test_the_verdict_names_condition_and_instruction_and_guessing() -> None:
    scores = {"a": 0.9, "b": 0.7}
    text = said(result("clean", scores, Baseline(0.25, 0.4), p=0.01), result("typos@0.2", pdr=CLEAR),
                result("incorrect", mean=(0.0, 0.0, 0.1), pdr=(1, 0.9, 1)))  # fmt: skip
    assert "Score: 80.0 % [77.0, 83.0] under clean." in text
    assert "Guessing gives 25.0 % by chance, 40.0 % with the most frequent label. The score is above that." in text
    assert "Breaks most under typos@0.2: score 80.0 [77.0, 83.0] %, a drop of 20.0 % [10.0, 30.0]" in text
    assert "“Words of b.” scores 70.0 %" in text
    assert "against 80.0 % over all 2." in text
    assert "Chance alone" not in text
    assert "ask with “Words of a.” (90.0 %) and not with “Words of b.” (70.0 %)" in text


def test_the_verdict_says_what_is_not_known() -> None:
    text = said(result("clean", {"a": 0.8}))
    assert "Breaks under: not known." in text
    assert "Worst instruction: not known." in text
    assert "Nothing is known of guessing" in text
    assert "this may be chance" in said(result("clean"), result("unseen", pdr=CHANCE))
    assert "No condition costs score." in said(result("clean"), result("unseen", pdr=(-0.1, -0.2, 0.0)))
    assert "Chance alone may explain" in said(result("clean", {"a": 0.9, "b": 0.7}, p=0.2))
    nothing = said(result("clean", mean=(0, 0, 0.1)), result("unseen", pdr=(math.nan,) * 3))
    assert "No drop is known" in nothing


def test_a_condition_with_harder_datasets_is_not_the_worst_one() -> None:
    """`typos` was asked of a hard dataset alone: its score is the lowest, its drop is not the largest."""
    pooled = {
        "clean": result("clean", name=None),
        "typos": result("typos", name=None, mean=(0.3, 0.2, 0.4), pdr=(0.05, 0.0, 0.1)),
        "unseen": result("unseen", name=None, mean=(0.6, 0.5, 0.7), pdr=(0.25, 0.2, 0.3)),
    }
    found = worst_condition(pooled, "clean")
    assert found is not None
    assert found.condition == "unseen"


@pytest.mark.parametrize(
    ("score", "baseline", "expected"),
    [
        (GOOD, Baseline(0.5, 0.6), "above"),
        (GOOD, Baseline(0.5, 0.8), "unclear"),
        (GOOD, Baseline(0.5, 0.9), "below"),
        (GOOD, Baseline(0.5), "above"),
        (GOOD, Baseline(), "unknown"),
        ((0.8, math.nan, math.nan), Baseline(0.5, 0.6), "unknown"),
    ],
)
def test_a_score_is_held_against_the_better_guess(
    score: tuple[float, float, float], baseline: Baseline, expected: str
) -> None:
    assert against_guessing(Estimate(*score), baseline) == expected


def test_a_page_with_warnings_says_so_first() -> None:
    rows = [Record(str(i), "d", "generation", "clean", "i", "?", None, "a", False) for i in range(8)]
    page = to_html(rows, robustness(rows, Settings(20)), Settings(20), About("run"))
    assert page.index("These numbers come with") < page.index("Score: ")
    assert page.index("In short") < page.index("<nav")

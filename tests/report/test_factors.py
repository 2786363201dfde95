"""What the levels of a factor explain, against loops and simulations, and which conditions belong together."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import robustness
from robustlm.report.factors import factor_markdown, factor_outcomes, factor_rows
from robustlm.report.number_tables import to_json, to_markdown
from robustlm.report.page import About, to_html
from tests.evaluation.test_robustness import POINT, answer


def table_of(right: np.ndarray, conditions: list[str]) -> list[Record]:
    """Rows of right and wrong answers `[n, k, conditions]`."""
    return [
        answer(f"s{i:03}", f"i{j}", "a" if right[i, j, at] else "b", condition=condition)
        for at, condition in enumerate(conditions)
        for i in range(len(right))
        for j in range(len(right[0]))
    ]


LEVELS = ["clean", "options:reversed", "options:shuffled"]


def naive(right: np.ndarray) -> float:
    """The share by loops over samples and levels, from the definitions."""
    n, k, count = right.shape
    x = [[sum(right[i, j, c] for j in range(k)) / k for c in range(count)] for i in range(n)]
    level = [sum(x[i][c] for i in range(n)) / n for c in range(count)]
    own = [sum(x[i]) / count for i in range(n)]
    grand = sum(level) / count
    rest = sum((x[i][c] - own[i] - level[c] + grand) ** 2 for i in range(n) for c in range(count))
    chance = rest / (n - 1) / (count - 1) / n
    between = max(0, (sum((one - grand) ** 2 for one in level) / (count - 1) - chance) * (count - 1) / count)
    within = 0.0
    for c in range(count):
        square = sum(right[i, j, c] ** 2 for i in range(n) for j in range(k)) / (n * k)
        error = sum((x[i][c] - level[c]) ** 2 for i in range(n)) / (n - 1) / n
        within += (square - level[c] ** 2 + error) / count
    return between / (between + within)


@pytest.mark.parametrize("seed", range(5))
def test_the_share_equals_a_loop(seed: int) -> None:
    random = np.random.default_rng(seed)
    right = (random.random((12, 3, 3)) < random.random(3) * random.random((12, 1, 1))).astype(float)
    (one,) = factor_outcomes(table_of(right, LEVELS))
    assert (one.factor, one.base, one.effect.samples, one.effect.instructions) == ("options", "clean", 12, 3)
    assert one.effect.share == pytest.approx(naive(right))
    assert list(one.effect.scores.values()) == pytest.approx(right.mean((0, 1)).tolist())


def test_shares_are_about_the_truth_and_p_about_uniform_without_effect() -> None:
    random = np.random.default_rng(0)
    none, some, significant = [], [], 0
    for _ in range(60):
        hard = random.choice([0.2, 0.8], (60, 1, 1))
        (one,) = factor_outcomes(table_of(random.random((60, 1, 3)) < hard, LEVELS))
        none.append(one.effect.share)
        significant += one.effect.p < 0.05
        shifted = hard + np.array([-0.15, 0, 0.15])
        (one,) = factor_outcomes(table_of(random.random((60, 1, 3)) < shifted, LEVELS))
        some.append(one.effect.share)
    assert np.mean(none) < 0.01  # the plain share would be (3 − 1) / (3 · 60) = 0.011 by chance alone
    assert significant <= 8  # 3 expected
    assert np.mean(some) == pytest.approx(0.015 / 0.25, abs=0.015)


def test_conditions_of_one_factor_belong_together() -> None:
    names = [
        "clean", "unseen", "options:reversed", "unseen+options:reversed", "options:reversed+enumerator:1.",
        "enumerator:1.", "position:first", "position:last", "casing:upper", "list:x+shots:1", "random_typos@0.2",
    ]  # fmt: skip
    random = np.random.default_rng(1)
    rows = table_of(random.random((8, 2, len(names))) < 0.5, names)
    found = {(one.factor, one.base): list(one.effect.scores) for one in factor_outcomes(rows)}
    assert found == {
        ("options", "clean"): ["clean", "options:reversed"],
        ("options", "unseen"): ["unseen", "unseen+options:reversed"],
        ("enumerator", "clean"): ["clean", "enumerator:1."],
        ("casing", "position:first"): ["position:first", "casing:upper"],
        ("position", "position:first"): ["position:first", "position:last"],
    }


def test_the_report_has_the_table() -> None:
    right = np.zeros((40, 1, 3), bool)
    right[:, :, 0] = True
    rows = table_of(right, LEVELS)
    found = factor_outcomes(rows)
    text = "\n".join(factor_markdown(found))
    assert "100.0 (clean)" in text
    assert "0.0 (options:reversed)" in text
    assert "100.0 %" in text
    assert "< 0.0001" in text
    results = robustness(rows, POINT)
    assert "## What should not matter" in to_markdown(results, POINT, factors=found)
    assert '"factor": "options"' in to_json(results, POINT, factors=found)
    assert 'id="what-should-not-matter"' in to_html(rows, results, POINT, About("run", {}))
    assert "What should not matter" not in to_html(rows[:40], robustness(rows[:40], POINT), POINT, About("run", {}))


def test_without_variance_or_samples_there_is_nothing_to_share() -> None:
    same = table_of(np.ones((5, 2, 3), bool), LEVELS)
    (row,) = factor_rows(factor_outcomes(same))
    assert (row["share"], row["p"], row["holm"]) == (None, None, None)
    apart = [row for row in same if row.condition == "clean"]
    apart += [replace(row, sample_id=f"other-{row.sample_id}") for row in same if row.condition != "clean"]
    assert factor_outcomes(apart) == []
    assert math.isnan(factor_outcomes(same)[0].effect.share)

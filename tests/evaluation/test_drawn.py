"""Tables with several drawn answers to each question: the vote, the parts of the variance, and what is compared."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robustlm.evaluation.components import components, shares
from robustlm.evaluation.grid import grids
from robustlm.evaluation.numbers import DRAWN, PARTS
from robustlm.evaluation.pairing import flips, pair
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import Settings, robustness
from robustlm.evaluation.table import read_table, write_table
from robustlm.evaluation.votes import majority, voted
from robustlm.report.csv_tables import read_csv_table, to_csv_table
from robustlm.report.every_eval import read_every_eval, to_every_eval
from robustlm.report.every_eval_results import Evaluation
from robustlm.report.foreign import Reading
from robustlm.report.harness import task_files
from robustlm.report.number_tables import to_markdown
from tests.evaluation.test_robustness import POINT, answer, numbers, result


def draws(sample: str, instruction: str, *said: str, condition: str = "clean") -> list[Record]:
    """The draws of a cell; the right answer is `a`."""
    return [replace(answer(sample, instruction, text, condition=condition), draw=at) for at, text in enumerate(said)]


def by_hand() -> list[Record]:
    """Shares of right draws: s 2/3 and 1, t 1/3 and 0; the votes of s are right, those of t wrong."""
    return [
        *draws("s", "i", "a", "b", "a"), *draws("s", "j", "a", "a", "a"),
        *draws("t", "i", "a", "c", "c"), *draws("t", "j", "b", "c", "b"),
    ]  # fmt: skip


def test_numbers_of_draws_by_hand() -> None:
    found = numbers(by_hand())
    assert found["mean"] == pytest.approx((2 / 3 + 1 + 1 / 3 + 0) / 4)
    assert found["worst_instruction"] == pytest.approx(1 / 2)
    assert found["worst_case"] == pytest.approx((2 / 3 + 0) / 2)
    assert found["sensitivity"] == pytest.approx(1 / 3)
    assert found["majority_vote"] == found["all_correct"] == 0.5
    assert found["consistency"] == 0.5  # a and a; c and b
    one = result(by_hand())
    assert (one.rows, one.samples, one.instructions, one.missing, one.draws) == (12, 2, 2, 0, (3, 3))
    text = to_markdown(robustness(by_hand(), POINT), POINT)
    assert "Each question has 3 drawn answers" in text
    assert "score of the majority vote" in text


def test_ties_go_to_the_first_draw_and_unreadable_answers_have_no_vote() -> None:
    def vote(*said: str) -> tuple[str, int | None]:
        row = majority(draws("s", "i", *said)[::-1])
        return row.prediction, row.draw

    assert vote("b", "a", "a", "b") == ("b", 0)
    assert vote("c", "a", "b", "a") == ("a", 1)
    assert vote("", "", "a") == ("a", 2)
    assert vote("", "") == ("", 0)
    failed = replace(draws("s", "i", "a")[0], error="busy")
    other = replace(draws("s", "i", "b")[0], draw=1)
    assert majority([failed, other]) is other


def test_a_table_without_draws_is_its_own_vote() -> None:
    rows = [answer("s", "i", "a"), answer("s", "j", "b"), answer("t", "i", "a"), answer("t", "j", "a")]
    assert voted(rows) == rows
    assert not set(DRAWN) & set(numbers(rows))
    with pytest.raises(ValueError, match="occurs 2 times under instruction 'i'; expected one row"):
        grids([*rows, rows[0]])
    with pytest.raises(ValueError, match="occurs 2 times under instruction 'i', draw 1; expected one row"):
        grids([*by_hand(), replace(by_hand()[1], prediction="c")])


# ------------------------------------------------------------------------------------------ parts of variance


def test_components_are_those_of_the_textbook_table() -> None:
    """Balanced two-way analysis with replicates: mean squares and their expected values, by loops."""
    random = np.random.default_rng(0)
    n, k, d = 7, 3, 4
    y = random.normal(size=(n, k, d)) + random.normal(size=(n, 1, 1)) + random.normal(size=(1, k, 1))
    cell, grand = y.mean(2), y.mean()
    rows, columns = y.mean((1, 2)), y.mean((0, 2))
    square_rows = k * d * sum((rows[i] - grand) ** 2 for i in range(n)) / (n - 1)
    square_columns = n * d * sum((columns[j] - grand) ** 2 for j in range(k)) / (k - 1)
    square_cells = d * sum(
        (cell[i, j] - rows[i] - columns[j] + grand) ** 2 for i in range(n) for j in range(k)
    ) / ((n - 1) * (k - 1))  # fmt: skip
    square_rest = sum((y[i, j, r] - cell[i, j]) ** 2 for i in range(n) for j in range(k) for r in range(d)) / (
        n * k * (d - 1)
    )
    expected = [
        (square_rows - square_cells) / (k * d),
        (square_columns - square_cells) / (n * d),
        (square_cells - square_rest) / d,
        square_rest,
    ]
    within = y.var(2, ddof=1)
    assert components(cell, within, within / d)[0] == pytest.approx(expected)


def simulated(random: np.random.Generator, n: int, k: int, d: int) -> np.ndarray:
    """Probabilities of a right answer with known parts, and draws from them, `[n, k, d]`."""
    p = np.clip(0.5 + 0.2 * random.choice([-1, 1], (n, 1)) + 0.1 * random.choice([-1, 1], (n, k)), 0, 1)
    p = p + np.array([-0.1, 0.1])[np.arange(k) % 2]
    return random.random((n, k, d)) < p[:, :, None]


def table_of(right: np.ndarray) -> list[Record]:
    return [
        one
        for i, own in enumerate(right)
        for j, cell in enumerate(own)
        for one in draws(f"s{i:03}", f"i{j}", *("a" if hit else "b" for hit in cell))
    ]


def test_parts_are_unbiased_and_intervals_cover() -> None:
    """Variances 0.04, 0.02 (divided by k − 1), 0.01, and the mean of p (1 − p)."""
    random = np.random.default_rng(1)
    n, k, d, times = 60, 2, 4, 60
    truth = np.array([0.04, 0.02, 0.01, 0.25 - 0.04 - 0.01 - 0.01])
    found, covered = [], 0
    for _ in range(times):
        right = simulated(random, n, k, d).astype(float)
        within = right.var(2, ddof=1)
        found.append(components(right.mean(2), within, within / d)[0])
    mean, error = np.mean(found, 0), np.std(found, 0) / math.sqrt(times)
    assert np.all(np.abs(mean - truth) < 4 * error)
    wanted = float(shares(truth)[3])
    for _ in range(20):
        one = result(table_of(simulated(random, n, k, d)), settings=Settings(draws=20)).numbers["part_sampling"]
        covered += one.low <= wanted <= one.high
    assert covered >= 16  # 19 expected


def test_chance_alone_is_sampling_and_certain_answers_are_not() -> None:
    random = np.random.default_rng(2)
    coins = numbers(table_of(random.random((80, 3, 5)) < 0.5))
    assert coins["part_sampling"] > 0.9
    assert coins["share_interaction"] > 0.5  # without draws told apart, chance would be the interaction
    certain = numbers(table_of(np.repeat(random.random((30, 3, 1)) < 0.5, 3, axis=2)))
    assert certain["part_sampling"] == 0
    assert sum(certain[name] for name in PARTS) == pytest.approx(1)
    same = numbers(table_of(np.ones((4, 2, 3), bool)))
    assert all(math.isnan(same[name]) for name in PARTS)


# ------------------------------------------------------------------------------------------ compare, export


def test_tables_with_other_numbers_of_draws_are_not_compared() -> None:
    rows = by_hand()
    assert pair(rows, rows, POINT)[0].differences["majority_vote"].value == 0
    single = [replace(row, draw=None) for row in rows if row.draw == 0]
    with pytest.raises(ValueError, match=r"other numbers of draws of a question .*: 3 to 3, and 1 to 1"):
        pair(rows, single, POINT)


def test_only_votes_flip() -> None:
    rows = by_hand()
    shuffled = [replace(row, draw=2 - (row.draw or 0)) for row in rows]  # the same answers in another order
    assert [one["sample_id"] for one in flips(rows, shuffled)] == []
    other = [replace(row, prediction="a", parsed=[["a"]], correct=True) for row in rows]
    assert {one["flip"] for one in flips(rows, other)} == {"wrong→right"}
    assert len(flips(rows, other)) == 2


def test_draws_go_out_and_come_back(tmp_path: Path) -> None:
    rows = [replace(row, prompt=f"ask {row.sample_id} {row.instruction_id}") for row in by_hand()]
    write_table(tmp_path / "table.parquet", rows[::-1])
    assert read_table(tmp_path / "table.parquet") == rows
    reading = Reading()
    (tmp_path / "all.jsonl").write_text(to_every_eval(rows, Evaluation("run", "model")), encoding="utf-8")
    assert read_every_eval(tmp_path / "all.jsonl", reading).rows == rows
    (tmp_path / "all.csv").write_text(to_csv_table(rows), encoding="utf-8")
    assert read_csv_table(tmp_path / "all.csv", reading, {}).rows == rows
    files = task_files(rows)
    (name,) = [name for name in files if name.endswith(".jsonl")]
    assert files[name].count("\n") == 4  # the harness asks each question once

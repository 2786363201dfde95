"""Numbers of samples: formulas against definitions, simulations and each other, and what the command prints."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.intervals import Setting, table
from robustlm.cli import main, run
from robustlm.evaluation.grid import grids
from robustlm.evaluation.intervals import deviate, dispersion, share
from robustlm.evaluation.power import (
    Pilot,
    difference,
    mean_square,
    needs_of_difference,
    needs_of_width,
    parts,
    pilot,
    samples_for,
    samples_to_see,
    simulated_power,
    width,
)
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import Settings, robustness, sample
from robustlm.evaluation.table import write_table
from tests.evaluation.test_robustness import answer


def of_truth(samples: float, cells: float, instructions: float, n: int, k: int) -> Pilot:
    random = np.random.default_rng(0)
    effect = random.normal(0, math.sqrt(instructions), k)
    scores = random.normal(0, math.sqrt(samples), (n, 1)) + effect + random.normal(0, math.sqrt(cells), (n, k))
    return Pilot("d", float(scores.mean()), scores.mean(0), scores - scores.mean(0))


def test_parts_of_the_variance_are_the_true_ones() -> None:
    found = parts(of_truth(0.04, 0.09, 0.01, 2000, 200))
    assert (found.samples, found.cells, found.instructions) == pytest.approx((0.04, 0.09, 0.01), rel=0.15)
    one = of_truth(0.04, 0.09, 0.0, 2000, 1)
    assert parts(one).of_sample(1) == pytest.approx(0.13, rel=0.1)


def test_the_number_of_samples_is_the_smallest() -> None:
    z = deviate(0.95)

    def of_share(n: int) -> float:
        low, high = share(0.5, 0.25 / n, n, z)
        return high - low

    found = samples_for(of_share, 0.1)
    assert found == next(n for n in range(2, 1000) if of_share(n) <= 0.1)
    assert found == pytest.approx(4 * z**2 * 0.25 / 0.1**2, rel=0.02)  # the textbook's, without Wilson's correction
    assert samples_for(of_share, 1e-5) is None


def test_for_pairs_of_right_and_wrong_the_number_is_connors() -> None:
    """20 % of pairs differ to one side, 10 % to the other: McNemar's test sees that at n with the wanted power."""
    n = samples_to_see(0.3, 0.1, 0.8, 0.95)
    assert n == 234  # by hand: (1.95996 √0.3 + 0.84162 √(0.3 − 0.01))² / 0.01 = 233.1
    random, z = np.random.default_rng(0), deviate(0.95)
    drawn = random.multinomial(n, (0.2, 0.1, 0.7), 4000)
    statistic = (drawn[:, 0] - drawn[:, 1]) / np.sqrt(drawn[:, 0] + drawn[:, 1])  # McNemar's
    assert (np.abs(statistic) > z).mean() == pytest.approx(0.8, abs=0.03)
    assert samples_to_see(0.01, 0.1, 0.8, 0.95) == samples_to_see(0.1, 0.1, 0.8, 0.95)  # D is at least d


def test_formulas_and_simulations_agree() -> None:
    random = np.random.default_rng(1)
    setting = Setting(150, 5, 0.7, 0.5, 0.1)
    easy = random.normal(size=(150, 1, 1))
    first = table(setting, random, "clean", easy)
    one = pilot(first)
    for need in needs_of_width(one, ("mean", "worst_instruction", "spread"), 0.1, [1, 3, 5], times=60):
        assert need.samples is not None
        assert need.checked == pytest.approx(0.1, rel=0.15), need
        if need.aim == "mean":
            assert width("mean", one, need.samples, need.instructions, 0.95) <= 0.1
            assert need.drawn is None or need.drawn > need.samples
    many = needs_of_width(one, ("mean",), 0.1, [1, 3, 5, 50], times=0)
    assert [need.samples for need in many] == sorted((need.samples or 0 for need in many), reverse=True)
    both = difference(first, table(Setting(150, 5, 0.6, 0.5, 0.1), random, "noisy", easy))
    for need in needs_of_difference(both, 0.05, 0.8, [1, 5], times=400):
        assert need.checked == pytest.approx(0.8, abs=0.08), need
    assert simulated_power(both, 500, 5, 0.0, 0.95, 400, 0) == pytest.approx(0.05, abs=0.04)  # without a difference


def test_the_mean_square_of_right_and_wrong_is_the_share_that_differs() -> None:
    random = np.random.default_rng(1)
    first, second = (table(Setting(50, 1, p, 0.0), random) for p in (0.5, 0.8))
    differ = float((first.correct != second.correct).mean())
    assert mean_square(difference(first, second), 1) == pytest.approx(differ, rel=0.02)


@pytest.mark.parametrize(
    "setting", [Setting(80, 4, 0.7, 0.5, 0.1), Setting(30, 6, 0.8, 0.5, 0.0), Setting(12, 3, 0.9, 0.2, 0.05, 4)]
)
def test_the_pilots_own_width_is_that_of_its_report(setting: Setting) -> None:
    grid = table(setting, np.random.default_rng(2))
    one = pilot(grid)
    report = sample([grid], Settings(20))[0]["d", "clean"].estimates
    for number in ("worst_instruction", "spread"):
        expected = report[number].high - report[number].low
        assert width(number, one, setting.n, setting.k, 0.95) == pytest.approx(expected, abs=1e-12)
        assert expected > 0


def test_the_width_of_the_spread_is_that_of_larger_tables() -> None:
    """Its noise is theirs. A small pilot's own spread contains chance, so the width is rather too wide."""
    random = np.random.default_rng(3)
    setting = Setting(40, 6, 0.7, 0.5, 0.02)
    pilots = [pilot(table(setting, random)) for _ in range(20)]
    for n in (40, 160, 640):
        larger = [
            dispersion(one.scores, one.influence, 0.95).spread_limits
            for one in (pilot(table(replace(setting, n=n), random)) for _ in range(20))
        ]
        expected = np.mean([high - low for low, high in larger])
        assert 0.95 * expected <= np.mean([width("spread", one, n, 6, 0.95) for one in pilots]) <= 1.25 * expected


def test_a_pilot_that_cannot_tell_is_refused() -> None:
    grid = table(Setting(20, 1, 0.5, 0.0), np.random.default_rng(2))
    with pytest.raises(ValueError, match="no score of the pilot differs between the two"):
        needs_of_difference(difference(grid, grid), 0.05, 0.8, [1])
    with pytest.raises(ValueError, match="found 3; expected 1, since the pilot has one instruction"):
        needs_of_width(pilot(grid), ("mean",), 0.1, [3])
    with pytest.raises(ValueError, match="found 1 samples"):
        pilot(table(Setting(1, 1, 0.5, 0.0), np.random.default_rng(2)))


def run_of(path: Path, seed: int) -> str:
    random = np.random.default_rng(seed)
    rows = [
        answer(str(s), i, "a" if random.random() < p else "b", condition=condition)
        for condition in ("clean", "noisy")
        for s in range(40)
        for i, p in (("i", 0.5), ("j", 0.8))
    ]
    path.mkdir()
    write_table(path / "predictions.parquet", rows)
    return str(path)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one, other = run_of(tmp_path / "one", 0), run_of(tmp_path / "other", 1)
    quick = ["--simulations", "5"]
    run(["power", one, "--width", "10", "--instructions", "[1,2]", "--output", str(tmp_path / "p.json"), *quick])
    said = capsys.readouterr().out
    assert "For 95 % intervals no wider than 10 points." in said
    assert "worst_instruction" in said
    found = json.loads((tmp_path / "p.json").read_text())
    assert [(need["aim"], need["instructions"]) for need in found["needs"]] == [
        ("mean", 1), ("mean", 2), ("worst_instruction", 2), ("spread", 2)
    ]  # fmt: skip
    assert all(need["answers"] == need["samples"] * need["instructions"] for need in found["needs"])
    for more in (["--against", other], ["--other", "noisy"]):
        run(["power", one, "--difference", "5", *more, *quick])
        assert "To see a difference of 5 points between the two with a probability of 80 %" in capsys.readouterr().out


def with_draws(path: Path, draws: int, p: float = 0.6) -> list[Record]:
    """A run with several answers to each question; an answer is right with a chance that depends on its sample."""
    random = np.random.default_rng(draws)
    rows = []
    for s, easy in enumerate(random.uniform(p - 0.4, p + 0.4, 40)):
        for i in ("i", "j", "k"):
            said = ["a" if random.random() < easy else "b" for _ in range(draws)]
            rows += [replace(answer(str(s), i, text), draw=at) for at, text in enumerate(said)]
    path.mkdir()
    write_table(path / "predictions.parquet", rows)
    return rows


def test_the_pilot_of_a_table_with_draws_has_the_numbers_of_its_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = with_draws(tmp_path / "five", 5)
    own = next(one for one in robustness(rows, Settings()) if one.name is not None).numbers
    (grid,) = grids(rows)
    one = pilot(grid)
    assert (one.value, one.scores.min()) == pytest.approx((own["mean"].value, own["worst_instruction"].value))
    worst, mean = (own[name].high - own[name].low for name in ("worst_instruction", "mean"))
    assert width("worst_instruction", one, 40, 3, 0.95) == pytest.approx(worst)
    assert width("mean", one, 40, 3, 0.95) == pytest.approx(mean, rel=0.05)  # that of the report is a bootstrap's
    run(["power", str(tmp_path / "five"), "--width", "10", "--output", str(tmp_path / "p.json"), "--simulations", "5"])
    assert "each question is answered 5 times, as in the pilot" in capsys.readouterr().out
    needs = json.loads((tmp_path / "p.json").read_text())["needs"]
    assert all(need["answers"] == need["samples"] * need["instructions"] * 5 for need in needs)
    assert needs[0]["pilot"] == pytest.approx(own["mean"].value)


def test_a_difference_of_tables_with_other_numbers_of_draws_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for draws in (5, 3):
        with_draws(tmp_path / str(draws), draws)
    with pytest.raises(SystemExit):
        main(["power", str(tmp_path / "5"), "--against", str(tmp_path / "3"), "--difference", "5"])
    assert "other numbers of draws of a question" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "found neither; expected one"),
        (["--width", "5", "--difference", "3"], "found both; expected one"),
        (["--difference", "3"], "expected exactly one with --difference"),
        (["--width", "5", "--other", "noisy"], "none with --width"),
        (["--width", "0"], "width: found 0"),
        (
            ["--width", "5", "--condition", "no"],
            "condition: found 'no'; expected a condition of the pilot: clean",
        ),
        (["--width", "5", "--instructions", "[0]"], "instructions: found 0"),
    ],
)
def test_bad_arguments(arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["power", run_of(tmp_path / "one", 0), *arguments])
    assert said in capsys.readouterr().err

"""Distances of a run by hand, and against loops."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robustlm.evaluation.displacement import Displacement, displacement
from robustlm.evaluation.hidden_state_table import HiddenStatePart, HiddenStateTable, merge_hidden_states
from robustlm.evaluation.record import Cell, Record
from robustlm.evaluation.robustness import Settings

States = dict[Cell, list[float]]
CONDITIONS = ("clean", "noisy")


def table_of(folder: Path, states: States) -> HiddenStateTable:
    path = folder / "states.parquet"
    writer = HiddenStatePart(path)
    writer.write(list(states), np.array(list(states.values()), np.float32))
    writer.close()
    merge_hidden_states(path, CONDITIONS, {"layer": -2, "position": "prompt_end"})
    return HiddenStateTable(path)


def answers(states: States, wrong: set[Cell] = frozenset()) -> list[Record]:  # type: ignore[assignment]
    return [
        Record(
            condition=key[0], dataset=key[1], sample_id=key[2], instruction_id=key[3], task="generation",
            prediction="b" if key in wrong else "a", parsed=[["a"]], target="a", correct=key not in wrong,
        )
        for key in states
    ]  # fmt: skip


def values(found: Displacement, dataset: str | None, condition: str) -> dict[str, float]:
    (one,) = [one for one in found.results if (one.dataset, one.condition) == (dataset, condition)]
    return {name: number.value for name, number in one.numbers.items()}


HAND: States = {
    ("clean", "d", "s", "i"): [0, 0],
    ("clean", "d", "s", "j"): [3, 4],
    ("clean", "d", "t", "i"): [0, 10],
    ("clean", "d", "t", "j"): [3, 12],
    ("noisy", "d", "s", "i"): [0, 1],
    ("noisy", "d", "s", "j"): [0, 9],
    ("noisy", "d", "t", "i"): [0, 12],
    ("noisy", "d", "t", "j"): [3, 12],
}
"""Clean: within 5 and √13, between 10 and 8. Noisy: within 8 and 3, between 11 and √18."""


def test_states_that_are_all_one_have_distances_and_no_ratios(tmp_path: Path) -> None:
    """As the embeddings of the prompts' last tokens are."""
    states: States = {key: [1, 2] for key in HAND}
    found = displacement(table_of(tmp_path, states), answers(states), Settings(10))
    noisy = values(found, "d", "noisy")
    assert noisy["within"] == noisy["between"] == noisy["distance"] == 0
    assert all(math.isnan(noisy[name]) for name in ("ratio", "relative"))
    assert [math.isnan(point.relative) for point in found.points] == [True, True]
    assert found.trends == ()


def test_by_hand(tmp_path: Path) -> None:
    wrong: set[Cell] = {("noisy", "d", "s", "j"), ("noisy", "d", "t", "j"), ("clean", "d", "t", "i")}
    found = displacement(table_of(tmp_path, HAND), answers(HAND, wrong), Settings(0))
    clean, noisy = values(found, "d", "clean"), values(found, "d", "noisy")
    assert clean["within"] == pytest.approx((5 + math.sqrt(13)) / 2)
    assert clean["between"] == pytest.approx(9)
    assert clean["distance"] == pytest.approx((5 + math.sqrt(13)) / 2)  # from the other instruction
    assert noisy["within"] == pytest.approx(5.5)
    assert noisy["between"] == pytest.approx((11 + math.sqrt(18)) / 2)
    assert noisy["ratio"] == pytest.approx(5.5 / noisy["between"])
    own = [1, math.sqrt(9 + 25), 2, 0]
    assert noisy["distance"] == pytest.approx(np.mean(own))
    assert noisy["relative"] == pytest.approx(np.mean(own) / 9)
    assert noisy["nearest"] == pytest.approx((1 + 1 + 2 + 0) / 4)  # (0, 9) is nearest to (0, 10), of t
    assert noisy["own"] == 0.75
    assert values(found, None, "noisy") == noisy
    assert [(p.instruction_id, p.score, p.change) for p in found.points] == [("i", 1.0, 0.25), ("j", 0.0, -0.75)]
    assert [p.distance for p in found.points] == [pytest.approx(1.5), pytest.approx(math.sqrt(34) / 2)]
    everything, centred, single = found.trends
    assert (everything.over, centred.over, single.over) == ("all", "centred", "d")
    assert all(trend.points == 2 and trend.rank == pytest.approx(-1) for trend in found.trends)
    slope = -1 / (found.points[1].relative - found.points[0].relative)
    assert all(trend.slope == pytest.approx(slope) for trend in found.trends)


def random_states(seed: int = 0, datasets: str = "de", offset: float = 0) -> States:
    random = np.random.default_rng(seed)
    return {
        (condition, dataset, f"s{s}", f"i{i}"): (offset + random.normal(size=5) * (1 + s)).tolist()
        for dataset in datasets
        for condition in CONDITIONS
        for s in range(4)
        for i in range(3 if condition == "clean" else 2)
        if (s, i) != (3, 1)
    }


@pytest.mark.parametrize("offset", [0, 1000])  # states of real models share a large part
def test_loops_find_the_same(offset: float, tmp_path: Path) -> None:
    states = random_states(offset=offset)
    table = table_of(tmp_path, states)
    states = {key: table.read([at])[0].astype(float).tolist() for at, key in enumerate(table.keys)}  # in fp32
    found = displacement(table, answers(states), Settings(0))
    for dataset in "de":
        rows = {c: {k: v for k, v in states.items() if k[:2] == (c, dataset)} for c in CONDITIONS}
        scale = 0.0
        for condition, own in rows.items():
            pairs = [(a, b) for a in own for b in own if a < b]
            within = np.mean([math.dist(own[a], own[b]) for a, b in pairs if a[2] == b[2]])
            between = np.mean([math.dist(own[a], own[b]) for a, b in pairs if a[2] != b[2] and a[3] == b[3]])
            scale = scale or float(between)
            distance, near, mine = [], [], []
            for key, state in own.items():
                others = {k: math.dist(state, other) for k, other in rows["clean"].items() if k != key}
                distance.append(min(d for k, d in others.items() if k[2] == key[2]))
                near.append(min(others.values()))
                mine.append(distance[-1] == near[-1])
            wanted = {
                "within": within, "between": between, "ratio": within / between, "distance": np.mean(distance),
                "relative": np.mean(distance) / scale, "nearest": np.mean(near), "own": np.mean(mine),
            }  # fmt: skip
            assert values(found, dataset, condition) == pytest.approx(wanted, rel=1e-6)
    for condition in CONDITIONS:
        both = [values(found, dataset, condition) for dataset in "de"]
        mean = {name: (both[0][name] + both[1][name]) / 2 for name in both[0]}
        assert values(found, None, condition) == pytest.approx(mean)


def test_a_larger_scale_changes_no_relative_number(tmp_path: Path) -> None:
    states = random_states()
    (tmp_path / "large").mkdir()
    small = displacement(table_of(tmp_path, states), answers(states), Settings(0))
    scaled = {key: (7 * np.array(state)).tolist() for key, state in states.items()}
    large = displacement(table_of(tmp_path / "large", scaled), answers(states), Settings(0))
    for one, other in zip(small.results, large.results, strict=True):
        for name, number in one.numbers.items():
            factor = 7 if name in ("within", "between", "distance", "nearest") else 1
            assert other.numbers[name].value == pytest.approx(factor * number.value, rel=1e-5)


def test_intervals_are_of_drawn_samples(tmp_path: Path) -> None:
    states = random_states()
    table = table_of(tmp_path, states)
    settings = Settings(300, seed=3)
    found, again = (displacement(table, answers(states), settings) for _ in range(2))
    assert [str(one) for one in found.results] == [str(one) for one in again.results]
    for one in found.results:
        for name, number in one.numbers.items():
            if name in ("between", "ratio"):  # a mean over pairs of samples has no such draws
                assert math.isnan(number.low)
            else:
                assert number.low <= number.value <= number.high
    alone = {key: state for key, state in states.items() if key[2] == "s1"}
    (tmp_path / "alone").mkdir()
    single = displacement(table_of(tmp_path / "alone", alone), answers(alone), settings).results[0].numbers
    assert single["distance"].low == single["distance"].value == single["distance"].high
    assert math.isnan(single["between"].value)
    assert math.isnan(single["relative"].value)


def test_states_with_nothing_to_be_measured_from(tmp_path: Path) -> None:
    states = {key: state for key, state in HAND.items() if key[:3] != ("clean", "d", "t")}
    found = displacement(table_of(tmp_path, states), answers(states), Settings(0))
    (noisy,) = [one for one in found.results if (one.dataset, one.condition) == ("d", "noisy")]
    assert (noisy.rows, noisy.samples, noisy.instructions, noisy.unmatched) == (4, 2, 2, 2)
    assert noisy.numbers["distance"].value == pytest.approx((1 + math.sqrt(34)) / 2)
    assert math.isnan(noisy.numbers["relative"].value)  # one clean sample has no distance to others
    assert len(found.points) == 2
    assert found.trends == ()
    unseen = {(c, d, s, i + c): v for (c, d, s, i), v in HAND.items() if i == "i"}  # one instruction: no pairs
    (tmp_path / "one").mkdir()
    numbers = values(displacement(table_of(tmp_path / "one", unseen), answers(unseen), Settings(0)), "d", "noisy")
    assert math.isnan(numbers["within"])
    assert numbers["distance"] == pytest.approx(1.5)


def test_tables_of_other_rows_are_refused(tmp_path: Path) -> None:
    table = table_of(tmp_path, HAND)
    rows = answers(HAND)
    with pytest.raises(ValueError, match="1 rows have a state and no answer, such as sample 's' of 'd' under 'clean'"):
        displacement(table, [row for row in rows if row.cell != ("clean", "d", "s", "i")], Settings(0))
    with pytest.raises(ValueError, match="8 rows have an answer and no state"):
        displacement(table, [replace(row, dataset="e") for row in rows], Settings(0))
    with pytest.raises(ValueError, match="clean: found 'cleen'; expected a condition of the run: clean, noisy"):
        displacement(table, rows, Settings(0), "cleen")

"""Robustness numbers against loops over rows, against hand calculation, and against what they must not depend on."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from itertools import combinations, permutations
from statistics import mean, pstdev
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustlm.evaluation.grid import grids
from robustlm.evaluation.numbers import DRAWN, ESTIMATED
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import DEBIASED, NUMBERS, Result, Settings, estimate, robustness, sample
from robustlm.tasks import TASKS

Rows = list[Record]
POINT = Settings(draws=0)


def answer(
    sample: str,
    instruction: str,
    said: str,
    right: str = "a",
    condition: str = "clean",
    dataset: str = "d",
    **more: Any,
) -> Record:
    """A row of the table, as the test step writes it."""
    name = more.pop("task", "generation")
    task = TASKS[name]
    parsed, gold = task.parse(said), task.parse(right)
    return Record(
        sample_id=sample, dataset=dataset, task=name, condition=condition, instruction_id=instruction,
        prediction=said, parsed=[list(item) for item in parsed.items] if parsed.parsed else None,
        target=right, correct=task.correct(parsed, gold),
        **more)  # fmt: skip


def numbers(
    rows: Rows, name: str | None = "d", condition: str = "clean", settings: Settings = POINT
) -> dict[str, float]:
    return {key: one.value for key, one in result(rows, name, condition, settings).numbers.items()}


def result(rows: Rows, name: str | None = "d", condition: str = "clean", settings: Settings = POINT) -> Result:
    (found,) = [one for one in robustness(rows, settings) if (one.name, one.condition) == (name, condition)]
    return found


# ------------------------------------------------------------------------------------------------ by hand


def by_hand() -> Rows:
    """Three samples, two instructions: right (1) or wrong (0); the last answer cannot be read.

    |    | i | j |      | clean: i | j |
    | s  | 1 | 1 |      |        1 | 1 |
    | t  | 1 | 0 |      |        1 | 1 |
    | u  | 0 | 0 (b, nothing) |  1 | 0 |
    """
    said = {"s": ("a", "a"), "t": ("a", "b"), "u": ("b", "")}
    clean = {"s": ("a", "a"), "t": ("a", "a"), "u": ("a", "b")}
    return [
        answer(sample, instruction, words[at], condition=condition)
        for condition, table in (("clean", clean), ("noisy", said))
        for sample, words in table.items()
        for at, instruction in enumerate("ij")
    ]


def test_a_small_table_by_hand() -> None:
    found = result(by_hand(), condition="noisy")
    assert found.by_instruction == pytest.approx({"i": 2 / 3, "j": 1 / 3})
    assert (found.worst, found.rows, found.samples, found.complete, found.instructions, found.missing) == (
        "j", 6, 3, 3, 2, 0,
    )  # fmt: skip
    # scores 1 1 / 1 0 / 0 0: mean 1/2, variation 6/4 in all. Samples have means 1, 1/2, 0: 2·(1/4 + 1/4) = 1.
    # Instructions have means 2/3, 1/3: 3·(1/36 + 1/36) = 1/6. What is left: 3/2 − 1 − 1/6 = 1/3.
    assert numbers(by_hand(), condition="noisy") == pytest.approx(
        {
            "mean": 3 / 6,
            "worst_instruction": 1 / 3,
            # noise of a score against the other: (1/36 + 1/36 + 1/9 + 1/9 + 1/36 + 1/36)/(3·2·1), and 1/(2·3²) for the
            # sample that is added: 1/9. The scores' variance is 1/18: chance alone makes as much.
            "worst_debiased": 1 / 2,
            "worst_case": 1 / 3,
            "pdr": 1 - (3 / 6) / (5 / 6),
            "std": 1 / 6,
            "std_debiased": 0,
            "spread": 1 / 3,
            "spread_debiased": 0,
            # one sample tells i and j apart: Q = 1 with one degree of freedom
            "cochran_p": math.erfc(1 / math.sqrt(2)),
            "cochran_holm": 2 * math.erfc(1 / math.sqrt(2)),  # clean has the same p
            "consistency": 1 / 3,
            "sensitivity": 1 / 3,
            "posix": math.nan,
            "all_correct": 1 / 3,
            "share_phrasing": 1 / 9,
            # unbiased: instructions (1/18 − 1/18)/2, where the rest of a cell adds (1/6)/3 = 1/18
            "share_phrasing_debiased": 0,
            "share_samples": 2 / 3,
            "share_interaction": 2 / 9,
            "unparseable": 1 / 6,
        },
        nan_ok=True,
    )


def test_datasets_are_averaged_and_both_deviations_kept_apart() -> None:
    # scores under i and j: 2/3 and 1/3 in d, as above; 1 and 0 in e, which has one sample
    rows = [row for row in by_hand() if row["condition"] == "noisy"]
    rows += [answer("x", i, said, condition="noisy", dataset="e") for i, said in (("i", "a"), ("j", "b"))]
    found = result(rows, None, "noisy")
    assert found.numbers["mean"].value == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert found.numbers["std_within"].value == pytest.approx((1 / 6 + 1 / 2) / 2)
    assert found.numbers["std_pooled"].value == pytest.approx(pstdev([2 / 3, 1 / 3, 1, 0]))
    assert found.numbers["consistency"].value == pytest.approx((1 / 3 + 0) / 2)
    assert "pdr" not in found.numbers
    assert (found.rows, found.samples, found.instructions) == (8, 4, 2)


# -------------------------------------------------------------------------------------- against loops over rows


def naive(rows: Rows, condition: str) -> dict[str, float]:
    """Every number of one dataset, from a dictionary of rows."""
    cells = {(r["sample_id"], r["instruction_id"]): r for r in rows if r["condition"] == condition}
    samples, ways = sorted({s for s, _ in cells}), sorted({i for _, i in cells})
    full = [s for s in samples if all((s, i) in cells for i in ways)]
    pairs = list(combinations(ways, 2))
    found = {"mean": micro(list(cells.values())), "unparseable": mean(r["parsed"] is None for r in cells.values())}
    clean = [r for r in rows if r["condition"] == "clean"]
    both = {r["sample_id"] for r in clean} & set(samples)
    mine, other = (micro([r for r in own if r["sample_id"] in both]) for own in (cells.values(), clean))
    found["pdr"] = 1 - mine / other if other > 0 else math.nan
    if not full:
        return found
    scores = [micro([cells[s, i] for s in full]) for i in ways]
    found["worst_instruction"] = min(scores)
    worst = [min((cells[s, i] for i in ways), key=lambda r: (own_score(r), -counted(r)[1])) for s in full]
    found["worst_case"] = micro(worst)
    found["all_correct"] = mean(all(cells[s, i]["correct"] for i in ways) for s in full)
    if not pairs:
        return found
    found |= {"std": pstdev(scores), "spread": max(scores) - min(scores)}
    found["consistency"] = mean(said(cells[s, i]) == said(cells[s, j]) for s in full for i, j in pairs)
    differences = [abs(own_score(cells[s, i]) - own_score(cells[s, j])) for s in full for i, j in pairs]
    found["sensitivity"] = mean(differences)
    shifts = []
    for s in full:
        if any(cells[s, i]["choices"] is None for i in ways):
            continue
        own = []
        for i, j in permutations(ways, 2):
            there, here = cells[s, j], cells[s, i]
            at = there["choices"].index(there["prediction"])
            moved = here["option_scores"][here["choices"].index(there["prediction"])] - there["option_scores"][at]
            own.append(abs(moved) / there["option_tokens"][at])
        shifts.append(mean(own))
    if shifts:
        found["posix"] = mean(shifts)
    return found | naive_shares([[own_score(cells[s, i]) for i in ways] for s in full])


def naive_shares(table: list[list[float]]) -> dict[str, float]:
    grand = mean(value for row in table for value in row)
    columns = [mean(row[j] for row in table) for j in range(len(table[0]))]
    total = sum((value - grand) ** 2 for row in table for value in row)
    if total < 1e-9:
        return {}
    samples = sum(len(row) * (mean(row) - grand) ** 2 for row in table)
    phrasing = sum(len(table) * (column - grand) ** 2 for column in columns)
    rest = sum((v - mean(row) - columns[j] + grand) ** 2 for row in table for j, v in enumerate(row))
    shares = {"share_samples": samples, "share_phrasing": phrasing, "share_interaction": rest}
    return {name: value / total for name, value in shares.items()}


def counted(row: Record) -> tuple[int, int]:
    task = TASKS[row["task"]]
    if task.score == "accuracy":
        return int(row["correct"]), 1
    found, gold = task.parse(row["prediction"]), task.parse(row["target"])
    free, hits = list(gold.items), 0
    for item in found.items:
        if item in free:
            free.remove(item)
            hits += 1
    return 2 * hits, len(found.items) + found.malformed + len(gold.items) + gold.malformed


def micro(rows: Rows) -> float:
    if not rows:
        return math.nan
    part, whole = (sum(values) for values in zip(*map(counted, rows), strict=True))
    return part / whole if whole else 1.0


def own_score(row: Record) -> float:
    return micro([row])


def said(row: Record) -> object:
    return row["prediction"].strip() if row["parsed"] is None else Counter(map(tuple, row["parsed"]))


def random_table(seed: int, task: str, samples: int = 7, ways: int = 3, gaps: float = 0.0) -> Rows:
    """Two conditions; `choice` rows have likelihoods of options, in an order of their own."""
    random = np.random.default_rng(seed)
    rows = []
    for condition in ("clean", "noisy"):
        for s in range(samples):
            for i in range(ways):
                if random.random() < gaps:
                    continue
                more: dict[str, Any] = {"task": task}
                if task == "ner":
                    pieces = ["PER: Ada", "PER: Ada", "LOC: Oslo", "junk"]
                    words = "; ".join(random.permutation(pieces)[: random.integers(4)]) or "None"
                    target = ("None", "PER: Ada", "PER: Ada; LOC: Oslo")[s % 3]
                else:
                    options = random.permutation(["a", "b", "c"]).tolist()
                    scores = random.normal(-3, 1, 3)
                    words, target = options[int(scores.argmax())], "abc"[s % 3]
                    if task == "choice":
                        more |= {"choices": options, "option_scores": scores.tolist()}
                        more["option_tokens"] = [1 + "abc".index(option) for option in options]
                rows.append(answer(str(s), f"i/{i}", words, target, condition, **more))
    return rows


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32),
    task=st.sampled_from(["generation", "ner", "choice"]),
    samples=st.integers(1, 8),
    ways=st.integers(1, 4),
    gaps=st.sampled_from([0.0, 0.1, 0.6]),
)
def test_every_number_equals_a_loop(seed: int, task: str, samples: int, ways: int, gaps: float) -> None:
    rows = random_table(seed, task, samples, ways, gaps)
    for condition in {row["condition"] for row in rows}:
        found = numbers(rows, "d", condition)
        if not any(row["condition"] == "clean" for row in rows):
            assert "pdr" not in found
        for name in (*DEBIASED.values(), "cochran_p", "cochran_holm", *ESTIMATED):  # in other tests
            found.pop(name, None)
        expected = dict.fromkeys(found, math.nan) | {k: v for k, v in naive(rows, condition).items() if k in found}
        assert found == pytest.approx(expected, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("resample", ["samples", "both"])
@pytest.mark.parametrize("task", ["generation", "ner", "choice"])
def test_a_draw_is_the_table_of_the_drawn_samples(task: str, resample: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers under any weights are those of a table that repeats samples so often, or leaves them out."""
    rows = random_table(3, task)
    weights = {7: [2, 0, 1, 0, 3, 1, 0], 3: [2, 0, 1]}
    drawn = [weights[7], [1] * 7], [weights[3] if resample == "both" else [1] * 3, [1] * 3]

    class Fixed:
        def multinomial(self, n: int, shares: Any, draws: int) -> Any:
            return np.array([weights[n]], float)

    monkeypatch.setattr(np.random, "default_rng", lambda *seed: Fixed())
    drawn_once, _ = sample(grids(rows), Settings(1, resample=resample))
    found = {name: values for name, values in drawn_once["d", "noisy"].numbers.items() if name in NUMBERS}
    repeated = [
        replace(row, sample_id=f"{row['sample_id']}-{copy}")
        for row in rows
        for copy in range(drawn[0][0][int(row["sample_id"])])
        if drawn[1][0][int(row["instruction_id"][-1])]
    ]
    if resample == "samples":
        assert {k: float(v[1]) for k, v in found.items()} == pytest.approx(numbers_of(repeated), abs=1e-9, nan_ok=True)
        return
    # instructions of weights 2, 0, 1 with each sample's copies: those that do not tell pairs apart by identity
    doubled = [
        replace(row, instruction_id=f"{row['instruction_id']}-{copy}")
        for row in repeated
        for copy in range(drawn[1][0][int(row["instruction_id"][-1])])
    ]
    expected = numbers_of(doubled)
    once = numbers_of(repeated)  # an instruction drawn twice makes no pair with itself
    expected |= {name: once[name] for name in ("consistency", "sensitivity", "posix")}
    assert {k: float(v[1]) for k, v in found.items()} == pytest.approx(expected, abs=1e-9, nan_ok=True)


def numbers_of(rows: Rows) -> dict[str, float]:
    others = ("std_pooled", "std_within", "cochran_p", "cochran_holm", *DEBIASED.values(), *ESTIMATED, *DRAWN)
    found = {name: math.nan for name in NUMBERS if name not in others}
    return found | naive(rows, "noisy")


# ------------------------------------------------------------------------------------------------ what must not matter


@pytest.mark.parametrize("task", ["generation", "ner", "choice"])
def test_the_order_of_rows_does_not_matter(task: str) -> None:
    rows = random_table(0, task, gaps=0.1)
    shuffled = [rows[i] for i in np.random.default_rng(1).permutation(len(rows))]
    one, other = ({(r.name, r.condition): r for r in robustness(table, Settings(50))} for table in (rows, shuffled))
    assert repr(one) == repr({key: other[key] for key in one})  # `nan` is written alike, and equal to nothing


def test_doubled_instructions_change_no_mean_and_no_deviation() -> None:
    rows = random_table(0, "ner")
    twice = rows + [replace(row, instruction_id=row["instruction_id"] + "/again") for row in rows]
    one, other = numbers(rows, condition="noisy"), numbers(twice, condition="noisy")
    same = {name for name in one if name not in ("consistency", "sensitivity", "posix", "cochran_p", "cochran_holm")}
    assert {name: one[name] for name in same} == pytest.approx({name: other[name] for name in same}, nan_ok=True)
    assert one["consistency"] < other["consistency"]  # a copy agrees with what it is a copy of


def test_another_dataset_changes_nothing_for_this_one() -> None:
    rows = random_table(0, "generation")
    more = [replace(row, dataset="a") for row in random_table(1, "ner")]
    assert repr(result(rows, settings=Settings(50))) == repr(result(more + rows, settings=Settings(50)))


def test_several_tasks_of_a_dataset_are_kept_apart() -> None:
    rows = random_table(0, "generation") + random_table(1, "ner")
    assert [grid.name for grid in grids(rows)] == ["d-generation"] * 2 + ["d-ner"] * 2


def test_shares_sum_to_one() -> None:
    found = numbers(random_table(0, "ner", 20, 5))
    assert sum(found[f"share_{part}"] for part in ("phrasing", "samples", "interaction")) == pytest.approx(1)


# ------------------------------------------------------------------------------------------------ what is not there


def test_missing_cells_are_counted_and_their_samples_left_out() -> None:
    rows = [row for row in by_hand() if row["condition"] == "noisy"]
    found = result(rows[:-1], condition="noisy")  # u was not asked under j
    assert (found.rows, found.samples, found.complete, found.missing) == (5, 3, 2, 1)
    assert found.numbers["mean"].value == pytest.approx(3 / 5)
    assert found.by_instruction == {"i": 1.0, "j": 0.5}
    assert found.numbers["worst_case"].value == 0.5


def test_without_a_sample_under_all_instructions_none_are_compared() -> None:
    rows = [answer("s", "i", "a"), answer("t", "j", "b")]
    found = result(rows)
    assert (found.complete, found.missing, found.worst) == (0, 2, None)
    defined = {name for name, one in found.numbers.items() if not math.isnan(one.value)}
    assert defined == {"mean", "pdr", "unparseable", *ESTIMATED}


def test_failed_requests_do_not_count_as_equal_answers() -> None:
    whole = [answer(sample, way, "a") for sample in "12" for way in "ij"]
    failed = [replace(row, prediction="", parsed=None, correct=False, error="HTTP 400") for row in whole[:2]]
    found = numbers([*failed, *whole[2:]])
    assert (found["consistency"], found["mean"], found["unparseable"]) == (0.5, 0.5, 0.0)


def test_one_instruction_says_nothing_of_differences() -> None:
    found = result([answer("s", "i", "a"), answer("t", "i", "b")])
    defined = {name for name, one in found.numbers.items() if not math.isnan(one.value)}
    assert defined == {
        "mean", "pdr", "unparseable", "worst_instruction", "worst_debiased", "worst_case", "all_correct"
    }  # fmt: skip
    assert found.worst == "i"


def test_no_drop_from_nothing_and_none_without_a_clean_condition() -> None:
    rows = [answer("s", "i", "b"), answer("s", "i", "a", condition="noisy")]
    assert math.isnan(numbers(rows, condition="noisy")["pdr"])
    assert math.isnan(numbers(rows, None, "noisy")["pdr"])
    assert "pdr" not in numbers(rows[1:], condition="noisy")


def test_the_drop_is_that_of_samples_asked_in_both_conditions() -> None:
    rows = [answer("s", "i", "a"), answer("t", "i", "b"), answer("s", "i", "b", condition="noisy")]
    assert numbers(rows, condition="noisy")["pdr"] == 1  # not 1 − 0/(1/2)
    rows += [answer("u", "i", "a", condition="noisy")]
    assert numbers(rows, condition="noisy")["pdr"] == 1
    assert numbers(rows, condition="noisy")["mean"] == 0.5


def test_a_pooled_number_says_how_many_datasets_have_it() -> None:
    rows = [answer("s", i, said) for i, said in (("i", "a"), ("j", "b"))]
    rows += [answer("s", "i", "a", dataset="e")]
    found = result(rows, None)
    assert (found.numbers["mean"].value, found.numbers["mean"].datasets) == (0.75, 2)
    assert (found.numbers["spread"].value, found.numbers["spread"].datasets) == (1, 1)
    assert found.numbers["posix"].datasets == 0


def test_equal_scores_have_no_variance_to_share() -> None:
    rows = [answer(s, i, "PER: Ada", "PER: Ada; LOC: A; LOC: B", task="ner") for s in "stu" for i in "ijk"]
    found = numbers(rows)
    assert math.isnan(found["share_phrasing"])
    assert (found["std"], found["spread"]) == (pytest.approx(0, abs=1e-12), pytest.approx(0, abs=1e-12))


def test_infinite_likelihoods_leave_their_samples_out() -> None:
    more = {"task": "choice", "choices": ["a", "b"], "option_tokens": [1, 2]}
    rows = [answer("s", "i", "a", option_scores=[-1.0, -3.0], **more)]
    rows += [answer("s", "j", "b", option_scores=[-2.0, -1.0], **more)]
    assert numbers(rows)["posix"] == pytest.approx((abs(-2 + 1) / 1 + abs(-3 + 1) / 2) / 2)
    rows += [answer("t", "i", "a", option_scores=[-1.0, -math.inf], **more)]
    rows += [answer("t", "j", "b", option_scores=[-2.0, -1.0], **more)]
    assert numbers(rows)["posix"] == pytest.approx(1)


def test_nothing_expected_and_nothing_predicted_is_right() -> None:
    found = numbers([answer("s", i, "None", "None", task="ner") for i in "ij"])
    assert (found["mean"], found["worst_case"], found["all_correct"], found["sensitivity"]) == (1, 1, 1, 0)


def test_no_rows_have_no_numbers() -> None:
    assert robustness([], POINT) == []


def test_repeated_cells_and_unknown_tasks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"dataset 'd', condition 'clean': sample 's' occurs 2 times .* 'i'"):
        robustness([answer("s", "i", "a")] * 2, POINT)
    with pytest.raises(ValueError, match="unknown task 'poem'"):
        robustness([replace(answer("s", "i", "a"), task="poem")], POINT)


@pytest.mark.parametrize("wrong", [{"draws": -1}, {"level": 1.0}, {"resample": "rows"}])
def test_settings_that_make_no_interval_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}: found"):
        Settings(**wrong)


# ------------------------------------------------------------------------------------------------ intervals


def test_an_interval_is_that_of_its_draws_where_there_are_enough() -> None:
    values = np.concatenate([[0.5], np.linspace(0, 1, 101)])
    found = estimate(values, 0.9)
    assert (found.value, found.low, found.high) == (0.5, pytest.approx(0.05), pytest.approx(0.95))
    values[1:5] = np.nan
    assert not math.isnan(estimate(values, 0.9).low)
    values[1:8] = np.nan
    assert math.isnan(estimate(values, 0.9).low)
    assert math.isnan(estimate(values[:1], 0.9).low)


def test_the_interval_of_the_mean_is_as_wide_as_its_error() -> None:
    """Answers of a sample go together: an error over rows would be too small by the root of their number."""
    random = np.random.default_rng(0)
    right = random.random(400) < 0.5
    rows = [answer(str(s), i, "a" if right[s] else "b") for s in range(400) for i in "ijkl"]
    found = result(rows, settings=Settings(2000)).numbers["mean"]
    assert found.high - found.low == pytest.approx(2 * 1.96 * right.std() / 20, rel=0.1)


@pytest.mark.parametrize(("resample", "lowest"), [("samples", 0.90), ("both", 0.90)])
def test_intervals_hold_the_truth_about_as_often_as_they_say(resample: Any, lowest: float) -> None:
    """95 % intervals of mean and sensitivity over simulated tables; the instructions' own spread only with `both`."""
    random = np.random.default_rng(0)
    hits = Counter[str]()
    for seed in range(100):
        effects = np.zeros(12) if resample == "samples" else random.normal(0, 0.12, 12)
        chance = np.clip(0.5 + random.uniform(-0.3, 0.3, 60)[:, None] + effects, 0, 1)
        table = random.random((60, 12)) < chance
        rows = [answer(str(s), f"{i:02}", "a" if table[s, i] else "b") for s in range(60) for i in range(12)]
        found = result(rows, settings=Settings(200, seed, resample=resample)).numbers
        hits["mean"] += found["mean"].low <= 0.5 <= found["mean"].high
        truth = np.mean([2 * p * (1 - p) for p in 0.5 + np.linspace(-0.3, 0.3, 1001)])
        hits["sensitivity"] += found["sensitivity"].low <= truth <= found["sensitivity"].high
    assert lowest <= hits["mean"] / 100 <= 1
    if resample == "samples":
        assert hits["sensitivity"] / 100 >= lowest


def test_fixed_instructions_hide_how_much_they_vary() -> None:
    random = np.random.default_rng(0)
    chance = 0.5 + random.normal(0, 0.15, 8)
    rows = [answer(str(s), f"{i}", "a" if random.random() < chance[i] else "b") for s in range(200) for i in range(8)]
    fixed, both = (
        result(rows, settings=Settings(500, resample=how)).numbers["mean"]
        for how in ("samples", "both")  # type: ignore[arg-type]
    )
    assert both.high - both.low > 1.5 * (fixed.high - fixed.low)


def test_large_tables_are_drawn_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = random_table(0, "choice")
    for resample in ("samples", "both"):
        how = Settings(50, resample=resample)  # type: ignore[arg-type]
        monkeypatch.undo()
        whole = repr(robustness(rows, how))
        monkeypatch.setattr("robustlm.evaluation.resampling._BLOCK", 150)
        assert repr(robustness(rows, how)) == whole

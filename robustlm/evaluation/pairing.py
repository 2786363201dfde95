"""Compares two prediction tables over the same rows: differences, their significance, and answers that flipped.

The unit of every test is the sample. Its answers under several instructions and conditions are not independent
observations, so a permutation exchanges all of them together between the two tables.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from robustlm.evaluation import intervals
from robustlm.evaluation.directions import low_means
from robustlm.evaluation.grid import Floats, Grid, grids, ratio
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import NUMBERS, SHARES, Drawn, Estimate, Settings, estimate, sample, variance_of
from robustlm.evaluation.votes import voted

PERMUTATIONS = 10_000
"""Number of random permutations in a permutation test; the smallest possible p is about one over this."""

_BLOCK = 1_000_000
"""Maximum number of cells of an array: permutations × samples."""


Verdict = Literal["higher", "lower", "none", "unclear", "unknown"]
"""What is known of the second table's mean score against the first one's. `none`: no difference was seen; `unclear`:
interval and test disagree; `unknown`: there is no interval."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """Comparison of the second table with the first, for the rows of one dataset or all, under one condition or all."""

    name: str | None
    """The dataset; `None`: all."""
    condition: str | None
    """`None`: all but `left_out`."""
    gained: int
    """Number of answers that are right only in the second table."""
    lost: int
    """Number of answers that are right only in the first table."""
    better: int
    """Number of samples with more right answers in the second table."""
    worse: int
    """Number of samples with more right answers in the first table."""
    mcnemar: float
    """Exact two-sided p of the split into better and worse; McNemar's test if each sample has one answer."""
    permutation: float
    """p of the difference in the mean score over datasets, from random exchanges of samples between the tables."""
    differences: dict[str, Estimate]
    """Second minus first for every number of `robustness`, over draws of the same samples; over all conditions, only
    `mean`, whose interval is the mean of those of the conditions: it is right for conditions that fail together, and
    too wide for others."""
    mcnemar_holm: float = math.nan
    """`mcnemar`, adjusted for its family after Holm. The conditions over all datasets are one family, the conditions of
    single datasets another one; the test over all conditions is alone."""
    permutation_holm: float = math.nan
    """`permutation`, adjusted in the same way."""
    left_out: tuple[str, ...] = ()
    """Over all conditions: those that do not count, because a low score under them is not a worse one."""

    def verdict(self, level: float = 0.95) -> Verdict:
        """Which table has the higher mean score, by the interval of the difference and the adjusted permutation test.

        Args:
            level: Level of the interval; the test is one at 1 − level.
        """
        gap = self.differences.get("mean")
        if gap is None or math.isnan(gap.low):
            return "unknown"
        apart = not gap.low <= 0 <= gap.high
        if apart != (self.permutation_holm < 1 - level):
            return "unclear"
        if not apart:
            return "none"
        return "higher" if gap.value > 0 else "lower"


def pair(
    first: Iterable[Record],
    second: Iterable[Record],
    settings: Settings = Settings(),  # noqa: B008 - read only
    clean: str = "clean",
    permutations: int = PERMUTATIONS,
) -> list[Pairing]:
    """Compare two tables: dataset by dataset and condition by condition, then over all datasets, then over everything.

    The comparison over everything leaves out conditions under which a low score is not a worse one (`low_means`).

    Rows are matched by their ids. `robustlm.evaluation.agreement.agreement` tells whether they were asked the same.

    Args:
        first: Rows of a prediction table.
        second: Rows of another, for the same samples, conditions and instructions.
        settings: How intervals of differences are made; its seed is also that of the permutations.
        clean: The condition that performance drops are measured from.
        permutations: Number of random permutations in a permutation test.

    Raises:
        ValueError: The tables do not hold the same rows.
    """
    pairs = _matched(grids(first), grids(second))
    drawn = [sample([both[at] for both in pairs], settings, clean) for at in (0, 1)]
    exchanged = _exchanged(pairs, settings.seed, permutations)
    conditions = list(dict.fromkeys(one.condition for one, _ in pairs))
    single, pooled = [], []
    known: dict[str, list[Gaps]] = {}
    for one, other in pairs:
        key = one.name, one.condition
        gaps = paired_gaps(drawn[0][0][key], drawn[1][0][key], settings.level)
        known.setdefault(one.condition, []).append(gaps)
        single.append(_pairing(*key, [(one, other)], gaps, exchanged))
    for condition in conditions:
        own = [both for both in pairs if both[0].condition == condition]
        gaps = _pooled_gaps(drawn[0][1][condition], drawn[1][1][condition], known[condition], settings.level)
        pooled.append(_pairing(None, condition, own, gaps, exchanged))
    counted = [condition for condition in conditions if low_means(condition) is None]
    every = []
    if len(counted) > 1:
        own = [both for both in pairs if both[0].condition in counted]
        gaps = _mean_gap([one for one in pooled if one.condition in counted])
        left_out = tuple(condition for condition in conditions if condition not in counted)
        every = [replace(_pairing(None, None, own, gaps, exchanged), left_out=left_out)]
    return [*_adjusted(single), *_adjusted(pooled), *_adjusted(every)]


def _mean_gap(pooled: Sequence[Pairing]) -> Gaps:
    """The difference of the mean over conditions; its limits are the means of their limits."""
    gaps = [one.differences["mean"] for one in pooled if "mean" in one.differences]
    if len(gaps) < len(pooled):
        return {}
    value, low, high = (sum(getattr(gap, name) for gap in gaps) / len(gaps) for name in ("value", "low", "high"))
    return {"mean": Estimate(value, low, high)}


def _adjusted(family: Sequence[Pairing]) -> list[Pairing]:
    """A family of tests with p-values that are adjusted for their number."""
    tests = (intervals.holm([getattr(one, name) for one in family]) for name in ("mcnemar", "permutation"))
    return [
        replace(one, mcnemar_holm=mcnemar, permutation_holm=permutation)
        for one, mcnemar, permutation in zip(family, *tests, strict=True)
    ]


def paired_tests(tables: Mapping[str, Sequence[Record]], settings: Settings) -> dict[str, list[Pairing]]:
    """Compare every other table with the first one; results by name."""
    (_, rows), *others = tables.items()
    return {name: pair(rows, other, settings) for name, other in others}


def flips(first: Iterable[Record], second: Iterable[Record]) -> list[dict[str, Any]]:
    """The answers that are right in one table and wrong in the other, in the order of the first table.

    Where questions have several draws, the answers are their majority votes.

    Each is plain data: its place, the true answer, both answers, and how it was asked (`wording`, `instruction` and
    `prompt` of the first table, and `prompt_after` where the second table has another prompt).

    Raises:
        ValueError: The tables do not hold the same rows.
    """
    mine, theirs = list(first), list(second)
    if {_key(row) for row in mine} != {_key(row) for row in theirs} or len(mine) != len(theirs):
        raise ValueError(_UNLIKE)
    # that one draw differs from another is chance
    mine, others = voted(mine), {(row.cell, row.task): row for row in voted(theirs)}
    found = []
    for row in mine:
        other = others[row.cell, row.task]
        if row.correct != other.correct:
            place = {name: getattr(row, name) for name in _PLACE}
            said = {"before": row.prediction, "after": other.prediction}
            asked = {name: getattr(row, name) for name in ("wording", "instruction", "prompt")}
            asked["prompt_after"] = other.prompt if other.prompt != row.prompt else None
            found.append({"flip": "right→wrong" if row.correct else "wrong→right", **place, **said, **asked})
    return found


def sign_test(better: int, worse: int) -> float:
    """Exact two-sided p of a split under even odds: the probability of a split at least as uneven. 1 if both are 0."""
    total = better + worse
    tail = sum(math.comb(total, i) for i in range(min(better, worse) + 1))
    return min(1.0, float(2 * tail / 2**total))


_PLACE = ("sample_id", "dataset", "task", "condition", "instruction_id", "target")


def _key(row: Record) -> tuple[str | int, ...]:
    return (*row.key, row.task)


_UNLIKE = "the tables did not answer the same samples under the same conditions and instructions; only those compare"


def _matched(first: Sequence[Grid], second: Sequence[Grid]) -> list[tuple[Grid, Grid]]:
    others = {(grid.name, grid.task, grid.condition): grid for grid in second}
    pairs = []
    for grid in first:
        other = others.pop((grid.name, grid.task, grid.condition), None)
        if (
            other is None
            or (grid.samples, grid.instructions) != (other.samples, other.instructions)
            or not np.array_equal(grid.present, other.present)
        ):
            raise ValueError(f"{_UNLIKE} (dataset {grid.name!r}, condition {grid.condition!r})")
        check_draws(grid, other)
        pairs.append((grid, other))
    if others:
        name, _, condition = next(iter(others))
        raise ValueError(f"{_UNLIKE} (dataset {name!r}, condition {condition!r})")
    return pairs


def check_draws(first: Grid, second: Grid) -> None:
    """Refuse other numbers of draws: a majority vote of five is no single answer, nor a mean of five one score."""
    counts = [np.asarray(g.present if g.draws is None else g.draws.count, np.int64) for g in (first, second)]
    if not np.array_equal(counts[0], counts[1]):
        mine, theirs = (f"{count[count > 0].min()} to {count.max()}" for count in counts)
        raise ValueError(
            f"the tables have other numbers of draws of a question (dataset {first.name!r}, condition "
            f"{first.condition!r}): {mine}, and {theirs}; expected the same data.draws, without failed draws left out"
        )


Gaps = dict[str, Estimate]
"""Difference of each number, second minus first."""


def paired_gaps(first: Drawn, second: Drawn, level: float) -> Gaps:
    """Differences of the numbers of one dataset."""
    found = _drawn_gaps(first, second, level)
    for name in SHARES:
        count = first.samples[name]
        variance = variance_of(second.numbers[name] - first.numbers[name], count)
        limits = intervals.paired(found[name].value, variance, count, intervals.deviate(level))
        found[name] = Estimate(found[name].value, *limits)
    return found


def _pooled_gaps(first: Drawn, second: Drawn, own: Sequence[Gaps], level: float) -> Gaps:
    """Differences over all datasets; the intervals of shares are computed from those of the datasets, `own`."""
    found = _drawn_gaps(first, second, level)
    for name in SHARES:
        parts = [gaps[name] for gaps in own if not math.isnan(gaps[name].value)]
        limits = intervals.average([one.value for one in parts], [(one.low, one.high) for one in parts])
        found[name] = Estimate(found[name].value, *limits)
    return found


def _drawn_gaps(first: Drawn, second: Drawn, level: float) -> Gaps:
    """Differences with percentile intervals.

    If the interval has no width, it is computed from the intervals of the two numbers instead.
    """
    found = {}
    for name, values in first.numbers.items():
        if name not in NUMBERS or name not in second.numbers:
            continue
        found[name] = estimate(second.numbers[name] - values, level)
        if found[name].low == found[name].high:
            one, other = first.estimates[name], second.estimates[name]
            limits = intervals.difference(other.value, (other.low, other.high), one.value, (one.low, one.high))
            found[name] = Estimate(found[name].value, *(limits if limits[0] < limits[1] else intervals.NONE))
    return found


Exchanged = dict[tuple[str, str], Floats]
"""Differences of a dataset's score under a condition, `[1 + permutations]`; the first is the observed one."""


def _exchanged(pairs: Sequence[tuple[Grid, Grid]], seed: int, permutations: int) -> Exchanged:
    """Differences under permutations, which exchange all answers to a sample, under all conditions at once."""
    found: Exchanged = {}
    for name in dict.fromkeys(one.name for one, _ in pairs):
        own = [both for both in pairs if both[0].name == name]
        sums = [[(grid.part.sum(1), grid.whole.sum(1)) for grid in both] for both in own]
        # how an exchange of a sample changes the sums: part and whole of its score, condition by condition
        carried = np.stack([second[at] - first[at] for first, second in sums for at in (0, 1)], 1)
        moved = _carried(carried, name, seed, permutations)
        for i, ((one, _), (first, second)) in enumerate(zip(own, sums, strict=True)):
            part, whole = moved[:, 2 * i], moved[:, 2 * i + 1]
            after = ratio(second[0].sum() - part, second[1].sum() - whole)
            before = ratio(first[0].sum() + part, first[1].sum() + whole)
            found[name, one.condition] = after - before
    return found


def _carried(carried: Floats, name: str, seed: int, permutations: int) -> Floats:
    """Sums of `carried [n, c]` over exchanged samples, `[1 + permutations, c]`; in the first row none is exchanged."""
    random = np.random.default_rng((seed, *hashlib.sha256(f"{name}\0sides".encode()).digest()))
    found = [np.zeros((1, carried.shape[1]))]
    block = max(1, _BLOCK // len(carried))
    for at in range(0, permutations, block):
        sides = random.integers(0, 2, (min(block, permutations - at), len(carried)), np.int8)
        found.append(sides.astype(np.float64) @ carried)
    return np.concatenate(found)


def _pairing(
    name: str | None,
    condition: str | None,
    pairs: Sequence[tuple[Grid, Grid]],
    differences: dict[str, Estimate],
    exchanged: Exchanged,
) -> Pairing:
    changes: dict[str, Floats] = {}
    gained = lost = 0
    for one, other in pairs:
        change = other.correct.astype(np.float64) - one.correct
        gained, lost = gained + int((change > 0).sum()), lost + int((change < 0).sum())
        changes[one.name] = changes.get(one.name, 0) + change.sum(1)  # over conditions: the samples are the same
    total = np.concatenate(list(changes.values()))
    better, worse = int((total > 0).sum()), int((total < 0).sum())
    sizes = {c: sum(one.condition == c for one, _ in pairs) for c in {one.condition for one, _ in pairs}}
    drawn = np.sum([exchanged[one.name, one.condition] / sizes[one.condition] for one, _ in pairs], 0) / len(sizes)
    extreme = np.abs(drawn[1:]) >= abs(drawn[0]) - 1e-12
    p = float((1 + extreme.sum()) / len(drawn))
    return Pairing(name, condition, gained, lost, better, worse, sign_test(better, worse), p, differences)

"""How many samples and instructions an evaluation needs, computed from a small one: the pilot.

Answers of a pilot give the variance that samples add to a score, and the variance that a sample's answers under several
instructions add. From these follow the width of an interval, and the probability that a difference is seen, for any
number of samples. Evaluations of that size, drawn from the pilot, check the formulas.

Sources: two-way analysis of variance for the parts of the variance; Connor (1987) for pairs, here with the mean square
of a sample's difference in place of the share of discordant pairs. For right and wrong answers under one instruction,
both are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import NormalDist
from typing import Literal

import numpy as np

from robustlm.evaluation import intervals
from robustlm.evaluation.grid import Floats, Grid
from robustlm.evaluation.pairing import check_draws

Number = Literal["mean", "worst_instruction", "spread"]

MOST = 1_000_000
"""Largest number of samples that is considered."""

_CELLS = 30_000_000
"""Largest number of simulated cells of one check."""

_TIMES = 50
"""Number of simulated evaluations where only simulation tells the width, and none are asked for."""

_NEAR = 0.02
"""How near a simulated width has to be to the wanted one, as a share of it."""


@dataclass(frozen=True, slots=True)
class Pilot:
    """The complete samples of a pilot's dataset under one condition, or differences between two such sets."""

    name: str
    value: float
    """The score over all instructions, or the difference of two."""
    scores: Floats
    """`[k]`: the same under each instruction."""
    influence: Floats
    """`[n, k]`: influence of each sample on each score; columns sum to 0. For accuracy: right (1) or wrong (0),
    minus the score."""
    draws: int = 1
    """Number of answers to each question."""

    @property
    def samples(self) -> int:
        """Number of complete samples."""
        return len(self.influence)

    @property
    def instructions(self) -> int:
        """Number of instructions."""
        return len(self.influence[0])


def pilot(grid: Grid) -> Pilot:
    """Make a pilot from a grid. Raises `ValueError` if fewer than two samples were asked under every instruction."""
    part, whole = grid.part[grid.complete], grid.whole[grid.complete]
    if len(part) < 2 or not whole.sum(0).all():
        raise ValueError(
            f"dataset {grid.name!r}, condition {grid.condition!r}: found {len(part)} samples that were asked under "
            "every instruction and can be scored; expected two or more in a pilot"
        )
    scores, value = part.sum(0) / whole.sum(0), float(part.sum() / whole.sum())
    # the influence on the score over all instructions is the mean of the columns, weighed as F1 weighs them
    draws = 1 if grid.draws is None else int(grid.draws.count.max())
    return Pilot(grid.name, value, scores, (part - scores * whole) / whole.mean(0), draws)


def difference(first: Grid, second: Grid) -> Pilot:
    """The pilot of second minus first, over samples and instructions that are complete in both.

    Raises:
        ValueError: The grids have other samples, instructions or numbers of draws, or too few complete samples.
    """
    if (first.samples, first.instructions) != (second.samples, second.instructions):
        raise ValueError(
            f"dataset {first.name!r}: the two sets of answers differ in their samples or instructions; expected the "
            "same, since the difference is measured sample by sample"
        )
    if not np.array_equal(first.complete, second.complete):
        raise ValueError(
            f"dataset {first.name!r}: the two sets miss answers in different cells; expected the same cells"
        )
    check_draws(first, second)
    one, other = pilot(first), pilot(second)
    return Pilot(
        one.name, other.value - one.value, other.scores - one.scores, other.influence - one.influence, one.draws
    )


@dataclass(frozen=True, slots=True)
class Parts:
    """Variances of a two-way analysis: score = samples + instructions + the rest of each cell."""

    samples: float
    """Of what a sample adds under every instruction alike."""
    cells: float
    """Of the rest of a cell."""
    instructions: float
    """Of the true scores of instructions, as if these were drawn from many."""

    def of_sample(self, instructions: int) -> float:
        """Variance of a sample's mean over so many instructions."""
        return self.samples + self.cells / instructions


def parts(one: Pilot) -> Parts:
    """Estimate the variances. With one instruction, all variance counts as that of samples."""
    n, k = one.influence.shape
    rows = one.influence.mean(1)
    if k == 1:
        return Parts(float(rows.var(ddof=1)), 0.0, 0.0)
    rest = one.influence - rows[:, None]
    cells = float((rest**2).sum()) / ((n - 1) * (k - 1))
    return Parts(
        max(0.0, float(rows.var(ddof=1)) - cells / k), cells, max(0.0, float(one.scores.var(ddof=1)) - cells / n)
    )


def width(number: Number, one: Pilot, samples: int, instructions: int, level: float, drawn: bool = False) -> float:
    """Width of the interval of a number, as `robustness` makes it, with so many samples and the pilot's scores.

    Args:
        number: The number; `worst_instruction` and `spread` are those of the pilot's own instructions.
        one: The pilot.
        samples: Number of samples.
        instructions: Number of instructions, for `mean`.
        level: Level of the interval.
        drawn: Whether the interval of `mean` is also about other instructions of their kind.
    """
    z = intervals.deviate(level)
    if number == "mean":
        own = parts(one)
        variance = own.of_sample(instructions) / samples + (own.instructions / instructions if drawn else 0.0)
        low, high = intervals.share(one.value, variance, samples, z)
        return high - low
    low, high = _limits(number, one, samples, level)
    return high - low


def _limits(number: Number, one: Pilot, samples: int, level: float) -> intervals.Limits:
    """The interval with the pilot's scores and variances, as if there were so many samples."""
    if number == "worst_instruction":
        variances = (one.influence**2).sum(0) / (one.samples * max(samples - 1, 1))
        return intervals.worst_limits(one.scores, variances, samples, level)
    return intervals.spread_limits(one.scores, one.influence, max(samples, 2), level)


def samples_for(width_of: Callable[[int], float], wanted: float) -> int | None:
    """The smallest number of samples with which an interval is at most as wide as wanted; null: more than `MOST`.

    Args:
        width_of: Width by number of samples; it falls.
        wanted: The width.
    """
    high = 2
    while width_of(high) > wanted:
        high *= 2
        if high > 2 * MOST:
            return None
    low = high // 2  # wide enough, or 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if width_of(middle) > wanted else (low, middle)
    return high if high <= MOST else None


def mean_square(one: Pilot, instructions: int) -> float:
    """Mean square of a sample's difference over so many instructions: for one, the share of discordant pairs."""
    return parts(one).of_sample(instructions) + one.value**2


def samples_to_see(square: float, wanted: float, power: float, level: float) -> int | None:
    """Number of samples with which a paired test sees a difference with a given power; null: more than `MOST`.

    n = (z_level √D + z_power √(D − d²))² / d² (Connor 1987), with the mean square D of a sample's difference. D is at
    least d: no smaller share of pairs that differ gives such a difference.

    Args:
        square: D, from `mean_square`.
        wanted: The difference d, as a share.
        power: Probability of seeing it.
        level: 1 − the level of the two-sided test.
    """
    square = max(square, wanted)
    z = intervals.deviate(level), NormalDist().inv_cdf(power)
    found = math.ceil((z[0] * math.sqrt(square) + z[1] * math.sqrt(square - wanted**2)) ** 2 / wanted**2)
    return max(found, 2) if found <= MOST else None


# --- checks by simulation ------------------------------------------------------------------------------------------


def simulated_width(
    number: Number, one: Pilot, samples: int, instructions: int, level: float, times: int, seed: int
) -> float:
    """Mean width of the intervals of evaluations that are drawn from the pilot; NaN where that is not possible.

    Samples are drawn with replacement, and fewer instructions than the pilot's without. More instructions cannot be
    drawn from it.
    """
    times = min(times, _CELLS // (samples * instructions))
    if times < 2 or instructions > one.instructions:
        return math.nan
    random, z, found = np.random.default_rng(seed), intervals.deviate(level), []
    for _ in range(times):
        columns = random.permutation(one.instructions)[:instructions]
        drawn = one.influence[random.integers(0, one.samples, samples)][:, columns]
        scores = np.clip(one.scores[columns] + drawn.mean(0), 0, 1)
        drawn = drawn - drawn.mean(0)
        if number == "mean":
            low, high = intervals.share(float(scores.mean()), float(drawn.mean(1).var(ddof=1)) / samples, samples, z)
        else:
            apart = intervals.dispersion(scores, drawn, level)
            low, high = apart.worst_limits if number == "worst_instruction" else apart.spread_limits
        found.append(high - low)
    return float(np.mean(found))


def simulated_power(
    one: Pilot, samples: int, instructions: int, wanted: float, level: float, times: int, seed: int
) -> float:
    """Share of evaluations, drawn from the pilot, whose interval of the difference excludes 0; NaN where not possible.

    Differences of samples keep their size and get a random sign, so that their mean is the wanted one. So the pilot's
    own difference does not matter, but a difference above the mean size cannot be drawn.
    """
    times = min(times, _CELLS // (samples * instructions))
    if times < 2 or instructions > one.instructions:
        return math.nan
    random, z, seen = np.random.default_rng(seed), intervals.deviate(level), 0
    for _ in range(times):
        columns = random.permutation(one.instructions)[:instructions]
        each = np.abs((one.influence + one.scores)[:, columns].mean(1))
        if each.mean() < wanted:
            return math.nan
        drawn = each[random.integers(0, one.samples, samples)]
        signs = np.where(random.random(samples) < (1 + wanted / each.mean()) / 2, 1.0, -1.0)
        found = drawn * signs
        low, high = intervals.paired(float(found.mean()), float(found.var(ddof=1)) / samples, samples, z)
        seen += low > 0 or high < 0
    return seen / times


# --- plans ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Need:
    """How many samples one aim needs with one number of instructions."""

    dataset: str
    aim: str
    """`mean`, `worst_instruction`, `spread` or `difference`."""
    pilot: float
    """The number in the pilot, in [-1, 1]."""
    instructions: int
    samples: int | None
    """Number of samples of the dataset; null: more than `MOST`."""
    checked: float
    """The width or power of simulated evaluations of that size; NaN: not simulated."""
    drawn: int | None = None
    """For `mean`: number of samples if the interval is also about other instructions; null: no number is enough, or the
    pilot has one instruction."""
    alone: bool = False
    """Whether the pilot has one instruction."""
    draws: int = 1
    """Number of answers to each question, as in the pilot."""

    @property
    def answers(self) -> int | None:
        """Number of answers: samples × instructions × draws."""
        return None if self.samples is None else self.samples * self.instructions * self.draws


def needs_of_width(
    one: Pilot,
    numbers: Sequence[Number],
    wanted: float,
    instructions: Sequence[int],
    level: float = 0.95,
    times: int = 200,
    seed: int = 0,
) -> list[Need]:
    """How many samples give intervals of numbers that are at most as wide as wanted.

    Args:
        one: The pilot.
        numbers: Which numbers.
        wanted: The width, as a share.
        instructions: Numbers of instructions for `mean`; the other numbers are those of the pilot's own.
        level: Level of the intervals.
        times: Number of simulated evaluations. For `worst_instruction` of several, samples are found by simulation.
        seed: Seed of the simulation.
    """
    _check_instructions(one, instructions)
    k, found = one.instructions, []
    for number in numbers:
        if number == "spread" and k == 1:
            continue
        value = {"mean": one.value, "worst_instruction": float(one.scores.min()), "spread": float(np.ptp(one.scores))}
        for ways in instructions if number == "mean" else (k,):

            def width_of(n: int, drawn: bool = False, number: Number = number, ways: int = ways) -> float:
                return width(number, one, n, ways, level, drawn)

            n = samples_for(width_of, wanted)
            if number == "worst_instruction" and k > 1 and n is not None:
                n = _worst_samples(one, n, wanted, level, times or _TIMES, seed)
            both = samples_for(partial(width_of, drawn=True), wanted) if number == "mean" and k > 1 else None
            checked = math.nan if n is None else simulated_width(number, one, n, ways, level, times, seed)
            found.append(Need(one.name, number, value[number], ways, n, checked, both, k == 1, one.draws))
    return found


def _worst_samples(one: Pilot, begin: int, wanted: float, level: float, times: int, seed: int) -> int | None:
    """Number of samples with which the mean simulated interval of the worst instruction has the wanted width.

    The formula ignores that another evaluation may find another instruction worst, so it only gives the number to
    begin with. Widths fall about as 1/√n, so each step rescales n.
    """
    n = begin
    for _ in range(8):
        found = simulated_width("worst_instruction", one, n, one.instructions, level, times, seed)
        if math.isnan(found) or n > MOST:
            return None
        if abs(found / wanted - 1) < _NEAR:
            break
        n = max(2, math.ceil(n * (found / wanted) ** 2))
    return n


def needs_of_difference(
    one: Pilot,
    wanted: float,
    power: float,
    instructions: Sequence[int],
    level: float = 0.95,
    times: int = 200,
    seed: int = 0,
) -> list[Need]:
    """How many samples a paired test needs to see a difference; arguments as for `needs_of_width`, and the power.

    Raises:
        ValueError: No answer differs in the pilot, so it does not say how often answers will.
    """
    _check_instructions(one, instructions)
    if not np.abs(one.influence + one.scores).max() > 0:
        raise ValueError(
            f"dataset {one.name!r}: no score of the pilot differs between the two; expected some, since the share of "
            "scores that differ decides how many samples are needed"
        )
    found = []
    for ways in instructions:
        n = samples_to_see(mean_square(one, ways), wanted, power, level)
        checked = math.nan if n is None else simulated_power(one, n, ways, wanted, level, times, seed)
        found.append(Need(one.name, "difference", one.value, ways, n, checked, draws=one.draws))
    return found


def _check_instructions(one: Pilot, instructions: Sequence[int]) -> None:
    if one.instructions == 1 and any(ways > 1 for ways in instructions):
        raise ValueError(
            f"instructions: found {max(instructions)}; expected 1, since the pilot has one instruction for "
            f"{one.name!r} and does not show how answers to several instructions correlate"
        )

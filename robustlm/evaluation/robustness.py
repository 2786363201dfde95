"""How a model fares however it is asked: every number from the prediction table alone, with bootstrap intervals.

All numbers are functions of weighted sums over samples, so that a bootstrap draw is a row of weights and all draws
of a dataset are a few products of matrices. `docs/evaluation.md` says what each number is and what it hides.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from robustlm.checks.numbers import check_number, check_seed
from robustlm.evaluation import intervals
from robustlm.evaluation.grid import Bools, Floats, Grid, Ints, grids, ratio
from robustlm.evaluation.intervals import NONE, Dispersion, Limits, Moments
from robustlm.evaluation.record import Record

Resample = Literal["samples", "both"]

NUMBERS = {
    "mean": "score over all answers",
    "worst_instruction": "score of the worst instruction",
    "worst_debiased": "score of the worst instruction, less what chance takes",
    "worst_case": "score of each sample's worst answer",
    "pdr": "performance drop rate against clean",
    "std": "standard deviation over instructions",
    "std_pooled": "standard deviation over instructions and datasets together",
    "std_within": "mean over datasets of the standard deviation over instructions",
    "std_debiased": "standard deviation over instructions, less what chance adds",
    "spread": "best minus worst instruction",
    "spread_debiased": "best minus worst instruction, less what chance adds",
    "cochran_p": "how likely such differences are if all instructions are alike",
    "consistency": "pairs of instructions with equal answers",
    "sensitivity": "difference in score between two instructions",
    "posix": "change of an answer's log-likelihood a token under another instruction",
    "all_correct": "samples right under every instruction",
    "share_phrasing": "share of score variance from instructions",
    "share_samples": "share of score variance from samples",
    "share_interaction": "share of score variance from which sample meets which instruction",
    "unparseable": "answers that could not be read",
}
"""All numbers and what they are. Those of one dataset have `std`, those of all have `std_pooled` and `std_within`."""

UNBOUNDED = ("posix", "cochran_p")
"""Numbers that are no shares: not to be shown in per cent."""

SHARES = ("mean", "worst_case", "consistency", "sensitivity", "all_correct", "unparseable")
"""Numbers that are means over samples of values in [0, 1], or F1."""

DEBIASED = {"worst_instruction": "worst_debiased", "std": "std_debiased", "spread": "spread_debiased"}
"""Numbers that chance moves in one direction, and what each is called without that."""

MOST_UNDEFINED = 0.05
"""Where a larger share of draws gives no number, there is no interval."""

_BLOCK = 20_000_000
"""Cells of the largest array at a time: draws × samples × instructions."""


_MOST_DRAWS = 10**6
"""More change no digit that is shown."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How intervals are made."""

    draws: int = 1000
    """Bootstrap draws; 0: no intervals."""
    seed: int = 0
    """Seed of the draws. A dataset's draws are its own, whatever other datasets a table holds."""
    level: float = 0.95
    """Share of draws within an interval."""
    resample: Resample = "samples"
    """`samples` of a dataset are drawn with replacement, the same under all conditions; `both`: instructions too."""

    def __post_init__(self) -> None:
        """Refuse what makes no interval."""
        for name in ("draws", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: found {getattr(self, name)}; expected ≥ 0")
        check_number("draws", self.draws, least=0, most=_MOST_DRAWS, whole=True)
        check_seed("seed", self.seed)
        if not 0 < self.level < 1:
            raise ValueError(f"level: found {self.level}; expected a share between 0 and 1")
        if self.resample not in ("samples", "both"):
            raise ValueError(f"resample: found {self.resample!r}; expected samples or both")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its interval; NaN where there is none."""

    value: float
    low: float
    high: float
    datasets: int = 1
    """How many datasets have this number, and are averaged in it."""


@dataclass(frozen=True, slots=True)
class Result:
    """The numbers of a dataset under one condition, or of all datasets (`name` is then `None`)."""

    name: str | None
    condition: str
    score: str
    """`f1`, `accuracy`, or `mean` over datasets."""
    numbers: dict[str, Estimate]
    by_instruction: dict[str, float]
    """Score under each instruction, of the samples that all of them were asked about."""
    worst: str | None
    """The worst instruction."""
    rows: int
    """Answers."""
    samples: int
    """Samples asked."""
    complete: int
    """Samples asked under every instruction: what all but `mean`, `pdr` and `unparseable` are made of."""
    instructions: int
    missing: int
    """Cells of samples asked that are not in the table."""


Sampled = dict[str, Floats]
"""Each number's value and then its draws, `[1 + draws]`. Names with a leading `_` are what others are made of."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """The numbers of a dataset under one condition, or of all datasets, over draws of their samples."""

    numbers: Sampled
    estimates: dict[str, Estimate]
    """By the names of `NUMBERS`, in that order."""
    samples: dict[str, int]
    """How many samples each of the `SHARES` is made of."""
    dropped: Moments = (math.nan, math.nan, math.nan)
    """Variances and covariance of the two scores that `pdr` compares: under this condition, and clean."""
    cochran: tuple[float, int] = (0.0, 0)
    """Cochran's Q and its degrees of freedom."""


def robustness(rows: Iterable[Record], settings: Settings = Settings(), clean: str = "clean") -> list[Result]:
    """Every number of a prediction table: dataset by dataset and condition by condition, then over all datasets.

    Args:
        rows: Rows of a prediction table, in any order.
        settings: How intervals are made.
        clean: The condition against which performance drops.

    Raises:
        ValueError: A sample was asked twice under one condition and instruction, or a task is not known.
    """
    found = grids(rows)
    one, pooled = sample(found, settings, clean)
    results = [_result(grid, one[grid.name, grid.condition].estimates) for grid in found]
    for condition, drawn in pooled.items():
        own = [grid for grid in found if grid.condition == condition]
        parts = [one[grid.name, condition] for grid in own]
        results.append(_pooled_result(condition, own, parts, drawn.estimates))
    return results


def sample(
    found: Sequence[Grid], settings: Settings, clean: str = "clean"
) -> tuple[dict[tuple[str, str], Drawn], dict[str, Drawn]]:
    """Every number's value and draws, by dataset and condition, and by condition over all datasets.

    The draws of a dataset depend on its name, its samples and the seed, so tables over the same samples share them.
    """
    one: dict[tuple[str, str], Drawn] = {}
    kept: dict[str, list[Drawn]] = {}
    sets: dict[str, dict[str, Grid]] = {}
    for grid in found:
        sets.setdefault(grid.name, {})[grid.condition] = grid
    order = list(dict.fromkeys(grid.condition for grid in found))
    for name, conditions in sets.items():
        blocks = _Weights(name, next(iter(conditions.values())), settings)
        for condition in sorted(conditions, key=order.index):
            grid, reference = conditions[condition], conditions.get(clean)
            drawn = _drawn(grid, reference, blocks.apply(grid, reference), settings)
            one[name, condition] = drawn
            kept.setdefault(condition, []).append(drawn)
    return one, {condition: _pool(kept[condition], settings) for condition in order if condition in kept}


def estimate(values: Floats, level: float, datasets: int = 1) -> Estimate:
    """A value and the percentile interval of its draws, `[1 + draws]`.

    Draws without a number are left out; where those are more than `MOST_UNDEFINED`, there is no interval.
    """
    value, draws = float(values[0]), values[1:]
    draws = draws[~np.isnan(draws)]
    if np.isnan(value) or len(draws) == 0 or len(draws) < (1 - MOST_UNDEFINED) * (len(values) - 1):
        return Estimate(value, float("nan"), float("nan"), datasets)
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high), datasets)


def sample_weights(name: str, n: int, settings: Settings) -> Floats:
    """How often each of a dataset's n samples counts in each draw, `[1 + draws, n]`; the first row counts all once."""
    drawn = _random(settings, name, "samples").multinomial(n, np.full(n, 1 / n), settings.draws)
    return np.concatenate([np.ones((1, n)), drawn])


def _random(settings: Settings, *what: str) -> np.random.Generator:
    digest = hashlib.sha256("\0".join(what).encode()).digest()
    return np.random.default_rng((settings.seed, *digest))


class _Weights:
    """How often each sample and instruction counts in each draw; the first row counts all once."""

    def __init__(self, name: str, grid: Grid, settings: Settings) -> None:
        self._name = name
        self._settings = settings
        self._samples = sample_weights(name, len(grid.samples), settings)

    def _instructions(self, names: tuple[str, ...]) -> Floats:
        """`[1 + draws, k]`, or `[1, k]` where instructions are fixed. Conditions with the same ones share draws."""
        k = len(names)
        if self._settings.resample == "samples":
            return np.ones((1, k))
        random = _random(self._settings, self._name, "instructions", *names)
        drawn = random.multinomial(k, np.full(k, 1 / k), self._settings.draws)
        return np.concatenate([np.ones((1, k)), drawn])

    def apply(self, grid: Grid, clean: Grid | None) -> Sampled:
        """All numbers of a grid. Keys with a leading `_` are what pooled numbers are made of."""
        features = _Features(grid)
        own = self._instructions(grid.instructions)
        other = None if clean is None else self._instructions(clean.instructions)
        block = max(1, _BLOCK // max(1, grid.present.size))
        found = []
        for at in range(0, len(self._samples), block):
            w = self._samples[at : at + block]
            v = own if len(own) == 1 else own[at : at + block]
            numbers = features.numbers(w, v)
            if clean is not None and other is not None:
                u = other if len(other) == 1 else other[at : at + block]
                numbers |= _drop(grid, clean, w, v, u)
            found.append(numbers)
        return {key: np.concatenate([numbers[key] for numbers in found]) for key in found[0]}


class _Features:
    """What a grid's numbers are weighted sums of.

    Weights are `w [D, n]` of samples and `v [D or 1, k]` of instructions. Numbers that tell instructions apart are
    made of complete samples alone: others would mix what an instruction does with which samples it met.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = grid
        self.whole_samples = grid.complete.astype(np.float64)
        keep = grid.complete[:, None]
        self.part, self.whole = grid.part * keep, grid.whole * keep
        self.cells = grid.cells * keep
        self.left, self.right = np.triu_indices(len(grid.instructions), 1)
        self.agree = (grid.answers[:, self.left] == grid.answers[:, self.right]) * keep
        self.differ = np.abs(self.cells[:, self.left] - self.cells[:, self.right])
        self.shift, self.shifted = _likelihood_shifts(grid, self.left, self.right)
        # from the worst answer of a sample to its best; of equally bad ones the one with more to find comes first
        self.order = np.lexsort((-grid.whole, grid.cells))

    def numbers(self, w: Floats, v: Floats) -> Sampled:
        """Every number but the drop, `[D]` each."""
        grid = self.grid
        asked = _bilinear(w, v, grid.present)
        full = w @ self.whole_samples
        with np.errstate(divide="ignore", invalid="ignore"):
            return {
                "mean": _score(_bilinear(w, v, grid.part), _bilinear(w, v, grid.whole), asked),
                **self._instructions(w, v, full),
                "worst_case": self._worst_case(w, v, full),
                "consistency": self._pairs(w, v, self.agree, full),
                "sensitivity": self._pairs(w, v, self.differ, full),
                "posix": self._pairs(w, v, self.shift, w @ self.shifted),
                "all_correct": self._all_correct(w, v, full),
                **self._shares(w, v, full),
                "unparseable": np.where(asked > 0, _bilinear(w, v, grid.unparseable) / asked, np.nan),
            }

    def _instructions(self, w: Floats, v: Floats, full: Floats) -> Sampled:
        scores = np.where(full[:, None] > 0, ratio(w @ self.part, w @ self.whole), np.nan)  # [D, k]
        k = scores.shape[1]
        low = np.where(v > 0, scores, np.inf).min(1)
        high = np.where(v > 0, scores, -np.inf).max(1)
        middle = (v * scores).sum(1, keepdims=True) / k
        std = np.sqrt((v * (scores - middle) ** 2).sum(1) / k)
        several = np.where((full > 0) & (k > 1), 1.0, np.nan)
        low, high = np.where(full > 0, low, np.nan), np.where(full > 0, high, np.nan)
        return {
            "worst_instruction": low,
            "std": std * several,
            "spread": (high - low) * several,
            "_sum": (v * scores).sum(1) * several,
            "_squares": (v * scores**2).sum(1) * several,
            "_count": np.full(len(w), float(k)),
        }

    def _worst_case(self, w: Floats, v: Floats, full: Floats) -> Floats:
        drawn = (v > 0)[:, self.order]  # [D or 1, n, k], from worst to best
        first = drawn.argmax(2)
        at = self.order[np.arange(len(self.order)), first]  # [D or 1, n]
        rows = np.arange(len(self.order))
        return _score(_linear(w, self.part[rows, at]), _linear(w, self.whole[rows, at]), full)

    def _all_correct(self, w: Floats, v: Floats, full: Floats) -> Floats:
        wrong = (v > 0).astype(np.float64) @ (~self.grid.correct).T.astype(np.float64)
        return np.where(full > 0, _linear(w, (wrong == 0) * self.whole_samples) / full, np.nan)

    def _pairs(self, w: Floats, v: Floats, values: Floats, samples: Floats) -> Floats:
        """Mean over samples and pairs of instructions; one drawn twice makes no pair with itself."""
        pairs = v[:, self.left] * v[:, self.right]
        whole = samples * pairs.sum(1)
        return np.where(whole > 0, _bilinear(w, pairs, values) / whole, np.nan)

    def _shares(self, w: Floats, v: Floats, full: Floats) -> Sampled:
        """Two-way sums of squares of the scores of complete samples, over their total."""
        k = v.sum(1)
        by_sample = v @ self.cells.T / k[:, None]  # [D or 1, n]
        by_instruction = w @ self.cells / full[:, None]  # [D, k]
        grand = _linear(w, by_sample) / full
        total = _bilinear(w, v, self.cells**2) - full * k * grand**2
        samples = k * (_linear(w, by_sample**2) - full * grand**2)
        phrasing = full * (v * (by_instruction - grand[:, None]) ** 2).sum(1)
        varied = (total > 1e-12 * full * k) & (len(self.grid.instructions) > 1)
        total = np.where(varied, total, np.nan)
        return {
            "share_phrasing": phrasing / total,
            "share_samples": np.maximum(samples, 0) / total,
            "share_interaction": np.maximum(total - samples - phrasing, 0) / total,
        }


def _likelihood_shifts(grid: Grid, left: Ints, right: Ints) -> tuple[Floats, Floats]:
    """`[n, pairs]` and `[n]`: how far the answer under one instruction loses or gains under the other, and who has it.

    For instructions i and j with answers y_i and y_j, the mean of |log P(y_j|x_i) − log P(y_j|x_j)| / |y_j| and the
    same with i and j exchanged. A sample has it where all of that is known and finite under every instruction.
    """
    nothing = np.zeros((len(grid.samples), len(left)))
    options = grid.options
    if options is None or not len(left):
        return nothing, np.zeros(len(grid.samples))
    n, k = grid.present.shape
    at = np.maximum(options.chosen, 0)
    rows = np.arange(n)[:, None, None]
    scores = options.scores[rows, np.arange(k)[None, :, None], at[:, None, :]]  # [n, i, j]: y_j under x_i
    tokens = np.take_along_axis(options.tokens, at[:, :, None], 2)[:, None, :, 0]
    own = np.diagonal(scores, axis1=1, axis2=2)[:, None, :]
    with np.errstate(invalid="ignore"):
        shifts = np.abs(scores - own) / tokens
    both = (shifts[:, left, right] + shifts[:, right, left]) / 2
    known: Bools = np.isfinite(both).all(1) & (options.chosen >= 0).all(1) & grid.complete
    return np.where(known[:, None], both, 0.0), known.astype(np.float64)


def _drop(grid: Grid, clean: Grid, w: Floats, v: Floats, u: Floats) -> Sampled:
    """1 − M/M(clean) over the samples asked under both conditions."""
    both = w * (grid.asked & clean.asked)
    mine, other = (
        _score(_bilinear(both, x, one.part), _bilinear(both, x, one.whole), _bilinear(both, x, one.present))
        for one, x in ((grid, v), (clean, u))
    )
    return {"pdr": _drop_rate(mine, other), "_condition": mine, "_clean": other}


def _drop_rate(mine: Floats, clean: Floats) -> Floats:
    usable = clean > 0
    return np.where(usable, 1 - mine / np.where(usable, clean, 1), np.nan)


def _linear(w: Floats, values: Floats) -> Floats:
    """Weighted sum over samples of values `[D or 1, n]`."""
    found: Floats = w @ values[0] if len(values) == 1 else np.einsum("di,di->d", w, values)
    return found


def _bilinear(w: Floats, v: Floats, values: Floats | Bools) -> Floats:
    """Weighted sum over samples and instructions (or pairs of them) of values `[n, k]`."""
    found: Floats = ((w @ values) * v).sum(1)
    return found


def _score(part: Floats, whole: Floats, rows: Floats) -> Floats:
    return np.where(rows > 0, ratio(part, whole), np.nan)


def _drawn(grid: Grid, clean: Grid | None, numbers: Sampled, settings: Settings) -> Drawn:
    """The numbers of one dataset with their intervals.

    Shares have Wilson's interval; what instructions do, one that knows what chance does. The latter is about fixed
    instructions: where these are drawn too, extremes and deviations keep the percentiles of their draws.
    """
    found = {name: estimate(values, settings.level) for name, values in numbers.items() if name in NUMBERS}
    asked, complete = int(grid.asked.sum()), int(grid.complete.sum())
    samples = {name: asked if name in ("mean", "unparseable") else complete for name in SHARES}
    for name, count in samples.items():
        found[name] = Estimate(found[name].value, *_share(numbers[name], count, settings))
    moments = math.nan, math.nan, math.nan
    if clean is not None:
        mine, other = numbers["_condition"], numbers["_clean"]
        moments = intervals.shared(mine[1:], other[1:], int((grid.asked & clean.asked).sum()))
        if clean is not grid:  # against itself nothing drops, whatever the samples
            found["pdr"] = Estimate(found["pdr"].value, *_dropped(mine, other, moments, settings))
    part, whole = grid.part[grid.complete], grid.whole[grid.complete]
    cochran = intervals.cochran(grid.cells[grid.complete])
    found["cochran_p"] = Estimate(intervals.chi2_tail(*cochran) if cochran[1] else math.nan, *NONE)
    apart = _dispersion(part, whole, settings.level)
    for name, value, limits in (
        ("worst_instruction", apart.worst, apart.worst_limits),
        ("std", apart.std, apart.std_limits),
        ("spread", apart.spread, apart.spread_limits),
    ):
        if settings.draws and settings.resample == "samples" and not math.isnan(value):
            found[name] = Estimate(found[name].value, *limits)
        found[DEBIASED[name]] = Estimate(value, found[name].low, found[name].high)
    return Drawn(numbers, {name: found[name] for name in NUMBERS if name in found}, samples, moments, cochran)


def _dispersion(part: Floats, whole: Floats, level: float) -> Dispersion:
    """What instructions do to a score; `part` and `whole` are those of complete samples, `[n, k]`."""
    if not part.size or not whole.sum(0).all():
        return intervals.dispersion(np.ones(0), np.ones((0, 0)), level)
    scores = part.sum(0) / whole.sum(0)
    return intervals.dispersion(scores, (part - scores * whole) / whole.mean(0), level)


def variance_of(values: Floats, samples: int) -> float:
    """The variance of a number over samples that are drawn anew; NaN where too many draws have none."""
    draws = values[1:][~np.isnan(values[1:])]
    if not len(draws) or len(draws) < (1 - MOST_UNDEFINED) * (len(values) - 1):
        return math.nan
    return float(draws.var()) * samples / max(samples - 1, 1)


def _share(values: Floats, samples: int, settings: Settings) -> Limits:
    z = intervals.deviate(settings.level)
    return intervals.share(float(values[0]), variance_of(values, samples), samples, z)


def _dropped(mine: Floats, clean: Floats, moments: Moments, settings: Settings) -> Limits:
    """The interval of 1 − M/M(clean)."""
    low, high = intervals.quotient(float(mine[0]), float(clean[0]), moments, intervals.deviate(settings.level))
    return 1 - high, 1 - low


def _pool(parts: Sequence[Drawn], settings: Settings) -> Drawn:
    """Numbers over datasets: means over those that have them, but for three that are made otherwise.

    Intervals of means are made of the datasets' own, which are independent of each other.
    """
    drawn = [part.numbers for part in parts]
    numbers = {name: _mean([one[name] for one in drawn]) for name in drawn[0] if name in NUMBERS and name != "pdr"}
    numbers["std_within"] = numbers.pop("std")
    found = {name: estimate(values, settings.level) for name, values in numbers.items()}
    for name in (*SHARES, *DEBIASED, *DEBIASED.values()):
        own = [part.estimates[name] for part in parts if not math.isnan(part.estimates[name].value)]
        from_ = [part.estimates[DEBIASED.get(name, name)].value for part in parts]
        middle = [value for value in from_ if not math.isnan(value)]
        mean = float(np.mean([one.value for one in own])) if own else math.nan
        limits = intervals.average(middle, [(one.low, one.high) for one in own]) if len(middle) == len(own) else NONE
        found["std_within" if name == "std" else name] = Estimate(mean, *limits)
    numbers["std_pooled"] = _std_pooled(drawn)
    pooled = estimate(numbers["std_pooled"], settings.level)
    found["std_pooled"] = pooled if pooled.low < pooled.high else Estimate(pooled.value, *NONE)
    dropped = [part for part in parts if "_clean" in part.numbers and not np.isnan(part.numbers["_clean"][0])]
    moments = math.nan, math.nan, math.nan
    if dropped:
        mine, clean = (np.mean([part.numbers[name] for part in dropped], 0) for name in ("_condition", "_clean"))
        numbers |= {"pdr": _drop_rate(mine, clean), "_condition": mine, "_clean": clean}
        first, second, both = (sum(part.dropped[at] for part in dropped) / len(dropped) ** 2 for at in range(3))
        moments = first, second, both
        if any(part.estimates["pdr"].low < part.estimates["pdr"].high for part in dropped):  # not clean itself
            found["pdr"] = Estimate(float(numbers["pdr"][0]), *_dropped(mine, clean, moments, settings))
        else:
            found["pdr"] = estimate(numbers["pdr"], settings.level)
    q, freedom = (sum(part.cochran[at] for part in parts) for at in (0, 1))
    found["cochran_p"] = Estimate(intervals.chi2_tail(q, int(freedom)) if freedom else math.nan, *NONE)
    return Drawn(numbers, {name: found[name] for name in NUMBERS if name in found}, {}, moments)


def _std_pooled(drawn: Sequence[Sampled]) -> Floats:
    varied = [part for part in drawn if not np.isnan(part["std"][0])]
    if not varied:
        return np.full(len(drawn[0]["mean"]), np.nan)
    total, squares, count = (np.sum([part[name] for part in varied], 0) for name in ("_sum", "_squares", "_count"))
    found: Floats = np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0))
    return found


def _mean(values: Sequence[Floats]) -> Floats:
    defined = [value for value in values if not np.isnan(value[0])]
    return np.mean(defined, 0) if defined else np.full(len(values[0]), np.nan)


def _result(grid: Grid, numbers: dict[str, Estimate]) -> Result:
    keep = grid.complete
    scores = ratio(grid.part[keep].sum(0), grid.whole[keep].sum(0)) if keep.any() else np.array([])
    by_instruction = dict(zip(grid.instructions, scores.tolist(), strict=False))
    return Result(
        name=grid.name,
        condition=grid.condition,
        score=grid.score,
        numbers=numbers,
        by_instruction=by_instruction,
        worst=min(by_instruction, key=by_instruction.__getitem__) if by_instruction else None,
        rows=int(grid.present.sum()),
        samples=int(grid.asked.sum()),
        complete=int(keep.sum()),
        instructions=len(grid.instructions),
        missing=grid.missing,
    )


def _pooled_result(condition: str, own: Sequence[Grid], parts: Sequence[Drawn], numbers: dict[str, Estimate]) -> Result:
    def over(name: str) -> int:
        source = "std" if name in ("std_pooled", "std_within") else name
        return sum(source in part.estimates and not math.isnan(part.estimates[source].value) for part in parts)

    return Result(
        name=None,
        condition=condition,
        score="mean",
        numbers={name: replace(found, datasets=over(name)) for name, found in numbers.items()},
        by_instruction={},
        worst=None,
        rows=sum(int(grid.present.sum()) for grid in own),
        samples=sum(int(grid.asked.sum()) for grid in own),
        complete=sum(int(grid.complete.sum()) for grid in own),
        instructions=len({name for grid in own for name in grid.instructions}),
        missing=sum(grid.missing for grid in own),
    )

"""How far other phrasings move a model's hidden states, and how its scores change with that distance.

Everything is computed from the two tables of a run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from robustlm.evaluation.grid import Grid, grids
from robustlm.evaluation.hidden_state_table import HiddenStateTable
from robustlm.evaluation.hidden_states import Floats, Ints, between_sums, degradation, distances, members, pair_sums
from robustlm.evaluation.record import Cell, Record
from robustlm.evaluation.robustness import Estimate, Sampled, Settings, estimate, sample_weights

NUMBERS = {
    "within": "distance between two states of a sample",
    "between": "distance between two samples under the same instruction",
    "ratio": "within over between",
    "distance": "distance to the sample's nearest observed state",
    "relative": "the same, over the distance between samples under observed instructions",
    "nearest": "distance to the nearest observed state of any sample of the dataset",
    "own": "share of states whose nearest observed state is of their own sample",
}
"""All numbers and what they mean. The states of the clean condition are the observed ones. A state is never its own
nearest state."""

_BLOCK = 1024


@dataclass(frozen=True, slots=True)
class Displaced:
    """The numbers of a dataset under one condition, or their means over datasets (`dataset` is then `None`)."""

    dataset: str | None
    condition: str
    numbers: dict[str, Estimate]
    rows: int
    samples: int
    instructions: int
    unmatched: int
    """Number of states whose sample has no other observed state, so that they have no `distance`."""


@dataclass(frozen=True, slots=True)
class Point:
    """Distance of states and change of score for one instruction under one condition other than clean."""

    dataset: str
    condition: str
    instruction_id: str
    distance: float
    """Mean `distance` of the states under the instruction."""
    relative: float
    """`distance` divided by the dataset's mean distance between samples."""
    score: float
    change: float
    """Score minus the mean score of the clean condition, over samples asked under both."""


@dataclass(frozen=True, slots=True)
class Trend:
    """How changes of score depend on relative distances, over a set of points."""

    over: str
    """`all`: all points; `centred`: all points, each minus the mean of its dataset; otherwise the name of a dataset."""
    points: int
    slope: float
    """Change of score as the relative distance grows by 1."""
    rank: float
    """Spearman's rank correlation."""


@dataclass(frozen=True, slots=True)
class Displacement:
    """Numbers, points and trends of a run."""

    results: tuple[Displaced, ...]
    points: tuple[Point, ...]
    trends: tuple[Trend, ...]


def displacement(
    table: HiddenStateTable, rows: Sequence[Record], settings: Settings, clean: str = "clean"
) -> Displacement:
    """Compute the distances of a run's states, and how its scores depend on them.

    Only the states of one dataset are in memory at a time.

    Args:
        table: The states.
        rows: The prediction table of the same run.
        settings: How intervals are made; only samples are drawn, even if `resample` is `both`.
        clean: The condition whose instructions count as observed.

    Raises:
        ValueError: The tables hold different rows, there is no condition `clean`, or a task is unknown.
    """
    check_keys(table, rows)
    order = list(dict.fromkeys(row.condition for row in rows))
    if clean not in order:
        raise ValueError(f"clean: found {clean!r}; expected a condition of the run: {', '.join(order)}")
    datasets: dict[str, list[int]] = {}
    for at, (_, dataset, _, _) in enumerate(table.keys):
        datasets.setdefault(dataset, []).append(at)
    results: list[Displaced] = []
    drawn: dict[str, list[Sampled]] = {}
    apart: dict[Cell, float] = {}
    scales: dict[str, float] = {}
    for dataset, places in sorted(datasets.items()):
        one = _Dataset(dataset, [table.keys[at] for at in places], table.read(places), clean, settings)
        scales[dataset] = one.scale
        apart.update(zip(one.keys, one.distance.tolist(), strict=True))
        for condition in order:
            if len(own := one.under(condition)):
                numbers = one.numbers(own)
                drawn.setdefault(condition, []).append(numbers)
                results.append(_result(one, condition, own, numbers, settings))
    results += [_pooled(condition, drawn[condition], results, settings) for condition in order]
    points = tuple(_points(grids(rows), clean, apart, scales))
    return Displacement(tuple(results), points, tuple(_trends(points)))


def check_keys(table: HiddenStateTable, rows: Sequence[Record]) -> None:
    """Raise `ValueError` unless the states belong to exactly the rows of a prediction table."""
    stated, answered = set(table.keys), {row.cell for row in rows}
    if len(stated) < len(table.keys):
        key, times = Counter(table.keys).most_common(1)[0]
        raise ValueError(f"{table.path}: {_named(key)} occurs {times} times; expected one state for each row")
    for found, there, missing in ((answered - stated, "an answer", "state"), (stated - answered, "a state", "answer")):
        if found:
            raise ValueError(
                f"{table.path}: {len(found)} rows have {there} and no {missing}, such as {_named(min(found))}; "
                "expected states and predictions of the same run"
            )


class _Dataset:
    """A dataset's states and the distances of each row; arrays have one entry for each of its n rows."""

    def __init__(
        self, name: str, keys: Sequence[Cell], states: np.ndarray[tuple[int, int], np.dtype[np.float32]], clean: str,
        settings: Settings,
    ) -> None:  # fmt: skip
        self.keys = keys
        conditions, _, samples, instructions = zip(*keys, strict=True)
        self.conditions = np.array(conditions)
        self.instructions = np.array(instructions)
        names, self.samples = np.unique(samples, return_inverse=True)
        self._phrasing: Ints = np.unique(self.instructions, return_inverse=True)[1]
        self._weights = sample_weights(name, len(names), settings)
        self._observed = self.under(clean)
        middle = states[self._observed].mean(0, dtype=np.float64) if len(self._observed) else 0
        self._states = states
        self._states -= np.asarray(middle, np.float32)  # subtract the mean, which costs precision in distances
        total, count = self._between(self._observed)
        self.scale = total / count if total else float("nan")
        """Mean distance between samples under observed instructions; NaN without pairs, or if all states are equal."""
        self.distance = self._to_own()
        self._others = self._to_others()

    def under(self, condition: str) -> Ints:
        """Rows of a condition."""
        return np.flatnonzero(self.conditions == condition)

    def numbers(self, rows: Ints) -> Sampled:
        """Every number of some rows and its draws, `[1 + draws]`; numbers that are not drawn have NaN as draws."""
        draws = len(self._weights)
        within, pairs = pair_sums(self._at(rows), self.samples[rows], self.samples[rows])
        total, count = self._between(rows)
        between = np.full(draws, np.nan)
        between[0] = total / count if count else np.nan
        near = np.fmin(self.distance[rows], self._others[rows])
        own = np.where(np.isfinite(self._others[rows]), self.distance[rows] <= self._others[rows], np.nan)
        found = {"within": self._mean(within, pairs), "between": between}
        found["ratio"] = found["within"] / np.where(between > 0, between, np.nan)
        found["distance"] = self._over(rows, self.distance[rows])
        found["relative"] = found["distance"] / self.scale
        found["nearest"] = self._over(rows, np.where(np.isfinite(near), near, np.nan))
        found["own"] = self._over(rows, np.where(np.isnan(self.distance[rows]), np.nan, own))
        return found

    def _at(self, rows: Ints) -> Floats:
        return self._states[rows].astype(np.float64)

    def _between(self, rows: Ints) -> tuple[float, int]:
        """See `between_sums`; one phrasing at a time, so that few states are in double precision."""
        found = [
            between_sums(self._at(rows[own]), self.samples[rows[own]], np.zeros(len(own), np.int64))
            for own in members(self._phrasing[rows])
        ]
        return sum(total for total, _ in found), sum(count for _, count in found)

    def _to_own(self) -> Floats:
        """Distance of each row to the nearest other observed row of its sample; NaN if there is none."""
        found = np.full(len(self.keys), np.nan)
        observed = np.zeros(len(self.keys), bool)
        observed[self._observed] = True
        for rows in members(self.samples):
            near = rows[observed[rows]]
            table = np.where(rows[:, None] == near[None], np.inf, distances(self._at(rows), self._at(near)))
            least = table.min(1, initial=np.inf)
            found[rows] = np.where(np.isfinite(least), least, np.nan)
        return found

    def _to_others(self) -> Floats:
        """Distance of each row to the nearest observed row of another sample; ∞ if there is none."""
        found = np.full(len(self.keys), np.inf)
        for start in range(0, len(self._observed), _BLOCK):
            near = self._observed[start : start + _BLOCK]
            states = self._at(near)
            for at in range(0, len(found), _BLOCK):
                rows = np.arange(at, min(at + _BLOCK, len(found)))
                same = self.samples[rows][:, None] == self.samples[near][None]
                table = np.where(same, np.inf, distances(self._at(rows), states))
                found[rows] = np.minimum(found[rows], table.min(1))
        return found

    def _over(self, rows: Ints, values: Floats) -> Floats:
        """Mean over rows that have a value, and its draws."""
        known = ~np.isnan(values)
        own = self.samples[rows[known]]
        sums, counts = np.zeros((2, self._weights.shape[1]))
        np.add.at(sums, own, values[known])
        np.add.at(counts, own, 1)
        return self._mean(sums, counts)

    def _mean(self, sums: Floats, counts: Floats) -> Floats:
        """Mean in each draw, from sums and counts by sample."""
        weights = self._weights[:, : len(sums)]
        with np.errstate(invalid="ignore"):
            return np.asarray((weights @ sums) / (weights @ counts))


def _result(one: _Dataset, condition: str, rows: Ints, numbers: Sampled, settings: Settings) -> Displaced:
    return Displaced(
        dataset=one.keys[0][1],
        condition=condition,
        numbers={name: estimate(numbers[name], settings.level) for name in NUMBERS},
        rows=len(rows),
        samples=len(np.unique(one.samples[rows])),
        instructions=len(np.unique(one.instructions[rows])),
        unmatched=int(np.isnan(one.distance[rows]).sum()),
    )


def _pooled(condition: str, parts: Sequence[Sampled], results: Sequence[Displaced], settings: Settings) -> Displaced:
    numbers = {}
    for name in NUMBERS:
        known = [part[name] for part in parts if not np.isnan(part[name][0])]
        values = np.mean(known, 0) if known else np.full(1, np.nan)
        numbers[name] = estimate(values, settings.level, len(known))
    own = [one for one in results if one.condition == condition]
    counts = {name: sum(getattr(one, name) for one in own) for name in ("rows", "samples", "instructions", "unmatched")}
    return Displaced(None, condition, numbers, **counts)


def _points(
    found: Sequence[Grid], clean: str, apart: Mapping[Cell, float], scales: Mapping[str, float]
) -> Iterator[Point]:
    observed = {grid.name: grid for grid in found if grid.condition == clean}
    for grid in found:
        first = observed.get(grid.name)
        if grid.condition == clean or first is None:
            continue
        both = grid.asked & first.asked
        before = _score(first, both[:, None] & first.present)
        for k, instruction in enumerate(grid.instructions):
            cells = both & grid.present[:, k]
            if not cells.any():
                continue
            keys = [(grid.condition, grid.dataset, grid.samples[i], instruction) for i in np.flatnonzero(cells)]
            far = float(np.mean([apart[key] for key in keys]))
            taken = np.zeros_like(grid.present)
            taken[:, k] = cells
            score = _score(grid, taken)
            relative = far / scales[grid.dataset]
            yield Point(grid.name, grid.condition, instruction, far, relative, score, score - before)


def _score(grid: Grid, cells: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> float:
    whole = grid.whole[cells].sum()
    return float(grid.part[cells].sum() / whole) if whole else 1.0


def _trends(points: Sequence[Point]) -> Iterator[Trend]:
    points = [point for point in points if np.isfinite(point.relative)]
    by_dataset: dict[str, list[Point]] = {}
    for point in points:
        by_dataset.setdefault(point.dataset, []).append(point)
    pairs = {name: np.array([(p.relative, p.change) for p in own]) for name, own in by_dataset.items()}
    if pairs:
        everything = np.concatenate(list(pairs.values()))
        centred = np.concatenate([own - own.mean(0) for own in pairs.values()])
        pairs = {"all": everything, "centred": centred, **pairs}
    for name, both in pairs.items():
        yield Trend(name, len(both), *degradation(both[:, 0], both[:, 1]))


def _named(key: Cell) -> str:
    condition, dataset, sample, instruction = key
    return f"sample {sample!r} of {dataset!r} under {condition!r}, instruction {instruction!r}"

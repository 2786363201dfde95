"""Robustness numbers of a model under different instructions, with intervals, computed from the prediction table.

`docs/evaluation.md` explains each number and its limits.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from robustlm.evaluation.baselines import Baseline, baselines, over
from robustlm.evaluation.estimates import MOST_UNDEFINED, drawn_numbers, estimate, variance_of
from robustlm.evaluation.grid import Grid, grids, ratio
from robustlm.evaluation.incomplete import Estimated, average, estimated
from robustlm.evaluation.intervals import NONE, holm
from robustlm.evaluation.numbers import (
    DEBIASED,
    NUMBERS,
    SHARES,
    UNBOUNDED,
    Drawn,
    Estimate,
    Resample,
    Result,
    Sampled,
    Settings,
)
from robustlm.evaluation.pooling import pool
from robustlm.evaluation.record import Record
from robustlm.evaluation.resampling import Weights, sample_weights

__all__ = [
    "DEBIASED",
    "MOST_UNDEFINED",
    "NUMBERS",
    "SHARES",
    "UNBOUNDED",
    "Drawn",
    "Estimate",
    "Resample",
    "Result",
    "Sampled",
    "Settings",
    "estimate",
    "robustness",
    "sample",
    "sample_weights",
    "variance_of",
]


def robustness(
    rows: Iterable[Record],
    settings: Settings = Settings(),  # noqa: B008 - read only
    clean: str = "clean",
) -> list[Result]:
    """Compute every number of a prediction table, for each dataset and condition, then over all datasets.

    Args:
        rows: Rows of a prediction table, in any order.
        settings: How intervals are made.
        clean: The condition that performance drops are measured from.

    Raises:
        ValueError: A sample was asked twice under one condition and instruction, or a task is unknown.
    """
    rows = list(rows)
    found, guessing = grids(rows), baselines(rows)
    one, pooled = sample(found, settings, clean)
    by_chance = {grid.name: guessing.get((grid.dataset, grid.task), Baseline()) for grid in found}
    guessed = {(grid.name, grid.condition): estimated(grid, settings) for grid in found}
    results = [
        replace(
            _result(grid, one[grid.name, grid.condition].estimates, guessed[grid.name, grid.condition]),
            baseline=by_chance[grid.name],
        )
        for grid in found
    ]
    for condition, drawn in pooled.items():
        own = [grid for grid in found if grid.condition == condition]
        parts = [one[grid.name, condition] for grid in own]
        result = _pooled_result(condition, own, parts, drawn.estimates)
        known = [guess for grid in own if (guess := guessed[grid.name, condition]) is not None]
        numbers = result.numbers | average(known) if known else result.numbers
        results.append(replace(result, numbers=numbers, baseline=over(by_chance[grid.name] for grid in own)))
    single = [one for one in results if one.name is not None]
    return [*_with_holm(single), *_with_holm(results[len(single) :])]


def _with_holm(results: Sequence[Result]) -> list[Result]:
    """Add `cochran_holm`: each `cochran_p`, adjusted for all results that have one."""
    adjusted = holm([one.numbers["cochran_p"].value for one in results])
    found = []
    for one, p in zip(results, adjusted, strict=True):
        numbers = one.numbers | {"cochran_holm": Estimate(p, *NONE, one.numbers["cochran_p"].datasets)}
        found.append(replace(one, numbers={name: numbers[name] for name in NUMBERS if name in numbers}))
    return found


def sample(
    found: Sequence[Grid], settings: Settings, clean: str = "clean"
) -> tuple[dict[tuple[str, str], Drawn], dict[str, Drawn]]:
    """Compute value and draws of every number, by dataset and condition, and by condition over all datasets.

    The draws of a dataset depend on its name, its samples and the seed, so tables over the same samples share them.
    """
    one: dict[tuple[str, str], Drawn] = {}
    kept: dict[str, list[Drawn]] = {}
    sets: dict[str, dict[str, Grid]] = {}
    for grid in found:
        sets.setdefault(grid.name, {})[grid.condition] = grid
    order = list(dict.fromkeys(grid.condition for grid in found))
    for name, conditions in sets.items():
        blocks = Weights(name, next(iter(conditions.values())), settings)
        for condition in sorted(conditions, key=order.index):
            grid, reference = conditions[condition], conditions.get(clean)
            drawn = drawn_numbers(grid, reference, blocks.apply(grid, reference), settings)
            one[name, condition] = drawn
            kept.setdefault(condition, []).append(drawn)
    return one, {condition: pool(kept[condition], settings) for condition in order if condition in kept}


def _result(grid: Grid, numbers: dict[str, Estimate], guess: Estimated | None) -> Result:
    keep = grid.complete
    scores = ratio(grid.part[keep].sum(0), grid.whole[keep].sum(0)) if keep.any() else np.array([])
    by_instruction = dict(zip(grid.instructions, scores.tolist(), strict=False))
    return Result(
        name=grid.name,
        condition=grid.condition,
        score=grid.score,
        numbers=numbers if guess is None else numbers | guess.numbers,
        by_instruction=by_instruction,
        worst=min(by_instruction, key=by_instruction.__getitem__) if by_instruction else None,
        rows=grid.rows,
        samples=int(grid.asked.sum()),
        complete=int(keep.sum()),
        instructions=len(grid.instructions),
        missing=grid.missing,
        estimated={} if guess is None else guess.by_instruction,
        worst_estimated=None if guess is None else guess.worst,
        draws=None if grid.draws is None else _range(grid),
        wordings={name: found for name, found in zip(grid.instructions, grid.wordings, strict=False) if found},
    )


def _range(grid: Grid) -> tuple[int, int]:
    assert grid.draws is not None
    asked = grid.draws.count[grid.present]
    return int(asked.min()), int(asked.max())


def _pooled_result(condition: str, own: Sequence[Grid], parts: Sequence[Drawn], numbers: dict[str, Estimate]) -> Result:
    def counted(name: str) -> int:
        source = "std" if name in ("std_pooled", "std_within") else name
        return sum(source in part.estimates and not math.isnan(part.estimates[source].value) for part in parts)

    return Result(
        name=None,
        condition=condition,
        score="mean",
        numbers={name: replace(found, datasets=counted(name)) for name, found in numbers.items()},
        by_instruction={},
        worst=None,
        rows=sum(grid.rows for grid in own),
        samples=sum(int(grid.asked.sum()) for grid in own),
        complete=sum(int(grid.complete.sum()) for grid in own),
        instructions=len({name for grid in own for name in grid.instructions}),
        missing=sum(grid.missing for grid in own),
    )

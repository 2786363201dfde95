"""The table of what should not matter: how much order of options, marks, layout and examples change scores."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from robustlm.conditions.condition import CLEAN
from robustlm.conditions.factors import FACTORS, LAYOUT
from robustlm.evaluation.grid import Grid, grids
from robustlm.evaluation.intervals import holm
from robustlm.evaluation.level_effects import LevelEffect, level_effect
from robustlm.evaluation.record import Record
from robustlm.report.tables import aligned

FACTOR_COLUMNS = (
    "factor", "dataset", "base", "levels", "samples", "lowest", "highest", "share of variance", "p (Cochran)", "Holm",
)  # fmt: skip
"""Columns of the table."""
FACTOR_NOTE = (
    "Each factor against its base, over questions that were asked under all of its levels. The share of the variance "
    "of scores that the levels explain is less what chance adds; one below 0 counts as 0. The base of a layout is "
    "position:first, which has this layout and changes nothing else, where the table has it."
)
"""Explains the table."""
_UNCHANGED = "position:first"


@dataclass(frozen=True, slots=True)
class FactorOutcome:
    """What the levels of a factor change in one dataset."""

    factor: str
    dataset: str
    base: str
    """The condition that the levels are compared with, which is one of the levels."""
    effect: LevelEffect
    holm: float
    """p, adjusted for all rows of the table after Holm."""


def factor_outcomes(rows: Iterable[Record]) -> list[FactorOutcome]:
    """The factors of a table, by factor, base and dataset; empty if its conditions have none.

    A condition belongs to a factor if it names a level of this factor and of no other. Its base is the condition that
    is left without the level (`unseen` for `unseen+options:reversed`), which the table has to hold.

    Args:
        rows: Rows of a prediction table.
    """
    found: dict[str, dict[str, Grid]] = {}
    for grid in grids(rows):
        found.setdefault(grid.name, {})[grid.condition] = grid
    every = []
    for dataset, conditions in found.items():
        for (factor, base), names in _groups(conditions).items():
            effect = level_effect({name: conditions[name] for name in (base, *names)})
            if effect is not None:
                every.append(FactorOutcome(factor, dataset, base, effect, math.nan))
    adjusted = holm([one.effect.p for one in every])
    outcomes = [
        FactorOutcome(one.factor, one.dataset, one.base, one.effect, p) for one, p in zip(every, adjusted, strict=True)
    ]
    return sorted(outcomes, key=lambda one: (FACTORS.index(one.factor), one.base, one.dataset))


def _groups(conditions: Iterable[str]) -> dict[tuple[str, str], list[str]]:
    """Conditions by factor and base, without the base itself."""
    known = list(conditions)
    found: dict[tuple[str, str], list[str]] = {}
    for name in known:
        parts = name.split("+")
        own = [part.partition(":")[0] for part in parts if ":" in part and part.partition(":")[0] in FACTORS]
        if len(own) != 1:
            continue
        rest = [part for part in parts if part.partition(":")[0] != own[0]]
        base = "+".join(rest) or CLEAN
        laid = "+".join([*rest, _UNCHANGED])
        if own[0] in LAYOUT and laid in known:
            base = laid
        if base in known and base != name:
            found.setdefault((own[0], base), []).append(name)
    return found


def factor_rows(found: Sequence[FactorOutcome]) -> list[dict[str, object]]:
    """One row for each outcome, as plain data; NaN becomes `None`."""
    return [
        {
            "factor": one.factor,
            "dataset": one.dataset,
            "base": one.base,
            "scores": one.effect.scores,
            "samples": one.effect.samples,
            "instructions": one.effect.instructions,
            **{name: None if math.isnan(value) else value for name, value in _numbers(one).items()},
        }
        for one in found
    ]


def _numbers(one: FactorOutcome) -> dict[str, float]:
    return {"share": one.effect.share, "p": one.effect.p, "holm": one.holm}


def factor_cells(one: FactorOutcome) -> list[str]:
    """Cells of one row, in the order of `FACTOR_COLUMNS`."""
    scores = one.effect.scores
    low, high = min(scores, key=scores.__getitem__), max(scores, key=scores.__getitem__)
    share = "-" if math.isnan(one.effect.share) else f"{100 * one.effect.share:.1f} %"
    ends = (f"{100 * scores[name]:.1f} ({name})" for name in (low, high))
    tests = ("-" if math.isnan(p) else "< 0.0001" if p < 0.0001 else f"{p:.4f}" for p in (one.effect.p, one.holm))
    return [one.factor, one.dataset, one.base, str(len(scores)), str(one.effect.samples), *ends, share, *tests]


def factor_markdown(found: Sequence[FactorOutcome]) -> list[str]:
    """The table with its heading, as lines of Markdown; nothing without outcomes."""
    if not found:
        return []
    cells = list(map(factor_cells, found))
    return ["", "## What should not matter", "", FACTOR_NOTE, "", *aligned(FACTOR_COLUMNS, cells)]

"""How many samples and instructions an evaluation needs, as text and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import get_args

from robustlm.evaluation.grid import grids
from robustlm.evaluation.power import MOST, Need, Number, difference, needs_of_difference, needs_of_width, pilot
from robustlm.evaluation.record import Record
from robustlm.report.number_tables import plain
from robustlm.report.tables import aligned


@dataclass(frozen=True, slots=True)
class Aim:
    """What the evaluation is to reach."""

    pilot: str
    """What the pilot is: its run and condition, or its two."""
    level: float
    width: float | None = None
    """Widest interval, as a share; null: a difference is to be seen."""
    difference: float | None = None
    """The difference, as a share."""
    power: float | None = None

    @property
    def said(self) -> str:
        """One sentence."""
        level = f"{100 * self.level:g} %"
        if self.width is not None:
            return f"For {level} intervals no wider than {100 * self.width:g} points."
        assert self.difference is not None
        assert self.power is not None
        return (
            f"To see a difference of {100 * self.difference:g} points between the two with a probability of "
            f"{100 * self.power:g} % (paired, {level} interval without 0)."
        )


def needs_of(
    aim: Aim,
    tables: Mapping[str, Sequence[Record]],
    condition: str,
    other: str | None,
    instructions: Sequence[int],
    simulations: int,
    seed: int,
) -> list[Need]:
    """What each dataset of a pilot needs.

    Args:
        aim: What the evaluation is to reach.
        tables: The prediction table `pilot`, and `against` for the difference of two runs.
        condition: The condition of the planned evaluation.
        other: The condition with which the pilot is compared; null: none.
        instructions: Numbers of instructions; empty: that of the pilot.
        simulations: Number of simulated evaluations for each check.
        seed: Seed of the simulations.

    Raises:
        ValueError: The pilot has no such condition, or there are no answers to compare with.
    """
    found = {name: {(one.name, one.condition): one for one in grids(rows)} for name, rows in tables.items()}
    known = list(dict.fromkeys(name for _, name in found["pilot"]))
    for name, under in (("condition", condition), ("other", other)):
        if under is not None and under not in known:
            raise ValueError(f"{name}: found {under!r}; expected a condition of the pilot: {', '.join(known)}")
    second, under = ("pilot", other) if other is not None else ("against", condition)
    needs: list[Need] = []
    for (dataset, asked), grid in found["pilot"].items():
        planned = instructions or [len(grid.instructions)]
        if asked != condition:
            continue
        if aim.width is not None:
            numbers = get_args(Number)
            needs += needs_of_width(pilot(grid), numbers, aim.width, planned, aim.level, simulations, seed)
        elif aim.difference is not None and aim.power is not None:
            if (there := found[second].get((dataset, under))) is None:
                raise ValueError(f"{second}: found no answers to {dataset!r} under {under!r}; expected some")
            both = difference(grid, there)
            needs += needs_of_difference(both, aim.difference, aim.power, planned, aim.level, simulations, seed)
    return needs


def to_markdown(aim: Aim, needs: Sequence[Need]) -> str:
    """The needs as a table, with what each column means."""
    check = "width then, simulated" if aim.width is not None else "power then, simulated"
    heads = ["dataset", "number", "in the pilot", "instructions", "samples", "answers", check]
    rows = [
        [
            need.dataset,
            need.aim,
            f"{100 * need.pilot:.1f}",
            str(need.instructions),
            _count(need.samples),
            _count(need.answers, need.samples),
            "-" if math.isnan(need.checked) else f"{100 * need.checked:.1f}",
        ]
        for need in needs
    ]
    lines = ["# How many samples", "", f"Pilot: {aim.pilot}. {aim.said}", ""]
    if aim.width is not None and any(need.aim == "mean" for need in needs):
        heads.append("samples, other instructions too")
        rows = [[*row, _drawn(need)] for row, need in zip(rows, needs, strict=True)]
    lines += [*aligned(heads, rows), ""]
    lines += [
        "- Samples are those of the dataset, each asked under every one of the instructions.",
        f"- Simulated, in {'points' if aim.width is not None else 'per cent'}: evaluations of this size drawn from the "
        "pilot; `-`: not possible, since the pilot has fewer instructions or its answers differ too rarely.",
    ]
    if several := sorted({need.draws for need in needs if need.draws > 1}):
        lines.append(f"- Answers: each question is answered {' or '.join(map(str, several))} times, as in the pilot.")
    if aim.width is not None:
        lines += [
            "- The last column is for an interval that is also about other instructions of this kind; `no number`: "
            "more instructions are needed, whatever the samples.",
            "- `worst_instruction` and `spread` are those of the pilot's own instructions.",
        ]
    lines.append("- A small pilot estimates variances badly: plan a reserve, or repeat this with a larger pilot.")
    return "\n".join(lines) + "\n"


def to_json(aim: Aim, needs: Sequence[Need]) -> str:
    """Aim and needs as JSON; shares are in [0, 1]."""
    rows = [{**asdict(need), "answers": need.answers, "checked": plain(need.checked)} for need in needs]
    return json.dumps({"aim": asdict(aim), "needs": rows}, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _count(found: int | None, samples: int | None = 0) -> str:
    if found is None or samples is None:
        return f"> {MOST:,}"
    return f"{found:,}"


def _drawn(need: Need) -> str:
    if need.aim != "mean" or need.alone:
        return "-"
    return "no number" if need.drawn is None else f"{need.drawn:,}"

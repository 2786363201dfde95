"""Distances between hidden states of phrasings, run by run, as Markdown, CSV and JSON, from tables alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from robustlm.evaluation.displacement import NUMBERS, Displaced, Displacement, check_keys, displacement
from robustlm.evaluation.hidden_state_table import HIDDEN_STATES, HiddenStateTable
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import Estimate, Settings
from robustlm.evaluation.table import read_table
from robustlm.report.comparison import find_table, named_runs
from robustlm.report.number_tables import plain
from robustlm.report.study import arms_in
from robustlm.report.tables import aligned, csv_text

_COLUMNS = ("run", "dataset", "condition", "number", "value", "low", "high", "datasets", "rows", "samples",
            "instructions", "unmatched")  # fmt: skip
Run = tuple[HiddenStateTable, list[Record]]
"""Hidden states and predictions of a run."""


def load_runs(runs: list[str]) -> dict[str, Run]:
    """State and prediction tables by run. A run is given as a path or as `name=path`; a study's folder gives its arms.

    Raises:
        ValueError: A table is missing, two runs have the same name, tables hold different rows, or states are of
            different layers or positions.
    """
    found: dict[str, Run] = {}
    for name, path in named_runs([one for run in runs for one in arms_in(run)]).items():
        table = find_table(path)
        file = table.with_name(HIDDEN_STATES)
        if not file.is_file():
            raise ValueError(
                f"{path}: no {file.name} beside {table}; expected a `robustlm test` with --states.layer -2"
            )
        found[name] = HiddenStateTable(file), read_table(table)
        check_keys(*found[name])
    (first, (table_of_first, _)), *others = found.items()
    for name, (states, _) in others:
        if set(states.keys) != set(table_of_first.keys):
            raise ValueError(
                f"{name} and {first} hold the states of different rows ({len(states.keys)} and "
                f"{len(table_of_first.keys)}); expected the same samples, instructions and conditions"
            )
        places = [(one.layer, one.position) for one in (states, table_of_first)]
        if places[0] != places[1]:
            raise ValueError(
                f"{name} and {first} hold states of different layers or positions: {places[0]}, {places[1]}"
            )
    return found


def measured(runs: Mapping[str, Run], settings: Settings, clean: str) -> dict[str, Displacement]:
    """Compute the distances of each run."""
    return {name: displacement(table, rows, settings, clean) for name, (table, rows) in runs.items()}


def number_rows(found: Mapping[str, Displacement]) -> list[dict[str, Any]]:
    """One row for each number. NaN becomes `None`; means over all datasets have an empty dataset."""
    return [
        {
            "run": run,
            "dataset": one.dataset or "",
            "condition": one.condition,
            "number": name,
            **{key: plain(getattr(number, key)) for key in ("value", "low", "high")},
            "datasets": number.datasets,
            **{key: getattr(one, key) for key in ("rows", "samples", "instructions", "unmatched")},
        }
        for run, own in found.items()
        for one in own.results
        for name, number in one.numbers.items()
    ]


def to_csv(found: Mapping[str, Displacement]) -> str:
    """`number_rows` as CSV."""
    return csv_text(_COLUMNS, number_rows(found))


def to_json(found: Mapping[str, Displacement], table: HiddenStateTable, settings: Settings, clean: str) -> str:
    """Settings, meanings of the numbers, `number_rows`, points of degradation and their trends, as JSON."""

    def rows(of: str) -> list[dict[str, Any]]:
        made = [{"run": run, **asdict(one)} for run, own in found.items() for one in getattr(own, of)]
        return [{k: plain(v) if isinstance(v, float) else v for k, v in row.items()} for row in made]

    content = {
        "states": {"layer": table.layer, "position": table.position, "observed": clean},
        "interval": {name: getattr(settings, name) for name in ("draws", "seed", "level")},
        "meaning": NUMBERS,
        "numbers": number_rows(found),
        "points": rows("points"),
        "trends": rows("trends"),
    }
    return json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def to_markdown(found: Mapping[str, Displacement], table: HiddenStateTable, settings: Settings, clean: str) -> str:
    """Summary as Markdown: means over datasets, each dataset, then degradation."""
    pooled = _by_condition(found, lambda one: one.dataset is None)
    single = _by_condition(found, lambda one: one.dataset is not None)
    drawn = f"with {100 * settings.level:g} % intervals from {settings.draws} bootstrap draws of samples"
    lines = [
        "# States",
        "",
        f"ℓ2 distances between states of layer {table.layer} at `{table.position}`, "
        f"{drawn if settings.draws else 'without intervals'}. The condition {clean} is the observed one; its "
        "own states are measured from its other instructions. Absolute distances of two models cannot be compared, as "
        "their states differ in scale: compare `ratio`, `relative` and `own`.",
        "",
        *(f"- {name}: {meaning}" for name, meaning in NUMBERS.items()),
        "",
        f"## Means over {len({one.dataset for _, one in single})} datasets",
        "",
        *aligned(["condition", "run", *NUMBERS], [[o.condition, run, *_cells(o, tuple(NUMBERS))] for run, o in pooled]),
        "",
        "## Datasets",
        "",
    ]
    some = ("ratio", "distance", "relative", "own")
    lines += aligned(
        ["dataset", "condition", "run", *some, "states", "unmatched"],
        [
            [str(one.dataset), one.condition, run, *_cells(one, some), str(one.rows), str(one.unmatched)]
            for run, one in single
        ],
    )
    lines += [
        "",
        "## Degradation",
        "",
        "How the score of an instruction changes against clean, in points, as its states lie further away (mean "
        "`relative` distance). A point is a dataset, condition and instruction. Scores and distances also differ "
        "between datasets: `centred` compares instructions within datasets.",
        "",
        *aligned(
            ["over", "run", "points", "slope, points a unit", "rank correlation"],
            [
                [trend.over, run, str(trend.points), _number(100 * trend.slope, "+.1f"), _number(trend.rank, "+.2f")]
                for run, trend in sorted(
                    ((run, trend) for run, own in found.items() for trend in own.trends),
                    key=lambda pair: (pair[1].over not in ("all", "centred"), pair[1].over),
                )
            ],
        ),
    ]
    return "\n".join(lines) + "\n"


def _by_condition(found: Mapping[str, Displacement], wanted: Any) -> list[tuple[str, Displaced]]:
    """Pairs of run and result, with results of the same dataset and condition next to each other."""
    pairs = [(run, one) for run, own in found.items() for one in own.results if wanted(one)]
    order = {(one.dataset, one.condition): at for at, (_, one) in reversed(list(enumerate(pairs)))}
    return sorted(pairs, key=lambda pair: order[pair[1].dataset, pair[1].condition])


def _cells(one: Displaced, names: Sequence[str]) -> list[str]:
    return [_cell(one.numbers[name]) for name in names]


def _cell(found: Estimate) -> str:
    value = _number(found.value, ".3g")
    return value if math.isnan(found.low) else f"{value} [{found.low:.3g}, {found.high:.3g}]"


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)

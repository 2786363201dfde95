"""Numbers of a study, from the table over its runs: scores over seeds, costs, and paired differences between arms."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow.parquet as pq

from robustlm.checks.places import what_is
from robustlm.evaluation.agreement import agreement
from robustlm.evaluation.grid import grids, ratio
from robustlm.evaluation.readings import Reading, as_read
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import Settings
from robustlm.evaluation.scores import Scores
from robustlm.evaluation.seeds import SeedDifference, Tallies, asked_alike, differences, merged, with_holm
from robustlm.evaluation.table import SCHEMA, checked_column
from robustlm.report.agreement import agreement_lines, check_agreement
from robustlm.report.levels import by_level
from robustlm.report.study_attacks import Searches, searches_of
from robustlm.report.tables import by_condition
from robustlm.studies.plan import folder_of
from robustlm.studies.stored import OWN_COLUMNS, RESULTS, STUDY
from robustlm.tasks import TASKS

COSTS = {
    "steps": "steps",
    "seconds": "training, s",
    "cpu_seconds": "training, CPU s",
    "passes": "passes, 1,000 tokens",
    "test_seconds": "test, s",
    "peak": "memory, MB",
}
"""Costs of a run and the headings of their columns."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A number over seeds."""

    mean: float
    deviation: float
    """Standard deviation of a sample (n − 1); 0 for one seed."""
    seeds: int

    def __str__(self) -> str:
        """`91.4 ± 0.2`; without a deviation if there is one seed."""
        return f"{self.mean:.1f} ± {self.deviation:.1f}" if self.seeds > 1 else f"{self.mean:.1f}"


def spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation of values, one for each seed."""
    return Spread(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0, len(values))


@dataclass(slots=True)
class ArmResults:
    """What the runs of one arm on one data set came to, seed by seed."""

    against: tuple[str, ...]
    sweep: tuple[str, float] | None
    scores: dict[int, dict[str, dict[str, float]]] = field(default_factory=dict)
    """By seed, condition and dataset, in per cent; the dataset `mean` is the mean over datasets."""
    costs: dict[int, dict[str, float]] = field(default_factory=dict)
    """By seed and name (`COSTS`)."""
    spreads: dict[int, dict[str, float]] = field(default_factory=dict)
    """By seed and condition: mean over datasets of the standard deviation (divided by K) of the scores of the K
    instructions, in points, over samples that were asked under all of them; only where there are two or more."""

    def score(self, condition: str, dataset: str = "mean") -> Spread:
        """A score over seeds."""
        return spread([own[condition][dataset] for own in self.scores.values()])

    def level(self, conditions: Sequence[str]) -> Spread:
        """Mean score over conditions, over seeds."""
        return spread([float(np.mean([own[one]["mean"] for one in conditions])) for own in self.scores.values()])

    def mean_of(self, condition: str, datasets: Sequence[str]) -> Spread | None:
        """Mean score over some datasets, over seeds; null: one of them was not asked."""
        asked = [own.get(condition, {}) for own in self.scores.values()]
        if not datasets or not all(name in own for own in asked for name in datasets):
            return None
        return spread([float(np.mean([own[name] for name in datasets])) for own in asked])

    def over_instructions(self, condition: str) -> Spread | None:
        """Standard deviation over instructions, over seeds; null: not known."""
        values = [own[condition] for own in self.spreads.values() if condition in own]
        return spread(values) if len(values) == len(self.scores) else None

    def cost(self, name: str) -> Spread | None:
        """A cost over seeds; null: not known of any run."""
        values = [own[name] for own in self.costs.values() if name in own]
        return spread(values) if values else None


@dataclass(slots=True)
class StudyResults:
    """The numbers of a study."""

    name: str
    about: str
    conditions: list[str]
    data: dict[str, dict[str, ArmResults]]
    """Arms by data set; its name is empty in a study without data sets."""
    differences: dict[str, dict[str, dict[str, SeedDifference]]]
    """By data set, comparison (`ANIT − plain`) and condition."""
    notes: list[str]
    """What a reader must know: arms that were asked differently, seeds that are missing, how time was measured."""
    seeds: tuple[int, ...]
    groups: dict[str, list[str]] = field(default_factory=dict)
    """Kinds of datasets whose means are shown, each with its datasets."""
    made_by: str = ""
    """The study's file, and the commits of the code that made its runs; empty: not known."""
    searches: dict[str, Searches] = field(default_factory=dict)
    """Searches for attacks by data set; only of data sets that have any."""

    def levels(self) -> dict[str, list[str]]:
        """Conditions by the heading of their level."""
        return by_level(self.conditions)

    def ladders(self) -> dict[str, dict[float, str]]:
        """Conditions that differ in their level alone (`mixed@0.1`, `mixed@0.3`), by their name and level.

        The condition without the part that has a level stands at 0.
        """
        found: dict[str, dict[float, str]] = {}
        for condition in self.conditions:
            match = re.fullmatch(r"(?P<before>.*\+)?(?P<kind>[^+@]+)@(?P<level>\d*\.?\d+)(?P<after>\+.*)?", condition)
            if match is None:
                continue
            before, after = match["before"] or "", match["after"] or ""
            own = found.setdefault(f"{before}{match['kind']}@ω{after}", {})
            own[float(match["level"])] = condition
            rest = f"{before}{after}".strip("+") or "clean"
            if rest in self.conditions:
                own[0.0] = rest
        return {name: dict(sorted(own.items())) for name, own in found.items() if len(own) > 2}

    def sweeps(self, data: str) -> dict[str, dict[float, str]]:
        """Arms of each sweep, by the value of its setting."""
        found: dict[str, dict[float, str]] = {}
        for name, arm in self.data[data].items():
            if arm.sweep is not None:
                found.setdefault(arm.sweep[0], {})[arm.sweep[1]] = name
        return {name: dict(sorted(own.items())) for name, own in found.items() if len(own) > 1}


def is_study(folder: str) -> bool:
    """Whether a folder holds the results of a study."""
    return all((Path(folder) / name).is_file() for name in (RESULTS, STUDY))


def arms_in(run: str) -> list[str]:
    """The runs of a study's folder with its first seed, as `name=path`; a folder of another kind is left as it is."""
    if not is_study(run):
        return [run]
    runs = cast("list[dict[str, object]]", _about(Path(run) / STUDY)["runs"])
    seeds = [cast(int, one["seed"]) for one in runs]
    end = f", seed {seeds[0]}" if len(set(seeds)) > 1 else ""
    return [
        f"{', '.join(filter(None, (str(one['data']), str(one['arm']))))}{end}="
        f"{folder_of(Path(run), str(one['arm']), str(one['data']), seeds[0])}"
        for one in runs
        if one["seed"] == seeds[0]
    ]


def study_results(folder: Path, *, draws: int, seed: int, level: float, reading: Reading = "strict") -> StudyResults:
    """Read the table over all runs of a study, and compute its numbers.

    Args:
        folder: The study's folder.
        draws: Bootstrap draws of the differences.
        seed: Seed of the draws.
        level: Level of the intervals.
        reading: How answers are read.

    Raises:
        ValueError: A file is missing or broken, or arms that are compared were not asked the same.
    """
    about = _about(folder / STUDY)
    arms = cast("dict[str, dict[str, object]]", about["arms"])
    runs = cast("list[dict[str, object]]", about["runs"])
    found: dict[str, dict[str, ArmResults]] = {}
    tallies: dict[tuple[str, str], dict[int, Tallies]] = {}
    conditions: dict[str, None] = {}
    notes: list[str] = []
    for (data, seed_of_run), tables in _tables(folder / RESULTS, runs):
        for arm, rows in tables.items():
            tables[arm] = rows = as_read(rows, reading)
            own = found.setdefault(data, {}).setdefault(arm, _arm(arms[arm]))
            own.scores[seed_of_run] = _scores(rows)
            own.spreads[seed_of_run] = _spreads(rows)
            conditions |= dict.fromkeys(own.scores[seed_of_run])
            tallies.setdefault((data, arm), {})[seed_of_run] = Tallies(rows)
        for arm, other in _pairs(arms, tables):
            asked = agreement(tables[other], tables[arm])
            check_agreement(f"{other}, seed {seed_of_run}", f"{arm}, seed {seed_of_run}", asked)
            if not asked.alike:
                notes += agreement_lines(f"{other}, seed {seed_of_run}", f"{arm}, seed {seed_of_run}", asked)
    for run in runs:
        costs = found[str(run["data"])][str(run["arm"])].costs
        costs[cast(int, run["seed"])] = _costs(run)
    for whole, parts in _wholes(runs).items():
        _add_whole(whole, parts, found, tallies)
    gaps = {}
    for data, by_arm in found.items():
        for arm, other in _pairs(arms, by_arm):
            shared = [s for s in tallies[data, arm] if s in tallies[data, other]]
            if len(shared) < max(len(tallies[data, arm]), len(tallies[data, other])):
                notes.append(f"{arm} − {other}: compared over the seeds {_listed(shared)} alone; others are missing.")
            if shared:
                sides = [[tallies[data, one][s] for s in shared] for one in (arm, other)]
                made = differences(sides[0], sides[1], draws=draws, seed=seed, level=level)
                gaps[f"{data}\0{arm} − {other}"] = made
    adjusted = with_holm(gaps)
    by_data: dict[str, dict[str, dict[str, SeedDifference]]] = {data: {} for data in found}
    for name, made in adjusted.items():
        data, _, comparison = name.partition("\0")
        by_data[data][comparison] = made
    first = sorted(found, key=lambda data: not data.endswith(ALL))
    order = {data: {name: found[data][name] for name in arms if name in found[data]} for data in first}
    seeds = tuple(sorted({s for by_arm in found.values() for arm in by_arm.values() for s in arm.scores}))
    if not all(asked_alike(list(by_seed.values())) for by_seed in tallies.values()):
        notes.append(
            "The seeds of training were asked other samples (a seed may draw them, or rows were changed between runs): "
            "scores differ between seeds for that reason too, and an interval draws the samples of each seed alone."
        )
    notes += _time_notes(runs)
    groups = cast("dict[str, list[str]]", about.get("groups") or {})
    made_by = _made_by(about, runs)
    pairs = list(_pairs(arms, arms))
    searches = searches_of(folder, runs, pairs, Settings(draws, seed, level))
    return StudyResults(
        str(about["name"]),
        str(about["about"]),
        list(conditions),
        order,
        by_data,
        notes,
        seeds,
        groups,
        made_by,
        searches,
    )


def _made_by(about: Mapping[str, object], runs: Sequence[Mapping[str, object]]) -> str:
    commits = dict.fromkeys(str(run["commit"]) for run in runs if run.get("commit"))
    named = f"commit{'s' if len(commits) > 1 else ''} {', '.join(commits)}" if commits else ""
    return ", ".join(filter(None, (str(about.get("file") or ""), named)))


def _wholes(runs: Sequence[Mapping[str, object]]) -> dict[str, dict[str, str]]:
    """What is shown over several data sets: for each model with two or more, the names of its rows and sets."""
    found: dict[str, dict[str, str]] = {}
    for run in runs:
        if run.get("set"):
            found.setdefault(str(run.get("model") or ""), {})[str(run["data"])] = str(run["set"])
    return {f"{model}, {ALL}" if model else ALL: parts for model, parts in found.items() if len(parts) > 1}


ALL = "all data sets"
"""How results over several data sets are called."""


def _add_whole(
    whole: str,
    parts: Mapping[str, str],
    found: dict[str, dict[str, ArmResults]],
    tallies: dict[tuple[str, str], dict[int, Tallies]],
) -> None:
    """Add the results over several data sets, of arms and seeds that ran on all of them. Costs are means over sets."""
    for arm, first in found[next(iter(parts))].items():
        if not all(arm in found.get(data, {}) for data in parts):
            continue
        each = {name: found[data][arm] for data, name in parts.items()}
        own = ArmResults(first.against, first.sweep)
        for seed in first.scores:
            if not all(seed in one.scores for one in each.values()):
                continue
            conditions = [
                one for one in first.scores[seed] if all(one in other.scores[seed] for other in each.values())
            ]
            own.scores[seed] = {
                condition: {
                    **{name: one.scores[seed][condition]["mean"] for name, one in each.items()},
                    "mean": float(np.mean([one.scores[seed][condition]["mean"] for one in each.values()])),
                }
                for condition in conditions
            }
            costs = [one.costs.get(seed, {}) for one in each.values()]
            known = [name for name in COSTS if all(name in one for one in costs)]
            own.costs[seed] = {name: float(np.mean([one[name] for one in costs])) for name in known}
            own.spreads[seed] = {
                condition: float(np.mean([one.spreads[seed][condition] for one in each.values()]))
                for condition in conditions
                if all(condition in one.spreads[seed] for one in each.values())
            }
            tallies.setdefault((whole, arm), {})[seed] = merged(
                {name: tallies[data, arm][seed] for data, name in parts.items()}
            )
        if own.scores:
            found.setdefault(whole, {})[arm] = own


def _spreads(rows: Sequence[Record]) -> dict[str, float]:
    """By condition, the mean over datasets of the deviation of scores over instructions, in points."""
    found: dict[str, list[float]] = {}
    for grid in grids(rows):
        whole = grid.complete
        if len(grid.instructions) > 1 and whole.any():
            scores = ratio(grid.part[whole].sum(0), grid.whole[whole].sum(0))
            found.setdefault(grid.condition, []).append(100 * float(np.std(scores)))
    return {condition: float(np.mean(own)) for condition, own in found.items()}


def _about(file: Path) -> dict[str, object]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file}: cannot be read ({error}); `robustlm study` writes it again") from error
    if not isinstance(found, dict) or not all(name in found for name in ("name", "about", "arms", "runs")):
        raise ValueError(f"{file}: found something else than a study; `robustlm study` writes it again")
    return found


def _arm(given: Mapping[str, object]) -> ArmResults:
    sweep = cast("list[object] | None", given.get("sweep"))
    return ArmResults(
        tuple(cast("list[str]", given.get("against") or [])),
        None if sweep is None else (str(sweep[0]), float(cast(float, sweep[1]))),
    )


def _pairs(arms: Mapping[str, Mapping[str, object]], there: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """The comparisons between arms that are there: an arm and what it is compared with."""
    for name, arm in arms.items():
        for other in cast("list[str]", arm.get("against") or []):
            if name in there and other in there:
                yield name, other


def _tables(
    file: Path, runs: Sequence[Mapping[str, object]]
) -> Iterator[tuple[tuple[str, int], dict[str, list[Record]]]]:
    """The rows of all arms with one seed on one data set at a time, so that memory never holds the whole table."""
    if (there := what_is(file)) != "a file":
        raise ValueError(f"{file}: found {there}; expected the table that `robustlm study` writes")
    groups = dict.fromkeys((str(run["data"]), cast(int, run["seed"])) for run in runs)
    names = [name for name, _ in OWN_COLUMNS]
    for data, seed in groups:
        table = pq.read_table(file, filters=[("data", "=", data), ("seed", "=", seed)])
        if missing := [name for name in (*names, *SCHEMA.names) if name not in table.column_names]:
            raise ValueError(f"{file}: found no column {missing[0]!r}; expected a table of `robustlm study`")
        columns = [checked_column(file, field_of, table.column(field_of.name)).to_pylist() for field_of in SCHEMA]
        found: dict[str, list[Record]] = {}
        for arm, *values in zip(table.column("arm").to_pylist(), *columns, strict=True):
            row = Record(*values)
            if row.target is not None:
                found.setdefault(arm, []).append(row)
        if unknown := sorted({row.task for rows in found.values() for row in rows} - set(TASKS)):
            raise ValueError(f"{file}: unknown task {unknown[0]!r}; name its class with --tasks '[module.Class]'")
        yield (data, seed), found


def _scores(rows: Sequence[Record]) -> dict[str, dict[str, float]]:
    scores = Scores()
    scores.count(rows)
    return by_condition({f"test/{name}": float(value) for name, value in scores.compute().items()})


def _costs(run: Mapping[str, object]) -> dict[str, float]:
    fit, test = (cast("dict[str, object]", run.get(part) or {}) for part in ("fit", "test"))
    given = {
        "steps": fit.get("steps"),
        "seconds": fit.get("seconds"),
        "cpu_seconds": fit.get("cpu_seconds"),
        "passes": _sum(fit.get("forward"), fit.get("backward"), 1e-3),
        "test_seconds": test.get("seconds"),
        "peak": _sum(fit.get("peak_bytes") if fit else test.get("peak_bytes"), 0, 1 / 2**20),
    }
    return {name: float(value) for name, value in given.items() if isinstance(value, int | float)}


def _sum(one: object, other: object, factor: float) -> float | None:
    if not isinstance(one, int | float) or not isinstance(other, int | float):
        return None
    return (one + other) * factor


def _time_notes(runs: Sequence[Mapping[str, object]]) -> list[str]:
    notes = []
    jobs = [one for run in runs if isinstance(one := run.get("jobs"), int)]
    if max(jobs, default=1) > 1:
        notes.append(
            "Several runs were done at once. On one machine they share its cores, so wall clock does not compare arms; "
            "CPU time and passes do."
        )
    codes = {str(run.get("code")) for run in runs}
    if len(codes) > 1:
        notes.append(f"The runs were made by {len(codes)} versions of the code: {', '.join(sorted(codes))}.")
    for run in runs:
        equal = cast("dict[str, object] | None", run.get("equal"))
        if equal is not None:
            notes.append(
                f"{run['arm']}, seed {run['seed']}: {equal['steps']} steps, as many as cost the "
                f"{'seconds of training' if equal['by'] == 'time' else 'passes'} of {equal['to']} "
                f"({cast(float, equal['spent']):.4g} over {cast(float, equal['each_step']):.4g} a step)."
            )
    return notes


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def is_sure(gap: SeedDifference) -> bool:
    """Whether the interval of a difference excludes 0."""
    return not math.isnan(gap.low) and (gap.low > 0 or gap.high < 0)

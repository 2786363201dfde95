"""A study as Markdown, CSV and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from robustlm.evaluation.directions import low_means
from robustlm.evaluation.seeds import SeedDifference
from robustlm.report.study import COSTS, ArmResults, StudyResults, is_sure
from robustlm.report.study_attacks import Searches, search_gap_table, search_gap_title, search_table, search_title
from robustlm.report.tables import aligned, csv_text

METHOD = (
    "Bold differences have an interval without 0. A draw of an interval takes seeds, and samples of each dataset, with "
    "replacement, the same for both arms. p is that of the same draws (an interval at level 1 − p ends at 0); Holm is "
    "p, adjusted for all differences of this page. With few seeds, intervals know little of other seeds."
)


def to_markdown(study: StudyResults) -> str:
    """The tables of a study."""
    parts = [f"# {study.name}", study.about]
    for data in study.data:
        where = f" on {data}" if data else ""
        parts += [_said(study, f"Mean score over datasets{where}, %"), _table(score_table(study, data))]
        if any(arm.costs for arm in study.data[data].values()):
            parts += [
                f"What the runs cost{where}, mean ± standard deviation over seeds:",
                _table(cost_table(study, data)),
            ]
        if study.differences[data]:
            parts += [f"Differences{where}, points, paired by seed and sample:", _table(gap_table(study, data))]
            parts += ["p of these differences, and p adjusted after Holm:", _table(p_table(study, data)), METHOD]
        levels = level_table(study, data)
        if len(levels[0]) > 2:
            parts += [f"By level{where}, mean over the conditions of the level:", _table(levels)]
        if any(any(arm.spreads.values()) for arm in study.data[data].values()):
            parts += [f"{OVER_INSTRUCTIONS}{where}:", _table(instruction_table(study, data))]
        if (searches := study.searches.get(data)) is not None:
            parts += [f"{search_title(searches, where)}:", _table(search_table(searches))]
            if searches.gaps:
                parts += [f"{search_gap_title(searches, where)}:", _table(search_gap_table(searches))]
        for condition in study.conditions if len(datasets_of(study, data)) > 1 else ():
            parts += [f"{condition}: score by dataset{where}, %:", _table(set_table(study, data, condition))]
    notes = [*study.notes, *_low(study.conditions), *([f"Made by {study.made_by}."] if study.made_by else [])]
    parts += [f"- {note.strip()}" for note in notes]
    return "\n\n".join(part for part in parts if part) + "\n"


def _said(study: StudyResults, what: str) -> str:
    seeds = ", ".join(map(str, study.seeds))
    if len(study.seeds) > 1:
        return f"{what}, mean ± standard deviation over seeds {seeds}:"
    return f"{what}, seed {seeds}:"


def _low(conditions: Sequence[str]) -> list[str]:
    return [f"{condition}: {said}." for condition in conditions if (said := low_means(condition)) is not None]


def _table(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    return "\n".join(aligned(head, body))


def score_table(study: StudyResults, data: str) -> list[list[str]]:
    """Scores by arm and condition, below a line of headings."""
    rows = [["arm", *study.conditions]]
    return rows + [[name, *(_score(arm, one) for one in study.conditions)] for name, arm in study.data[data].items()]


def _score(arm: ArmResults, condition: str) -> str:
    if not all(condition in own for own in arm.scores.values()):
        return "-"
    return str(arm.score(condition))


def dataset_table(study: StudyResults, data: str, dataset: str) -> list[list[str]]:
    """Scores on one dataset by arm and condition, below a line of headings."""
    rows = [["arm", *study.conditions]]
    for name, arm in study.data[data].items():
        asked = {one for one in study.conditions if all(dataset in own.get(one, {}) for own in arm.scores.values())}
        rows.append([name, *(str(arm.score(one, dataset)) if one in asked else "-" for one in study.conditions)])
    return rows


OVER_INSTRUCTIONS = "Standard deviation of scores over instructions (divided by K), mean over datasets, points"


def instruction_table(study: StudyResults, data: str) -> list[list[str]]:
    """How much scores differ between instructions, by arm and condition, below a line of headings."""
    rows = [["arm", *study.conditions]]
    for name, arm in study.data[data].items():
        rows.append(
            [name, *("-" if (own := arm.over_instructions(one)) is None else str(own) for one in study.conditions)]
        )
    return rows


def set_table(study: StudyResults, data: str, condition: str) -> list[list[str]]:
    """Scores under one condition by arm and dataset, with means over kinds of datasets, below a line of headings."""
    known = datasets_of(study, data)
    groups = {name: own for name, own in study.groups.items() if all(one in known for one in own)}
    columns = {**groups, **{name: [name] for name in known}, "mean": ["mean"]}
    rows = [["arm", *columns]]
    for name, arm in study.data[data].items():
        cells = [arm.mean_of(condition, own) for own in columns.values()]
        rows.append([name, *("-" if cell is None else str(cell) for cell in cells)])
    return rows


def datasets_of(study: StudyResults, data: str) -> list[str]:
    """Names of the datasets that arms were tested on."""
    found = (
        name for arm in study.data[data].values() for own in arm.scores.values() for one in own.values() for name in one
    )
    return [name for name in dict.fromkeys(found) if name != "mean"]


def cost_table(study: StudyResults, data: str) -> list[list[str]]:
    """Steps, time, passes and memory by arm, below a line of headings."""
    arms = study.data[data]
    known = [name for name in COSTS if any(arm.cost(name) is not None for arm in arms.values())]
    rows = [["arm", *(COSTS[name] for name in known)]]
    for name, arm in arms.items():
        costs = [arm.cost(one) for one in known]
        rows.append([name, *("-" if cost is None else str(cost) for cost in costs)])
    return rows


def gap_table(study: StudyResults, data: str) -> list[list[str]]:
    """Differences with intervals by comparison and condition, below a line of headings."""
    rows = [["arm − compared with", *study.conditions]]
    for name, own in study.differences[data].items():
        rows.append([name, *(gap_cell(own[one], "**") if one in own else "-" for one in study.conditions)])
    return rows


def gap_cell(gap: SeedDifference, mark: str = "") -> str:
    """A difference with its interval; between marks if the interval excludes 0."""
    mark = mark if is_sure(gap) else ""
    return f"{mark}{gap.mean:+.1f}{mark} [{gap.low:+.1f}, {gap.high:+.1f}]"


def p_table(study: StudyResults, data: str) -> list[list[str]]:
    """Raw and adjusted p by comparison and condition, below a line of headings."""
    rows = [["arm − compared with", *(f"{one} (Holm)" for one in study.conditions)]]
    for name, own in study.differences[data].items():
        rows.append([name, *(_p(own[one]) if one in own else "-" for one in study.conditions)])
    return rows


def _p(gap: SeedDifference) -> str:
    return f"{gap.p:.3g} ({gap.p_holm:.3g})"


def level_table(study: StudyResults, data: str) -> list[list[str]]:
    """Scores by arm and level, below a line of headings."""
    levels = study.levels()
    rows = [["arm", *levels]]
    for name, arm in study.data[data].items():
        whole = all(one in own for own in arm.scores.values() for one in study.conditions)
        rows.append([name, *(str(arm.level(own)) if whole else "-" for own in levels.values())])
    return rows


def to_csv(study: StudyResults) -> str:
    """Every score: a line for each data set, arm, seed, condition and dataset, with the costs of its run."""
    columns = ["data", "arm", "seed", "condition", "dataset", "score", *COSTS]
    rows: list[Mapping[str, object]] = []
    for data, arms in study.data.items():
        for name, arm in arms.items():
            for seed, own in arm.scores.items():
                for condition, sets in own.items():
                    for dataset, score in sets.items():
                        place = {"data": data, "arm": name, "seed": seed, "condition": condition, "dataset": dataset}
                        rows.append({**place, "score": score, **arm.costs.get(seed, {})})
    return csv_text(columns, rows)


def to_json(study: StudyResults) -> str:
    """The numbers as JSON."""
    found = {
        "name": study.name,
        "about": study.about,
        "seeds": study.seeds,
        "conditions": study.conditions,
        "data": {
            data: {name: {"scores": arm.scores, "costs": arm.costs} for name, arm in arms.items()}
            for data, arms in study.data.items()
        },
        "differences": {
            data: {name: {one: asdict(gap) for one, gap in own.items()} for name, own in gaps.items()}
            for data, gaps in study.differences.items()
        },
        "searches": {data: _searches(found) for data, found in study.searches.items()},
        "notes": study.notes,
    }
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def _searches(searches: Searches) -> dict[str, object]:
    return {
        "arms": {
            arm: {
                condition: [
                    dict(zip(("seed", "dataset", "instruction_id", "sample_id"), key, strict=True)) | asdict(one)
                    for key, one in found.items()
                ]
                for condition, found in own.items()
            }
            for arm, own in searches.arms.items()
        },
        "differences": {
            name: {condition: asdict(gap) for condition, gap in own.items()} for name, own in searches.gaps.items()
        },
    }

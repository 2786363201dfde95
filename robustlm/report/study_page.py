"""A study as one page for browsers that loads no other file."""

from __future__ import annotations

import base64
from collections.abc import Sequence

from robustlm.evaluation.robustness import Estimate
from robustlm.report.figures import Axis, Line, intervals
from robustlm.report.markup import Html, join, named, page, table, tag
from robustlm.report.page_parts import bullets, figure
from robustlm.report.study import StudyResults
from robustlm.report.study_attacks import search_gap_table, search_gap_title, search_table, search_title
from robustlm.report.study_pictures import Picture
from robustlm.report.study_text import (
    METHOD,
    OVER_INSTRUCTIONS,
    cost_table,
    dataset_table,
    datasets_of,
    gap_cell,
    instruction_table,
    level_table,
    p_table,
    score_table,
    set_table,
)


def study_html(study: StudyResults, pictures: Sequence[Picture]) -> str:
    """Make the page.

    Args:
        study: The numbers.
        pictures: Its figures, whose files are put into the page.
    """
    runs = sum(len(arm.scores) for arms in study.data.values() for arm in arms.values())
    arms = {name for own in study.data.values() for name in own}
    head = join(
        tag("h1", named(study.name)),
        tag("p", study.about) if study.about else "",
        tag("p", f"{len(arms)} arms, seeds {', '.join(map(str, study.seeds))}, {runs} runs."),
        bullets([note.strip() for note in (*study.notes, *([f"Made by {study.made_by}."] if study.made_by else []))]),
    )
    scores, costs, gaps, tests, sets, attacks = [], [], [], [], [], []
    for data in study.data:
        on = f" on {data}" if data else ""
        scores.append(_table(score_table(study, data), f"Mean score over datasets{on}, %"))
        scores.append(_table(level_table(study, data), f"Mean score by level{on}, %"))
        costs.append(_table(cost_table(study, data), f"What the runs cost{on}"))
        if study.differences[data]:
            gaps.append(_gaps(study, data, on))
            tests.append(_table(p_table(study, data), f"p of the differences, and adjusted after Holm{on}"))
        if any(any(arm.spreads.values()) for arm in study.data[data].values()):
            scores.append(_table(instruction_table(study, data), f"{OVER_INSTRUCTIONS}{on}"))
        if (searches := study.searches.get(data)) is not None:
            attacks.append(_table(search_table(searches), f"{search_title(searches, on)}."))
            if searches.gaps:
                attacks.append(_table(search_gap_table(searches, ""), f"{search_gap_title(searches, on)}."))
        for condition in study.conditions if len(datasets_of(study, data)) > 1 else ():
            sets.append(_table(set_table(study, data, condition), f"Score by dataset under {condition}{on}, %"))
        for name in datasets_of(study, data):
            sets.append(_table(dataset_table(study, data, name), f"Score on {name}{on}, %"))
    parts = [
        ("scores", "Scores", join(*scores)),
        ("figures", "Figures", join(*(_picture(one) for one in pictures))),
        ("differences", "Paired differences", join(*gaps, *tests, tag("p", METHOD.removeprefix(_BOLD)))),
        ("searches", "Searches for attacks", join(*attacks)),
        ("costs", "Time and memory", join(*costs)),
        ("datasets", "Dataset by dataset", join(*sets)),
    ]
    empty = [name for name, content in (("differences", gaps), ("searches", attacks)) if not content]
    parts = [part for part in parts if part[0] not in empty]
    return page(f"Study: {study.name}", head, parts)


_BOLD = "Bold differences have an interval without 0. "


def _table(rows: Sequence[Sequence[str]], label: str) -> Html:
    heads, *body = rows
    cells = [[named(first), *rest] for first, *rest in body]
    return join(tag("h3", label), table([named(one) for one in heads], cells, label))


def _picture(one: Picture) -> Html:
    data = base64.b64encode(one.file.read_bytes()).decode()
    return figure(one.said, tag("img", src=f"data:image/png;base64,{data}", alt=one.said, style="max-width:100%"))


def _gaps(study: StudyResults, data: str, on: str) -> Html:
    """Differences with their intervals, a group for each comparison."""
    found = study.differences[data]
    groups, every = [], []
    for name, own in found.items():
        lines = []
        for condition, gap in own.items():
            one = Estimate(gap.mean / 100, gap.low / 100, gap.high / 100)
            every.append(one)
            lines.append(Line(condition, one, gap_cell(gap)))
        groups.append((name, lines))
    label = f"Paired differences{on}, points"
    axis = Axis.over(every, zero=True, least=4)
    said = f"Differences{on} in points of the mean score over datasets. Right of 0 the first arm is better."
    return figure(said, intervals(groups, axis, ("condition", "difference, points"), label))

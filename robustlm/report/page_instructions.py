"""The section of a report page on scores by instruction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from robustlm.evaluation.robustness import Result
from robustlm.report.figures import heat, strip
from robustlm.report.markup import Html, counted, join, named, table, tag, wide
from robustlm.report.page_parts import figure, score_name
from robustlm.report.wordings import folded_html

OPEN_ROWS = 60
"""The tables are unfolded if they have at most this many rows in total."""


def instructions_section(single: Mapping[str, Sequence[Result]]) -> Html:
    """Scores by instruction: an overview in colour, and a table for each dataset."""
    values = [100 * value for own in single.values() for one in own for value in one.by_instruction.values()]
    if not values:
        return tag("p", "No sample was asked under all instructions of its condition, so they cannot be compared.")
    low, high = 10 * math.floor(min(values) / 10), 10 * math.ceil(max(values) / 10)
    low, high = (low, high) if low < high else (0, 10) if low <= 0 else (low - 10, low)
    conditions = list(dict.fromkeys(one.condition for own in single.values() for one in own))
    overview = table(
        ["dataset", *(named(condition) for condition in conditions)],
        [
            [named(name), *(_squares({one.condition: one for one in own}.get(c), low, high) for c in conditions)]
            for name, own in single.items()
        ],
        "Scores by instruction: overview",
        texts=range(len(conditions) + 1),
        class_="map",
    )
    said = join(
        "A square is an instruction, in the order of its name; below are the lowest and the highest score. Colour: ",
        tag("span", f"{low:g} ", tag("span", "", class_="scale"), f" {high:g} %", class_="unit"),
        ". Squares of one dataset that differ say that the wording matters.",
    )
    count = sum(len(_asked(own)) for own in single.values())
    if any(one.wordings for own in single.values() for one in own):
        said = join(said, " Click an instruction in the tables for its full text and what noise made of it.")
    details = [_by_instruction(name, own, low, high, count <= OPEN_ROWS) for name, own in single.items()]
    return join(figure(said, overview), *details)


def _squares(one: Result | None, low: float, high: float) -> Html:
    if one is None or not one.by_instruction:
        return Html("-")
    scores = one.by_instruction
    ends = sorted({f"{100 * value:.1f}": value for value in scores.values()}.items(), key=lambda item: item[1])
    text = ends[0][0] if len(ends) == 1 else f"{ends[0][0]} to {ends[-1][0]}"
    label = f"{one.name}, {one.condition}: {text} over {len(scores)} instructions"
    return join(strip(scores, low, high, label), tag("small", text))


def _by_instruction(name: str, own: Sequence[Result], low: float, high: float, unfolded: bool) -> Html:
    ids = _asked(own)

    def shown(one: Result, instruction: str) -> Html:
        if instruction not in one.by_instruction:
            return tag("td", "-", class_="number")
        value = 100 * one.by_instruction[instruction]
        return tag("td", f"{value:.1f}", class_="heat", style=heat(value, low, high))

    heads = (tag("th", named(one.condition), scope="col", class_="number") for one in own)
    words = {i: [(one.condition, one.wordings[i]) for one in own if i in one.wordings] for i in ids}
    rows = (tag("tr", tag("th", folded_html(i, words[i]), scope="row"), *(shown(one, i) for one in own)) for i in ids)
    label = f"Score by instruction: {name}"
    head = tag("thead", tag("tr", tag("th", "instruction", scope="col"), *heads))
    grid = tag("table", head, tag("tbody", *rows), class_="wordings")
    summary = tag("summary", named(name), f": {counted(len(ids), 'instruction')}, {score_name(own[0])} in %")
    return tag("details", summary, wide(grid, label), open=unfolded)


def _asked(own: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(instruction for one in own for instruction in one.by_instruction))

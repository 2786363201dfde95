"""The section of a report page on scores by instruction."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from robustlm.conditions.condition import low_means
from robustlm.evaluation.robustness import Result
from robustlm.evaluation.wording import Wording
from robustlm.report.figures import heat, strip
from robustlm.report.markup import Html, counted, join, named, table, tag, wide
from robustlm.report.page_filter import Filters
from robustlm.report.page_parts import figure, score_name
from robustlm.report.wordings import folded_html, name_html

WORST_ROWS = 60
"""Number of instructions, the worst ones, that the page shows unfolded, shared equally by the datasets; the others of a
dataset are in a second table, which is folded."""
LEAST_ROWS = 5
"""Smallest share of a dataset; if there are too many datasets for it, all tables are folded."""
MOST_ROWS = 1000
"""Largest number of instructions of all tables of the page, shared equally by the datasets."""
MOST_WORDS = 200
"""Largest number of instructions of the page that unfold to all their words."""


def instructions_section(single: Mapping[str, Sequence[Result]], filters: Filters) -> Html:
    """Scores by instruction: an overview in colour, and a heat map of instruction × condition for each dataset."""
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
    if any(one.wordings for own in single.values() for one in own):
        said = join(said, " Click an instruction in the tables for its full text and what noise made of it.")
    sets = len(single)
    shown = max(LEAST_ROWS, WORST_ROWS // sets)
    details = [
        _heat_map(
            name, own, low, high, (shown, MOST_ROWS // sets, MOST_WORDS // sets), shown * sets <= WORST_ROWS, filters
        )
        for name, own in single.items()
    ]
    order = tag(
        "p", "The worst instructions come first, by their mean over conditions in which a high score is wanted."
    )
    return join(figure(said, overview), order, *details)


def _squares(one: Result | None, low: float, high: float) -> Html:
    if one is None or not one.by_instruction:
        return Html("-")
    scores = one.by_instruction
    ends = sorted({f"{100 * value:.1f}": value for value in scores.values()}.items(), key=lambda item: item[1])
    text = ends[0][0] if len(ends) == 1 else f"{ends[0][0]} to {ends[-1][0]}"
    label = f"{one.name}, {one.condition}: {text} over {len(scores)} instructions"
    return join(strip(scores, low, high, label), tag("small", text))


def _heat_map(
    name: str,
    own: Sequence[Result],
    low: float,
    high: float,
    sizes: tuple[int, int, int],
    unfolded: bool,
    filters: Filters,
) -> Html:
    """The heat map of a dataset: its worst instructions, then a fold with the others.

    Args:
        name: Name of the dataset.
        own: Its results.
        low: The score of the palest colour, in per cent.
        high: That of the strongest colour.
        sizes: Number of instructions before the fold, with it, and of those that unfold to all their words.
        unfolded: Whether all but the fold is shown at once.
        filters: The filters of the page.
    """
    worst, most, unfolding = sizes
    ids = _worst_first(own)
    label = f"Score by instruction: {name}"
    title = tag("summary", named(name), f": {counted(len(ids), 'instruction')}, {score_name(own[0])} in %")
    grid = _grid(own, ids[:worst], low, high, label, unfolding)
    rest = ids[worst : max(most, worst)]
    parts = [title, grid]
    if rest:
        inside = _grid(own, rest, low, high, f"{label}, the others", unfolding - worst)
        parts.append(tag("details", tag("summary", f"{counted(len(rest), 'better instruction')}"), inside))
    if (left := len(ids) - worst - len(rest)) > 0:
        said = f"{counted(left, 'instruction')} with still better scores: see the JSON of the report."
        parts.append(tag("p", said, class_="quiet"))
    return tag("details", *parts, open=unfolded, data_dataset=filters.dataset(name))


def _grid(own: Sequence[Result], ids: Sequence[str], low: float, high: float, label: str, unfolding: int) -> Html:
    """A table of instructions × conditions; the first `unfolding` instructions unfold to all their words."""

    def shown(one: Result, instruction: str) -> Html:
        if instruction not in one.by_instruction:
            return tag("td", "-", class_="number")
        value = 100 * one.by_instruction[instruction]
        return tag("td", f"{value:.1f}", class_="heat", style=heat(value, low, high))

    def title(at: int, instruction: str) -> Html:
        words = [(one.condition, one.wordings[instruction]) for one in own if instruction in one.wordings]
        if at >= unfolding and words:
            raw = words[0][1].raw
            return name_html(instruction, Wording(raw, raw))
        return folded_html(instruction, words)

    heads = (tag("th", named(one.condition), scope="col", class_="number") for one in own)
    lines = (tag("tr", tag("th", title(at, i), scope="row"), *(shown(one, i) for one in own))
             for at, i in enumerate(ids))  # fmt: skip
    head = tag("thead", tag("tr", tag("th", "instruction", scope="col"), *heads))
    return wide(tag("table", head, tag("tbody", *lines), class_="wordings"), label)


def _worst_first(own: Sequence[Result]) -> list[str]:
    """Instructions by their mean score over conditions in which a high score is wanted; unknown ones last."""
    counted_in = [one for one in own if not low_means(one.condition)] or list(own)

    def mean(instruction: str) -> float:
        values = [one.by_instruction[instruction] for one in counted_in if instruction in one.by_instruction]
        return sum(values) / len(values) if values else math.inf

    return sorted(_asked(own), key=mean)


def _asked(own: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(instruction for one in own for instruction in one.by_instruction))

"""Sections of a report page with tables: all numbers, free text, counts, and how intervals were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from robustlm.evaluation.free_text import FreeText
from robustlm.evaluation.robustness import NUMBERS, Result, Settings
from robustlm.report.markup import Html, join, named, table, tag
from robustlm.report.number_tables import (
    ALL,
    COUNTS,
    FREE_TEXT,
    GUESSES,
    cell,
    free_text_cells,
    guess_cells,
    interval_note,
    known,
    size,
)
from robustlm.report.page_parts import score_name
from robustlm.report.wordings import name_html


def numbers_section(pooled: Mapping[str, Result], single: Mapping[str, Sequence[Result]]) -> Html:
    """All numbers with their intervals, as tables."""
    names = [name for name in NUMBERS if any(known(one, name) for one in pooled.values())]
    means = table(
        ["", *(named(condition) for condition in pooled)],
        [
            [
                join(NUMBERS[name], " ", tag("code", name)),
                *(cell(one.numbers.get(name), name) for one in pooled.values()),
            ]
            for name in names
        ],
        "Means over datasets",
        id="means",
    )
    columns = ("mean", "pdr", "worst_instruction", "worst_case", "consistency")
    sets = table(
        [
            "dataset",
            "condition",
            "score",
            *GUESSES,
            *(name.replace("_", " ") for name in columns),
            "worst was",
        ],
        [
            [
                named(name),
                named(one.condition),
                score_name(one),
                *guess_cells(one.baseline),
                *(cell(one.numbers.get(column), column) for column in columns),
                name_html(one.worst, one.worst_wording) if one.worst and one.instructions > 1 else "-",
            ]
            for name, own in single.items()
            for one in own
        ],
        "Numbers by dataset and condition",
        texts=(0, 1, 2, 5 + len(columns)),
        id="datasets",
    )
    said = "In per cent, except log-likelihoods, which are in nats per token."
    over = "Mean over all datasets" if len(single) > 1 else "The dataset"
    absent = [f"{name}: {NUMBERS[name]}" for name in NUMBERS if name not in names]
    rest = [tag("p", "Without a value here: ", "; ".join(absent), ".", class_="quiet")] if absent else []
    return join(tag("p", said), tag("h3", over), means, *rest, tag("h3", "Dataset by dataset"), sets)


def free_section(free: Sequence[FreeText]) -> Html:
    """Measures of free-text answers, as a table."""
    said = (
        "Few free-text answers match word for word. Token F1 counts the words that answer and target share (as SQuAD "
        "does), ROUGE-L their longest common sequence."
    )
    lines = [[named(dataset), named(condition), *rest] for dataset, condition, *rest in map(free_text_cells, free)]
    return join(tag("p", said), table(list(FREE_TEXT), lines, "Free-text answers", texts=(0, 1), id="free-text"))


def counts_section(results: Sequence[Result]) -> Html:
    """Counts of the data behind the numbers, as a table."""
    said = (
        "Numbers that compare instructions use complete samples: those asked under every instruction of a condition. "
        "`missing` counts cells of samples × instructions without an answer."
    )
    lines = [[named(name), named(condition), *rest] for name, condition, *rest in map(size, results)]
    return join(tag("p", said), table(["dataset", "condition", *COUNTS], lines, ALL, texts=(0, 1), id="made-of"))


def method_section(settings: Settings) -> Html:
    """Describe how intervals were made."""
    more = (
        [
            "A draw takes as many samples as there are, with replacement, dataset by dataset and the same under every "
            "condition. The answers of a sample stay together, since they are not independent.",
            "Instructions are fixed: an interval is about these instructions and other samples."
            if settings.resample == "samples"
            else "Instructions are drawn as well: an interval is about other samples and other such instructions.",
            f"The seed is {settings.seed}; with it the same table gives the same intervals.",
        ]
        if settings.draws
        else []
    )
    return join(tag("p", interval_note(settings)), *(tag("p", text) for text in more))

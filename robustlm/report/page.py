"""The report of a run as one HTML page: headline numbers, figures, tables and samples worth reading."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from robustlm.evaluation.free_text import FreeText, free_text
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import NUMBERS, Estimate, Result, Settings
from robustlm.evaluation.unreadable import LIMIT, unreadable
from robustlm.report.figures import SHARES, Axis, Line, heat, intervals, legend, shares, strip
from robustlm.report.levels import by_level
from robustlm.report.markup import Html, counted, join, named, page, table, tag, wide, word
from robustlm.report.robustness import ALL, COUNTS, FREE_TEXT, cell, free_text_cells, interval_note, known, notes, size
from robustlm.report.samples import Answer, Changing, most_changing
from robustlm.report.unread import unread_box

OPEN_ROWS = 60
"""Rows of instructions up to which their tables are unfolded."""

MOST_ANSWERS = 12
"""Answers of one sample that are shown."""

MOST_PLACES = 6
"""Instructions of a condition that are named beside an answer."""

LONGEST_PROMPT = 2000
"""Characters of a prompt that are shown."""


@dataclass(frozen=True, slots=True)
class About:
    """What was evaluated."""

    run: str
    """Name of the run."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Its settings, by what they are called."""


def to_html(
    rows: Sequence[Record], results: Sequence[Result], settings: Settings, about: About, clean: str = "clean"
) -> str:
    """The page; the same bytes for the same table.

    Args:
        rows: Rows of a prediction table.
        results: Its numbers.
        settings: How intervals were made.
        about: What was evaluated.
        clean: The condition against which performance drops.
    """
    pooled = {one.condition: one for one in results if one.name is None}
    single: dict[str, list[Result]] = {}
    for one in results:
        if one.name is not None:
            single.setdefault(one.name, []).append(one)
    head = join(
        tag("h1", "Robustness of ", named(about.settings.get("backbone", about.run))),
        _summary(pooled, single),
        unread_box(unreadable(rows)),
        _cards(pooled, single, clean),
    )
    parts = [
        ("evaluated", "What was evaluated", _evaluated(pooled, single, about)),
        ("conditions", "Score by condition", _scores(pooled, single)),
        ("drop", "Drop by level", _drops(pooled, clean)),
        ("instructions", "Score by instruction", _instructions(single)),
        ("variance", "Where the variance comes from", _variance(pooled, single)),
        ("samples", "Samples worth reading", _samples(most_changing(rows))),
        ("numbers", "All numbers", _numbers(pooled, single)),
        *([("free", "Free-text answers", _free(free))] if (free := free_text(rows, settings)) else []),
        ("counts", "What it is made of", _counts(results)),
        ("intervals", "How intervals were made", _method(settings)),
    ]
    return page(f"Robustness: {about.run}", head, parts)


def _summary(pooled: Mapping[str, Result], single: Mapping[str, Sequence[Result]]) -> Html:
    answers, samples = sum(one.rows for one in pooled.values()), sum(map(_most_samples, single.values()))
    sets, ways = counted(len(single), "dataset"), counted(len(pooled), "condition")
    return tag("p", f"{counted(answers, 'answer')} to {counted(samples, 'sample')} of {sets} under {ways}.")


def _cards(pooled: Mapping[str, Result], single: Mapping[str, Sequence[Result]], clean: str) -> Html:
    first = pooled.get(clean) or next(iter(pooled.values()))
    others = [one for one in pooled.values() if one is not first and known(one, "mean")]
    how = tag("code", named(first.condition))
    cards = [_card(first, "mean", "Mean score", f"over {counted(len(single), 'dataset')}, asked as in ", how)]
    if others:
        worst = min(others, key=lambda one: one.numbers["mean"].value)
        name = tag("code", named(worst.condition))
        cards.append(_card(worst, "mean", "Worst condition", "lowest score of the other conditions, under ", name))
        cards.append(_card(worst, "pdr", "Drop", "of the score under ", how, " is lost under ", name))
    cards.append(
        _card(first, "worst_case", "Worst case", "score if each sample met its worst instruction, under ", how)
    )
    same = ["of pairs of instructions get the same answer, under ", how]
    unread = first.numbers.get("unparseable")
    if unread is not None and unread.value > LIMIT:
        same.append(f"; {100 * unread.value:.1f} % of the answers could not be read")
    cards.append(_card(first, "consistency", "Consistency", *same))
    return tag("div", *cards, class_="cards")


def _card(one: Result, name: str, title: str, *said: str) -> Html:
    found = one.numbers.get(name)
    value, _, interval = cell(found, name).partition(" ")
    big = f"{value} %" if value != "-" else "-"
    lines = [tag("span", title), tag("b", big)]
    if interval:
        lines.append(tag("span", interval, class_="quiet"))
    if value == "-":
        said = (*said, " (the table cannot tell)")
    return tag("div", *lines, tag("p", *said), class_="card")


def _evaluated(pooled: Mapping[str, Result], single: Mapping[str, Sequence[Result]], about: About) -> Html:
    def listed(names: Sequence[Html]) -> Html:
        return join(*(part for i, name in enumerate(names) for part in (", " * (i > 0), name)))

    sizes = [
        join(named(name), f" ({counted(_most_samples(own), 'sample')}, {_score_name(own[0])})")
        for name, own in single.items()
    ]
    asked = sorted({one.instructions for own in single.values() for one in own})
    ways = str(asked[0]) if len(asked) == 1 else f"{asked[0]} to {asked[-1]}"
    facts: dict[str, str] = {
        "run": named(about.run),
        f"{len(single)} datasets" if len(single) > 1 else "dataset": listed(sizes),
        f"{len(pooled)} conditions" if len(pooled) > 1 else "condition": listed(list(map(word, pooled))),
        "instructions": f"{ways} for each dataset and condition",
        "answers": f"{sum(one.rows for one in pooled.values()):,}",
        **{name: word(value) for name, value in about.settings.items()},
    }
    pairs = (part for name, value in facts.items() for part in (tag("dt", name), tag("dd", value)))
    remarks = notes([one for own in single.values() for one in own])
    return join(tag("dl", *pairs, class_="facts"), _list(remarks))


def _scores(pooled: Mapping[str, Result], single: Mapping[str, Sequence[Result]]) -> Html:
    axis = Axis.over(one.numbers["mean"] for own in (pooled.values(), *single.values()) for one in own)
    every = [_line(one.condition, one, "mean") for one in pooled.values()]
    said = (
        "Score over all answers, in per cent, with its interval. Over several datasets it is the mean of their scores: "
        f"accuracy, or micro-F1 where answers are several items. All scales go from {axis.ticks[0]:g} to "
        f"{axis.ticks[-1]:g}."
    )
    figures = [_figure(said, intervals([(None, every)], axis, ("condition", "score, %"), "Score by condition"))]
    if len(single) > 1:
        figures.append(
            _multiples(
                {
                    name: intervals(
                        [(None, [_line(one.condition, one, "mean") for one in own])],
                        axis,
                        ("condition", f"{_score_name(own[0])}, %"),
                        f"Score by condition: {name}",
                    )
                    for name, own in single.items()
                }
            )
        )
    return join(*figures)


def _drops(pooled: Mapping[str, Result], clean: str) -> Html:
    conditions = [name for name, one in pooled.items() if name != clean and "pdr" in one.numbers]
    if not conditions:
        return tag(
            "p", "Nothing to compare: the table holds no other condition beside ", tag("code", named(clean)), "."
        )
    axis = Axis.over((pooled[name].numbers["pdr"] for name in conditions), zero=True)
    groups = [
        (level, [_line(name, pooled[name], "pdr") for name in own]) for level, own in by_level(conditions).items()
    ]
    said = join(
        "How much of the score under ",
        tag("code", named(clean)),
        " a condition costs, in per cent of it, over all datasets. Below 0 the condition is the better one; an "
        "interval that crosses 0 cannot tell.",
    )
    return _figure(said, intervals(groups, axis, ("condition", "drop, %"), "Drop by level of the condition"))


def _instructions(single: Mapping[str, Sequence[Result]]) -> Html:
    values = [100 * value for own in single.values() for one in own for value in one.by_instruction.values()]
    if not values:
        return tag("p", "No sample was asked under all instructions of its condition: nothing compares them.")
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
    details = [_by_instruction(name, own, low, high, count <= OPEN_ROWS) for name, own in single.items()]
    return join(_figure(said, overview), *details)


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
    rows = (tag("tr", tag("th", named(i), scope="row"), *(shown(one, i) for one in own)) for i in ids)
    label = f"Score by instruction: {name}"
    grid = tag("table", tag("thead", tag("tr", tag("th", "instruction", scope="col"), *heads)), tag("tbody", *rows))
    summary = tag("summary", named(name), f": {counted(len(ids), 'instruction')}, {_score_name(own[0])} in %")
    return tag("details", summary, wide(grid, label), open=unfolded)


def _asked(own: Sequence[Result]) -> list[str]:
    return list(dict.fromkeys(instruction for one in own for instruction in one.by_instruction))


def _variance(pooled: Mapping[str, Result], single: Mapping[str, Sequence[Result]]) -> Html:
    if not any(known(one, name) for one in pooled.values() for name in SHARES):
        return tag("p", "Nothing varies, or there is one instruction alone: there are no shares.")
    said = (
        "Shares of the variance of single scores, in per cent: of instructions that are better throughout (phrasing), "
        "of samples that are harder (samples), and of which sample meets which instruction (interaction); chance is "
        "in the last."
    )
    every = [(name, one.numbers) for name, one in pooled.items()]
    figures = [_figure(said, join(legend(SHARES.values(), "part"), shares(every, "condition", "Shares of variance")))]
    if len(single) > 1:
        figures.append(
            _multiples(
                {
                    name: shares([(o.condition, o.numbers) for o in own], "condition", f"Shares of variance: {name}")
                    for name, own in single.items()
                }
            )
        )
    return join(*figures)


def _samples(found: Sequence[Changing]) -> Html:
    if not found:
        return tag("p", "Every sample has the same answer however it is asked.")
    said = (
        f"{len(found)} samples whose answers change most with instruction and condition, from each dataset in turn. "
        "Names of instructions are given without what they begin with in common."
        if len(found) > 1
        else "The one sample whose answer changes with instruction or condition."
    )
    return join(tag("p", said), *map(_sample, found))


def _sample(one: Changing) -> Html:
    total = sum(len(answer.asked) for answer in one.answers)
    asked = [place for answer in one.answers for place in answer.asked]
    begin = _common_start(sorted({instruction for _, instruction in asked}))
    ways: dict[str, int] = {}
    for condition, _ in asked:
        ways[condition] = ways.get(condition, 0) + 1
    rows = [
        [_verdict(answer), word(answer.text), f"{len(answer.asked)} of {total}", _places(answer, begin, ways)]
        for answer in one.answers[:MOST_ANSWERS]
    ]
    label = f"Answers to {one.sample}"
    parts = [
        tag("h3", named(one.dataset), " · ", named(one.sample)),
        tag("p", "expected: ", word(one.target)),
        table(["", "answer", "times", "asked under"], rows, label, texts=range(4), class_="answers"),
    ]
    if (rest := len(one.answers) - MOST_ANSWERS) > 0:
        parts.append(tag("p", f"{rest} other answers are not shown.", class_="quiet"))
    return tag("article", *parts)


def _verdict(answer: Answer) -> Html:
    if answer.correct:
        return tag("span", "✓ right", class_="right")
    if not answer.readable:
        return tag("span", "✗ unreadable", class_="wrong")
    return tag("span", f"✗ F1 {100 * answer.score:.0f}" if answer.score else "✗ wrong", class_="wrong")


def _places(answer: Answer, begin: int, ways: Mapping[str, int]) -> Html:
    under: dict[str, list[str]] = {}
    for condition, instruction in answer.asked:
        under.setdefault(condition, []).append(instruction[begin:])
    parts: list[str] = []
    for condition, own in under.items():
        parts += ["; " if parts else "", named(condition), ": "]
        if 1 < len(own) == ways[condition]:
            parts.append("all")
            continue
        if len(own) > MOST_PLACES:
            parts.append(f"{len(own)} of {ways[condition]}, such as ")
        parts += [part for i, name in enumerate(own[:MOST_PLACES]) for part in (", " * (i > 0), named(name))]
    if answer.prompt is not None:
        parts.append(tag("details", tag("summary", "prompt"), word(answer.prompt, longest=LONGEST_PROMPT)))
    return join(*parts)


def _common_start(names: Sequence[str]) -> int:
    """How many characters all names begin with, up to a separator."""
    if len(names) < 2:
        return 0
    pairs = zip(min(names), max(names), strict=False)
    same = "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return max(same.rfind(mark) for mark in "/|#:") + 1


def _numbers(pooled: Mapping[str, Result], single: Mapping[str, Sequence[Result]]) -> Html:
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
        ["dataset", "condition", "score", *(name.replace("_", " ") for name in columns), "worst was"],
        [
            [
                named(name),
                named(one.condition),
                _score_name(one),
                *(cell(one.numbers.get(column), column) for column in columns),
                named(one.worst) if one.worst and one.instructions > 1 else "-",
            ]
            for name, own in single.items()
            for one in own
        ],
        "Numbers by dataset and condition",
        texts=(0, 1, 2, 3 + len(columns)),
        id="datasets",
    )
    said = "In per cent, but for log-likelihoods, which are in nats a token."
    over = "Mean over all datasets" if len(single) > 1 else "The dataset"
    absent = [f"{name}: {NUMBERS[name]}" for name in NUMBERS if name not in names]
    rest = [tag("p", "Without a value here: ", "; ".join(absent), ".", class_="quiet")] if absent else []
    return join(tag("p", said), tag("h3", over), means, *rest, tag("h3", "Dataset by dataset"), sets)


def _free(free: Sequence[FreeText]) -> Html:
    said = (
        "Few free-text answers match word for word. Token F1 counts the words that answer and target share (as SQuAD "
        "does), ROUGE-L their longest common sequence."
    )
    lines = [[named(dataset), named(condition), *rest] for dataset, condition, *rest in map(free_text_cells, free)]
    return join(tag("p", said), table(list(FREE_TEXT), lines, "Free-text answers", texts=(0, 1), id="free-text"))


def _counts(results: Sequence[Result]) -> Html:
    said = (
        "Numbers that compare instructions are made of complete samples: those asked under every instruction of a "
        "condition. Missing are cells of samples × instructions."
    )
    lines = [[named(name), named(condition), *rest] for name, condition, *rest in map(size, results)]
    return join(tag("p", said), table(["dataset", "condition", *COUNTS], lines, ALL, texts=(0, 1), id="made-of"))


def _method(settings: Settings) -> Html:
    more = (
        [
            "A draw takes as many samples as there are, with replacement, dataset by dataset and the same under every "
            "condition. The answers of a sample stay together, as they are no independent observations.",
            "Instructions are fixed: an interval is about these instructions and other samples."
            if settings.resample == "samples"
            else "Instructions are drawn as well: an interval is about other samples and other such instructions.",
            f"The seed is {settings.seed}; with it the same table gives the same intervals.",
        ]
        if settings.draws
        else []
    )
    return join(tag("p", interval_note(settings)), *(tag("p", text) for text in more))


def _line(label: str, one: Result, name: str) -> Line:
    found: Estimate | None = one.numbers.get(name)
    return Line(label, found, cell(found, name))


def _figure(said: str, drawn: Html) -> Html:
    return tag("figure", tag("figcaption", said), drawn)


def _multiples(figures: Mapping[str, Html]) -> Html:
    return tag("div", *(_figure(named(name), drawn) for name, drawn in figures.items()), class_="multiples")


def _score_name(one: Result) -> str:
    return {"f1": "F1"}.get(one.score, one.score)


def _most_samples(own: Sequence[Result]) -> int:
    return max(one.samples for one in own)


def _list(lines: Sequence[str]) -> Html:
    return tag("ul", *(tag("li", line) for line in lines)) if lines else Html()

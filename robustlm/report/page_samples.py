"""The section of a report page on samples worth reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile

from robustlm.report.markup import Html, join, named, table, tag, word
from robustlm.report.page_filter import Filters
from robustlm.report.samples import Answer, Changing
from robustlm.report.wordings import name_html

MOST_ANSWERS = 12
"""Largest number of answers shown for a sample."""


MOST_PLACES = 6
"""Largest number of instructions of a condition that are named beside an answer."""


LONGEST_WORDING = 160
"""Longest shown part of an instruction, in characters; the title of a cut one holds all of it."""


LONGEST_PROMPT = 2000
"""Longest shown part of a prompt, in characters."""


def samples_section(found: Sequence[Changing], filters: Filters) -> Html:
    """The samples whose answers change most, and their answers."""
    if not found:
        return tag("p", "Every sample has the same answer however it is asked.")
    said = (
        f"{len(found)} samples whose answers change most with instruction and condition, from each dataset in turn. "
        if len(found) > 1
        else "The one sample whose answer changes with instruction or condition. "
    )
    if any(answer.wordings for one in found for answer in one.answers):
        edits = join("Edits of noise and attacks are marked: ", tag("del", "removed"), ", ", tag("ins", "added"), ".")
        return join(tag("p", said, edits), *(_sample(one, filters) for one in found))
    names = "Names of instructions are given without what they begin with in common." if len(found) > 1 else ""
    return join(tag("p", said, names), *(_sample(one, filters) for one in found))


def _sample(one: Changing, filters: Filters) -> Html:
    total = sum(len(answer.asked) for answer in one.answers)
    asked = [place for answer in one.answers for place in answer.asked]
    begin = _common_start(sorted({instruction for _, instruction in asked}))
    ways: dict[str, int] = {}
    for condition, _ in asked:
        ways[condition] = ways.get(condition, 0) + 1
    rows = [
        [_verdict(answer), _text(answer), f"{len(answer.asked)} of {total}", _places(answer, begin, ways)]
        for answer in one.answers[:MOST_ANSWERS]
    ]
    marks = [
        {
            "data_condition": filters.conditions(condition for condition, _ in answer.asked),
            "data_verdict": "right" if answer.correct else "wrong",
        }
        for answer in one.answers[:MOST_ANSWERS]
    ]
    label = f"Answers to {one.sample}, {one.dataset}"
    parts = [
        tag("h3", named(one.dataset), " · ", named(one.sample)),
        tag("p", "expected: ", word(one.target)),
        table(["", "answer", "times", "asked under"], rows, label, texts=range(4), marks=marks, class_="answers"),
    ]
    if (rest := len(one.answers) - MOST_ANSWERS) > 0:
        parts.append(tag("p", f"{rest} other answers are not shown.", class_="quiet"))
    return tag("article", *parts, class_="lines", data_dataset=filters.dataset(one.dataset))


def _text(answer: Answer) -> Html:
    if answer.lenient is None:
        return word(answer.text)
    return join(word(answer.text), tag("div", "read leniently: ", word(answer.lenient), class_="quiet"))


def _verdict(answer: Answer) -> Html:
    if answer.correct:
        return tag("span", "✓ right", class_="right")
    if answer.missing:
        return tag("span", "✗ no answer", class_="wrong")
    if not answer.readable:
        return tag("span", "✗ unreadable", class_="wrong")
    return tag("span", f"✗ F1 {100 * answer.score:.0f}" if answer.score else "✗ wrong", class_="wrong")


def _places(answer: Answer, begin: int, ways: Mapping[str, int]) -> Html:
    under: dict[str, list[Html]] = {}
    for condition, instruction in answer.asked:
        words = answer.wordings.get((condition, instruction))
        name = named(instruction[begin:]) if words is None else name_html(instruction, words, LONGEST_WORDING)
        under.setdefault(condition, []).append(name)
    parts: list[str] = []
    for condition, own in under.items():
        parts += ["; " if parts and not answer.wordings else "", named(condition), ": "]
        if 1 < len(own) == ways[condition]:
            parts.append(tag("ul", tag("li", "all")) if answer.wordings else "all")
            continue
        if len(own) > MOST_PLACES:
            parts.append(f"{len(own)} of {ways[condition]}, such as ")
        shown = own[:MOST_PLACES]
        if answer.wordings:
            parts.append(tag("ul", *(tag("li", name) for name in shown)))
        else:
            parts += [part for i, name in enumerate(shown) for part in (", " * (i > 0), name)]
    if answer.prompt is not None:
        parts.append(tag("details", tag("summary", "prompt"), word(answer.prompt, longest=LONGEST_PROMPT)))
    return join(*parts)


def _common_start(names: Sequence[str]) -> int:
    """Length of the common start of all names, up to its last separator (`/`, `|`, `#` or `:`)."""
    if len(names) < 2:
        return 0
    pairs = zip(min(names), max(names), strict=False)
    same = "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return max(same.rfind(mark) for mark in "/|#:") + 1

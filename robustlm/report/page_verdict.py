"""The top of a report page: in plain sentences, how good the model is, under what it breaks, and what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from robustlm.evaluation.robustness import Result
from robustlm.report.advice import advice
from robustlm.report.markup import Html, counted, join, named, tag
from robustlm.report.number_tables import cell, guesses, known
from robustlm.report.verdict import (
    Against,
    Worst,
    against_guessing,
    not_above_guessing,
    reference,
    worst_condition,
    worst_instructions,
)
from robustlm.report.wordings import LONGEST, name_html

_AGAINST: dict[Against, str] = {
    "above": " The score is above that.",
    "below": " The score is below that.",
    "unclear": " The score cannot be told from that: its interval holds it.",
    "unknown": "",
}
_MOST_NAMES = 5


def verdict_box(
    pooled: Mapping[str, Result], single: Mapping[str, Sequence[Result]], clean: str, warned: bool = False
) -> Html:
    """The verdict: score beside guessing, worst condition, worst instruction, then what to do.

    Args:
        pooled: Numbers over all datasets by condition.
        single: Numbers by dataset.
        clean: The condition from which drops are measured.
        warned: Whether the page has warnings, in an element `warnings`; then the first line says so.
    """
    first = reference(pooled, clean)
    own = [one for results in single.values() for one in results if one.condition == first.condition]
    items = [_score(first, own), _condition(first, worst_condition(pooled, clean)), _instruction(first, own)]
    if warned:
        warning = tag("b", "These numbers come with ", tag("a", "warnings", href="#warnings"), ".", class_="warned")
        items.insert(0, join(warning, " Scores may say more about the form of answers than about the model."))
    todo = tag("ol", *(tag("li", one.said, data_rule=one.rule) for one in advice(pooled, single, clean)), class_="todo")
    return tag(
        "section",
        tag("h2", "In short"),
        tag("ul", *(tag("li", item) for item in items)),
        tag("h3", "What to do"),
        todo,
        class_="verdict",
        id="verdict",
    )


def _score(first: Result, own: Sequence[Result]) -> Html:
    score = first.numbers["mean"]
    over = f" over {counted(len(own), 'dataset')}" if len(own) > 1 else ""
    parts: list[str] = [tag("b", "Score: ", _percent(score.value)), _interval(cell(score, "mean")), " under ",
                        _code(first.condition), over, "."]  # fmt: skip
    if guessing := guesses(first.baseline):
        parts += [f" Guessing gives {guessing}.", _AGAINST[against_guessing(score, first.baseline)]]
    weak, judged = not_above_guessing(own)
    if len(own) > 1 and judged:
        names = [part for i, name in enumerate(weak[:_MOST_NAMES]) for part in (", " * (i > 0), named(name))]
        more = f" and {len(weak) - _MOST_NAMES} more" if len(weak) > _MOST_NAMES else ""
        parts.append(f" It is above guessing on {judged - len(weak)} of {counted(judged, 'dataset')} with labels")
        parts += ["; not on ", *names, more, "."] if weak else ["."]
    elif not guessing:
        parts.append(" Nothing is known of guessing: answers are free text or several items.")
    return join(*parts)


def _condition(first: Result, worst: Result | None) -> Html:
    if worst is None:
        return join(tag("b", "Breaks under: not known."), " The table holds no other condition that a high score is "
                    "wanted under.")  # fmt: skip
    score = join(tag("code", named(worst.condition)), ": score ", cell(worst.numbers["mean"], "mean"), " %")
    if not known(worst, "pdr"):
        return join(
            tag("b", "Lowest score under "), score, ". No drop is known: the clean score is 0, or there is none."
        )
    drop = worst.numbers["pdr"]
    if drop.value <= 0:
        return join(tag("b", "No condition costs score."), " The nearest to it is ", score, ".")
    certain = (
        "" if math.isnan(drop.low) or drop.low > 0 else " The interval holds 0: this may be chance."
    )  # fmt: skip
    return join(
        tag("b", "Breaks most under "), score, ", a drop of ", tag("b", _percent(drop.value)),
        _interval(cell(drop, "pdr")), " of the score under ", _code(first.condition), ".", certain,
    )  # fmt: skip


def _instruction(first: Result, own: Sequence[Result]) -> Html:
    found = worst_instructions(own)
    if not found:
        return join(tag("b", "Worst instruction: not known."), " No dataset was asked under several instructions.")
    one = found[0]
    mean = one.result.numbers["mean_estimated" if one.estimated else "mean"]
    where = join(" for ", named(str(one.result.name))) if len(own) > 1 else ""
    words = name_html(one.instruction, one.wording, 2 * LONGEST)
    return join(
        tag("b", "Worst instruction", where, ": "), "“", words, "” scores ",
        tag("b", _percent(one.score.value)), _interval(cell(one.score, "worst_instruction")), " under ",
        _code(first.condition), f", against {_percent(mean.value)} over all {one.result.instructions}",
        ", estimated from the cells that were asked" if one.estimated else "", ".", _sure(one),
    )  # fmt: skip


def _sure(one: Worst) -> str:
    p = one.result.numbers.get("cochran_holm")
    if p is None or math.isnan(p.value):
        return ""
    return (
        "" if one.differs else f" Chance alone may explain such differences (Cochran's p, after Holm: {p.value:.2f})."
    )


def _interval(text: str) -> str:
    """The interval of a number, ` [low, high]`; empty if there is none."""
    return f" {text.partition(' ')[2]}" if " " in text else ""


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _code(name: str) -> Html:
    return tag("code", named(name))

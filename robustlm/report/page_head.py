"""The head of a report page: the headline numbers, and what was evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from robustlm.evaluation.directions import low_means
from robustlm.evaluation.robustness import Result
from robustlm.evaluation.unreadable import LIMIT
from robustlm.report.markup import Html, counted, join, named, tag, word
from robustlm.report.number_tables import cell, guesses, known, notes
from robustlm.report.page_parts import bullets, most_samples, score_name
from robustlm.report.verdict import reference, worst_condition


@dataclass(frozen=True, slots=True)
class About:
    """What was evaluated."""

    run: str
    """Name of the run."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Its settings by displayed name."""


def summary(pooled: Mapping[str, Result], single: Mapping[str, Sequence[Result]]) -> Html:
    """One sentence: how many answers, samples, datasets and conditions."""
    answers, samples = sum(one.rows for one in pooled.values()), sum(map(most_samples, single.values()))
    sets, ways = counted(len(single), "dataset"), counted(len(pooled), "condition")
    return tag("p", f"{counted(answers, 'answer')} to {counted(samples, 'sample')} of {sets} under {ways}.")


def cards_of(pooled: Mapping[str, Result], single: Mapping[str, Sequence[Result]], clean: str) -> Html:
    """The headline numbers, one card for each."""
    first, worst = reference(pooled, clean), worst_condition(pooled, clean)
    how = tag("code", named(first.condition))
    guessing = guesses(first.baseline)
    over = f"over {counted(len(single), 'dataset')}, asked as in "
    cards = [_card(first, "mean", "Mean score", over, how, f"; guessing gives {guessing}" if guessing else "")]
    apart = [one for one in pooled.values() if one is not first and known(one, "mean") and low_means(one.condition)]
    if worst is not None:
        name = tag("code", named(worst.condition))
        of = "where a high score is wanted" if apart else "of the other conditions"
        how_chosen = "largest drop" if known(worst, "pdr") else "lowest score"
        cards.append(_card(worst, "mean", "Worst condition", f"score under the one with the {how_chosen} {of}, ", name))
        cards.append(_card(worst, "pdr", "Drop", "of the score under ", how, " is lost under ", name))
    cards.append(
        _card(first, "worst_case", "Worst case", "score if each sample met its worst instruction, under ", how)
    )
    same = ["of pairs of instructions get the same answer, under ", how]
    unread = first.numbers.get("unparseable")
    if unread is not None and unread.value > LIMIT:
        same.append(f"; {100 * unread.value:.1f} % of the answers could not be read")
    cards.append(_card(first, "consistency", "Consistency", *same))
    return join(tag("div", *cards, class_="cards"), _apart(apart))


def _apart(found: Sequence[Result]) -> Html:
    """The conditions in which a high score is not wanted, with what a low score says; empty markup without any."""
    if not found:
        return Html()
    items = (
        tag("li", tag("code", named(one.condition)), f": {cell(one.numbers['mean'], 'mean')} %; ",
            low_means(one.condition) or "")
        for one in found
    )  # fmt: skip
    return join(tag("p", "A high score is not wanted under:"), tag("ul", *items, id="low-wanted"))


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


def evaluated(pooled: Mapping[str, Result], single: Mapping[str, Sequence[Result]], about: About) -> Html:
    """What was evaluated: datasets, conditions, sizes, settings, and what is missing."""

    def listed(names: Sequence[Html]) -> Html:
        return join(*(part for i, name in enumerate(names) for part in (", " * (i > 0), name)))

    sizes = [
        join(named(name), f" ({counted(most_samples(own), 'sample')}, {score_name(own[0])})")
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
    return join(tag("dl", *pairs, class_="facts"), bullets(remarks))

"""The parts of a comparison page on ranks: which run is best, which breaks least, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from robustlm.conditions.condition import low_means
from robustlm.evaluation.ranking import Rank, Ranking
from robustlm.evaluation.robustness import Result
from robustlm.report.figures import heat
from robustlm.report.markup import Html, counted, join, named, table, tag, wide
from robustlm.report.verdict import against_guessing, reference, worst_condition

SURE = 0.95
"""A run is called the best if it is the best in at least this share of the draws."""

Runs = Mapping[str, Mapping[str, Result]]
"""Numbers over all datasets, by run and condition."""


def ranks_box(found: Ranking, runs: Runs, clean: str = "clean") -> Html:
    """Sentences: which run has the highest score, and which one breaks least."""
    conditions = counted(len(found.conditions), "condition")
    items = [_first(found.score, "Highest score", f"on average over {conditions} in which a high score is wanted")]
    if found.drop:
        least = _first(found.drop, "Breaks least", "of its clean score is lost on average under the others")
        items.append(join(least, *_hollow(found.drop, runs, clean)))
    else:
        items.append(join(tag("b", "Breaks least: not known."), " The tables hold no drop from ", _code(clean), "."))
    for name, own in runs.items():
        if (worst := worst_condition(own, clean)) is not None and "pdr" in worst.numbers:
            drop = worst.numbers["pdr"].value
            said = f", which costs {100 * drop:.1f} % of its clean score" if not math.isnan(drop) else ""
            items.append(join(named(name), " breaks most under ", _code(worst.condition), said, "."))
    return tag("ul", *(tag("li", item) for item in items))


def _first(ranks: Mapping[str, Rank], title: str, over: str) -> Html:
    ordered = sorted(ranks.items(), key=lambda item: item[1].rank)
    top = [(name, one) for name, one in ordered if one.rank == 1]
    name, one = top[0]
    names = join(*(part for i, (own, _) in enumerate(top) for part in (" and " * (i > 0), tag("b", named(own)))))
    parts: list[str] = [tag("b", title, ": "), names, f", {100 * one.value:.1f} % {over}."]
    if len(top) > 1:
        parts.append(" They are equal.")
    elif one.best is None:
        parts.append(" Without draws, nothing says how sure that is.")
    elif one.best >= SURE:
        parts.append(f" It comes first in {_chance(one.best)} of the draws of samples.")
    else:
        rivals = [(own, other) for own, other in ordered if own != name and other.best]
        listed = (part for own, other in rivals for part in (", ", named(own), f" in {_chance(other.best or 0)}"))
        parts += [" That is not sure: it comes first in ", f"{_chance(one.best)} of the draws of samples", *listed, "."]
    return join(*parts)


def _hollow(ranks: Mapping[str, Rank], runs: Runs, clean: str) -> list[Html]:
    """A warning if the run that breaks least is not better than guessing."""
    found = []
    for name in (name for name, one in ranks.items() if one.rank == 1):
        first = reference(runs[name], clean)
        if against_guessing(first.numbers["mean"], first.baseline) in ("below", "unclear"):
            found.append(join(" But under ", _code(first.condition), " ", named(name),
                              " is not clearly better than guessing: it has little to lose."))  # fmt: skip
    return found


def ranks_section(found: Ranking, runs: Runs, level: float) -> Html:
    """Tables: ranks by score and drop, and runs × conditions."""
    heads = ["run", "mean score, %", "rank", "first in", "mean drop, %", "rank", "first in"]
    order = sorted(runs, key=lambda name: found.score[name].rank if name in found.score else len(runs) + 1)
    rows = [[named(name), *_cells(found.score.get(name)), *_cells(found.drop.get(name))] for name in order]
    said = (
        "Score: the mean over conditions in which a high score is wanted. Drop: the mean share of the clean score that "
        f"the others of them cost. Behind a rank stand the ranks that {100 * level:g} % of the draws hold: the same "
        "samples are drawn for all runs. First in: the share of draws in which the run is the best. With few samples "
        "ranks look surer than they are: a run that is right about all of them is so in every draw."
    )
    return join(
        tag("p", said),
        table(heads, rows, "Ranks", id="ranks-table"),
        tag("p", "Mean score under each condition, in per cent, with its rank. Worse is paler."),
        _matrix(found, runs, order),
    )


def _matrix(found: Ranking, runs: Runs, order: Sequence[str]) -> Html:
    """Runs × conditions, coloured by score."""
    conditions = list(next(iter(runs.values())))
    values = [100 * one.numbers["mean"].value for own in runs.values() for one in own.values()]
    low, high = min(values), max(values)

    def shown(name: str, condition: str) -> Html:
        value = 100 * runs[name][condition].numbers["mean"].value
        one = found.conditions.get(condition, {}).get(name)
        below = tag("small", "low is wanted" if low_means(condition) else "" if one is None else f"rank {_rank(one)}")
        return tag("td", f"{value:.1f}", below, class_="heat", style=heat(value, low, high))

    heads = (tag("th", named(one), scope="col", class_="number") for one in conditions)
    head = tag("thead", tag("tr", tag("th", "run", scope="col"), *heads))
    lines = (tag("tr", tag("th", named(name), scope="row"), *(shown(name, c) for c in conditions)) for name in order)
    return wide(tag("table", head, tag("tbody", *lines), class_="ranks"), "Runs and conditions")


def _cells(one: Rank | None) -> list[str]:
    if one is None:
        return ["-", "-", "-"]
    return [f"{100 * one.value:.1f}", _rank(one), "-" if one.best is None else _chance(one.best)]


def _rank(one: Rank) -> str:
    if one.low is None:
        return str(one.rank)
    return f"{one.rank} ({one.low}–{one.high})" if one.low != one.high else f"{one.rank} ({one.low})"


def _chance(share: float) -> str:
    """A share of draws in per cent, never 0 or 100 unless it is so."""
    if 0 < share < 0.01:
        return "< 1 %"
    return "> 99 %" if 0.99 < share < 1 else f"{100 * share:.0f} %"


def _code(name: str) -> Html:
    return tag("code", named(name))

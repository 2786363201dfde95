"""Sections of a report page on scores: by condition, the drop by level, and where the variance comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from robustlm.evaluation.directions import low_means
from robustlm.evaluation.robustness import Result
from robustlm.report.figures import SHARES, Axis, intervals, legend, shares
from robustlm.report.levels import by_level
from robustlm.report.markup import Html, join, named, tag
from robustlm.report.number_tables import guesses, known
from robustlm.report.page_parts import figure, line_of, multiples, score_name


def scores_section(pooled: Mapping[str, Result], single: Mapping[str, Sequence[Result]]) -> Html:
    """Scores by condition, over all datasets and for each dataset."""
    axis = Axis.over(one.numbers["mean"] for own in (pooled.values(), *single.values()) for one in own)
    every = [line_of(one.condition, one, "mean") for one in pooled.values()]
    said = (
        "Score over all answers, in per cent, with its interval. Over several datasets it is the mean of their scores: "
        f"accuracy, or micro-F1 where answers are several items. All scales go from {axis.ticks[0]:g} to "
        f"{axis.ticks[-1]:g}."
    )
    if guessed := [(name, text) for name, own in single.items() if (text := guesses(own[0].baseline))]:
        listed = (part for i, (name, text) in enumerate(guessed) for part in ("; " * (i > 0), named(name), f" {text}"))
        said = join(said, " Guessing gives: ", *listed, ".")
    figures = [figure(said, intervals([(None, every)], axis, ("condition", "score, %"), "Score by condition"))]
    if len(single) > 1:
        figures.append(
            multiples(
                {
                    name: intervals(
                        [(None, [line_of(one.condition, one, "mean") for one in own])],
                        axis,
                        ("condition", f"{score_name(own[0])}, %"),
                        f"Score by condition: {name}",
                    )
                    for name, own in single.items()
                }
            )
        )
    return join(*figures)


def drops_section(pooled: Mapping[str, Result], clean: str) -> Html:
    """How much of the clean score each condition costs, by level."""
    dropped = [name for name, one in pooled.items() if name != clean and "pdr" in one.numbers]
    conditions = [name for name in dropped if low_means(name) is None]
    if not conditions:
        return tag(
            "p", "Nothing to compare: the table holds no other condition beside ", tag("code", named(clean)), "."
        )
    axis = Axis.over((pooled[name].numbers["pdr"] for name in conditions), zero=True)
    groups = [
        (level, [line_of(name, pooled[name], "pdr") for name in own]) for level, own in by_level(conditions).items()
    ]
    said = join(
        "Share of the score under ",
        tag("code", named(clean)),
        " that is lost under a condition, in per cent, over all datasets. Below 0, the condition scores higher; an "
        "interval that crosses 0 shows no clear difference.",
    )
    if left := [name for name in dropped if name not in conditions]:
        names = join(*(part for i, name in enumerate(left) for part in (", " * (i > 0), tag("code", named(name)))))
        said = join(said, " Left out, since a high score is not wanted there: ", names, ".")
    return figure(said, intervals(groups, axis, ("condition", "drop, %"), "Drop by level of the condition"))


def variance_section(pooled: Mapping[str, Result], single: Mapping[str, Sequence[Result]]) -> Html:
    """Shares of the variance that come from phrasings, samples and chance."""
    if not any(known(one, name) for one in pooled.values() for name in SHARES):
        return tag("p", "No shares: the scores do not vary, or there is only one instruction.")
    said = (
        "Shares of the variance of single scores, in per cent: of instructions that are better throughout (phrasing), "
        "of samples that are harder (samples), and of single pairs of sample and instruction (interaction), which "
        "include chance."
    )
    every = [(name, one.numbers) for name, one in pooled.items()]
    figures = [figure(said, join(legend(SHARES.values(), "part"), shares(every, "condition", "Shares of variance")))]
    if len(single) > 1:
        figures.append(
            multiples(
                {
                    name: shares([(o.condition, o.numbers) for o in own], "condition", f"Shares of variance: {name}")
                    for name, own in single.items()
                }
            )
        )
    return join(*figures)

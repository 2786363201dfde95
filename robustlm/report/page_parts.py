"""Parts that sections of a page share: figures, lists, names of scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from robustlm.evaluation.robustness import Estimate, Result
from robustlm.report.figures import Line
from robustlm.report.markup import Html, named, tag
from robustlm.report.number_tables import cell


def line_of(label: str, one: Result, name: str) -> Line:
    """Make the line of a figure of intervals that shows one number of a condition."""
    found: Estimate | None = one.numbers.get(name)
    return Line(label, found, cell(found, name))


def figure(said: str, drawn: Html) -> Html:
    """A figure below its caption."""
    return tag("figure", tag("figcaption", said), drawn)


def multiples(figures: Mapping[str, Html]) -> Html:
    """Small figures side by side, one for each dataset."""
    return tag("div", *(figure(named(name), drawn) for name, drawn in figures.items()), class_="multiples")


def score_name(one: Result) -> str:
    """Displayed name of a dataset's score."""
    return {"f1": "F1"}.get(one.score, one.score)


def most_samples(own: Sequence[Result]) -> int:
    """Number of samples of a dataset: the largest number over its conditions."""
    return max(one.samples for one in own)


def bullets(lines: Sequence[str]) -> Html:
    """Sentences as a list; empty markup if there are no sentences."""
    return tag("ul", *(tag("li", line) for line in lines)) if lines else Html()

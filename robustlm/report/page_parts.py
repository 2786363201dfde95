"""Parts that sections of a page share: figures, lists, names of scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from robustlm.evaluation.robustness import Estimate, Result
from robustlm.report.figures import Line
from robustlm.report.markup import Html, named, tag
from robustlm.report.number_tables import cell


def line_of(label: str, one: Result, name: str) -> Line:
    """A number of a condition as a line of a figure of intervals."""
    found: Estimate | None = one.numbers.get(name)
    return Line(label, found, cell(found, name))


def figure(said: str, drawn: Html) -> Html:
    """A figure under the sentences that explain it."""
    return tag("figure", tag("figcaption", said), drawn)


def multiples(figures: Mapping[str, Html]) -> Html:
    """A small figure for each dataset, beside each other."""
    return tag("div", *(figure(named(name), drawn) for name, drawn in figures.items()), class_="multiples")


def score_name(one: Result) -> str:
    """What the score of a dataset is called."""
    return {"f1": "F1"}.get(one.score, one.score)


def most_samples(own: Sequence[Result]) -> int:
    """The samples of a dataset: the most that one of its conditions asked."""
    return max(one.samples for one in own)


def bullets(lines: Sequence[str]) -> Html:
    """Sentences as a list; empty without any."""
    return tag("ul", *(tag("li", line) for line in lines)) if lines else Html()

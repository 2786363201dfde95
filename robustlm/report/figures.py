"""Figures of the pages: tables whose middle column is a drawing.

Labels and numbers are page text, so they wrap, screen readers can read them, and they equal those of the tables.
The drawing is SVG with coordinates in per cent of its width, so it fits any screen. Its colours come from the page's
style sheet, light or dark.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from robustlm.evaluation.robustness import Estimate
from robustlm.report.markup import Html, join, named, tag, wide

SHARES = {"share_phrasing": "phrasing", "share_samples": "samples", "share_interaction": "interaction"}
"""Names of the variance shares in a stacked bar, and their labels."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A scale from its first tick to its last."""

    ticks: tuple[float, ...]
    zero: bool = False
    """Whether the line at 0 is drawn stronger than the other lines."""

    @classmethod
    def over(cls, estimates: Iterable[Estimate | None], zero: bool = False, least: float = 20) -> Axis:
        """Make a scale, in per cent, that covers all values and intervals and is at least `least` wide."""
        from matplotlib.ticker import MaxNLocator

        values = [100 * v for one in estimates if one for v in (one.value, one.low, one.high) if not math.isnan(v)]
        values = [*values, 0.0] if zero or not values else values
        low, high = min(values), max(values)
        if high - low < least:
            low, high = (low - (least - high + low) / 2, high + (least - high + low) / 2)
            if not zero:  # scores stay between 0 and 100
                low = min(max(low, 0), 100 - least)
                high = low + least
        ticks = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
        return cls(tuple(float(tick) for tick in ticks), zero)

    def at(self, value: float) -> str:
        """Position of a value (given in per cent) on the scale, in per cent of the width."""
        return f"{100 * (value - self.ticks[0]) / (self.ticks[-1] - self.ticks[0]):.2f}%"

    def drawn(self) -> Html:
        """Draw the numbers at the ticks."""
        marks = [
            tag("text", f"{tick:g}".replace("-", "−"), x=self.at(tick), y=11, text_anchor="middle")
            for tick in self.ticks
        ]
        return tag("svg", *marks, class_="ticks", height=14, aria_hidden="true")

    def lines(self) -> list[Html]:
        """Draw a line at each tick."""
        return [
            tag("line", x1=self.at(t), x2=self.at(t), y1=-40, y2=62, class_="zero" if self.zero and not t else "grid")
            for t in self.ticks
        ]


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a figure: a number, as a dot with its interval."""

    label: str
    estimate: Estimate | None
    text: str
    """The number as tables show it."""
    series: int = 0
    """Index of its colour and shape."""


def intervals(
    groups: Sequence[tuple[str | None, Sequence[Line]]], axis: Axis, heads: tuple[str, str], label: str
) -> Html:
    """Draw numbers as dots with intervals on one scale.

    Args:
        groups: Heading (or `None`) and lines of each group.
        axis: The scale of all lines.
        heads: Headings of the label column and of the number column.
        label: What the figure shows, for screen readers.
    """
    first, last = (tag("th", text, scope="col") for text in heads)
    bodies = []
    for heading, lines in groups:
        rows = [
            tag(
                "tr",
                tag("th", named(line.label), scope="row"),
                tag("td", _dot(line, axis)),
                tag("td", line.text, class_="number"),
            )
            for line in lines
        ]
        if heading is not None:
            rows.insert(
                0, tag("tr", tag("th", named(heading), scope="rowgroup"), tag("td", _empty(axis)), tag("td", ""))
            )
        bodies.append(tag("tbody", *rows, class_="group" if heading is not None else None))
    return _plot(tag("tr", first, tag("td", axis.drawn()), last), bodies, label)


def shares(lines: Sequence[tuple[str, Mapping[str, Estimate]]], first: str, label: str) -> Html:
    """Draw shares of variance as stacked bars.

    Args:
        lines: Label and numbers of each bar.
        first: Heading of the label column.
        label: What the figure shows, for screen readers.
    """
    keys = [
        tag("th", tag("span", "", class_=f"key part{i}"), tag("span", name, class_="part"), scope="col")
        for i, name in enumerate(SHARES.values())
    ]
    rows = []
    for name, numbers in lines:
        values = [numbers[key].value if key in numbers else math.nan for key in SHARES]
        texts = ["-" if math.isnan(value) else f"{100 * value:.1f}" for value in values]
        rows.append(
            tag(
                "tr",
                tag("th", named(name), scope="row"),
                tag("td", _bar(name, values, texts)),
                *(tag("td", text, class_="number") for text in texts),
            )
        )
    return _plot(
        tag("tr", tag("th", first, scope="col"), tag("td", ""), *keys), [tag("tbody", *rows)], label, "stacked"
    )


def heat(value: float, low: float, high: float) -> str:
    """Style of a cell: the position of its value between `low` (palest colour) and `high` (strongest), in per cent."""
    return f"--v:{round(100 * (value - low) / (high - low)) if high > low else 50}%"


def strip(scores: Mapping[str, float], low: float, high: float, label: str) -> Html:
    """Draw a square for each instruction; a higher score has a stronger colour. Tooltips show name and score."""
    width = 100 / len(scores)
    squares = [
        tag(
            "rect",
            tag("title", f"{name}: {100 * value:.1f}"),
            x=f"{i * width:.2f}%",
            width=f"{width:.2f}%",
            height="100%",
            style=heat(100 * value, low, high),
        )
        for i, (name, value) in enumerate(scores.items())
    ]
    return tag("svg", *squares, class_="strip", role="img", aria_label=label, height=16)


def _plot(head: Html, bodies: Sequence[Html], label: str, kind: str | None = None) -> Html:
    return wide(tag("table", tag("thead", head), *bodies, class_=f"plot {kind}" if kind else "plot"), label)


def _empty(axis: Axis) -> Html:
    return tag("svg", *axis.lines(), height=22, aria_hidden="true")


def _dot(line: Line, axis: Axis) -> Html:
    one = line.estimate
    if one is None or math.isnan(one.value):
        return tag("svg", *axis.lines(), height=22, role="img", aria_label=f"{line.label}: no number")
    marks = []
    if not math.isnan(one.low):
        ends = {"x1": axis.at(100 * one.low), "x2": axis.at(100 * one.high)}
        marks.append(tag("line", **ends, y1=11, y2=11, class_=f"whisker series{line.series % 6}"))
    at = axis.at(100 * one.value)
    marks.append(tag("circle", cx=at, cy=11, r=4.5, class_=f"series{line.series % 6}"))  # type: ignore[arg-type]
    return tag("svg", *axis.lines(), *marks, height=22, role="img", aria_label=f"{line.label}: {line.text}")


def _bar(name: str, values: Sequence[float], texts: Sequence[str]) -> Html:
    said = ", ".join(f"{part} {text}" for part, text in zip(SHARES.values(), texts, strict=True))
    parts, at = [], 0.0
    for i, value in enumerate(values):
        if not math.isnan(value):
            parts.append(tag("rect", x=f"{at:.2f}%", y=3, width=f"{100 * value:.2f}%", height=16, class_=f"part{i}"))
            at += 100 * value
    return tag("svg", *parts, height=22, role="img", aria_label=f"{name}: {said if parts else 'no number'}")


def legend(names: Iterable[str], kind: str = "series") -> Html:
    """Legend of the colours of series (`series`) or shares (`part`)."""
    keys = (join(tag("span", "", class_=f"key {kind}{i % 6}"), named(name), " ") for i, name in enumerate(names))
    return tag("p", *keys, class_="legend")

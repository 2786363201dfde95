"""A warning before the numbers, as HTML and as Markdown: a title, a list and advice."""

from __future__ import annotations

from collections.abc import Sequence

from robustlm.report.markup import Html, join, named, tag
from robustlm.report.tables import cell

Items = Sequence[tuple[str, Sequence[str]]]
"""Texts, each with the texts below it."""


def warning_box(title: str, run: str | None, items: Items, advice: str = "") -> Html:
    """A box with the warning; empty markup without items.

    Args:
        title: The title, with `{of}` where the name of the run stands.
        run: Name of the run; null: not named.
        items: What the warning lists.
        advice: The last paragraph.
    """
    if not items:
        return Html()
    before, _, after = title.partition("{of}")
    of = "" if run is None else join(" of ", named(run))
    listed = (tag("li", text, tag("ul", *(tag("li", one) for one in below)) if below else "") for text, below in items)
    last = tag("p", advice) if advice else ""
    return tag("div", tag("b", before, of, after), tag("ul", *listed), last, class_="warning", role="note")


def warning_lines(title: str, run: str | None, items: Items, advice: str = "") -> list[str]:
    """As `warning_box`, as lines of Markdown with an empty line at the end; no lines without items."""
    if not items:
        return []
    of = "" if run is None else f" of {cell(run)}"
    listed = [line for text, below in items for line in (f"- {cell(text)}", *(f"  - {cell(one)}" for one in below))]
    return [f"**{title.replace('{of}', of)}**", "", *listed, *([f"- {advice}"] if advice else []), ""]

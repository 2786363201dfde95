"""Warnings about answers that could not be read, as Markdown and as HTML."""

from __future__ import annotations

from collections.abc import Sequence

from robustlm.evaluation.unreadable import Unreadable, hint
from robustlm.report.markup import Html, join, named, tag
from robustlm.report.tables import cell


def unread_box(unread: Sequence[Unreadable], run: str | None = None) -> Html:
    """A box about answers that could not be read; empty markup if there are none."""
    if not unread:
        return Html()
    items = (tag("li", one.said, tag("ul", *(tag("li", shown) for shown in one.shown))) for one in unread)
    of = "" if run is None else join(" of ", named(run))
    more = tag("p", hint(unread))
    return tag(
        "div",
        tag("b", "Answers", of, " that could not be read"),
        tag("ul", *items),
        more,
        class_="warning",
        role="note",
    )


def unread_markdown(unread: Sequence[Unreadable], run: str | None = None) -> list[str]:
    """Lines about answers that could not be read, then an empty line; no lines if all answers could be read."""
    if not unread:
        return []
    lines = [line for one in unread for line in (f"- {cell(one.said)}", *(f"  - {cell(s)}" for s in one.shown))]
    of = "" if run is None else f" of {cell(run)}"
    return [f"**Answers{of} that could not be read**", "", *lines, f"- {hint(unread)}", ""]

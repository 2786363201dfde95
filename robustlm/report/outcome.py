"""Warnings about requests that failed and answers that were cut off, as Markdown and as HTML."""

from __future__ import annotations

from robustlm.evaluation.outcomes import Outcomes
from robustlm.report.markup import Html, join, named, tag
from robustlm.report.tables import cell


def outcome_box(found: Outcomes, run: str | None = None) -> Html:
    """A box with the warnings; empty markup if every answer is whole."""
    if not found.warnings:
        return Html()
    items = (
        tag("li", first, tag("ul", *(tag("li", line.strip()) for line in more)) if more else "")
        for first, *more in (warning.split("\n") for warning in found.warnings)
    )
    of = "" if run is None else join(" of ", named(run))
    title = tag("b", "Answers", of, " that are missing or cut off")
    return tag("div", title, tag("ul", *items), class_="warning", role="note")


def outcome_markdown(found: Outcomes, run: str | None = None) -> list[str]:
    """Lines with the warnings, then an empty line; no lines if every answer is whole."""
    if not found.warnings:
        return []
    lines = []
    for warning in found.warnings:
        first, *more = warning.split("\n")
        lines += [f"- {cell(first)}", *(f"  - {cell(line.strip())}" for line in more)]
    of = "" if run is None else f" of {cell(run)}"
    return [f"**Answers{of} that are missing or cut off**", "", *lines, ""]

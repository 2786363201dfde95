"""Warnings about requests that failed and answers that were cut off, as Markdown and as HTML."""

from __future__ import annotations

from robustlm.evaluation.outcomes import Outcomes
from robustlm.report.markup import Html
from robustlm.report.warning import Items, warning_box, warning_lines

_TITLE = "Answers{of} that are missing or cut off"


def outcome_box(found: Outcomes, run: str | None = None) -> Html:
    """A box with the warnings; empty markup if every answer is whole."""
    return warning_box(_TITLE, run, _items(found))


def outcome_markdown(found: Outcomes, run: str | None = None) -> list[str]:
    """Lines with the warnings, then an empty line; no lines if every answer is whole."""
    return warning_lines(_TITLE, run, _items(found))


def _items(found: Outcomes) -> Items:
    texts = (warning.split("\n") for warning in found.warnings)
    return [(first, [line.strip() for line in more]) for first, *more in texts]

"""Warnings about answers that could not be read, or that two readings read differently, as Markdown and as HTML."""

from __future__ import annotations

from collections.abc import Sequence

from robustlm.evaluation.readings import HINT, Difference, Readings
from robustlm.evaluation.unreadable import Unreadable, hint
from robustlm.report.markup import Html, join, named, table, tag, word
from robustlm.report.tables import aligned, cell
from robustlm.report.warning import warning_box, warning_lines

_UNREAD = "Answers{of} that could not be read"
_READINGS = "The score{of} depends on how answers are read"


def unread_box(unread: Sequence[Unreadable], run: str | None = None) -> Html:
    """A box about answers that could not be read; empty markup if there are none."""
    return warning_box(_UNREAD, run, [(one.said, one.shown) for one in unread], hint(unread))


def unread_markdown(unread: Sequence[Unreadable], run: str | None = None) -> list[str]:
    """Lines about answers that could not be read, then an empty line; no lines if all answers could be read."""
    return warning_lines(_UNREAD, run, [(one.said, one.shown) for one in unread], hint(unread))


def readings_box(found: Readings, run: str | None = None) -> Html:
    """A box about scores that depend on the reading; empty markup if none does by much."""
    return warning_box(_READINGS, run, [(one.said, one.shown) for one in found.large], HINT)


def readings_section(found: Readings) -> Html:
    """Which reading the numbers are for, how many answers differ, both scores, and some answers."""
    said = tag(
        "p",
        found.said,
        " Strict is the format that the prompt asks for; lenient is the final answer in any usual form. Neither "
        "uses the true answer.",
    )
    if not found.differences:
        return said
    scores = table(list(_HEADS), list(map(_cells, found.differences)), "Two readings", texts=(0, 1), id="two-readings")
    shown = (
        tag("li", named(one.dataset), ": expected ", word(target), ", the model answered ", word(text), ", read as ",
            word(read))
        for one in found.differences
        for target, text, read in one.samples
    )  # fmt: skip
    return join(said, scores, tag("ul", *shown))


def readings_markdown(found: Readings) -> list[str]:
    """Lines on the two readings: a sentence, a table by dataset, and some answers; then an empty line."""
    lines = ["## Two readings", "", found.said]
    if found.differences:
        lines += ["", *aligned(_HEADS, list(map(_cells, found.differences))), ""]
        lines += [f"- {cell(one.dataset)}: {cell(shown)}" for one in found.differences for shown in one.shown]
    return [*lines, ""]


def readings_warning(found: Readings, run: str | None = None) -> list[str]:
    """Lines of a warning about scores that depend on the reading, then an empty line; no lines if none does by much."""
    return warning_lines(_READINGS, run, [(one.said, one.shown) for one in found.large], HINT)


_HEADS = ("dataset", "task", "answers", "read differently", "only leniently right", "only strictly right",
          "strict score", "lenient score")  # fmt: skip


def _cells(one: Difference) -> list[str]:
    counts = (one.rows, one.differing, one.gained, one.lost)
    return [one.dataset, one.task, *map(str, counts), *(f"{100 * score:.1f}" for score in (one.strict, one.lenient))]

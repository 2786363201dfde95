"""The report of a run as one HTML page: headline numbers, figures, tables and samples worth reading."""

from __future__ import annotations

from collections.abc import Sequence

from robustlm.evaluation.free_text import free_text
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import Result, Settings
from robustlm.evaluation.unreadable import unreadable
from robustlm.report.markup import join, named, page, tag
from robustlm.report.page_head import About, cards_of, evaluated, summary
from robustlm.report.page_instructions import instructions_section
from robustlm.report.page_numbers import counts_section, free_section, method_section, numbers_section
from robustlm.report.page_samples import samples_section
from robustlm.report.page_scores import drops_section, scores_section, variance_section
from robustlm.report.samples import most_changing
from robustlm.report.unread import unread_box

__all__ = ["About", "to_html"]


def to_html(
    rows: Sequence[Record], results: Sequence[Result], settings: Settings, about: About, clean: str = "clean"
) -> str:
    """The page; the same bytes for the same table.

    Args:
        rows: Rows of a prediction table.
        results: Its numbers.
        settings: How intervals were made.
        about: What was evaluated.
        clean: The condition against which performance drops.
    """
    pooled = {one.condition: one for one in results if one.name is None}
    single: dict[str, list[Result]] = {}
    for one in results:
        if one.name is not None:
            single.setdefault(one.name, []).append(one)
    head = join(
        tag("h1", "Robustness of ", named(about.settings.get("backbone", about.run))),
        summary(pooled, single),
        unread_box(unreadable(rows)),
        cards_of(pooled, single, clean),
    )
    parts = [
        ("evaluated", "What was evaluated", evaluated(pooled, single, about)),
        ("conditions", "Score by condition", scores_section(pooled, single)),
        ("drop", "Drop by level", drops_section(pooled, clean)),
        ("instructions", "Score by instruction", instructions_section(single)),
        ("variance", "Where the variance comes from", variance_section(pooled, single)),
        ("samples", "Samples worth reading", samples_section(most_changing(rows))),
        ("numbers", "All numbers", numbers_section(pooled, single)),
        *([("free", "Free-text answers", free_section(free))] if (free := free_text(rows, settings)) else []),
        ("counts", "What it is made of", counts_section(results)),
        ("intervals", "How intervals were made", method_section(settings)),
    ]
    return page(f"Robustness: {about.run}", head, parts)

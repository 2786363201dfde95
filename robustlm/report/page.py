"""The report of a run as one HTML page: headline numbers, figures, tables and samples worth reading."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from robustlm.checks.texts import shortened
from robustlm.evaluation.free_text import free_text
from robustlm.evaluation.outcomes import outcomes
from robustlm.evaluation.readings import Readings, readings
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import Result, Settings
from robustlm.evaluation.unreadable import unreadable
from robustlm.report.attacks import AttackOutcome
from robustlm.report.factors import factor_outcomes
from robustlm.report.markup import Html, join, named, page, tag
from robustlm.report.outcome import outcome_box
from robustlm.report.page_attacks import attacks_section
from robustlm.report.page_factors import factors_section
from robustlm.report.page_filter import Filters
from robustlm.report.page_head import About, cards_of, evaluated, summary
from robustlm.report.page_instructions import instructions_section
from robustlm.report.page_numbers import counts_section, free_section, method_section, numbers_section
from robustlm.report.page_prompts import prompts_section
from robustlm.report.page_samples import samples_section
from robustlm.report.page_scores import drops_section, scores_section, variance_section
from robustlm.report.page_verdict import verdict_box
from robustlm.report.samples import most_changing
from robustlm.report.unread import readings_box, readings_section, unread_box
from robustlm.report.worst_prompts import worst_prompts
from robustlm.utils.importing import imported

__all__ = ["About", "Section", "own_section", "to_html"]


Section = Callable[[Sequence[Record], Sequence[Result]], tuple[str, Html]]
"""A function that makes a custom section (heading and contents) from a table's records and its numbers."""


def own_section(path: str) -> Section:
    """Import the function of a custom section.

    Raises:
        ValueError: The module cannot be imported, or the path is not that of a function.
    """
    found = imported(path)
    if not callable(found):
        raise ValueError(f"sections: {path}: found no function; expected the import path of one (my_module.my_section)")

    def checked(records: Sequence[Record], results: Sequence[Result]) -> tuple[str, Html]:
        made = found(records, results)
        if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], str) and isinstance(made[1], Html)):
            raise ValueError(
                f"sections: {path} returned {shortened(repr(made), 200)}; expected a pair of a heading and Html"
            )
        return made

    return checked


def to_html(
    rows: Sequence[Record],
    results: Sequence[Result],
    settings: Settings,
    about: About,
    clean: str = "clean",
    more: Sequence[Section] = (),
    read: Readings | None = None,
    attacks: Sequence[AttackOutcome] = (),
) -> str:
    """Make the page. The same table gives the same bytes.

    Args:
        rows: Rows of a prediction table.
        results: Numbers of that table.
        settings: Settings of the intervals.
        about: What was evaluated.
        clean: The condition from which drops are measured.
        more: Functions that make custom sections, which come last.
        read: How the two readings of the answers differ; null: `rows` are read strictly, and it is found from them.
        attacks: Outcomes of attacks.
    """
    read = readings(rows) if read is None else read
    pooled = {one.condition: one for one in results if one.name is None}
    single: dict[str, list[Result]] = {}
    for one in results:
        if one.name is not None:
            single.setdefault(one.name, []).append(one)
    found = outcomes(rows)
    if found.usage:
        about = replace(about, settings={**about.settings, "tokens": found.usage})
    filters = Filters(rows)
    warnings = join(outcome_box(found), unread_box(unreadable(rows)), readings_box(read))
    head = join(
        tag("h1", "Robustness of ", named(about.settings.get("backbone", about.run))),
        summary(pooled, single),
        verdict_box(pooled, single, clean, warned=bool(warnings)),
        tag("div", warnings, id="warnings") if warnings else Html(),
        cards_of(pooled, single, clean),
    )
    parts = [
        ("conditions", "Score by condition", scores_section(pooled, single)),
        ("drop", "Drop by level", drops_section(pooled, clean)),
        ("instructions", "Score by instruction", join(filters.bar(), instructions_section(single, filters))),
        ("prompts", "Worst prompts", prompts_section(worst_prompts(rows, clean), filters)),
        ("samples", "Samples worth reading", samples_section(most_changing(rows), filters)),
        *([("attacks", "Attacks", attacks_section(attacks))] if attacks else []),
        *(
            [("factors", "What should not matter", factors_section(factors))]
            if (factors := factor_outcomes(rows))
            else []
        ),
        ("variance", "Where the variance comes from", variance_section(pooled, single)),
        ("evaluated", "What was evaluated", evaluated(pooled, single, about)),
        ("readings", "Two readings", readings_section(read)),
        ("numbers", "All numbers", numbers_section(pooled, single)),
        *([("free", "Free-text answers", free_section(free))] if (free := free_text(rows, settings)) else []),
        ("counts", "Data behind the numbers", counts_section(results)),
        ("intervals", "How intervals are computed", method_section(settings)),
        *((f"own-{i}", *make(rows, results)) for i, make in enumerate(more)),
    ]
    return page(f"Robustness: {about.run}", head, parts, filters.style())

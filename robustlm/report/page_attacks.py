"""The section of a report page on attacks."""

from __future__ import annotations

from collections.abc import Sequence

from robustlm.report.attacks import SINGLE, SUCCESS, TOTALS, AttackOutcome, rate_cells, total_cells, totals
from robustlm.report.markup import Html, counted, join, named, table, tag
from robustlm.report.wordings import name_html

OPEN_ROWS = 30
"""The table of attacked instructions is unfolded if it has at most this many rows."""


def attacks_section(found: Sequence[AttackOutcome]) -> Html:
    """Success rates and queries by condition and dataset, and each attacked instruction with its edits marked."""
    lines = [[named(condition), named(dataset), *rest] for condition, dataset, *rest in map(total_cells, totals(found))]
    texts = tuple(TOTALS.index(name) for name in ("condition", "dataset", "search"))
    single = [
        [
            named(one.condition),
            named(one.dataset),
            name_html(one.sample_id or one.instruction_id, one.wording),
            *rate_cells(one),
        ]
        for one in found
    ]
    return join(
        tag("p", SUCCESS),
        table(TOTALS, lines, "Attacks by condition and dataset", texts=texts, id="attack-totals"),
        tag(
            "details",
            tag("summary", counted(len(found), "attacked instruction"), ", with edits marked"),
            table(SINGLE, single, "Attacked instructions", texts=range(3), id="attacked"),
            open=len(found) <= OPEN_ROWS,
        ),
    )

"""The section of a report page about what should not matter: order of options, marks, layout, order of examples."""

from __future__ import annotations

from collections.abc import Sequence

from robustlm.report.factors import FACTOR_COLUMNS, FACTOR_NOTE, FactorOutcome, factor_cells
from robustlm.report.markup import Html, join, named, table, tag


def factors_section(found: Sequence[FactorOutcome]) -> Html:
    """How much the levels of each factor change scores, as a table."""
    lines = [[factor, named(dataset), named(base), *rest] for factor, dataset, base, *rest in map(factor_cells, found)]
    made = table(
        list(FACTOR_COLUMNS), lines, "What should not matter", texts=(0, 1, 2, 5, 6), id="what-should-not-matter"
    )
    return join(tag("p", FACTOR_NOTE), made)

"""Several runs side by side, as text: scores, warnings, what was asked, and paired tests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from robustlm.evaluation.agreement import Agreement, agreement
from robustlm.evaluation.outcomes import outcomes
from robustlm.evaluation.pairing import Pairing, paired_tests
from robustlm.evaluation.readings import Reading, as_read, readings
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import Settings
from robustlm.evaluation.unreadable import unreadable
from robustlm.report.agreement import agreement_lines, check_agreement
from robustlm.report.comparison import other_datasets, scores_of
from robustlm.report.number_tables import guessing_line, pairing_markdown
from robustlm.report.outcome import outcome_markdown
from robustlm.report.tables import markdown
from robustlm.report.unread import readings_warning, unread_markdown


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs over the same samples and conditions."""

    tables: dict[str, list[Record]]
    """Rows by run, by one reading of answers."""
    scores: dict[str, dict[str, float]]
    """Mean scores by run and condition, in per cent."""
    agreements: dict[str, Agreement]
    """How far each other run was asked the same as the first."""
    tests: dict[str, list[Pairing]]
    """Paired tests of each other run against the first; empty if none were asked for."""
    table: str
    """The scores as Markdown, with warnings below."""
    paired: str
    """The paired tests as Markdown."""
    notes: list[str]
    """Runs whose names of datasets differ from those of the first."""
    unlike: list[str]
    """Lines about runs that were not asked the same as the first."""


def compared(
    tables: Mapping[str, list[Record]],
    settings: Settings,
    reading: Reading,
    title: str,
    *,
    paired: bool,
    anyway: bool,
    same_names: bool,
) -> Comparison:
    """Compare runs with the first of them.

    Args:
        tables: Prediction tables by run.
        settings: Settings of the intervals.
        reading: How answers are read.
        title: Heading of the table of scores.
        paired: Whether to test each other run against the first.
        anyway: Whether to accept runs that were not asked the same.
        same_names: Whether names of datasets must be the same.

    Raises:
        ValueError: The runs did not answer the same rows, or were not asked the same.
    """
    read = {name: readings(rows, reading) for name, rows in tables.items()}
    tables = {name: as_read(rows, reading) for name, rows in tables.items()}
    scores = scores_of(tables)
    first, *others = tables
    notes = [
        f"{name} and {first} answered the same samples and conditions{differ}"
        for name in others
        if (differ := other_datasets(tables, first, name))
    ]
    if notes and same_names:
        raise ValueError(notes[0])
    agreements = {name: agreement(tables[first], tables[name]) for name in others}
    asked = {name: agreement_lines(first, name, one) for name, one in agreements.items()}
    if not anyway:
        for name, one in agreements.items():
            check_agreement(first, name, one)
    boxes = [
        *(outcome_markdown(outcomes(rows), name) for name, rows in tables.items()),
        *(unread_markdown(unreadable(rows), name) for name, rows in tables.items()),
        *(readings_warning(one, name) for name, one in read.items()),
    ]
    tests = paired_tests(tables, settings) if paired else {}
    return Comparison(
        tables=tables,
        scores=scores,
        agreements=agreements,
        tests=tests,
        table=markdown(title, scores)
        + _paragraphs(filter(None, [guessing_line(tables[first])]))
        + _paragraphs("\n".join(lines).strip() for lines in boxes if lines)
        + _paragraphs(f"{name}: {one.said}" for name, one in read.items() if one.differences),
        paired="\n\n".join(
            "\n".join([pairing_markdown(first, name, one), "", *asked[name]]) for name, one in tests.items()
        ),
        notes=notes,
        unlike=[line for name, one in agreements.items() if not one.alike for line in asked[name]],
    )


def _paragraphs(texts: Iterable[str]) -> str:
    return "".join(f"\n\n{text}" for text in texts)

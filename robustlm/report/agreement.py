"""Says whether tables that are compared asked the same, and shows where they did not."""

from __future__ import annotations

from robustlm.checks.texts import shortened
from robustlm.evaluation.agreement import KINDS, REFUSED, Agreement
from robustlm.evaluation.record import Record
from robustlm.report.markup import counted

_LONGEST = 160
"""Longest part of a prompt in an example, in characters."""


def agreement_line(found: Agreement) -> str:
    """One sentence: how many cells of how many samples were asked alike."""
    parts = "; ".join(f"{count:,} {KINDS[kind]}" for kind, count in found.counts.items())
    return f"{counted(found.cells, 'cell')} of {counted(found.samples, 'sample')}: {parts}."


def agreement_lines(first: str, second: str, found: Agreement) -> list[str]:
    """Lines about two tables: the counts, and where they asked differently, a warning with examples."""
    lines = [f"What {second} and {first} were asked: {agreement_line(found)}"]
    for kind in found.counts:
        if kind in ("same", "template"):
            continue
        if kind == "unstored":
            lines.append(
                "The prompts could not be compared, since a table holds none. The samples have the same ids, but their "
                "prompts may differ."
            )
            continue
        lines.append(f"WARNING: {found.counts[kind]:,} of {counted(found.cells, 'cell')}: {KINDS[kind]}.")
        lines += [line for both in found.examples[kind] for line in _example(first, second, *both)]
    return lines


def check_agreement(first: str, second: str, found: Agreement) -> None:
    """Raise `ValueError` with examples if two tables hold answers to different questions."""
    if not found.refused:
        return
    count = sum(found.counts[kind] for kind in REFUSED if kind in found.counts)
    lines = [f"{second} and {first}: {count:,} of {counted(found.cells, 'cell')} were not asked the same:"]
    for kind in found.refused:
        lines.append(f"  {found.counts[kind]:,} with {KINDS[kind]}, such as")
        lines += [f"  {line}" for both in found.examples[kind] for line in _example(first, second, *both)]
    lines.append("expected tables over the same rows and instructions; `--anyway true` compares these")
    raise ValueError("\n".join(lines))


def _example(first: str, second: str, one: Record, other: Record) -> list[str]:
    place = f"  {one.dataset}, {one.condition}, sample {one.sample_id}, instruction {one.instruction_id}:"
    return [place, *(f"    {name}: {_said(row)}" for name, row in ((first, one), (second, other)))]


def _said(row: Record) -> str:
    prompt = "no prompt stored" if row.prompt is None else repr(shortened(row.prompt, _LONGEST))
    asked = "" if row.prompt is not None or row.instruction is None else f"; instruction {row.instruction!r}"
    return f"{prompt}{asked}; expected {row.target!r}"

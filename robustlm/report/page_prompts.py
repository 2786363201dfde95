"""The section of a report page on the worst prompts, with their answers side by side."""

from __future__ import annotations

from collections.abc import Sequence

from robustlm.evaluation.record import Record
from robustlm.evaluation.wording import Wording, wording_of
from robustlm.report.markup import Html, counted, join, named, tag, word
from robustlm.report.page_filter import Filters
from robustlm.report.page_samples import LONGEST_PROMPT
from robustlm.report.wordings import name_html
from robustlm.report.worst_prompts import WorstPrompt

LONGEST_WORDING = 400
"""Longest shown part of an instruction, in characters."""


def prompts_section(found: Sequence[WorstPrompt], filters: Filters) -> Html:
    """The prompts that lose most answers, each with lost answers beside those to the same samples without its edits."""
    if not found:
        return tag("p", "No prompt loses more answers than it gains.")
    said = join(
        "The prompts that turn most right answers into wrong ones, from each dataset and condition in turn. On the "
        "left, the same sample asked without the edits; unseen phrasings stand beside the best clean one. "
        "Edits are marked: ",
        tag("del", "removed"), ", ", tag("ins", "added"), ".",
    )  # fmt: skip
    return join(tag("p", said), *(_prompt(one, filters) for one in found))


def _prompt(one: WorstPrompt, filters: Filters) -> Html:
    counts = f"{one.lost:,} lost, {one.gained:,} gained of {counted(one.answers, 'answer')}"
    return tag(
        "article",
        tag("h3", named(one.dataset), " · ", named(one.condition)),
        tag("p", "“", name_html(one.instruction, one.wording, LONGEST_WORDING), "”"),
        tag("p", "Score ", tag("b", f"{100 * one.before:.1f} → {100 * one.after:.1f} %"), f": {counts}."),
        *(_pair(before, after) for before, after in one.shown),
        class_="prompt",
        data_dataset=filters.dataset(one.dataset),
        data_condition=filters.conditions([one.condition]),
        data_verdict="wrong",
    )


def _pair(before: Record, after: Record) -> Html:
    asked = None if after.wording is None else Wording(after.wording, after.instruction)
    head = tag("p", "Sample ", named(after.sample_id), ", expected: ", word(after.expected), class_="quiet")
    sides = tag("div", _side(before, wording_of([before])), _side(after, asked), class_="sides")
    return join(head, sides)


def _side(row: Record, asked: Wording | None) -> Html:
    mark = tag("span", "✓ right" if row.right else "✗ wrong", class_="right" if row.right else "wrong")
    answer = join(tag("i", "no answer: "), word(row.error)) if row.error is not None else word(row.prediction)
    parts = [
        tag("p", named(row.condition), class_="quiet"),
        tag("p", name_html(row.instruction_id, asked, LONGEST_WORDING)),
        tag("p", mark, " ", answer),
    ]
    if row.prompt is not None:
        parts.append(tag("details", tag("summary", "prompt"), word(row.prompt, longest=LONGEST_PROMPT)))
    return tag("div", *parts)

"""Runs side by side as one HTML page: ranks, scores, paired differences and the answers that flipped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from robustlm.evaluation.agreement import Agreement, agreement
from robustlm.evaluation.directions import low_means
from robustlm.evaluation.outcomes import outcomes
from robustlm.evaluation.pairing import PERMUTATIONS, Pairing, flips
from robustlm.evaluation.ranking import ranking
from robustlm.evaluation.readings import readings
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import Result, Settings, robustness
from robustlm.evaluation.unreadable import unreadable
from robustlm.evaluation.wording import Wording
from robustlm.report.agreement import agreement_lines
from robustlm.report.figures import Axis, Line, intervals, legend
from robustlm.report.markup import Html, counted, join, named, page, table, tag, word
from robustlm.report.number_tables import (
    ALL,
    GAPS,
    PAIRED,
    cell,
    gap_cells,
    guessing_line,
    interval_note,
    pairing_cells,
    points,
    verdict_line,
    verdicts,
)
from robustlm.report.outcome import outcome_box
from robustlm.report.page_ranks import ranks_box, ranks_section
from robustlm.report.page_samples import LONGEST_PROMPT
from robustlm.report.samples import in_turn
from robustlm.report.unread import readings_box, unread_box
from robustlm.report.wordings import name_html

MOST_FLIPS = 50
"""Largest number of flips shown."""


def comparison_html(
    runs: Mapping[str, Sequence[Record]],
    scores: Mapping[str, Mapping[str, float]],
    tests: Mapping[str, Sequence[Pairing]],
    settings: Settings,
    title: str,
    full_list: str | None = None,
    agreements: Mapping[str, Agreement] | None = None,
) -> str:
    """Make the page. The same tables give the same bytes.

    Args:
        runs: Prediction tables by run, over the same rows.
        scores: Mean scores by run and condition, in per cent.
        tests: Paired tests of each other run against the first.
        settings: Settings of the intervals.
        title: Caption of the table of scores.
        full_list: File with all flips, if one was written.
        agreements: How far each other run was asked the same as the first; found here if not given.
    """
    first, *others = runs
    against = join(*(part for i, other in enumerate(others) for part in (", " * (i > 0), named(other))))
    asked = agreements or {name: agreement(runs[first], runs[name]) for name in others}
    found = {name: [one for one in robustness(rows, settings) if one.name is None] for name, rows in runs.items()}
    pooled = {name: {one.condition: one for one in own} for name, own in found.items()}
    conditions = next(iter(pooled.values()))
    ranks = ranking(runs, settings, unwanted=[name for name in conditions if low_means(name)])
    several = len(others) > 1
    verdict = tag("section", tag("h2", "In short"), ranks_box(ranks, pooled), class_="verdict", id="verdict")
    head = join(
        tag("h1", f"{len(runs)} runs: " if several else "", against, " against ", named(first)),
        tag("p", f"{len(next(iter(runs.values()))):,} answers of each run, to samples of the same ids."),
        verdict,
        *(_asked(first, name, found) for name, found in asked.items()),
        *(_verdicts(first, *one) for one in tests.items()),
        *(outcome_box(outcomes(rows), name) for name, rows in runs.items()),
        *(unread_box(unreadable(rows), name) for name, rows in runs.items()),
        *(readings_box(readings(rows), name) for name, rows in runs.items()),
    )
    parts = [
        ("ranks", "Ranks", ranks_section(ranks, pooled, settings.level)),
        ("scores", "Scores", join(_scores(scores, title, guessing_line(runs[first])), _by_condition(found))),
        ("differences", "Paired differences", join(*(_differences(first, *one) for one in tests.items()))),
        ("tests", "Tests", join(*(_tests(first, *one) for one in tests.items()))),
        ("flips", "Answers that flipped", _flips(runs, full_list)),
        ("intervals", "How intervals are computed", _method(settings)),
    ]
    return page(f"Comparison: {', '.join(others)} against {first}", head, parts)


def _asked(first: str, second: str, found: Agreement) -> Html:
    """Whether two runs were asked the same."""
    lines = agreement_lines(first, second, found)
    if found.alike:
        return tag("p", lines[0])
    return tag("div", *(tag("p", line.strip()) for line in lines), class_="warning", role="note")


def _verdicts(first: str, second: str, found: Sequence[Pairing]) -> Html:
    return tag("ul", *(tag("li", verdict_line(first, second, one)) for one in verdicts(found)))


def _scores(scores: Mapping[str, Mapping[str, float]], title: str, guessing: str) -> Html:
    conditions = list(next(iter(scores.values())))
    rows = [[named(run), *(f"{own[condition]:.1f}" for condition in conditions)] for run, own in scores.items()]
    shown = table(["run", *map(named, conditions)], rows, title, id="scores-table")
    return join(tag("p", title), shown, *([tag("p", guessing)] if guessing else []))


def _by_condition(found: Mapping[str, Sequence[Result]]) -> Html:
    axis = Axis.over(one.numbers["mean"] for own in found.values() for one in own)
    conditions = [one.condition for one in next(iter(found.values()))]
    groups = []
    for condition in conditions:
        lines = []
        for series, (run, own) in enumerate(found.items()):
            score = next(one.numbers["mean"] for one in own if one.condition == condition)
            lines.append(Line(run, score, cell(score, "mean"), series))
        groups.append((condition, lines))
    said = (
        "Mean score over datasets, in per cent, with the interval of each run alone. Runs were asked about the same "
        "samples, so intervals that overlap do not say that runs are alike: the paired differences below do."
    )
    drawn = intervals(groups, axis, ("condition and run", "score, %"), "Score by condition and run")
    return tag("figure", tag("figcaption", said), legend(list(found)), drawn)


def _differences(first: str, second: str, found: Sequence[Pairing]) -> Html:
    """Differences in points, over all datasets and then for each dataset."""
    shown = [one for one in found if one.condition is not None]
    axis = Axis.over((one.differences.get("mean") for one in shown), zero=True, least=4)
    sets: dict[str | None, list[Pairing]] = {None: []}
    for one in shown:
        sets.setdefault(one.name, []).append(one)
    if len(sets) == 2:  # the mean over one dataset is that dataset
        del sets[next(name for name in sets if name is not None)]
    groups = []
    for name, own in sets.items():
        lines = []
        for one in own:
            gap = one.differences.get("mean")
            lines.append(Line(str(one.condition), gap, points(gap)))
        groups.append((name or ALL, lines))
    said = join(
        named(second),
        " minus ",
        named(first),
        " in points of the mean score, over draws of the same samples for both. Right of 0 ",
        named(second),
        " is better; an interval that crosses 0 shows no clear difference.",
    )
    label = f"Paired differences of {second} and {first}"
    drawn = intervals(groups, axis, ("condition", "difference, points"), label)
    return tag("figure", tag("figcaption", said), drawn)


def _tests(first: str, second: str, found: Sequence[Pairing]) -> Html:
    rows = [[named(dataset), named(condition), *rest] for dataset, condition, *rest in map(pairing_cells, found)]
    label = f"{second} against {first}"
    tests = table(PAIRED, rows, label, (0, 1), class_="tests")
    gaps = [[named(one.name or ALL), named(one.condition), *gap_cells(one)[2:]] for one in found if one.condition]
    said = join(named(second), " minus ", named(first), ", in points, over draws of the same samples:")
    others = table(["dataset", "condition", *GAPS.values()], gaps, f"Other numbers: {label}", (0, 1))
    return join(tag("h3", named(second), " against ", named(first)), tests, tag("p", said), others)


def _flips(runs: Mapping[str, Sequence[Record]], full_list: str | None) -> Html:
    (first, before), *others = runs.items()
    found = [(second, flip) for second, after in others for flip in flips(before, after)]
    if not found:
        return tag("p", "No answer is right in one run and wrong in another.")
    shown = in_turn(found, _kind, MOST_FLIPS)
    if full_list is None:
        where = join(" ", tag("code", "robustlm compare … --flips FILE"), " writes all of them.")
    else:
        where = join(" All of them are in ", tag("code", named(Path(full_list).name)), ".")
    lost = sum(flip["flip"] == "right→wrong" for _, flip in found)
    gained = len(found) - lost
    said = f"Gained, wrong in the first run: {counted(gained, 'answer')}. Lost, right there: {counted(lost, 'answer')}."
    if len(shown) < len(found):
        said += f" {len(shown)} are shown, from each dataset, condition and direction in turn."
    other = "the other" if len(others) > 1 else named(others[0][0])
    heads = ["run", "dataset", "condition", "sample", "instruction", "expected", named(first), other, "flip"]
    rows = [_flip(second, flip) for second, flip in sorted(shown, key=_kind)]
    if len(others) == 1:
        heads, rows = heads[1:], [row[1:] for row in rows]
    every = table(heads, rows, "Answers that flipped", texts=range(len(heads)), class_="flips")
    return join(tag("p", said, where), every)


def _kind(one: tuple[str, dict[str, Any]]) -> tuple[str, ...]:
    second, flip = one
    return (second, *(flip[name] for name in ("dataset", "condition", "flip")))


def _flip(second: str, flip: Mapping[str, Any]) -> list[str]:
    gained = flip["flip"] == "wrong→right"
    wording = None if flip["wording"] is None else Wording(flip["wording"], flip["instruction"])
    return [
        *map(named, (second, *(flip[name] for name in ("dataset", "condition")))),
        join(named(flip["sample_id"]), *(_prompt(flip[key], said) for key, said in _PROMPTS.items() if flip[key])),
        name_html(flip["instruction_id"], wording),
        *(word(flip[name]) for name in ("target", "before", "after")),
        tag("span", "✓ gained" if gained else "✗ lost", class_="right" if gained else "wrong"),
    ]


_PROMPTS = {"prompt": "prompt", "prompt_after": "prompt of the other run"}


def _prompt(text: str, said: str) -> Html:
    return tag("details", tag("summary", said), word(text, longest=LONGEST_PROMPT))


def _method(settings: Settings) -> Html:
    said = (
        interval_note(settings),
        "A difference is drawn sample by sample, the same samples for both runs, with all their answers.",
        "p (McNemar) is an exact two-sided test of the samples that got better against those that got worse. "
        f"p (permutation) is the share of {PERMUTATIONS:,} random exchanges of the runs' answers, sample by sample, "
        "that make the difference in the mean over datasets as large. Holm: the p-value, adjusted for its family: "
        "the conditions over all datasets, or the conditions of single datasets. A verdict needs both, an interval "
        "without 0 and an adjusted p (permutation) below one minus the level.",
        f"The seed is {settings.seed}; with it the same tables give the same page.",
    )
    return join(*(tag("p", text) for text in said))

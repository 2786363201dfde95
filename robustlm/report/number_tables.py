"""Robustness numbers of a run as rows, CSV, JSON and Markdown, from its prediction table alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from robustlm.evaluation.baselines import Baseline, baselines, over
from robustlm.evaluation.directions import low_means
from robustlm.evaluation.free_text import MEASURES, FreeText
from robustlm.evaluation.numbers import PARTS, SPLIT
from robustlm.evaluation.outcomes import Outcomes
from robustlm.evaluation.pairing import Pairing, flips
from robustlm.evaluation.readings import READINGS, Difference, Readings
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import NUMBERS, UNBOUNDED, Estimate, Result, Settings
from robustlm.evaluation.unreadable import Unreadable
from robustlm.report.attacks import AttackOutcome, attack_markdown, attack_numbers, attack_rows
from robustlm.report.factors import FactorOutcome, factor_markdown, factor_rows
from robustlm.report.markup import counted
from robustlm.report.outcome import outcome_markdown
from robustlm.report.tables import aligned, csv_text
from robustlm.report.tables import cell as cell_text
from robustlm.report.unread import readings_markdown, readings_warning, unread_markdown
from robustlm.report.wordings import name_text
from robustlm.utils.files import write_text

Format = Literal["csv", "html", "json", "md"]
FORMATS: tuple[Format, ...] = ("csv", "html", "json", "md")

ALL = "all datasets"

COUNTS = ("rows", "samples", "complete", "instructions", "missing")
"""Fields of a `Result` that count the data behind its numbers."""

PAIRED = (
    "dataset", "condition", "difference, points", "answers", "samples",
    "p (McNemar)", "Holm", "p (permutation)", "Holm",
)  # fmt: skip
"""Columns of the table of paired tests."""

GAPS = {"worst_instruction": "worst instruction", "consistency": "consistency", "pdr": "drop from clean"}
"""Numbers whose paired differences have a table of their own, and its columns."""

FREE_TEXT = ("dataset", "condition", "answers", "exact match", "token F1", "ROUGE-L")
"""Columns of the table of free-text scores."""

GUESSES = ("chance", "majority")
"""Columns of the scores of guessing."""

_COLUMNS = ("dataset", "condition", "score", "number", "value", "low", "high", "datasets", *COUNTS, "worst", *GUESSES)


def number_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One row for each number: dataset, condition, value, interval and counts; NaN becomes `None`.

    Numbers over all datasets have an empty dataset. Only rows of `worst_instruction` and `worst_estimated` name that
    instruction in `worst`, and only rows of `mean` have the scores of guessing, `chance` and `majority`.
    """
    return [
        {
            "dataset": one.name or "",
            "condition": one.condition,
            "score": one.score,
            "number": name,
            **{key: plain(getattr(found, key)) for key in ("value", "low", "high")},
            "datasets": found.datasets,
            **{key: getattr(one, key) for key in COUNTS},
            "worst": {"worst_instruction": one.worst, "worst_estimated": one.worst_estimated}.get(name),
            **{key: plain(getattr(one.baseline, key)) if name == "mean" else None for key in GUESSES},
        }
        for one in results
        for name, found in one.numbers.items()
    ]


def instruction_rows(results: Sequence[Result]) -> list[dict[str, Any]]:
    """One row for each dataset, condition and instruction: its score on samples asked under every instruction.

    `wording` is the instruction before noise or an attack, `instruction` the one that was asked; null: not known, or
    different from row to row.
    """
    return [
        {
            "dataset": one.name,
            "condition": one.condition,
            "instruction_id": instruction,
            "value": value,
            "wording": None if (words := one.wordings.get(instruction)) is None else words.raw,
            "instruction": None if words is None else words.asked,
        }
        for one in results
        for instruction, value in one.by_instruction.items()
    ]


def estimated_rows(results: Sequence[Result]) -> list[dict[str, object]]:
    """One row for each dataset, condition and instruction with missing cells: its estimated score and interval."""
    return [
        {
            "dataset": one.name,
            "condition": one.condition,
            "instruction_id": instruction,
            "value": found.value,
            "low": plain(found.low),
            "high": plain(found.high),
        }
        for one in results
        for instruction, found in one.estimated.items()
    ]


def free_text_rows(free: Sequence[FreeText]) -> list[dict[str, Any]]:
    """One row for each measure of free-text answers except exact match, with the columns of `number_rows`."""
    return [
        {"dataset": one.dataset, "condition": one.condition, "number": name}
        | {key: plain(getattr(found, key)) for key in ("value", "low", "high")}
        | {"datasets": 1, "rows": one.rows}
        for one in free
        for name, found in one.numbers.items()
        if name != "exact"
    ]


def to_csv(results: Sequence[Result], free: Sequence[FreeText] = (), attacks: Sequence[AttackOutcome] = ()) -> str:
    """`number_rows`, `free_text_rows` and `attack_numbers` as CSV; the cell of a missing number is empty."""
    return csv_text(_COLUMNS, [*number_rows(results), *free_text_rows(free), *attack_numbers(attacks)])


def to_json(
    results: Sequence[Result],
    settings: Settings,
    free: Sequence[FreeText] = (),
    read: Readings | None = None,
    attacks: Sequence[AttackOutcome] = (),
    factors: Sequence[FactorOutcome] = (),
) -> str:
    """Settings, meanings of numbers, and the rows of numbers, instructions, free text, attacks and factors as JSON.

    With `read`, also the reading that the numbers are for, and how the other one differs.
    """
    interval = {name: getattr(settings, name) for name in ("draws", "seed", "level", "resample")}
    found = {
        "interval": interval,
        "meaning": NUMBERS,
        "numbers": number_rows(results),
        "instructions": instruction_rows(results),
        "estimated": estimated_rows(results),
        "free_text": free_text_rows(free),
        "attacks": attack_rows(attacks),
        "factors": factor_rows(factors),
    }
    if read is not None:
        found |= {"reading": read.reading, "readings": [_difference(one) for one in read.differences]}
    return json.dumps(found, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def _difference(one: Difference) -> dict[str, object]:
    return {name: getattr(one, name) for name in ("dataset", "task", "rows", "differing", "gained", "lost", *READINGS)}


def to_markdown(
    results: Sequence[Result],
    settings: Settings,
    title: str = "Robustness",
    unread: Sequence[Unreadable] = (),
    came: Outcomes | None = None,
    free: Sequence[FreeText] = (),
    read: Readings | None = None,
    attacks: Sequence[AttackOutcome] = (),
    factors: Sequence[FactorOutcome] = (),
) -> str:
    """Summary as Markdown: unreadable answers, means over datasets, each dataset, then counts and missing cells.

    Args:
        results: The numbers.
        settings: Settings of the intervals.
        title: The heading.
        unread: Answers that could not be read; shown before all numbers.
        came: Requests that failed, answers that were cut off, and tokens; the first two are shown before all numbers.
        free: Scores of free text.
        read: How the two readings of the answers differ; null: not shown.
        attacks: Outcomes of attacks.
        factors: What the levels of factors change that should not matter.
    """
    pooled = [one for one in results if one.name is None]
    single = [one for one in results if one.name is not None]
    conditions = [one.condition for one in pooled]
    lines = [
        f"# {title}",
        "",
        *(outcome_markdown(came) if came is not None else []),
        *unread_markdown(unread),
        *([] if read is None else readings_warning(read)),
        interval_note(settings),
        "",
        f"## Means over {counted(len({one.name for one in single}), 'dataset')}",
        "",
    ]
    names = [name for name in NUMBERS if any(known(one, name) for one in pooled)]
    lines += aligned(
        ["", *conditions], [[NUMBERS[name], *(cell(one.numbers.get(name), name) for one in pooled)] for name in names]
    )
    if apart := [one for one in conditions if low_means(one)]:
        lines += ["", "A high score is not wanted under:", ""]
        lines += [f"- {cell_text(one)}: {low_means(one)}" for one in apart]
    lines += ["", "## Datasets", ""]
    lines += aligned(
        [
            "dataset",
            "condition",
            "score",
            "mean",
            *GUESSES,
            "worst instruction",
            "worst case",
            "consistency",
            "worst was",
        ],
        [
            [
                str(one.name),
                one.condition,
                one.score,
                cell(one.numbers["mean"], "mean"),
                *guess_cells(one.baseline),
                *(cell(one.numbers[n], n) for n in ("worst_instruction", "worst_case", "consistency")),
                name_text(one.worst, one.worst_wording) if one.worst and one.instructions > 1 else "-",
            ]
            for one in single
        ],
    )
    if free:
        lines += ["", "## Free-text answers", "", *aligned(FREE_TEXT, list(map(free_text_cells, free)))]
    if read is not None:
        lines += ["", *readings_markdown(read)[:-1]]
    lines += [*attack_markdown(attacks), *factor_markdown(factors)]
    lines += ["", "## Data behind the numbers", ""]
    lines += aligned(["dataset", "condition", *COUNTS], [size(one) for one in results])
    if came is not None and came.usage:
        lines += ["", f"Tokens: {came.usage}."]
    remarks = [f"- {note}" for note in notes(single)]
    return "\n".join([*lines, *(["", *remarks] if remarks else [])]) + "\n"


def guess_cells(one: Baseline) -> list[str]:
    """Cells of the scores of guessing, in the order of `GUESSES`; `-` where there is none."""
    return ["-" if math.isnan(value) else f"{100 * value:.1f}" for value in (one.chance, one.majority)]


def guesses(one: Baseline) -> str:
    """The scores of guessing in words; empty if none is known."""
    values = zip(("by chance", "with the most frequent label"), guess_cells(one), strict=True)
    return ", ".join(f"{value} % {how}" for how, value in values if value != "-")


def guessing_line(rows: Sequence[Record]) -> str:
    """One sentence on the scores of guessing, to compare mean scores with; empty if no dataset has any."""
    datasets = {(row.dataset, row.task) for row in rows}
    known = [one for one in baselines(rows).values() if not math.isnan(one.chance)]
    if not known:
        return ""
    where = (
        ""
        if len(known) == len(datasets)
        else f" on the {len(known)} of {counted(len(datasets), 'dataset')} with labels"
    )
    return f"Guessing scores {guesses(over(known))}{where}."


def free_text_cells(one: FreeText) -> list[str]:
    """Cells of one row of free-text scores, in the order of `FREE_TEXT`."""
    return [one.dataset, one.condition, str(one.rows), *(cell(one.numbers[name], name) for name in MEASURES)]


def pairing_markdown(first: str, second: str, found: Sequence[Pairing]) -> str:
    """Verdicts, paired tests and differences of other numbers, in points."""
    lines = [f"## {second} against {first}", "", *(f"- {verdict_line(first, second, one)}" for one in verdicts(found))]
    lines += ["", *aligned(PAIRED, list(map(pairing_cells, found)))]
    lines += ["", f"{second} minus {first}, in points, over draws of the same samples:", ""]
    lines += aligned(["dataset", "condition", *GAPS.values()], [gap_cells(one) for one in found if one.condition])
    return "\n".join(lines)


def verdicts(found: Sequence[Pairing]) -> list[Pairing]:
    """The comparisons that get a verdict: over all conditions first, then each condition over all datasets.

    Conditions under which a low score is not a worse one come last.
    """
    pooled = [one for one in found if one.name is None]
    return sorted(pooled, key=lambda one: (one.condition is not None, low_means(one.condition or "") is not None))


def verdict_line(first: str, second: str, one: Pairing) -> str:
    """One sentence on which run scores higher under a condition, by the interval and the adjusted permutation test."""
    where = one.condition or "all conditions"
    if one.left_out:
        where = f"all conditions but {', '.join(one.left_out)} (a low score is not worse there)"
    verdict, gap = one.verdict(), points(one.differences.get("mean"))
    tested = f"p (Holm) {_p(one.permutation_holm)}"
    if verdict == "unknown":
        return f"{where}: no verdict, as no interval was drawn (difference {gap}, {tested})"
    if verdict in ("higher", "lower"):
        better, worse = (second, first) if verdict == "higher" else (first, second)
        if one.condition is not None and (meaning := low_means(one.condition)):
            return f"{where}: {better} scores higher than {worse} ({second} {gap} points, {tested}); {meaning}"
        return f"{where}: {better} is better than {worse} ({second} {gap} points, {tested})"
    if verdict == "none":
        return f"{where}: no difference seen ({second} {gap} points, {tested})"
    return f"{where}: unclear, as the interval and the test disagree ({second} {gap} points, {tested})"


def gap_cells(one: Pairing) -> list[str]:
    """Cells of one row of paired differences: dataset, condition, then `GAPS`."""
    return [one.name or ALL, _conditions(one), *(points(one.differences.get(name)) for name in GAPS)]


def _conditions(one: Pairing) -> str:
    return one.condition or ("all but misleading ones" if one.left_out else "all")


def pairing_cells(one: Pairing) -> list[str]:
    """Cells of one row of paired tests, in the order of `PAIRED`."""
    return [
        one.name or ALL,
        _conditions(one),
        points(one.differences.get("mean")),
        f"+{one.gained} −{one.lost}",
        f"+{one.better} −{one.worse}",
        _p(one.mcnemar),
        _p(one.mcnemar_holm),
        _p(one.permutation),
        _p(one.permutation_holm),
    ]


def flip_lines(runs: Mapping[str, Sequence[Record]]) -> str:
    """JSON lines: the answers that are right in the first run and wrong in another, or the other way round."""
    (first, before), *others = runs.items()
    found = [{"first": first, "second": name, **flip} for name, after in others for flip in flips(before, after)]
    return "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in found)


def write_all(folder: Path, texts: Mapping[str, str]) -> list[Path]:
    """Write texts, by file name or path, into a folder; each file is written whole or not at all.

    Missing folders are created.

    Raises:
        ValueError: `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"output: {folder} is a file; expected a folder, or a name for a new one")
    for name in texts:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    return [write_whole(folder / name, text) for name, text in texts.items()]


def write_whole(file: Path, text: str) -> Path:
    """Write a file under a temporary name, then rename it, so readers see either the old file or the new one.

    Raises:
        ValueError: The folder of `file` is missing, or `file` is a folder.
    """
    if not file.parent.is_dir() or file.is_dir():
        raise ValueError(f"{file}: expected a file name in a folder that exists; found {_instead(file)}")
    write_text(file, text)
    return file


def _instead(file: Path) -> str:
    return "a folder" if file.is_dir() else f"no folder {file.parent}"


def interval_note(settings: Settings) -> str:
    """Describe how intervals were made."""
    if not settings.draws:
        return "Per cent; no intervals were drawn."
    drawn = "samples" if settings.resample == "samples" else "samples and instructions"
    return (
        f"Per cent, with {100 * settings.level:g} % intervals from {settings.draws} bootstrap draws of {drawn}. "
        "Plain deviations, spreads, worst instructions and shares of instructions include chance and may lie outside "
        "their intervals, which estimate the true values; the numbers less chance lie inside."
    )


def notes(single: Sequence[Result]) -> list[str]:
    """Remarks on missing cells, missing intervals and datasets with one instruction, as sentences."""
    gaps = [one for one in single if one.missing]
    none = [one for one in single if not one.complete]
    found = []
    if gaps:
        found.append(
            f"{sum(one.missing for one in gaps)} cells are missing in {len(gaps)} of {len(single)} tables of samples × "
            "instructions: numbers that compare instructions leave their samples out; numbers named `estimated` use "
            "all answers."
        )
    if none:
        found.append(
            f"In {len(none)} of {len(single)} no sample was asked under all instructions: instructions cannot be "
            "compared there."
        )
    if drawn := [one.draws for one in single if one.draws is not None]:
        low, high = min(least for least, _ in drawn), max(most for _, most in drawn)
        found.append(
            f"Each question has {low if low == high else f'{low} to {high}'} drawn answers: scores are means over "
            "them; consistency and samples right under every instruction are those of the majority vote (of equally "
            "many votes, the first answer's). The draws of a sample stay together in intervals."
        )
    if unsure := [one for one in single if _without_interval(one)]:
        found.append(
            f"Shares of the variance have no interval in {len(unsure)} of {len(single)}: that needs three samples or "
            "more that were asked under every instruction, and scores that still differ if any one of them is left out."
        )
    if any(one.instructions == 1 for one in single):
        found.append("A dataset with one instruction has no deviation, spread, consistency or sensitivity.")
    return found


def _without_interval(one: Result) -> bool:
    """Whether intervals were drawn, but not of the shares of the variance."""
    known_shares = [one.numbers[name] for name in (*SPLIT, *PARTS) if known(one, name)]
    return not math.isnan(one.numbers["mean"].low) and any(math.isnan(share.low) for share in known_shares)


def size(one: Result) -> list[str]:
    """Cells of one row of counts: dataset, condition, then `COUNTS`."""
    return [one.name or ALL, one.condition, *(str(getattr(one, name)) for name in COUNTS)]


def known(one: Result, name: str) -> bool:
    """Whether a result has this number and it is not NaN."""
    return name in one.numbers and not math.isnan(one.numbers[name].value)


_PROBABILITIES = ("cochran_p", "cochran_holm")


def cell(found: Estimate | None, name: str) -> str:
    """A number and its interval as tables show them; `-` if it is missing."""
    if found is None or math.isnan(found.value):
        return "-"
    scale, digits = (1, 3) if name in UNBOUNDED else (100, 1)
    value = f"{scale * found.value:.{digits}f}"
    if name in _PROBABILITIES and found.value < 0.001:
        return "under 0.001"
    if math.isnan(found.low):
        return value
    return f"{value} [{scale * found.low:.{digits}f}, {scale * found.high:.{digits}f}]"


def points(found: Estimate | None) -> str:
    """A difference and its interval in points; `-` if it is missing."""
    if found is None or math.isnan(found.value):
        return "-"
    value, low, high = (f"{round(100 * one, 1) + 0.0:+.1f}" for one in (found.value, found.low, found.high))  # no −0.0
    return value if math.isnan(found.low) else f"{value} [{low}, {high}]"


def _p(value: float) -> str:
    return f"{value:.4f}" if value >= 0.0001 else "< 0.0001"


def plain(value: float) -> float | None:
    """Convert NaN to `None`, which JSON writes as null."""
    return None if math.isnan(value) else value

"""A gate: rules about the numbers of a run, judged by the ends of their intervals."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from robustlm.evaluation.agreement import agreement
from robustlm.evaluation.outcomes import Outcomes
from robustlm.evaluation.pairing import pair
from robustlm.evaluation.readings import Reading, as_read
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import NUMBERS, UNBOUNDED, Estimate, Result, Settings, robustness
from robustlm.report.agreement import check_agreement
from robustlm.report.comparison import load_tables
from robustlm.report.number_tables import cell, points
from robustlm.report.wordings import name_text

By = Literal["bound", "value"]
"""What is compared with a threshold: the end of the interval that is nearer to failing, or the value itself."""

EACH = "*"
"""Stands for every condition or every dataset in a rule."""

_RULE = re.compile(
    r"\s*(?P<number>\w+)\s*(?:\[(?P<condition>[^\]]*)\])?\s*(?:@(?P<dataset>.+?))?\s*(?P<sign>>=|<=|>|<)\s*(?P<limit>.+?)\s*"
)
_SHIFTED = re.compile(r"(?P<run>.+?)\s+(?P<sign>[+-])\s+(?P<points>\S+)")
_FORM = (
    "expected NUMBER[CONDITION]@DATASET >= LIMIT, such as 'worst_instruction >= 80', 'pdr[deepwordbug@0.2] <= 10', "
    "'mean[unseen]@sst2 >= 70' or 'mean[unseen] >= OTHER_RUN - 2'"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule: a number of a run under a condition, a sign, and a limit."""

    text: str
    """The rule as it was typed."""
    number: str
    """A key of `NUMBERS`."""
    condition: str | None
    """`None`: the clean condition; `*`: every condition."""
    dataset: str | None
    """`None`: over all datasets; `*`: every dataset."""
    sign: Literal[">=", "<=", ">", "<"]
    limit_text: str
    """The limit as it was typed."""
    limit: float
    """In per cent, or as it is for numbers that are no shares. With a baseline, points above it."""
    baseline: str | None = None
    """Another run, whose number is subtracted."""

    @property
    def upward(self) -> bool:
        """Whether a higher number is a better one."""
        return self.sign in (">=", ">")

    def met(self, value: float) -> bool:
        """Whether a value, on the scale of `limit`, meets the limit."""
        return {
            ">=": value >= self.limit,
            "<=": value <= self.limit,
            ">": value > self.limit,
            "<": value < self.limit,
        }[self.sign]


@dataclass(frozen=True, slots=True)
class Judged:
    """A rule, with the number that it is about."""

    rule: Rule
    name: str
    """The number with its condition and dataset, and the limit."""
    found: Estimate
    """Value and interval; with a baseline, of the difference."""
    passed: bool
    by: By
    worst: str | None = None
    """Words or id of the worst instruction, in Markdown, for rules about it."""
    counts: str = ""
    """How many of how many, for shares of requests."""

    @property
    def shown(self) -> str:
        """Value and interval as tables show them, or the counts of a share."""
        if self.counts:
            return f"{100 * self.found.value:.3g} ({self.counts})"
        return points(self.found) if self.rule.baseline else cell(self.found, self.rule.number)

    @property
    def reason(self) -> str:
        """Why the rule failed; empty if it passed."""
        if self.passed:
            return ""
        scale = 1 if self.rule.number in UNBOUNDED else 100
        if self.by == "bound" and self.rule.met(scale * self.found.value):
            end = "lower" if self.rule.upward else "upper"
            return f"the value meets the limit, the {end} end of its interval does not"
        return "the value does not meet the limit"

    @property
    def line(self) -> str:
        """One line: verdict, rule, value and interval, and why it failed."""
        worst = f"; worst was: {self.worst}" if self.worst else ""
        why = f" ({self.reason})" if self.reason else ""
        return f"{'PASS' if self.passed else 'FAIL'}  {self.name}: {self.shown}{why}{worst}"


def parse_rule(text: str) -> Rule:
    """Read a rule.

    Raises:
        ValueError: The text is no rule, or names no known number.
    """
    found = _RULE.fullmatch(text)
    if found is None:
        raise ValueError(f"rules: found {text!r}; {_FORM}")
    if found["number"] not in NUMBERS:
        raise ValueError(f"rules: {text!r}: unknown number {found['number']!r}; expected one of {', '.join(NUMBERS)}")
    for part in ("condition", "dataset"):
        if found[part] is not None and not found[part].strip():
            raise ValueError(f"rules: {text!r}: found an empty {part}; {_FORM}")
    sign: Literal[">=", "<=", ">", "<"] = found["sign"]  # type: ignore[assignment]
    limit, baseline = _limit(text, found["limit"])
    return Rule(text, found["number"], found["condition"], found["dataset"], sign, found["limit"], limit, baseline)


def _limit(rule: str, text: str) -> tuple[float, str | None]:
    try:
        return _finite(text.removesuffix("%")), None
    except ValueError:
        shifted = _SHIFTED.fullmatch(text)
    if shifted is None:
        return 0.0, text
    try:
        size = _finite(shifted["points"].removesuffix("%"))
    except ValueError:
        raise ValueError(f"rules: {rule!r}: found {shifted['points']!r} after the run; expected points") from None
    return size if shifted["sign"] == "+" else -size, shifted["run"]


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def baselines(rules: Sequence[Rule]) -> dict[str, list[Record]]:
    """The prediction tables of the runs that rules compare with, by the name in the rule.

    Raises:
        ValueError: A limit is neither a number nor a run.
    """
    found = {}
    for name in dict.fromkeys(rule.baseline for rule in rules):
        if name is None:
            continue
        if not Path(name).exists():
            raise ValueError(f"rules: the limit {name!r} is neither a number nor the folder or table of a run")
        (found[name],) = load_tables([f"baseline={name}"]).values()
    return found


def judge_failures(tables: Mapping[str, Outcomes], limit: float = 0.0) -> list[Judged]:
    """Hold the share of failed requests against a limit, for each condition with such requests.

    A failed request counts as a wrong answer: it lowers the run's score for a reason that is not the model's, and a
    baseline's as well, which makes a rule easier to meet.

    Args:
        tables: How the answers of each run came about; the first run is the one that is judged.
        limit: The highest share in any condition, in per cent.
    """
    text = f"{limit:g}"
    rule = Rule(f"failed requests <= {text}", "failed", None, None, "<=", text, limit)
    first = next(iter(tables), None)
    found = []
    for run, came in tables.items():
        of = "" if run == first else f" of {run}"
        for condition, (failed, every) in came.failed_by_condition.items():
            share = Estimate(failed / every, math.nan, math.nan)
            name = f"failed requests[{condition}]{of} <= {text}"
            met = rule.met(round(100 * share.value, 9))  # 100 × 7/100 is a little more than 7
            found.append(Judged(rule, name, share, met, "value", counts=f"{failed:,} of {every:,}"))
    return found


def judge(
    rows: Sequence[Record],
    rules: Sequence[Rule],
    settings: Settings,
    clean: str = "clean",
    by: By = "bound",
    anyway: bool = False,
    run: str = "the run",
    reading: Reading = "strict",
    others: Mapping[str, Sequence[Record]] | None = None,
) -> list[Judged]:
    """Check the rules against a prediction table, in their order.

    Args:
        rows: Rows of the table.
        rules: The rules.
        settings: How intervals are made.
        clean: The condition of rules that name none, and the one that drops are measured from.
        by: Whether the conservative end of the interval or the value decides.
        anyway: Also accept baselines that were not asked the same.
        run: Name of the run in messages.
        reading: How answers are read, those of baselines too.
        others: Tables of the rules' baselines by name; `None`: they are read from where the names say.

    Raises:
        ValueError: A rule names a condition or dataset that the table lacks, or a number without a value or interval;
            or a baseline was not asked the same.
    """
    rows = as_read(rows, reading)
    tables = baselines(rules) if others is None else others
    own = {(one.name, one.condition): one for one in robustness(rows, settings, clean)}
    gaps = {
        name: _gaps((name, as_read(other, reading)), (run, rows), settings, clean, anyway)
        for name, other in tables.items()
    }
    return [
        _judged(rule, own[place], gaps[rule.baseline][place] if rule.baseline else None, by, _worst(rule, place, own))
        for rule in rules
        for place in _places(rule, own, clean)
    ]


_Place = tuple[str | None, str]
"""Dataset (`None`: all) and condition."""


def _gaps(
    baseline: tuple[str, Sequence[Record]],
    run: tuple[str, Sequence[Record]],
    settings: Settings,
    clean: str,
    anyway: bool,
) -> dict[_Place, Mapping[str, Estimate]]:
    """Differences to a baseline, for every dataset and condition."""
    if not anyway:
        check_agreement(baseline[0], run[0], agreement(baseline[1], run[1]))
    found = pair(baseline[1], run[1], settings, clean, permutations=0)
    return {(one.name, one.condition): one.differences for one in found if one.condition is not None}


def _places(rule: Rule, own: Mapping[_Place, Result], clean: str) -> list[_Place]:
    def chosen(what: str, wanted: str, known: Sequence[str]) -> Sequence[str]:
        if wanted == EACH:
            return known
        if wanted not in known:
            raise ValueError(
                f"rules: {rule.text!r}: the table has no {what} {wanted!r}; expected one of {', '.join(known)}, "
                f"or {EACH} for each of them"
            )
        return [wanted]

    conditions = chosen("condition", rule.condition or clean, list(dict.fromkeys(condition for _, condition in own)))
    datasets: Sequence[str | None] = [None]
    if rule.dataset is not None:
        datasets = chosen("dataset", rule.dataset, list(dict.fromkeys(name for name, _ in own if name is not None)))
    places = [(name, condition) for condition in conditions for name in datasets]
    if not any(place in own for place in places):
        raise ValueError(f"rules: {rule.text!r}: the dataset was not asked under the condition {conditions[0]!r}")
    return [place for place in places if place in own]


def _worst(rule: Rule, place: _Place, own: Mapping[_Place, Result]) -> str | None:
    """The worst instruction of a rule about it, where it is one of a single dataset."""
    if rule.number != "worst_instruction" or rule.baseline is not None:
        return None
    datasets = [one for (name, condition), one in own.items() if condition == place[1] and name is not None]
    one = datasets[0] if len(datasets) == 1 else own[place]
    return None if one.worst is None else name_text(one.worst, one.worst_wording)


def _judged(rule: Rule, one: Result, gaps: Mapping[str, Estimate] | None, by: By, worst: str | None) -> Judged:
    where = f"[{one.condition}]" + (f"@{one.name}" if one.name is not None else "")
    name = f"{rule.number}{where} {rule.sign} {rule.limit_text}"
    found = (one.numbers if gaps is None else gaps).get(rule.number)
    if found is None or math.isnan(found.value):
        raise ValueError(
            f"rules: {rule.text!r}: {rule.number}{where} has no value in this table ({NUMBERS[rule.number]}); "
            "see `robustlm report`"
        )
    judged_value = found.value
    if by == "bound":
        judged_value = found.low if rule.upward else found.high
        if math.isnan(judged_value):
            raise ValueError(
                f"rules: {rule.text!r}: {rule.number}{where} has no interval; expected a number with one, or "
                "`--by value`, which judges by the value"
            )
    scale = 1 if rule.number in UNBOUNDED else 100
    return Judged(rule, name, found, rule.met(scale * judged_value), by, worst)


def each_line(judged: Sequence[Judged], show: Callable[[str], None] = print) -> bool:
    """Show one line for each rule; return whether all rules passed."""
    for one in judged:
        show(one.line)
    return all(one.passed for one in judged)

"""Outcomes of attacks: success rates from the prediction table, and queries from the file of attacks beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustlm.conditions.condition import ATTACK, CLEAN, attack_recipe
from robustlm.conditions.manifest import AttackKey, read_attacks
from robustlm.evaluation.intervals import Limits, deviate, share
from robustlm.evaluation.record import Cell, Record
from robustlm.evaluation.session import ATTACKS
from robustlm.evaluation.votes import voted
from robustlm.evaluation.wording import Wording, wording_of
from robustlm.report.tables import aligned
from robustlm.report.wordings import name_text

Counts = Mapping[tuple[str, str], tuple[int, int]]
"""By dataset and sample: its answers that are right without the attack, and how many of these are wrong under it."""

SUCCESS = (
    "Success rate: of the answers that are right without the attack, the share that is wrong under it (as TextAttack "
    "counts it). In brackets: its interval over samples, for these instructions. Queries: texts that the search tried, "
    "on average. The rows searched on are among those counted."
)
"""Explains the columns below."""

TOTALS = ("condition", "dataset", "instructions", "success rate", "right without it", "search", "queries")
"""Columns of the table of totals."""

SINGLE = ("condition", "dataset", "instruction", "success rate", "right without it", "queries")
"""Columns of the table of attacked instructions."""

MOST = 60
"""Largest number of attacked instructions that Markdown shows."""


@dataclass(frozen=True, slots=True)
class AttackOutcome:
    """The outcome of an attack on one instruction, or of several attacks together."""

    condition: str
    dataset: str
    """Empty: all datasets together."""
    instruction_id: str
    """Empty: all instructions together."""
    sample_id: str | None
    """Set only for a row with an instruction of its own, which is attacked alone."""
    wording: Wording | None
    """The instruction before and after the attack; null: not known, or several."""
    attacks: int
    """Number of attacked instructions."""
    right: int | None
    """Number of rows that are right without the attack; null: the table has no rows without it, or no true answers."""
    succeeded: int
    """How many of these are wrong under the attack."""
    search: str | None
    """How the attack was searched for; null: not known, taken from another run, or several."""
    queries: float | None
    """Number of texts that a search tried, in the mean; null: not known, or taken from another run."""
    by_sample: Counts
    """`right` and `succeeded` of each sample."""
    level: float | None
    """Level of the interval; null: no interval."""

    @property
    def rate(self) -> float | None:
        """The attack success rate; null if no row is right without the attack."""
        return self.succeeded / self.right if self.right else None

    @property
    def limits(self) -> Limits | None:
        """The interval of the rate; null if there is no rate, no level, or only one sample that was right."""
        return None if self.level is None or self.rate is None else success_limits(self.by_sample, self.level)


def success_limits(by_sample: Counts, level: float) -> Limits | None:
    """The interval of a success rate, for other samples under the same attacked instructions.

    The rows of a sample under several instructions depend on each other. So the variance is that of a ratio of sums
    over samples (linearised), and Wilson's interval is that of as many independent rows as have this variance.

    Args:
        by_sample: Answers of each sample that are right without the attack, and how many of these are wrong under it.
        level: Level of the interval, between 0 and 1.

    Returns:
        The limits, in [0, 1]; null if fewer than two samples are right without the attack.
    """
    known = [counts for counts in by_sample.values() if counts[0]]
    if len(known) < 2:
        return None
    right = sum(before for before, _ in known)
    rate = sum(wrong for _, wrong in known) / right
    squares = sum((wrong - rate * before) ** 2 for before, wrong in known)
    variance = len(known) / (len(known) - 1) * squares / right**2
    return share(rate, variance, len(known), deviate(level))


def attack_file(table: Path) -> Mapping[AttackKey, Mapping[str, object]]:
    """The attacks in the file beside a prediction table; empty if there is none.

    Raises:
        ValueError: The file cannot be read; the message names its line.
    """
    path = table.with_name(ATTACKS)
    return read_attacks(path) if path.is_file() else {}


def attack_outcomes(
    rows: Sequence[Record], attacks: Mapping[AttackKey, Mapping[str, object]], level: float | None = 0.95
) -> list[AttackOutcome]:
    """One outcome for each attacked instruction of a table, in the order of the table.

    Args:
        rows: Rows of a prediction table.
        attacks: Lines of the file of attacks, from `attack_file`.
        level: Level of the intervals; null: no intervals.
    """
    rows = voted(rows)  # an answer that only another draw would give is no effect of the attack
    asked = {row.cell: row for row in rows}
    found: dict[AttackKey, list[Record]] = {}
    for row in rows:
        if attack_recipe(row.condition) is not None:
            alone = row.sample_id if row.brings_instruction else None
            found.setdefault((row.condition, row.dataset, row.instruction_id, alone), []).append(row)
    return [_outcome(key, own, asked, attacks.get(key, {}), level) for key, own in found.items()]


def totals(found: Sequence[AttackOutcome]) -> list[AttackOutcome]:
    """Outcomes by condition over all datasets (if there are several), then by condition and dataset."""
    by: dict[tuple[str, str], list[AttackOutcome]] = {}
    for one in found:
        by.setdefault((one.condition, ""), []).append(one)
        by.setdefault((one.condition, one.dataset), []).append(one)
    several = len({one.dataset for one in found}) > 1
    return [_total(key, own) for key, own in sorted(by.items(), key=lambda item: item[0][1] != "") if several or key[1]]


def _outcome(
    key: AttackKey,
    own: Sequence[Record],
    asked: Mapping[Cell, Record],
    line: Mapping[str, object],
    level: float | None,
) -> AttackOutcome:
    condition, dataset, instruction, sample = key
    plain = without_attack(condition)
    pairs = [(asked.get((plain, *row.cell[1:])), row) for row in own]
    by_sample = {
        (dataset, row.sample_id): (int(base.correct), int(base.correct and not row.correct))
        for base, row in pairs
        if base is not None and base.correct is not None and row.correct is not None
    }
    wording = wording_of(own)
    if wording is None and line and sample is None:
        wording = Wording(str(line["before"]), str(line["after"]))  # a table of an earlier version
    search, queries = (None if "reused" in line else line.get(name) for name in ("search", "queries"))
    return AttackOutcome(
        condition,
        dataset,
        instruction,
        sample,
        wording,
        attacks=1,
        right=sum(right for right, _ in by_sample.values()) if len(by_sample) == len(own) else None,
        succeeded=sum(wrong for _, wrong in by_sample.values()),
        search=search if isinstance(search, str) else None,
        queries=queries if isinstance(queries, int | float) else None,
        by_sample=by_sample,
        level=level,
    )


def without_attack(condition: str) -> str:
    """The condition that differs from an attack's only in that nothing is attacked: `unseen` for `unseen+attack:…`."""
    return "+".join(part for part in condition.split("+") if not part.startswith(ATTACK)) or CLEAN


def _total(key: tuple[str, str], own: Sequence[AttackOutcome]) -> AttackOutcome:
    rights = [one.right for one in own if one.right is not None]
    searches = {one.search for one in own}
    queries = [one.queries for one in own if one.queries is not None]
    by_sample: dict[tuple[str, str], tuple[int, int]] = {}
    for key_of_sample, (right, wrong) in (item for one in own for item in one.by_sample.items()):
        before = by_sample.get(key_of_sample, (0, 0))
        by_sample[key_of_sample] = before[0] + right, before[1] + wrong
    return AttackOutcome(
        *key,
        instruction_id="",
        sample_id=None,
        wording=None,
        attacks=len(own),
        right=sum(rights) if len(rights) == len(own) else None,
        succeeded=sum(one.succeeded for one in own),
        search=searches.pop() if len(searches) == 1 else None,
        queries=sum(queries) / len(queries) if len(queries) == len(own) else None,
        by_sample=by_sample,
        level=own[0].level,
    )


# --- forms ---------------------------------------------------------------------------------------------------------


def attack_numbers(found: Sequence[AttackOutcome]) -> list[dict[str, object]]:
    """Rows with the columns of `number_rows`: `attack_success_rate` in [0, 1] and `attack_queries`, of the totals."""
    return [
        {"dataset": one.dataset, "condition": one.condition, "number": name, "value": value}
        | _interval(limits)
        | {"rows": one.right, "instructions": one.attacks}
        for one in totals(found)
        for name, value, limits in (
            ("attack_success_rate", one.rate, one.limits),
            ("attack_queries", one.queries, None),
        )
        if value is not None
    ]


def _interval(limits: Limits | None) -> dict[str, float | None]:
    low, high = limits or (None, None)
    return {"low": low, "high": high}


def attack_rows(found: Iterable[AttackOutcome]) -> list[dict[str, object]]:
    """One row for each attacked instruction, for JSON."""
    return [
        {
            "condition": one.condition,
            "dataset": one.dataset,
            "instruction_id": one.instruction_id,
            "sample_id": one.sample_id,
            "wording": None if one.wording is None else one.wording.raw,
            "instruction": None if one.wording is None else one.wording.asked,
            "right_without_attack": one.right,
            "succeeded": one.succeeded if one.right is not None else None,
            "success_rate": one.rate,
            **_interval(one.limits),
            "search": one.search,
            "queries": one.queries,
        }
        for one in found
    ]


def attack_markdown(found: Sequence[AttackOutcome]) -> list[str]:
    """Lines of the section about attacks; no lines if there are none."""
    if not found:
        return []
    lines = ["", "## Attacks", "", SUCCESS, "", *aligned(TOTALS, list(map(total_cells, totals(found))))]
    single = [
        [one.condition, one.dataset, name_text(one.sample_id or one.instruction_id, one.wording), *rate_cells(one)]
        for one in found[:MOST]
    ]
    lines += ["", *aligned(SINGLE, single)]
    if (rest := len(found) - MOST) > 0:
        lines += ["", f"{rest} more attacked instructions are in {ATTACKS}."]
    return lines


def total_cells(one: AttackOutcome) -> list[str]:
    """Cells of one row of totals, in the order of `TOTALS`."""
    rate, right, queries = rate_cells(one)
    return [one.condition, one.dataset or "all datasets", str(one.attacks), rate, right, one.search or "-", queries]


def rate_cells(one: AttackOutcome) -> list[str]:
    """Success rate, number of rows that were right, and queries, as tables show them; `-` for what is not known."""
    rate = "-" if one.rate is None else f"{100 * one.rate:.1f} %"
    if one.limits is not None:
        rate += f" [{100 * one.limits[0]:.1f}, {100 * one.limits[1]:.1f}]"
    return [rate, "-" if one.right is None else str(one.right), "-" if one.queries is None else f"{one.queries:.0f}"]

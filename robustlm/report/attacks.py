"""What attacks came to: success rates from the prediction table, and queries from the file of attacks beside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustlm.conditions.condition import ATTACK, CLEAN, attack_recipe
from robustlm.conditions.manifest import AttackKey, read_attacks
from robustlm.evaluation.record import Cell, Record
from robustlm.evaluation.session import ATTACKS
from robustlm.evaluation.votes import voted
from robustlm.evaluation.wording import Wording, wording_of
from robustlm.report.tables import aligned
from robustlm.report.wordings import name_text

SUCCESS = (
    "Success rate: of the answers that are right without the attack, the share that is wrong under it (as TextAttack "
    "counts it). Queries: texts that the search tried, on average. The rows searched on are among those counted."
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
    """What an attack came to on one instruction, or several attacks together."""

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

    @property
    def rate(self) -> float | None:
        """The attack success rate; null if no row is right without the attack."""
        return self.succeeded / self.right if self.right else None


def attack_file(table: Path) -> Mapping[AttackKey, Mapping[str, object]]:
    """The attacks in the file beside a prediction table; empty if there is none.

    Raises:
        ValueError: The file cannot be read; the message names its line.
    """
    path = table.with_name(ATTACKS)
    return read_attacks(path) if path.is_file() else {}


def attack_outcomes(rows: Sequence[Record], attacks: Mapping[AttackKey, Mapping[str, object]]) -> list[AttackOutcome]:
    """One outcome for each attacked instruction of a table, in the order of the table.

    Args:
        rows: Rows of a prediction table.
        attacks: Lines of the file of attacks, from `attack_file`.
    """
    rows = voted(rows)  # an answer that only another draw would give is no effect of the attack
    asked = {row.cell: row for row in rows}
    found: dict[AttackKey, list[Record]] = {}
    for row in rows:
        if attack_recipe(row.condition) is not None:
            alone = row.sample_id if row.brings_instruction else None
            found.setdefault((row.condition, row.dataset, row.instruction_id, alone), []).append(row)
    return [_outcome(key, own, asked, attacks.get(key, {})) for key, own in found.items()]


def totals(found: Sequence[AttackOutcome]) -> list[AttackOutcome]:
    """Outcomes by condition over all datasets (if there are several), then by condition and dataset."""
    by: dict[tuple[str, str], list[AttackOutcome]] = {}
    for one in found:
        by.setdefault((one.condition, ""), []).append(one)
        by.setdefault((one.condition, one.dataset), []).append(one)
    several = len({one.dataset for one in found}) > 1
    return [_total(key, own) for key, own in sorted(by.items(), key=lambda item: item[0][1] != "") if several or key[1]]


def _outcome(
    key: AttackKey, own: Sequence[Record], asked: Mapping[Cell, Record], line: Mapping[str, object]
) -> AttackOutcome:
    condition, dataset, instruction, sample = key
    plain = without_attack(condition)
    pairs = [(asked.get((plain, *row.cell[1:])), row) for row in own]
    known = [
        (base.correct, row.correct)
        for base, row in pairs
        if base is not None and None not in (base.correct, row.correct)
    ]
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
        right=sum(bool(before) for before, _ in known) if len(known) == len(own) else None,
        succeeded=sum(bool(before) and not after for before, after in known),
        search=search if isinstance(search, str) else None,
        queries=queries if isinstance(queries, int | float) else None,
    )


def without_attack(condition: str) -> str:
    """The condition that differs from an attack's only in that nothing is attacked: `unseen` for `unseen+attack:…`."""
    return "+".join(part for part in condition.split("+") if not part.startswith(ATTACK)) or CLEAN


def _total(key: tuple[str, str], own: Sequence[AttackOutcome]) -> AttackOutcome:
    rights = [one.right for one in own if one.right is not None]
    searches = {one.search for one in own}
    queries = [one.queries for one in own if one.queries is not None]
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
    )


# --- forms ---------------------------------------------------------------------------------------------------------


def attack_numbers(found: Sequence[AttackOutcome]) -> list[dict[str, object]]:
    """Rows with the columns of `number_rows`: `attack_success_rate` in [0, 1] and `attack_queries`, of the totals."""
    return [
        {"dataset": one.dataset, "condition": one.condition, "number": name, "value": value}
        | {"rows": one.right, "instructions": one.attacks}
        for one in totals(found)
        for name, value in (("attack_success_rate", one.rate), ("attack_queries", one.queries))
        if value is not None
    ]


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
    return [rate, "-" if one.right is None else str(one.right), "-" if one.queries is None else f"{one.queries:.0f}"]

"""How the answers of a prediction table came about: requests that failed, answers that were cut off, tokens.

A failed request is a row without an answer, and a cut answer lacks its end. Both mostly count as wrong, whatever the
instruction was. So tests and reports say their number beside the scores.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from robustlm.checks.texts import beginning
from robustlm.evaluation.record import Record

LIMIT = 0.05
"""Share of cut answers above which there is a warning."""
_REASONS = 3
_LONGEST = 300
"""Maximum number of characters of a reason that are shown."""
CUT = "length"
"""The `finish_reason` of answers that were cut off at the limit of tokens."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Failures, cuts and tokens of a table's rows."""

    rows: int
    failed: int
    """Rows without an answer."""
    failed_by_condition: dict[str, tuple[int, int]]
    """By condition: rows without an answer, and all rows; only conditions with such rows."""
    reasons: tuple[tuple[str, int], ...]
    """The most frequent reasons of failures, and their numbers."""
    ended: int
    """Rows whose answer's end is known."""
    cut: int
    """Those that were cut off at the limit of tokens."""
    prompt_tokens: int | None
    """Sum over the rows in which it is known; null: it is known in none."""
    answer_tokens: int | None
    counted: int
    """Rows whose answer's tokens are known."""

    @property
    def warnings(self) -> list[str]:
        """What a user must know beside the scores, one text each; empty if every answer is whole."""
        found = []
        if self.failed:
            by = ", ".join(f"{name} {bad:,} of {every:,}" for name, (bad, every) in self.failed_by_condition.items())
            lines = [f"  {number:,} times: {reason}" for reason, number in self.reasons]
            share = 100 * self.failed / self.rows
            head = f"{self.failed:,} of {self.rows:,} requests failed ({share:.1f} %); these rows have no answer and "
            found.append("\n".join([f"{head}count as wrong: {by}", *lines]))
        if self.cut > LIMIT * self.ended:
            share = 100 * self.cut / self.ended
            found.append(
                f"{self.cut:,} of {self.ended:,} answers ({share:.1f} %) were cut off at the limit of tokens; raise "
                "model.max_new_tokens"
            )
        return found

    @property
    def usage(self) -> str:
        """The sums of tokens; empty if none is known."""
        if self.prompt_tokens is None and self.answer_tokens is None:
            return ""
        sums = (("prompts", self.prompt_tokens), ("answers", self.answer_tokens))
        said = " and ".join(f"{number:,} of {what}" for what, number in sums if number is not None)
        of = "" if self.counted == self.rows else f", known for {self.counted:,} of {self.rows:,} rows"
        return f"{said}{of}"


def outcomes(rows: Iterable[Record]) -> Outcomes:
    """Count failures, cuts and tokens of a table's rows."""
    listed = list(rows)
    every = Counter(row.condition for row in listed)
    failed = [row for row in listed if row.error is not None]
    bad = Counter(row.condition for row in failed)
    reasons = Counter(beginning(row.error or "", _LONGEST) for row in failed)
    ends = [row.finish_reason for row in listed if row.finish_reason is not None]
    return Outcomes(
        rows=len(listed),
        failed=len(failed),
        failed_by_condition={name: (bad[name], every[name]) for name in every if bad[name]},
        reasons=tuple(reasons.most_common(_REASONS)),
        ended=len(ends),
        cut=sum(reason == CUT for reason in ends),
        prompt_tokens=_sum([row.prompt_tokens for row in listed]),
        answer_tokens=_sum([row.answer_tokens for row in listed]),
        counted=sum(row.answer_tokens is not None for row in listed),
    )


def _sum(numbers: Sequence[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None

"""The words of an instruction, as the records of one instruction id hold them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robustlm.evaluation.record import Record


@dataclass(frozen=True, slots=True)
class Wording:
    """The words behind an instruction id under one condition."""

    raw: str
    """The instruction before noise or an attack."""
    asked: str | None
    """The instruction as it was asked; `None`: it differs from row to row."""

    @property
    def changed(self) -> bool:
        """Whether noise or an attack changed all rows of the instruction in the same way."""
        return self.asked is not None and self.asked != self.raw


def wording_of(rows: Sequence[Record]) -> Wording | None:
    """The wording that rows of one condition and instruction id share.

    `None` if a row has none, as in tables of earlier versions, or if rows have different ones, as rows that bring their
    own instructions have.
    """
    raw = {row.wording for row in rows}
    if len(raw) != 1 or None in raw:
        return None
    asked = {row.instruction for row in rows}
    (text,) = raw
    assert text is not None
    return Wording(text, asked.pop() if len(asked) == 1 else None)

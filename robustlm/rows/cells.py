"""Escape CSV cells so that a spreadsheet does not read text as a formula."""

from __future__ import annotations

import re
from typing import Any

_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def neutral(value: Any) -> Any:
    """Escape a value for CSV: text that begins like a formula gets a `'` before it.

    So does a formula that already follows `'`. Numbers, also those written as text (`-1.5`), stay as they are.
    `restored` is the inverse.
    """
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def restored(text: str) -> str:
    """Undo `neutral`: return the original value of a cell."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text

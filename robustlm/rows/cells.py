"""Cells of CSV files, so that a spreadsheet takes text for text and not for a formula."""

from __future__ import annotations

import re
from typing import Any

_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def neutral(value: Any) -> Any:
    """A value as it is written: text that begins like a formula, or with what this function adds, gets a `'` before it.

    Numbers, also those written as text (`-1.5`), stay as they are. `restored` is the inverse.
    """
    if isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value):
        return f"'{value}"
    return value


def restored(text: str) -> str:
    """The value of a cell that `neutral` may have written."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text

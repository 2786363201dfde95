"""Checks of single row fields; their error messages begin with the reason by which bad rows are counted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from robustlm.rows.base import RowData

T = TypeVar("T")


def required(row: RowData, key: str) -> str:
    """Return a field, unchanged; it must be a string with some text.

    Raises:
        ValueError: The field is missing, blank, or not a string.
    """
    present(row, key)
    text = optional(row, key)
    if not text.strip():
        raise ValueError(f"empty {key}: found {row[key]!r}; expected some text")
    return text


def present(row: RowData, key: str) -> object:
    """A field that must be present; its value may be anything.

    Raises:
        ValueError: The field is missing.
    """
    if key not in row:
        raise ValueError(f"no {key}: found keys {', '.join(map(str, row))}; expected {key!r} among them")
    return row[key]


def optional(row: RowData, key: str) -> str:
    """A text field that may be missing or null; both count as empty.

    Raises:
        ValueError: The field is present but is not a string.
    """
    value = row.get(key)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"{key} is no string: found {shown(value)}; expected a string")
    return value


def lacks(row: RowData, key: str) -> bool:
    """Whether a field is missing, null or blank, like the answer of an unanswered row."""
    value = row.get(key)
    return value is None or (isinstance(value, str) and not value.strip())


def elements(row: RowData, key: str, kind: type[T], expected: str) -> list[T]:
    """A field that must be a list whose elements are all of one type.

    Raises:
        ValueError: The field is missing, is not a list, or has an element of another type.
    """
    values = present(row, key)
    if not isinstance(values, list | tuple):
        raise ValueError(f"{key} is no list: found {shown(values)}; expected {expected}")
    for number, value in enumerate(values, start=1):
        if not isinstance(value, kind):
            raise ValueError(f"wrong element of {key}: element {number} is {shown(value)}; expected {expected}")
    return list(values)


def check_choices(choices: Sequence[str], answer: str) -> None:
    """Check that choices leave something to choose.

    A wrong choice may occur twice, as in one row of the published MMLU.

    Raises:
        ValueError: There are fewer than two different choices, one is empty, or the answer occurs twice.
    """
    if len(set(choices)) < 2 or not all(choices):
        raise ValueError(f"unusable choices: found {list(choices)!r}; expected two or more, none empty")
    if choices.count(answer) > 1:
        raise ValueError(
            f"unusable choices: found the answer {answer!r} {choices.count(answer)} times; expected it once"
        )


def squeezed(text: str) -> str:
    """The words of a text with single spaces between them, so that spans that differ only in spacing become equal."""
    return " ".join(text.split())


def shown(value: object) -> str:
    """A value and its type, short enough for an error message."""
    text = repr(value)
    return f"{text if len(text) <= 60 else text[:57] + '…'} ({type(value).__name__})"

"""Checks of settings that take one of a few words."""

from __future__ import annotations

from collections.abc import Sequence


def check_choice(name: str, value: object, known: Sequence[str]) -> None:
    """Raise unless a value is one of the known ones.

    Args:
        name: The setting, as a user writes it.
        value: The value to check.
        known: The values that are allowed.

    Raises:
        ValueError: The value is not allowed; the message says the setting, the value and what is known.

    Example:
        >>> check_choice("data.phrasing", "new", ("fixed", "fresh"))
        Traceback (most recent call last):
            ...
        ValueError: data.phrasing: found 'new'; expected fixed or fresh
    """
    if value not in known:
        expected = " or ".join(known) if len(known) == 2 else f"one of {', '.join(known)}"
        raise ValueError(f"{name}: found {value!r}; expected {expected}")

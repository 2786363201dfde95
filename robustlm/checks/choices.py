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
        >>> check_choice("data.noisy_turns", "first", ("last", "all"))
        Traceback (most recent call last):
            ...
        ValueError: data.noisy_turns: found 'first'; expected one of last, all
    """
    if value not in known:
        raise ValueError(f"{name}: found {value!r}; expected one of {', '.join(known)}")

"""Names for labels that rows contain as numbers, truth values or other names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any

from robustlm.rows.fields import shown, squeezed

Given = Sequence[str] | Mapping[Any, str]
"""Type of a source's `labels`."""


_PLACES = {"false": "0", "true": "1"}
"""The command line turns keys that are truth values into these numbers."""


_QUOTED = re.compile(r'"((?:[^"]|"")*)"')
_LISTED = re.compile(r'\s*("(?:[^"]|"")*"(?=\s*(?:,|\Z))|[^,]*)(?:,|\Z)')


def quoted(label: str) -> str:
    """A label in a list of options: in quotes if it contains a comma, with inner quotes doubled.

    Example:
        >>> quoted("Refund"), quoted("Billing, refunds")
        ('Refund', '"Billing, refunds"')
    """
    return '"' + label.replace('"', '""') + '"' if "," in label else label


def unquoted(text: str) -> str:
    """The inverse of `quoted`; other texts are returned unchanged.

    Example:
        >>> unquoted('"Billing, refunds"'), unquoted('"Refund"')
        ('Billing, refunds', '"Refund"')
    """
    found = _QUOTED.fullmatch(text)
    return found[1].replace('""', '"') if found and "," in text else text


def listed(text: str) -> tuple[str, ...]:
    """The labels of a list of options, as prompts show it: the inverse of joining `quoted` labels by a comma.

    Example:
        >>> listed('Refund, "Billing, refunds"')
        ('Refund', 'Billing, refunds')
    """
    found = (unquoted(part.strip()) for part in _LISTED.findall(text))
    return tuple(dict.fromkeys(label for label in found if label))


def answered(label: str) -> str:
    """A label in an answer: quoted only if it would otherwise be read as a quoted label."""
    return label if unquoted(label) == label else quoted(label)


class Labels:
    """The labels of a source, and the label name of each value in its rows.

    Args:
        given: All names, in the order in which options are shown; a number in a row is then an index into them, from 0.
            Or a mapping from the rows' values to names, where several values may have the same name. Null: the rows'
            values are the names.
        round_to: Step to which numbers are rounded first, halves away from zero: 3.8 is "4" at 1, and "3.75" at 0.25.

    Raises:
        ValueError: A name is not text, is empty or occurs twice; there are no names; or the step is not a number above
            0. The message begins with the setting.
    """

    def __init__(self, given: Given | None, round_to: float | None = None) -> None:
        if round_to is not None and (isinstance(round_to, bool) or not 0 < round_to < float("inf")):
            raise ValueError(f"round_to: found {round_to!r}; expected a number above 0, such as 1")
        self._step = None if round_to is None else Decimal(str(round_to))
        self.names: tuple[str, ...] = ()
        """All names, in the given order; empty if the rows' values are the names."""
        self._by_value: dict[str, str] | None = None
        self._are_values = False
        if given is not None:
            try:
                self._take(given)
            except ValueError as error:
                raise ValueError(f"labels: {error}") from None

    def _take(self, given: Given) -> None:
        if isinstance(given, Mapping):
            pairs = [(_key(value), _checked(name)) for value, name in given.items()]
            if twice := [key for key, n in Counter(key for key, _ in pairs).items() if n > 1]:
                raise ValueError(f"found the value {twice[0]!r} twice; expected one name for each")
            self.names = tuple(dict.fromkeys(name for _, name in pairs))
            self._by_value = dict(pairs)
            self._are_values = True
        elif isinstance(given, Sequence) and not isinstance(given, str):
            self.names = tuple(map(_checked, given))
            if twice := [name for name, n in Counter(self.names).items() if n > 1]:
                raise ValueError(f"found the name {twice[0]!r} twice; expected each once")
            places = {str(place): name for place, name in enumerate(self.names)}
            # a number that is also a name means that name, not an index into the list
            self._by_value = places | {name: name for name in self.names}
        else:
            raise ValueError(f"found {shown(given)}; expected a list of names, or an object of names by value")
        if not self.names:
            raise ValueError("found no name; expected all labels of the rows")

    def name(self, value: object) -> str:
        """The label name of a value in a row.

        Raises:
            ValueError: The value has no label name.
        """
        if self._step is not None:
            value = _rounded(value, self._step)
        if self._by_value is None:
            return str(value)
        key = _key(value)
        found = self._by_value.get(key) or (self._by_value.get(_PLACES.get(key, "")) if self._are_values else None)
        if found is None:
            known = ", ".join(map(repr, self._by_value))
            raise ValueError(f"unknown label: found {shown(value)}; expected one that `labels` has: {known}")
        return found


def _rounded(value: object, step: Decimal) -> str:
    try:
        number = Decimal("NaN") if isinstance(value, bool) else Decimal(str(value))
    except InvalidOperation:
        number = Decimal("NaN")
    if not number.is_finite():
        raise ValueError(f"label is no number: found {shown(value)}; expected one, as `round_to` is set")
    rounded = (number / step).to_integral_value(ROUND_HALF_UP) * step
    return f"{rounded.normalize() + 0:f}"


def _key(value: object) -> str:
    """One spelling for 1 and "1", and for true and "True", since files without types contain only text."""
    text = squeezed(str(value))
    return text.lower() if text.lower() in ("true", "false") else text


def _checked(name: object) -> str:
    if not isinstance(name, str) or not squeezed(name):
        raise ValueError(f"found the name {shown(name)}; expected a non-empty text (in quotes, where it is a number)")
    return squeezed(name)

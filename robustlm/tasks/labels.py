"""Names of labels that the rows of a source hold as numbers, truth values or other names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal, InvalidOperation
from typing import Any

from robustlm.rows.fields import shown, squeezed

Given = Sequence[str] | Mapping[Any, str]
"""What a source's `labels` may be."""


_PLACES = {"false": "0", "true": "1"}
"""What a command line makes of truth values that are keys."""


_QUOTED = re.compile(r'"((?:[^"]|"")*)"')


def quoted(label: str) -> str:
    """A label as lists of options show it: in quotes where it holds a comma, with quotes inside of it doubled.

    Example:
        >>> quoted("Refund"), quoted("Billing, refunds")
        ('Refund', '"Billing, refunds"')
    """
    return '"' + label.replace('"', '""') + '"' if "," in label else label


def unquoted(text: str) -> str:
    """The inverse of `quoted`; other texts are returned as they are.

    Example:
        >>> unquoted('"Billing, refunds"'), unquoted('"Refund"')
        ('Billing, refunds', '"Refund"')
    """
    found = _QUOTED.fullmatch(text)
    return found[1].replace('""', '"') if found and "," in text else text


def answered(label: str) -> str:
    """A label as answers write it: quoted only where it would otherwise be read as a quoted label."""
    return label if unquoted(label) == label else quoted(label)


class Labels:
    """The labels of a source, and the name of each value that stands for one.

    Args:
        given: All names, in the order in which options are shown; a number in a row is then a place among them, from 0.
            Or names by what rows hold, where several values may have one name. Null: the rows' own values are names.
        round_to: Step that numbers are rounded to first, halves away from zero: 3.8 is "4" at 1, and "3.75" at 0.25.

    Raises:
        ValueError: A name is no text, is empty or occurs twice, or there is none; or the step is no number above 0. The
            message begins with the setting.
    """

    def __init__(self, given: Given | None, round_to: float | None = None) -> None:
        if round_to is not None and (isinstance(round_to, bool) or not 0 < round_to < float("inf")):
            raise ValueError(f"round_to: found {round_to!r}; expected a number above 0, such as 1")
        self._step = None if round_to is None else Decimal(str(round_to))
        self.names: tuple[str, ...] = ()
        """All of them, in the order given; none where rows name them."""
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
            # a name that is a number means that name, not a place in the list
            self._by_value = places | {name: name for name in self.names}
        else:
            raise ValueError(f"found {shown(given)}; expected a list of names, or an object of names by value")
        if not self.names:
            raise ValueError("found no name; expected all labels of the rows")

    def name(self, value: object) -> str:
        """The name that a value of a row stands for.

        Raises:
            ValueError: It stands for none.
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
    """One spelling for 1 and "1", and for true and "True", since files without types hold only text."""
    text = squeezed(str(value))
    return text.lower() if text.lower() in ("true", "false") else text


def _checked(name: object) -> str:
    if not isinstance(name, str) or not squeezed(name):
        raise ValueError(f"found the name {shown(name)}; expected a non-empty text (in quotes, where it is a number)")
    return squeezed(name)

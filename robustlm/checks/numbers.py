"""Checks of numeric settings: ranges, NaN and infinity."""

from __future__ import annotations

import math

COLDEST = 1e-6
"""Lowest temperature; dividing by a smaller one can exceed the range of single precision."""
SEED_LIMIT = 2**63
"""Seeds must be below this limit; torch and NumPy take no larger ones."""


def check_number(
    name: str,
    value: object,
    *,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
    whole: bool = False,
    or_null: str = "",
    why: str = "",
) -> None:
    """Raise unless a value is a finite number in the given range.

    Args:
        name: The setting, as a user writes it.
        value: The value to check.
        least: The smallest allowed value.
        above: Allowed values are larger than this.
        most: The largest allowed value.
        below: Allowed values are smaller than this.
        whole: Whether the value must be an integer.
        or_null: What null means; null is allowed if this is not empty.
        why: Reason of the range, added to the message.

    Raises:
        ValueError: The value is not allowed; the message says the setting, the value and the range.

    Example:
        >>> check_number("schedule.final", 1.5, least=0, most=1)
        Traceback (most recent call last):
            ...
        ValueError: schedule.final: found 1.5; expected a number from 0 to 1
    """
    if value is None and or_null:
        return
    kind = int if whole else (int, float)
    good = (
        isinstance(value, kind)
        and not isinstance(value, bool)
        and (isinstance(value, int) or math.isfinite(value))
        and (least is None or value >= least)
        and (above is None or value > above)
        and (most is None or value <= most)
        and (below is None or value < below)
    )
    if not good:
        reason = f", {why}" if why else ""
        null = f", or null {or_null}" if or_null else ""
        raise ValueError(f"{name}: found {value}; expected {_range(least, above, most, below, whole)}{reason}{null}")


def check_seed(name: str, value: object) -> None:
    """Check that a value is a valid seed. Raises `ValueError`."""
    check_number(name, value, least=0, below=SEED_LIMIT, whole=True)


def _range(least: float | None, above: float | None, most: float | None, below: float | None, whole: bool) -> str:
    kind = "a whole number" if whole else "a number"
    if least is not None and most is not None and most <= 1:
        return f"{kind} from {least} to {most}"
    if least is not None and below is not None and below <= 1:
        return f"{kind} in [{least}, {below})"
    if above is not None and most is not None:
        return f"{kind} in ({above}, {most}]"
    signs = (("≥", least), (">", above), ("≤", most), ("<", "2**63" if below == SEED_LIMIT else below))
    bounds = [f"{sign} {bound}" for sign, bound in signs if bound is not None]
    finite = kind if whole else "a finite number"
    return " ".join([finite, " and ".join(bounds)]).strip()

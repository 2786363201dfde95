"""Factors of a prompt that should not matter, and their levels, as conditions name them (`factor:level`)."""

from __future__ import annotations

import re
from collections.abc import Callable

SEPARATORS = {
    "newline": "\n", "blank": "\n\n", "space": " ", "bar": " || ", "semicolon": "; ", "comma": ", ", "tab": "\t",
}  # fmt: skip
"""Text between the parts of an input."""
COLONS = {"colon": ": ", "double": ":: ", "dash": " - ", "equals": " = ", "arrow": " -> ", "newline": ":\n"}
"""Text after the name of a part."""
CASINGS: dict[str, Callable[[str], str]] = {"upper": str.upper, "lower": str.lower, "title": str.title}
"""Case of the names of parts."""
POSITIONS = ("first", "last")
"""Where the instruction stands: before or after the input."""
BULLETS = {"-": "- ", "*": "* ", "•": "• ", "none": ""}
"""Marks that are the same for all options."""
MARK = re.compile(r"(?P<before>\(?)(?P<kind>[Aa1iI])(?P<after>[.):]?)")
"""The mark of the first option, from which the others follow."""
OPTIONS = ("options", "enumerator")
LAYOUT = ("separator", "colon", "casing", "position")
SHOTS = "shots"
FACTORS = (*OPTIONS, SHOTS, *LAYOUT)
"""All factors, in the order in which they are applied."""


def check_level(factor: str, level: str) -> None:
    """Check a level of a factor.

    Raises:
        ValueError: The factor has no such level; the message lists the levels.
    """
    if factor == "options":
        kind, at, number = level.partition("@")
        fits = level == "reversed" or (kind == "shuffled" and (not at or number.isdecimal()))
        expected = "reversed, shuffled, or shuffled@NUMBER for another order"
    elif factor == "enumerator":
        mark = MARK.fullmatch(level)
        fits = level in BULLETS or (mark is not None and (not mark["before"] or mark["after"] == ")"))
        expected = "the mark of the first option, such as A, A., (A), a), 1., (i) or I:, a bullet (- * •), or none"
    elif factor == SHOTS:
        fits = level.isdecimal() and int(level) > 0
        expected = "the number of an order of the examples, from 1"
    else:
        levels = {
            "separator": tuple(SEPARATORS),
            "colon": tuple(COLONS),
            "casing": tuple(CASINGS),
            "position": POSITIONS,
        }
        known = levels[factor]
        fits = level in known
        expected = f"one of {', '.join(known)}"
    if not fits:
        raise ValueError(f"found the level {level!r} of {factor}; expected {expected}")

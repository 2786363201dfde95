"""Environment variables in the options of a study: where the base model and the data sets are on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence

VARIABLES = {
    "ROBUSTLM_BASE": "the folder or hub name of a small base model that reads English, as `make base` makes one",
    "ROBUSTLM_DATA": "the folder of the data sets, each a folder with train, validation and test rows",
    "ROBUSTLM_ALIGNMENT": "the folder that `python -m benchmarks.alignment FOLDER` wrote",
}
"""The variables that packaged studies name, and what each must hold. `docs/studies.md` says how to get them."""

_NAMED = re.compile(r"\$(ROBUSTLM_[A-Z_]*[A-Z])")


def filled(text: str, unset: dict[str, None]) -> str:
    """A text with the values of the variables it names (`$ROBUSTLM_DATA/sst2`).

    Args:
        text: The text.
        unset: Gets the names of variables without a value; they stay in the text.
    """

    def value(match: re.Match[str]) -> str:
        found = os.environ.get(match[1])
        if not found:
            unset.setdefault(match[1])
        return found or match[0]

    return _NAMED.sub(value, text)


def with_words(flags: Sequence[str], words: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Options with `$NAME` replaced by the text of that name.

    Args:
        flags: The options.
        words: Names and texts.
    """
    found = tuple(flags)
    for name, text in words:
        literal = text.replace("\\", r"\\")  # a backslash would be an escape in a replacement
        found = tuple(re.sub(rf"\${name}(?![A-Z_])", literal, flag) for flag in found)
    return found


def missing(names: Iterable[str]) -> str:
    """What to set, as a sentence of an error: `ROBUSTLM_BASE is not set; expected …`."""
    said = (f"{name} is not set; expected {VARIABLES.get(name, 'a value')} (export {name}=…)" for name in names)
    return "; ".join(said) + ". docs/studies.md says how to get them"

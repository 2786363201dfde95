"""The kind of change that a condition makes, read from its name."""

from __future__ import annotations

from collections.abc import Iterable

from robustlm.conditions.condition import CLEAN, CORRECT, PARAPHRASED, PROTECTED, UNSEEN
from robustlm.conditions.factors import FACTORS
from robustlm.evaluation.directions import MISLEADING
from robustlm.noise import character, sentence, word
from robustlm.noise.base import KINDS, MIXED, MIXED_KINDS

LEVELS = {
    "character": "Characters",
    "word": "Words",
    "sentence": "Sentences",
    "semantic": "Meaning: other phrasings",
    "anit": "Noise of ANIT",
    "combined": "Combined",
    "surface": "Layout, options and examples",
    "attack": "Attacks",
    "list": "Instruction lists",
    "misleading": "Misleading instructions",
}
"""Levels in display order, with their headings. Any other name is its own level."""

_FILES = {
    module.__name__: level for level, module in (("character", character), ("word", word), ("sentence", sentence))
}


def level_of(condition: str) -> str:
    """The level of a condition: a key of `LEVELS`, `clean`, or the name of an unknown kind.

    Unlike `parse_condition`, this function imports nothing by name, because reading a table must not run code.
    """
    parts = [part for part in condition.split("+") if part not in (CLEAN, CORRECT, PROTECTED)]
    if len(parts) > 1:
        return "combined"
    if not parts:
        return CLEAN
    part = parts[0]
    kind = part.partition("@")[0].partition(":")[0]
    if part in (UNSEEN, PARAPHRASED):
        return "semantic"
    if part in MISLEADING:
        return "misleading"
    if kind in FACTORS and ":" in part:
        return "surface"
    if kind in ("attack", "list") and ":" in part:
        return kind
    if kind == MIXED or kind in MIXED_KINDS:
        return "anit"
    if kind == "random_typos":
        return "character"
    return _FILES.get(getattr(KINDS.get(kind), "__module__", ""), part.partition("@")[0])


def by_level(conditions: Iterable[str]) -> dict[str, list[str]]:
    """Group conditions by the heading of their level: first the order of `LEVELS`, then other levels, then `clean`."""
    found: dict[str, list[str]] = {}
    for condition in conditions:
        found.setdefault(level_of(condition), []).append(condition)
    order = [*LEVELS, *(level for level in found if level not in (*LEVELS, CLEAN)), CLEAN]
    return {LEVELS.get(level, level): found[level] for level in order if level in found}

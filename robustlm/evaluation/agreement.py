"""Whether two prediction tables asked the same: the same true answers, instructions and inputs, cell by cell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from robustlm.evaluation.record import Key, Record

Kind = Literal[
    "same", "target", "options", "wording", "input", "edits", "cut", "unclear", "around", "template", "unstored"
]

KINDS: dict[Kind, str] = {
    "same": "the same prompt",
    "target": "another true answer",
    "options": "other answer options",
    "wording": "another instruction",
    "input": "another input",
    "edits": "the same instruction with other edits of noise or of an attack",
    "cut": "the same input, cut to another length",
    "unclear": "other prompts, and the tables cannot tell whether the input is the same",
    "around": "the same input with other words around it, a template or an instruction",
    "template": "the same instruction and input, in another template",
    "unstored": "not checked, as a table holds no prompts",
}
"""What two tables have in common for a cell, and how reports call it."""

REFUSED: tuple[Kind, ...] = ("target", "options", "wording", "input")
"""Kinds whose scores must not be compared: the tables hold answers to different questions."""

EXAMPLES = 3
"""Number of examples that are kept of each kind."""

_TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far two tables asked the same."""

    counts: Mapping[Kind, int]
    """Number of cells (condition, dataset, sample, instruction) of each kind, without kinds that do not occur."""
    samples: int
    """Number of samples."""
    examples: Mapping[Kind, Sequence[tuple[Record, Record]]]
    """The first cells of each kind, with the records of both tables; none of the kind `same`."""

    @property
    def cells(self) -> int:
        """Number of cells that both tables hold."""
        return sum(self.counts.values())

    @property
    def refused(self) -> list[Kind]:
        """The kinds found whose scores must not be compared."""
        return [kind for kind in REFUSED if kind in self.counts]

    @property
    def alike(self) -> bool:
        """Whether every cell was asked with the same prompt, or with the same parts in another template."""
        return set(self.counts) <= {"same", "template"}


def agreement(first: Iterable[Record], second: Iterable[Record]) -> Agreement:
    """Compare what two tables asked, in the cells that both hold.

    Prompts of two models may differ by their chat templates. So prompts that differ are compared without the words that
    all prompts of one instruction share: these are the template and the instruction, the others are the input.

    Args:
        first: Rows of a prediction table.
        second: Rows of another one.
    """
    others = {row.key: row for row in second}
    pairs = [(row, others[row.key]) for row in first if row.key in others]
    groups: dict[tuple[str, str, str], list[tuple[Record, Record]]] = {}
    for both in pairs:
        row = both[0]
        groups.setdefault((row.condition, row.dataset, row.instruction_id), []).append(both)
    kinds: dict[Key, Kind] = {}
    for own in groups.values():
        shared = _shared(own)
        kinds |= {both[0].key: _kind(*both, shared) for both in own}
    counts: dict[Kind, int] = {}
    examples: dict[Kind, list[tuple[Record, Record]]] = {}
    for both in pairs:
        kind = kinds[both[0].key]
        counts[kind] = counts.get(kind, 0) + 1
        if kind != "same" and len(kept := examples.setdefault(kind, [])) < EXAMPLES:
            kept.append(both)
    samples = len({(row.dataset, row.sample_id) for row, _ in pairs})
    return Agreement({kind: counts[kind] for kind in KINDS if kind in counts}, samples, examples)


def _kind(one: Record, other: Record, shared: frozenset[str]) -> Kind:
    if one.target != other.target:
        return "target"
    if one.choices and other.choices and sorted(one.choices) != sorted(other.choices):
        return "options"
    if one.wording is not None and other.wording is not None and one.wording != other.wording:
        return "wording"
    if one.prompt is not None and one.prompt == other.prompt:
        return "same"
    known = one.prompt is not None and other.prompt is not None
    kind = _inputs(one.prompt or "", other.prompt or "", shared) if known else "unstored"
    worded = one.instruction is not None and other.instruction is not None
    if worded and one.instruction != other.instruction:
        return "edits" if kind in ("template", "unclear", "unstored") else kind
    return kind if worded or kind != "template" else "around"


def _inputs(one: str, other: str, shared: frozenset[str]) -> Kind:
    """Compare the words of two prompts that not all prompts of the instruction share."""
    mine, theirs = ([word for word in _TOKEN.findall(text) if word not in shared] for text in (one, other))
    if not mine and not theirs:
        return "unclear"
    if mine == theirs:
        return "template"
    short, long = sorted((mine, theirs), key=len)
    rest = iter(long)
    return "cut" if short and len(short) < len(long) and all(word in rest for word in short) else "input"


def _shared(pairs: Sequence[tuple[Record, Record]]) -> frozenset[str]:
    """The words that all prompts of an instruction share, in one table or in the other."""
    found: set[str] = set()
    if all(one.prompt == other.prompt for one, other in pairs):
        return frozenset()  # most tables; the words are not needed
    for at in (0, 1):
        sets = (set(_TOKEN.findall(both[at].prompt or "")) for both in pairs)
        common = next(sets)
        for words in sets:
            common &= words
        found |= common
    return frozenset(found)

"""The file `attacks.jsonl`: one line for each attack of an evaluation, written as soon as the attack is found."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from robustlm.conditions.condition import attack_recipe
from robustlm.conditions.search import Edit, Edits
from robustlm.evaluation.session import ATTACKS
from robustlm.utils.files import whole_file

AttackKey = tuple[str, str, str, str | None]
"""Condition, dataset, instruction and sample; the sample is set only for a row with an instruction of its own."""

_KEY = ("condition", "dataset", "instruction_id", "sample_id")
_TEXTS = ("condition", "dataset", "instruction_id", "before", "after")


def attack_key(line: dict[str, Any]) -> AttackKey:
    """The key of the attack in a line."""
    condition, dataset, instruction, sample = (line[name] for name in _KEY)
    return condition, dataset, instruction, sample


def read_attacks(path: Path) -> dict[AttackKey, dict[str, Any]]:
    """Read the attacks in a manifest. If several lines have the same key, the last one counts.

    An incomplete last line is ignored.

    Raises:
        ValueError: The file cannot be read, or another line is not valid; the message names it.
    """
    try:
        *lines, _ = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}); expected the {ATTACKS} of a run") from error
    found = {}
    for number, text in enumerate(lines, start=1):
        line = _parsed(text, f"{path}:{number}")
        found[attack_key(line)] = line
    return found


def transferred(path: Path) -> dict[tuple[str, str], list[Edits]]:
    """The edits of the attacks in a manifest, by recipe and unmodified instruction.

    Raises:
        ValueError: As `read_attacks`, or as `edits_of`.
    """
    found: dict[tuple[str, str], dict[Edits, None]] = defaultdict(dict)
    for (condition, dataset, instruction, _), line in read_attacks(path).items():
        edits = edits_of(line, f"{path}: {condition} of {dataset}, instruction {instruction}")
        if edits and (recipe := attack_recipe(condition)) is not None:
            found[recipe, line["before"]][edits] = None
    return {key: list(own) for key, own in found.items()}


def edits_of(line: Mapping[str, object], place: str) -> Edits:
    """The edits in a line.

    Args:
        line: A line of `read_attacks`.
        place: Where it stands, for messages.

    Raises:
        ValueError: The edits are missing, or are not a list of edits.
    """
    found = line.get("edits")
    if not isinstance(found, list):
        raise ValueError(f"{place}: edits: found {found!r}; expected a list")
    return tuple(_edit(one, place) for one in found)


def _edit(found: object, place: str) -> Edit:
    if isinstance(found, dict) and found.keys() == {"position", "before", "after"}:
        position, before, after = (found[name] for name in ("position", "before", "after"))
        if isinstance(position, int) and isinstance(before, str) and isinstance(after, str):
            return Edit(position, before, after)
    raise ValueError(
        f"{place}: edits: found {found!r}; expected an object of position (a number), before and after (texts)"
    )


def _parsed(text: str, place: str) -> dict[str, Any]:
    expected = f"expected an object with {', '.join(_TEXTS)} as texts"
    try:
        line = json.loads(text)
    except ValueError as error:
        raise ValueError(f"{place}: found no JSON ({error}); {expected}") from error
    if not isinstance(line, dict):
        raise ValueError(f"{place}: found {type(line).__name__}; {expected}")
    for name in _TEXTS:
        if not isinstance(line.get(name), str):
            raise ValueError(f"{place}: {name}: found {line.get(name)!r}; {expected}")
    if not isinstance(line.setdefault("sample_id", None), str | None):
        raise ValueError(f"{place}: sample_id: found {line['sample_id']!r}; expected a text or null")
    return line


class Manifest:
    """Writes lines to the attack file of a run.

    Args:
        path: The file, created with the first line.
        keep: Whether to append to an existing file, after removing an incomplete last line. Otherwise the file is
            overwritten.
    """

    def __init__(self, path: Path, *, keep: bool) -> None:
        self._path = path
        if not keep:
            path.unlink(missing_ok=True)
        elif path.exists():
            whole, end, _ = path.read_bytes().rpartition(b"\n")
            with whole_file(path) as unfinished:
                unfinished.write_bytes(whole + end)

    def add(self, line: dict[str, Any]) -> None:
        """Write a line to disk before returning."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

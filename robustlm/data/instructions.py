"""Instruction banks: many phrasings of one task, split into those for training and those held back."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, Self

from robustlm.data.samples import Sample

Version = Literal["concise", "detailed", "both"]
"""How long a phrasing is: one short sentence, or several."""
Split = Literal["seen", "unseen", "all"]
"""`seen` phrasings are for training, `unseen` ones are held back to test on."""

_VERSIONS = ("concise", "detailed")
_SPLITS = ("seen", "unseen")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One phrasing and its place in its bank."""

    id: str
    """`bank/version/split/number`, such as `ner/concise/seen/0`."""
    text: str
    """The phrasing."""


class InstructionBank:
    """The phrasings of one task.

    A bank is a JSON file: `{"task": "ner", "concise": {"seen": [...], "unseen": [...]}, "detailed": {...}}`.

    Args:
        name: What ids begin with; the name of a packaged bank, or the `task` of a file of your own.
        instructions: All phrasings, in the order concise before detailed, seen before unseen.
    """

    def __init__(self, name: str, instructions: tuple[Instruction, ...]) -> None:
        self.name = name
        self.instructions = instructions

    @classmethod
    def load(cls, name_or_path: str) -> Self:
        """Read a packaged bank by name (`ner`, `quickstart/ner`), or a file of your own by path (`*.json`).

        Raises:
            ValueError: There is no such bank or file, or the file is no bank.
        """
        if name_or_path.endswith(".json"):
            path = Path(name_or_path)
            if not path.is_file():
                raise ValueError(f"{path}: no such file; expected an instruction bank, a JSON file")
            data = _parsed(path.read_bytes(), name_or_path)
            return cls(data["task"], tuple(_instructions(data, data["task"], name_or_path)))
        file = _packaged().get(name_or_path)
        if file is None:
            known = ", ".join(known_banks())
            raise ValueError(f"instruction bank: found {name_or_path!r}; expected a JSON file or one of {known}")
        data = _parsed(file.read_bytes(), str(file))
        return cls(name_or_path, tuple(_instructions(data, name_or_path, str(file))))

    def phrasings(self, version: Version = "both", split: Split = "all") -> list[Instruction]:
        """The phrasings of some length and split, in the bank's order.

        Raises:
            ValueError: The version or split is unknown, or the bank has no such phrasings.
        """
        _check_choice("version", version, (*_VERSIONS, "both"))
        _check_choice("split", split, (*_SPLITS, "all"))
        versions = _VERSIONS if version == "both" else (version,)
        splits = _SPLITS if split == "all" else (split,)
        prefixes = tuple(f"{self.name}/{one}/{other}/" for one in versions for other in splits)
        found = [instruction for instruction in self.instructions if instruction.id.startswith(prefixes)]
        if not found:
            raise ValueError(f"instruction bank {self.name!r}: no {split} phrasings of version {version}; add some")
        return found

    def assign(self, sample: Sample, version: Version = "both", split: Split = "seen", seed: int = 0) -> Sample:
        """Give a sample one of the phrasings, each with the same chance.

        The choice depends on `seed` and the sample's id alone: it is the same in every process and every run.

        Raises:
            ValueError: As in `phrasings`.
        """
        found = self.phrasings(version, split)
        digest = hashlib.blake2b(f"{seed}/{sample.id}".encode(), digest_size=8).digest()
        chosen = found[int.from_bytes(digest, "big") % len(found)]
        return replace(sample, instruction=chosen.text, instruction_id=chosen.id)


def known_banks() -> list[str]:
    """Names of the packaged banks, sorted."""
    return sorted(_packaged())


def _packaged() -> dict[str, Traversable]:
    root = resources.files("robustlm").joinpath("assets", "instructions")
    return dict(_walk(root, ""))


def _walk(folder: Traversable, prefix: str) -> Iterator[tuple[str, Traversable]]:
    for entry in folder.iterdir():
        if entry.is_dir():
            yield from _walk(entry, f"{prefix}{entry.name}/")
        elif entry.name.endswith(".json"):
            yield prefix + entry.name.removesuffix(".json"), entry


def _parsed(raw: bytes, where: str) -> Mapping[str, Any]:
    try:
        data = json.loads(raw)
    except ValueError as error:
        raise ValueError(f"{where}: found no UTF-8 JSON ({error}); expected an instruction bank") from None
    checked = _keys(data, ("task", *_VERSIONS), where)
    return {**checked, "task": _text(checked.get("task"), f"{where}: task")}


def _instructions(data: Mapping[str, Any], name: str, where: str) -> Iterator[Instruction]:
    texts: dict[str, str] = {}
    for version in _VERSIONS:
        splits = _keys(data.get(version, {}), _SPLITS, f"{where}: {version}")
        for split in _SPLITS:
            phrasings = splits.get(split, [])
            if not isinstance(phrasings, list):
                found = type(phrasings).__name__
                raise ValueError(f"{where}: {version}.{split}: found {found}; expected a list of strings")
            for number, phrasing in enumerate(phrasings):
                place = f"{version}.{split}[{number}]"
                text = _text(phrasing, f"{where}: {place}")
                same = " ".join(text.casefold().split())
                if same in texts:
                    raise ValueError(f"{where}: {place}: found the phrasing of {texts[same]} again; expected another")
                texts[same] = place
                yield Instruction(f"{name}/{version}/{split}/{number}", text)


def _keys(data: object, known: tuple[str, ...], where: str) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise ValueError(f"{where}: found {type(data).__name__}; expected an object with keys {', '.join(known)}")
    if unknown := sorted(set(data) - set(known)):
        raise ValueError(f"{where}: found key {unknown[0]!r}; expected {', '.join(known)}")
    return data


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{where}: found {value!r}; expected a non-empty string")
    return value.strip()


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name}: found {value!r}; expected one of {', '.join(known)}")

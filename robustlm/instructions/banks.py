"""Instruction banks: many phrasings of one task, some for training and some held back for tests."""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal, Self

from robustlm.instructions.jinja import UnusableTemplateError, converted, is_jinja
from robustlm.instructions.published import divided, entry_of, read_file
from robustlm.instructions.slots import slots
from robustlm.sample import Sample
from robustlm.utils.random import drawn

log = logging.getLogger(__name__)

Version = Literal["concise", "detailed", "both"]
"""How long a phrasing is: one short sentence, or several."""
Split = Literal["seen", "unseen", "all"]
"""`seen` phrasings are for training, `unseen` ones are held back to test on."""

_VERSIONS = ("concise", "detailed")
_SPLITS = ("seen", "unseen")
_LIST = "list"
_LISTS = "lists"
_FORMAT = "format"
NO_FORMAT = "none"
"""Value of `format` in a bank or source whose instructions state the answer format themselves."""


class LackingError(ValueError):
    """Rows or banks lack what an instruction condition needs.

    Args:
        message: The complete error message.
        reason: What is missing, without the advice.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Instruction:
    """One phrasing and its place in its bank."""

    id: str
    """`bank/version/split/number`, such as `ner/concise/seen/0`."""
    text: str
    """The phrasing."""
    answers: tuple[str, ...] = ()
    """The answer that it asks for instead of each label, in the order of the labels; empty: the label itself."""


class InstructionBank:
    """The phrasings of one task.

    A bank is a JSON file: `{"task": "ner", "concise": {"seen": [...], "unseen": [...]}, "detailed": {...}}`; or an
    entry of a JSON file that holds many, `{"rte": [...], "cola": [...]}`, each a list of templates or
    `{"seen": [...], "unseen": [...]}` of them. A template is a string or, as in [FLAN], `{"input": …, "target": …}`.
    Both forms may hold `"lists": {"designer": [...], …}`: named lists of templates, which an instruction condition
    selects by name.

    Args:
        name: Prefix of ids: the name of a packaged bank, of an entry, or the `task` of a file of your own.
        instructions: All phrasings, in the order concise before detailed, seen before unseen.
        division: A sentence that says how a list without splits was divided into seen and unseen; None for other banks.
        states_format: Whether the phrasings state the answer format (`"format": "none"` in the file); prompts then add
            none.
    """

    def __init__(
        self,
        name: str,
        instructions: tuple[Instruction, ...],
        division: str | None = None,
        *,
        states_format: bool = False,
    ) -> None:
        self.name = name
        self.instructions = instructions
        self.division = division
        self.states_format = states_format

    @classmethod
    def load(cls, name_or_path: str, unseen_share: float | None = None) -> Self:
        """Read a packaged bank by name (`ner`, `quickstart/ner`), or one of your own from a file.

        `file.json` is a bank, `file.json#name` an entry of a file with many; `file.yaml`, `.py` and `.md` are files of
        the forms in `robustlm.instructions.published`. All templates of an entry are `concise`.
        Templates with a target other than `{answer}` (such as a premise to write) state another task and are left out.
        Templates that repeat another one of their list are left out too.

        Args:
            name_or_path: Name or path of the bank.
            unseen_share: Share of a list's templates that become `unseen`: the last ones, rounded to the nearest
                number; 0 for none, 1 for all. Null: a quarter, rounded up, of a list of four or more, and none of a
                shorter list. Banks with splits of their own keep them.

        Raises:
            ValueError: The bank, file or entry does not exist or is not a valid bank, or the share is not in [0, 1].
        """
        if unseen_share is not None and not 0 <= unseen_share <= 1:
            raise ValueError(f"unseen_share: found {unseen_share}; expected a share in [0, 1], or null")
        place = divided(name_or_path)
        if place is not None and (place[1] or not place[0].endswith(".json")):
            file_name, entry = place
            given = entry_of(read_file(file_name), entry, file_name)
            name = entry or Path(file_name).stem
            found = tuple(_entry(given, name, file_name, unseen_share))
            division = _division(found, name, file_name) if isinstance(given, list) else None
            stated = _states_format(given, f"{file_name}#{entry}") or any(one.answers for one in found)
            return cls(name, found, division, states_format=stated)
        if name_or_path.endswith(".json"):
            path = Path(name_or_path)
            if not path.is_file():
                raise ValueError(f"{path}: no such file; expected an instruction bank, a JSON file")
            data = _parsed(path.read_bytes(), name_or_path)
            stated = _states_format(data, name_or_path)
            return cls(data["task"], tuple(_instructions(data, data["task"], name_or_path)), states_format=stated)
        file = _packaged().get(name_or_path)
        if file is None:
            known = ", ".join(known_banks())
            raise ValueError(f"instruction bank: found {name_or_path!r}; expected a JSON file or one of {known}")
        data = _parsed(file.read_bytes(), str(file))
        return cls(name_or_path, tuple(_instructions(data, name_or_path, str(file))))

    @property
    def has_answers(self) -> bool:
        """Whether phrasings ask for answers of their own instead of the labels, as those of PromptSource do."""
        return any(instruction.answers for instruction in self.instructions)

    @property
    def slots(self) -> list[str]:
        """Names in braces in any of the phrasings, in order of first appearance."""
        return slots("\n".join(instruction.text for instruction in self.instructions))

    def phrasings(self, version: Version = "both", split: Split = "all") -> list[Instruction]:
        """The phrasings of a version and split, in the bank's order.

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
            reason = f"instruction bank {self.name!r}: no {split} phrasings of version {version}"
            raise LackingError(
                f"{reason}; add some" + (", or divide the list in another way (unseen_share)" if self.division else ""),
                reason,
            )
        return found

    def has(self, split: Split) -> bool:
        """Whether there are phrasings of a split, of any length."""
        splits = _SPLITS if split == "all" else (split,)
        prefixes = tuple(f"{self.name}/{version}/{one}/" for version in _VERSIONS for one in splits)
        return any(instruction.id.startswith(prefixes) for instruction in self.instructions)

    @property
    def lists(self) -> dict[str, list[Instruction]]:
        """The named lists of the bank, by name."""
        found: dict[str, list[Instruction]] = {}
        for instruction in self.instructions:
            kind, name, _ = instruction.id.rsplit("/", 2)
            if kind == f"{self.name}/{_LIST}":
                found.setdefault(name, []).append(instruction)
        return found

    def listed(self, name: str) -> list[Instruction]:
        """The phrasings of a list of that name.

        Raises:
            ValueError: The bank has no such list.
        """
        lists = self.lists
        if name not in lists:
            known = ", ".join(lists) or "none, as it has no `lists`"
            reason = f"instruction bank {self.name!r}: found no list {name!r}"
            raise LackingError(f"{reason}; expected one of {known}", reason)
        return lists[name]

    def assign(self, sample: Sample, version: Version = "both", split: Split = "seen", seed: int = 0) -> Sample:
        """Give a sample one of the phrasings, each with the same chance.

        The choice depends on `seed` and the sample's id alone: it is the same in every process and every run.

        Raises:
            ValueError: As in `phrasings`.
        """
        return assigned(sample, self.phrasings(version, split), seed)


def assigned(sample: Sample, phrasings: Sequence[Instruction], seed: int) -> Sample:
    """Give a sample one of these phrasings, chosen as in `InstructionBank.assign`."""
    return asked_with(sample, phrasings[drawn(f"{seed}/{sample.id}") % len(phrasings)])


def asked_with(sample: Sample, instruction: Instruction) -> Sample:
    """A sample under an instruction. If the instruction has answers of its own, these replace the labels.

    Raises:
        ValueError: The instruction has another number of answers than the sample has labels.
    """
    sample = replace(sample, instruction=instruction.text, instruction_id=instruction.id)
    if not instruction.answers:
        return sample
    labels = tuple(label for _, label in sample.answer_words) or sample.choices
    if len(labels) != len(instruction.answers):
        raise ValueError(
            f"{instruction.id}: found {len(instruction.answers)} answers ({', '.join(instruction.answers)}); expected "
            f"one for each of the {len(labels)} labels of {sample.id}"
        )
    words = tuple(zip(instruction.answers, labels, strict=True))
    target = instruction.answers[sample.choices.index(sample.target)] if sample.target else ""
    return replace(sample, target=target, choices=instruction.answers, answer_words=words)


def fits(instruction: Instruction, sample: Sample, names: Sequence[str]) -> bool:
    """Whether a sample has a text for each of these placeholders in an instruction, and a label for each answer.

    Args:
        instruction: The instruction.
        sample: The sample.
        names: All placeholders of the bank; other braces are text.
    """
    given = dict(sample.fields)
    shown = all(name in given for name in slots(instruction.text) if name in names)
    return shown and (not instruction.answers or len(instruction.answers) == len(sample.choices))


def load_bank(name_or_path: str, unseen_share: float | None = None) -> InstructionBank:
    """Load a bank as `InstructionBank.load` does, but read it again only if its file has changed."""
    place = divided(name_or_path)
    file = os.path.abspath(place[0] if place else name_or_path)
    try:
        found = os.stat(file)
    except OSError:
        return _loaded(name_or_path, unseen_share, None)
    return _loaded(name_or_path, unseen_share, (file, found.st_mtime_ns, found.st_size))


@lru_cache
def _loaded(name_or_path: str, unseen_share: float | None, state: tuple[str, int, int] | None) -> InstructionBank:
    """Load a bank through a cache; `state` differs once the file has changed."""
    return InstructionBank.load(name_or_path, unseen_share)


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
        json.dumps(data, ensure_ascii=False).encode()  # rejects an unpaired escape such as \ud800
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: found no UTF-8 JSON ({error}); expected an instruction bank") from None
    checked = _keys(data, ("task", *_VERSIONS, _LISTS, _FORMAT), where)
    return {**checked, "task": _text(checked.get("task"), f"{where}: task")}


def _states_format(data: object, where: str) -> bool:
    """Whether a bank says that its instructions state the format of answers."""
    if not isinstance(data, dict) or _FORMAT not in data:
        return False
    if data[_FORMAT] != NO_FORMAT:
        raise ValueError(f"{where}: {_FORMAT}: found {data[_FORMAT]!r}; expected {NO_FORMAT!r}, or no such key")
    return True


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
                same = _same(text)
                if same in texts:
                    raise ValueError(f"{where}: {place}: found the phrasing of {texts[same]} again; expected another")
                texts[same] = place
                yield Instruction(f"{name}/{version}/{split}/{number}", text)
    yield from _lists(data, name, where)


def _lists(data: Mapping[str, Any], name: str, where: str) -> Iterator[Instruction]:
    """Read the named lists; they may repeat seen and unseen phrasings and each other."""
    lists = data.get(_LISTS, {})
    if not isinstance(lists, dict):
        found = type(lists).__name__
        raise ValueError(f"{where}: {_LISTS}: found {found}; expected an object of lists of templates by name")
    for key, given in lists.items():
        if not _LIST_NAME.fullmatch(key):
            raise ValueError(f"{where}: {_LISTS}: found the name {key!r}; expected letters, digits, _ and -")
        found = _templates(given, f"{where}: {_LISTS}.{key}")
        if not found:
            raise ValueError(f"{where}: {_LISTS}.{key}: found no template; expected at least one")
        for number, one in enumerate(found):
            yield Instruction(f"{name}/{_LIST}/{key}/{number}", one.text, one.answers)


_ANSWER = "{answer}"
_LIST_NAME = re.compile(r"[\w-]+")


def _division(instructions: Sequence[Instruction], name: str, path: str) -> str:
    unseen = sum(one.id.startswith(f"{name}/concise/unseen/") for one in instructions)
    seen = len(instructions) - unseen
    return f"{path}#{name}: of {seen + unseen} templates the first {seen} are seen and the last {unseen} unseen"


def _entry(entry: object, name: str, path: str, unseen_share: float | None) -> Iterator[Instruction]:
    where = f"{path}#{name}"
    lists: list[Instruction] = []
    if isinstance(entry, list):
        found = _templates(entry, where)
        held_back = -(-len(found) // 4) if len(found) >= 4 else 0
        if unseen_share is not None:
            held_back = math.floor(unseen_share * len(found) + 0.5)
        splits = {"seen": found[: len(found) - held_back], "unseen": found[len(found) - held_back :]}
    elif isinstance(entry, dict):
        given = _keys(entry, (*_SPLITS, _LISTS, _FORMAT), where)
        lists = list(_lists(given, name, where))
        splits = {split: _templates(given.get(split, []), f"{where}: {split}") for split in _SPLITS}
    else:
        expected = "a list of templates, or an object with keys seen, unseen"
        raise ValueError(f"{where}: found {type(entry).__name__}; expected {expected}")
    if not any(splits.values()) and not lists:
        raise ValueError(f"{where}: found no template for the target {_ANSWER}; expected at least one")
    seen = {_same(one.text) for one in splits["seen"]}
    if both := [one.text for one in splits["unseen"] if _same(one.text) in seen]:
        raise ValueError(f"{where}: found {both[0]!r} among seen and unseen; expected it in one of them")
    for split in _SPLITS:
        for number, one in enumerate(splits[split]):
            yield Instruction(f"{name}/concise/{split}/{number}", one.text, one.answers)
    yield from lists


@dataclass(frozen=True, slots=True)
class _Template:
    """A template of a list."""

    text: str
    answers: tuple[str, ...] = ()


def _templates(given: object, where: str) -> list[_Template]:
    """The templates of a list, without those of inverse tasks, unusable ones of PromptSource, and repetitions."""
    if not isinstance(given, list):
        raise ValueError(f"{where}: found {type(given).__name__}; expected a list of templates")
    found: dict[str, _Template] = {}
    inverse = twice = 0
    unusable: list[str] = []
    for number, template in enumerate(given):
        try:
            one = _template(template, f"{where}[{number}]")
        except UnusableTemplateError as error:
            unusable.append(str(error))
            continue
        if one is None:
            inverse += 1
        elif _same(one.text) in found:
            twice += 1
        else:
            found[_same(one.text)] = one
    for reason in unusable:
        _say_once(f"{where}: left out the template {reason}")
    if unusable and not found:
        raise ValueError(
            f"{where}: found no usable template among {len(given)} (the first is {unusable[0]}); expected at least one"
        )
    if inverse:
        _say_once(f"{where}: left out {inverse} of {len(given)} templates, whose target is not {_ANSWER}")
    if twice:
        _say_once(f"{where}: left out {twice} of {len(given)} templates, which repeat another")
    return list(found.values())


def _template(template: object, where: str) -> _Template | None:
    """A template; null where its target is not the answer."""
    if not isinstance(template, dict):
        return _Template(_text(template, where))
    if is_jinja(template):
        try:
            return _Template(*converted(template))
        except UnusableTemplateError as error:
            raise UnusableTemplateError(f"{template.get('name', where)!r}: {error}") from None
    pair = _keys(template, ("input", "target"), where)
    text, target = (_text(pair.get(key), f"{where}.{key}") for key in ("input", "target"))
    return _Template(text) if target == _ANSWER else None


def _same(text: str) -> str:
    """A normal form: equal for phrasings that differ only in case and white space."""
    return " ".join(text.casefold().split())


@cache
def _say_once(message: str) -> None:
    log.info(message)


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

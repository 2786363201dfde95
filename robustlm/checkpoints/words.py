"""Values that a user gave in flags and configs; a checkpoint may use some settings only if they are among these."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, is_dataclass
from pathlib import Path

import yaml

from robustlm.checks.places import what_is
from robustlm.utils.yaml_text import check_yaml, read_yaml


@dataclass(frozen=True)
class Words:
    """Values that a user gave in flags and configs: pairs (key, plain value), with keys without their parents."""

    pairs: frozenset[tuple[str, object]]

    def says(self, key: str, value: object) -> bool:
        """Whether the user gave this key exactly this value."""
        return (key, value) in self.pairs

    def values(self, key: str) -> list[object]:
        """All values that the user gave to a key."""
        return [value for name, value in self.pairs if name == key]

    def paths(self) -> list[str]:
        """Values that may be import paths: dotted names that are no files or folders (not checked for `class_path`)."""
        found = {
            value
            for key, value in self.pairs
            if isinstance(value, str) and is_dotted(value) and (key == "class_path" or not os.path.exists(value))
        }
        return sorted(found)


def said(args: Sequence[str], configs: Sequence[str] = ()) -> Words:
    """Collect the values that a user gave.

    Args:
        args: Arguments of the command line.
        configs: Config files among them; unreadable files are skipped here and refused elsewhere.
    """
    pairs: set[tuple[str, object]] = set()
    for i, arg in enumerate(args):
        flag, equals, value = arg.partition("=")
        if not flag.startswith("-"):
            flag, value = (args[i - 1].partition("=")[0] if i and args[i - 1].startswith("-") else ""), arg
        elif not equals:
            continue
        pairs |= set(_pairs(plain_value(value), flag.lstrip("-").rpartition(".")[2]))
    left, seen = [Path(file) for file in configs], set()
    # a value may be the name of a file with a part of the config
    left += [Path(value) for value in _configs(pairs)]
    while left:
        file = left.pop()
        if file in seen or what_is(file) != "a file":  # reading a pipe could block forever
            continue
        seen.add(file)
        try:
            text = file.read_text(encoding="utf-8")
            check_yaml(text)
            found = set(_pairs(read_yaml(text), ""))
        except (OSError, ValueError, yaml.YAMLError, RecursionError):
            continue
        pairs |= found
        left += [place for value in _configs(found) for place in (Path(value), file.parent / value)]
    return Words(frozenset(pairs))


def is_dotted(text: str) -> bool:
    """Whether a text looks like an import path: names with dots between them."""
    return "." in text and all(part.isidentifier() for part in text.split("."))


# --- plain data ------------------------------------------------------------------------------------------------


def _mapping(value: object) -> dict[str, object]:
    """Settings as a dict, from a dataclass or a mapping; empty for anything else."""
    if is_dataclass(value) and not isinstance(value, type):
        return dict(vars(value))
    return dict(value) if isinstance(value, Mapping) else {}


def _pairs(value: object, key: str) -> Iterator[tuple[str, object]]:
    """Yield plain values with their innermost keys."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _pairs(item, str(name).rpartition(".")[2])
    elif isinstance(value, list):
        for item in value:
            yield from _pairs(item, key)
    elif isinstance(value, str | bool | int | float):
        yield key, value


def plain_value(text: str) -> object:
    """Parse text as YAML; return the text itself if that fails."""
    try:
        check_yaml(text)
        return read_yaml(text)
    except (ValueError, yaml.YAMLError, RecursionError):
        return text


def _configs(pairs: set[tuple[str, object]]) -> list[str]:
    """The values that name config files."""
    texts = [value for _, value in pairs if isinstance(value, str)]
    return [text for text in texts if text.endswith((".yaml", ".yml")) and len(text) < 1024]


def shown(value: object) -> str:
    """A value as text for messages, cut after 120 characters."""
    text = str(value)
    return text if len(text) <= 120 else f"{text[:120]}…"

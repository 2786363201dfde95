"""Read and sort the arguments of a command before the parser sees them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

import yaml

from robustlm.assets import is_packaged_config
from robustlm.checkpoints.words import said
from robustlm.utils.nested import nested
from robustlm.utils.yaml_text import read_yaml


def ordered(args: Sequence[str]) -> list[str]:
    """Sort a command's arguments: config files, then flags; a flag that names a class before flags for its arguments.

    `--model.adversary.steps 5 --model.adversary PGD -c anit` then means the same as in any other order. Arguments of
    the same rank keep their order, so the last one of two config files or of two equal flags wins.
    """
    command, groups = args[:1], groups_of(args[1:])
    configs = [group for group in groups if key_of(group) in ("c", "config")]
    flags: list[list[str]] = []
    for group in (group for group in groups if group not in configs):
        inner = f"{key_of(group)}."
        later = [i for i, flag in enumerate(flags) if key_of(flag).startswith(inner)]
        flags.insert(later[0] if later and _names_a_class(group) else len(flags), group)
    return [*command, *(arg for group in (*configs, *flags) for arg in group)]


def with_lists(args: Sequence[str], kinds: Mapping[str, str]) -> list[str]:
    """Write lists without brackets as YAML: `--seeds 0 1` and `--seeds 0,1` as `--seeds=[0, 1]`, `--arms a` as a list.

    Texts may contain commas, and a text after the first may be a positional argument; so a list of texts without
    brackets has one text.

    Args:
        args: Arguments of a command, without its name.
        kinds: The type of each option that is a list, `list[int]` or `list[str]`, by name.
    """
    found: list[str] = []
    for group in groups_of(args):
        flag, equals, value = group[0].partition("=")
        kind = kinds.get(flag.removeprefix("--"))
        values = [value, *group[1:]] if equals else group[1:]
        if kind is None or not values or values[0].lstrip().startswith("["):
            found += group
        elif kind == "list[int]":
            own = list(takewhile(re.compile(r"[\d\s,]*\d[\d\s,]*").fullmatch, values))
            numbers = re.findall(r"\d+", " ".join(own))
            found += [f"{flag}=[{', '.join(numbers)}]", *values[len(own) :]] if own else group
        else:
            found += [f"{flag}={json.dumps(values[:1])}", *values[1:]]
    return found


def named_by_user(args: Sequence[str], key: str) -> list[str]:
    """The texts that the user gave a setting, by flags and in the user's own config files.

    Values in packaged configs (`-c anit`) do not count.

    Args:
        args: Arguments of a command. Names of packaged configs are replaced by their files.
        key: The setting, without its parents: `conditions` for `--data.conditions`.
    """
    own, files = list(args[:1]), []
    for group in groups_of(args[1:]):
        if key_of(group) in ("c", "config"):
            _, equals, value = group[0].partition("=")
            file = value if equals else " ".join(group[1:])
            if is_packaged_config(file):
                continue
            files.append(file)
        own += group
    words = said(own, files)
    return [text for name in (key, f"{key}+") for text in words.values(name) if isinstance(text, str)]


def groups_of(args: Sequence[str]) -> list[list[str]]:
    """Group the arguments: each flag with its values."""
    groups: list[list[str]] = []
    for arg in args:
        if not groups or re.match(r"--?[A-Za-z][\w.+-]*(=|$)", arg):
            groups.append([])
        groups[-1].append(arg)
    return groups


def key_of(group: list[str]) -> str:
    """The setting that a flag sets, without the optional parts `init_args` and `class_path`."""
    parts = group[0].partition("=")[0].lstrip("-").split(".")
    return ".".join(part for part in parts if part not in ("init_args", "class_path"))


def _names_a_class(group: list[str]) -> bool:
    flag, equals, value = group[0].partition("=")
    value = value if equals else " ".join(group[1:])
    if flag.endswith(".class_path") or "class_path" in value:
        return True
    return bool(re.fullmatch(r"[A-Za-z_][\w.]*", value)) and value.lower() not in ("null", "none", "true", "false")


def setting(args: Sequence[str], name: str) -> Any:
    """The value of an option: from a flag if one gives it, else from the config files, else null."""
    given, value = flag_value(args, name)
    if given:
        return None if value == "null" else value
    return configured(args, name)


def configured(args: Sequence[str], name: str) -> object:
    """The value of an option in the config files among the arguments; the last one that is not null counts."""
    found = None
    for file in configs_of(args):
        value = nested(read_yaml(Path(file).read_text(encoding="utf-8")), name)
        found = value if value is not None else found
    return found


def flag_value(args: Sequence[str], name: str) -> tuple[bool, object]:
    """Whether a flag gives an option, itself or within a mapping (`--data '{init_args: …}'`), and its value."""
    found: tuple[bool, object] = False, None
    for group in groups_of(args[1:]):
        key = key_of(group)
        _, equals, value = group[0].partition("=")
        value = value if equals else " ".join(group[1:])
        if key == name:
            found = True, value
        elif name.startswith(f"{key}."):
            try:
                inner = nested(read_yaml(value), name.removeprefix(f"{key}."))
            except yaml.YAMLError:
                continue
            found = (True, inner) if inner is not None else found
    return found


def value_of(args: Sequence[str], flag: str) -> str | None:
    """The value of a flag, written `--flag VALUE` or `--flag=VALUE`; the last one counts."""
    value = None
    for i, arg in enumerate(args):
        if arg == flag and i + 1 < len(args):
            value = args[i + 1]
        elif arg.startswith(f"{flag}="):
            value = arg.partition("=")[2]
    return value


def configs_of(args: Sequence[str]) -> list[str]:
    """The config files among the arguments."""
    found = []
    for i, arg in enumerate(args):
        flag, equals, value = arg.partition("=")
        if flag in ("-c", "--config") and (equals or i + 1 < len(args)):
            found.append(value if equals else args[i + 1])
    return found


def after_configs(args: Sequence[str], file: str) -> list[str]:
    """The arguments with one more config file after all others and before all flags."""
    command, rest = args[0], list(args[1:])
    configs, flags = [], []
    while rest:
        arg = rest.pop(0)
        if arg in ("-c", "--config") and rest:
            configs += [arg, rest.pop(0)]
        elif arg.startswith(("-c=", "--config=")):
            configs.append(arg)
        else:
            flags.append(arg)
    return [command, *configs, "--config", file, *flags]

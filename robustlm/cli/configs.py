"""Find the config files of a command by name, and refuse broken ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from robustlm.assets import config_file, known_configs
from robustlm.checks.places import what_is
from robustlm.cli.explain import nearest
from robustlm.utils.yaml_text import check_yaml, read_yaml


def named_configs(args: Sequence[str]) -> list[str]:
    """The arguments, with each name of a packaged config replaced by its file."""
    found = []
    for i, arg in enumerate(args):
        flag, equals, value = arg.partition("=")
        if equals and flag in ("-c", "--config"):
            arg = f"{flag}={config_path(value)}"
        elif i and args[i - 1] in ("-c", "--config"):
            arg = config_path(arg)
        found.append(arg)
    return found


def config_path(name: str) -> str:
    """The file of the packaged config with this name; any other name is returned unchanged.

    A folder with the same name does not count, since a folder of runs may have the name of a config.
    """
    packaged = None if what_is(name) == "a file" else config_file(name)
    return name if packaged is None else str(packaged)


def check_config(file: str) -> None:
    """Raise `ValueError` if this is not a valid config file. Unlike the parser's message, it names file and line."""
    if (found := what_is(file)) != "a file":
        known = known_configs()
        seen = "" if found == "nothing" else f", found {found}"
        raise ValueError(
            f"config: {file} is not a file{nearest(file, known)}{seen}; expected a YAML file, or a packaged one: "
            f"{', '.join(known)}"
        )
    try:
        text = Path(file).read_text(encoding="utf-8")
        check_yaml(text)
        content = read_yaml(text)
    except UnicodeDecodeError as error:
        raise ValueError(f"config: {file} is not UTF-8 (byte {error.start + 1}); convert the file") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise ValueError(f"config: {file}{line}: broken YAML: {getattr(error, 'problem', None) or error}") from error
    except RecursionError as error:
        raise ValueError(f"config: {file}: the YAML is nested too deeply; expected a few levels") from error
    except ValueError as error:  # an impossible date, or a number with thousands of digits
        raise ValueError(f"config: {file}: a value cannot be read ({error}); put quotes around it") from error
    if not isinstance(content, dict) or not content:
        found = "no settings" if not content else f"a {type(content).__name__}"
        raise ValueError(
            f"config: {file}: found {found}; expected keys and values such as `trainer:`, `model:`, `data:`"
        )
    if odd := [key for key in content if not isinstance(key, str)]:
        raise ValueError(f"config: {file}: found the key {odd[0]!r}; expected text such as `trainer`")

"""Parsers with short errors, and readers for this package's own value types."""

from __future__ import annotations

import inspect
import logging
import re
from collections.abc import Callable
from dataclasses import asdict, fields
from typing import Any, NoReturn

import docstring_parser
import jsonargparse
import jsonargparse.typing
import yaml
from jsonargparse import _typehints, _util

from robustlm.checks.texts import brief
from robustlm.cli.explain import explain, nearest
from robustlm.sources.source import Source
from robustlm.utils.public import current_name
from robustlm.utils.yaml_text import check_yaml

log = logging.getLogger(__name__)


class BriefParser(jsonargparse.ArgumentParser):
    """A parser whose errors are short: what is wrong and where, without a list of all options and values."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong and end with status 2."""
        if not self.exit_on_error:  # parser of a nested class: the outer parser adds the position
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        program = parser.prog.replace(" [options]", "")
        text = explain(message, re.findall(r"(?<=\s)--[\w.]+", parser.format_help()))
        self.exit(2, f"robustlm: error: {brief(text)}\n(`{program} --help` shows the options)\n")


def add_arguments(parser: jsonargparse.ArgumentParser, function: Callable[..., object]) -> None:
    """Give a command the arguments of a function. Required ones are positional; a required list takes one or more."""
    required = [p for p in inspect.signature(function).parameters.values() if p.default is inspect.Parameter.empty]
    help_of = {found.arg_name: found.description for found in docstring_parser.parse(function.__doc__ or "").params}
    for parameter in required:
        many: dict[str, Any] = {"nargs": "+"} if str(parameter.annotation).startswith("list") else {}
        parser.add_argument(parameter.name, type=str, help=help_of.get(parameter.name), **many)
    parser.add_function_arguments(function, skip={p.name for p in required})
    for action in parser._actions:
        if isinstance(action, _typehints.ActionTypeHint) and action._typehint is bool:
            action.nargs, action.const = "?", True  # `--dry_run` is `--dry_run true`
    # the help lists each option below, with its meaning
    parser.usage = " ".join([parser.prog, *(p.name for p in required), "[--OPTION VALUE ...]"])


def lists_of(function: Callable[..., object]) -> dict[str, str]:
    """The options of a function that are lists, with their types as they are written."""
    parameters = inspect.signature(function).parameters.values()
    return {
        p.name: str(p.annotation)
        for p in parameters
        if p.default is not inspect.Parameter.empty and str(p.annotation).startswith("list[")
    }


def _source(value: object) -> Source:
    """A source given in a config as the fields of a `Source`."""
    if not isinstance(value, dict):
        raise ValueError(f"expected a path, or an object with the key path, found {value!r}")
    known = [field.name for field in fields(Source)]
    for key in value:
        if key not in known:
            raise ValueError(
                f"found the key {key!r}, which no source has{nearest(str(key), known)}. It has: {', '.join(known)}"
            )
    if not isinstance(value.get("path"), str):
        raise ValueError(f"path: expected a file, folder or name of a data set, found {value.get('path')!r}")
    if not isinstance(value.get("limit"), int | float | None):
        raise ValueError(f"limit: expected a number of rows, a share of them or null, found {value['limit']!r}")
    return Source(**value)


_SETTINGS = {"trainer", "model", "data", "class_path", "init_args", "template", "tokens"}
"""Every mapping of settings that may contain a prompt template has at least one of these keys."""

_yaml_load = jsonargparse.get_loader("yaml")


def _load(text: str) -> object:
    """Read YAML, but read a prompt template given by flag (`Task: {instruction}`) as text, not as a mapping."""
    try:
        check_yaml(text)
        value = _yaml_load(text)
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply; expected a few levels") from error
    except ValueError:  # an impossible date: the parser reports what it expected
        return text
    template = isinstance(value, dict) and not _SETTINGS & value.keys() and re.search(r"\{\w+\}", text)
    return text if template else value


def named(name: str) -> str:
    """The current name of a class that a config or flag names; warns if the given name is an old one."""
    return current_name(name, log.warning)


def _by_current_name(cls: type | tuple[type], name: str) -> str:
    """The import path of a class that a config or flag names."""
    return _resolve(cls, named(name))


def _with_null(value: jsonargparse.Namespace, *args: object, **kwargs: object) -> object:
    """As jsonargparse's function; but for a nested setting that is null, which it would write as the text `None`."""
    given = value.get("init_args")
    if isinstance(given, _util.NestedArg) and given.val is None:
        value["init_args"] = given._replace(val="null")
    return _adapt(value, *args, **kwargs)


_adapt: Callable[..., object] = _typehints.adapt_class_type
_typehints.adapt_class_type = _with_null
_resolve = _typehints.resolve_class_path_by_name
_typehints.resolve_class_path_by_name = _by_current_name
jsonargparse.set_loader("yaml", _load, exceptions=(yaml.YAMLError,))
# registered as its own type: where the parser expects a dataclass, it would open the file at the path
jsonargparse.typing.register_type(Source, asdict, _source)

"""jsonargparse with a memory: tests parse hundreds of commands, and it searches the actions of each parser many times.

Each function here gives what jsonargparse's own function gives; `tests/cli/test_quick_parsing.py` compares them call by
call. Commands in processes that tests start anew run without it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import docstring_parser
from jsonargparse import ArgumentParser, Namespace, _core, _namespace, _subcommands

PLAIN: dict[str, Callable[..., Any]] = {
    "find_action_and_subcommand": _subcommands.find_action_and_subcommand,
    "is_branch_key": _subcommands.is_branch_key,
    "recreate_branches": _namespace.recreate_branches,
    "_parse_key": Namespace._parse_key,
    "get_defaults": ArgumentParser.get_defaults,
}
"""jsonargparse's own functions."""


def _remembered(name: str) -> Callable[..., Any]:
    """A function of a parser and a key. Its results count as long as the parser has the same actions."""
    plain = PLAIN[name]

    @functools.wraps(plain)
    def found(parser: Any, key: str, exclude: Any = None) -> Any:
        more = () if exclude is None else (exclude,)
        if getattr(parser, "_subcommands_action", True) is not None:  # its result depends on other parsers
            return plain(parser, key, *more)
        known = parser.__dict__.get(name)
        if known is None or known[0] != parser._actions:
            known = parser.__dict__[name] = (list(parser._actions), {})
        try:
            return known[1][key, exclude]
        except KeyError:
            result = known[1][key, exclude] = plain(parser, key, *more)
            return result

    return found


def recreate_branches(data: Any, skip_keys: Any = None) -> Any:
    """A copy of nested namespaces, dicts and lists; the keys of a namespace need not be read as paths again."""
    kind = type(data)
    if kind is Namespace and not any("." in key or " " in key or not key for key in data.__dict__):
        copy = Namespace()
        fields = copy.__dict__
        for key, value in data.__dict__.items():
            if skip_keys is None or key not in skip_keys:
                fields[_namespace.add_clash_mark(key)] = recreate_branches(value, skip_keys)
        return copy
    if kind is dict:
        return {k: recreate_branches(v, skip_keys) for k, v in data.items() if skip_keys is None or k not in skip_keys}
    if kind is list:
        return [recreate_branches(value, skip_keys) for value in data]
    if isinstance(data, Namespace | dict | list):
        return PLAIN["recreate_branches"](data, skip_keys)
    return data


def _parse_key(self: Namespace, key: Any) -> Any:
    """The place of a key; one without dots is in the namespace itself."""
    if type(key) is str and key.isidentifier():
        return _namespace.add_clash_mark(key), self, ""
    return PLAIN["_parse_key"](self, key)


def get_defaults(self: ArgumentParser, skip_validation: bool = False) -> Namespace:
    """The defaults of a class, which are found by parsing them; a copy of them as long as nobody sets others."""
    if not getattr(self, "_inner_parser", False) or self._default_config_files:
        return PLAIN["get_defaults"](self, skip_validation)  # type: ignore[no-any-return]
    given = [action.default for action in self._actions]
    known = self.__dict__.get("get_defaults of")
    if known is None or len(known[0]) != len(given) or any(a is not b for a, b in zip(known[0], given, strict=True)):
        found = PLAIN["get_defaults"](self, skip_validation)
        known = self.__dict__["get_defaults of"] = (given, found)
    return known[1].clone()  # type: ignore[no-any-return]


def install() -> None:
    """Put the functions into jsonargparse."""
    docstring_parser.parse_from_object = functools.cache(docstring_parser.parse_from_object)
    quick = {name: _remembered(name) for name in ("find_action_and_subcommand", "is_branch_key")}
    quick["recreate_branches"] = recreate_branches
    put(quick)
    Namespace._parse_key = _parse_key  # type: ignore[method-assign]
    ArgumentParser.get_defaults = get_defaults  # type: ignore[method-assign]


def put(functions: dict[str, Callable[..., Any]]) -> None:
    """Put functions where jsonargparse looks for them."""
    for module in (_core, _namespace, _subcommands):
        for name, function in functions.items():
            if hasattr(module, name):
                setattr(module, name, function)

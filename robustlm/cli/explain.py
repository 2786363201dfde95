"""Rewrite parser errors for users: the key, the value found, the value expected, the nearest known name."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module

_KEY = re.compile(r'Parser key "(?P<key>[^"]+)"(?P<element> element \d+)?:\s*(?P<rest>.*)')
_CLASS = re.compile(r"Problem with given class_path '(?P<path>[^']+)':\s*(?P<rest>.*)")
_EXPECTED = re.compile(
    r"Expected an? (?P<type><class '[^']+'>|typing\.\S.*?|[A-Z]\w+\[.*?\])(\. Got value: (?P<found>.*))?$"
)
_SUBTYPES = re.compile(r"Subtypes: (?P<types>.*)")
_GIVEN = re.compile(r"Given value: (?P<found>.*)")
_NOISE = re.compile(r"(Does not validate against|Errors:$|Given value type:|Expected a path but)")
_BAD_CLASS = re.compile(
    r"(Expected a dot import path string|Unexpected import path format|Import path does not correspond"
    r"|Expected an instantiatable class|.*[Nn]o module named|.*\bmodule .*has no attribute)"
)
_TYPES = {"int": "an integer", "float": "a number", "str": "text", "bool": "true or false", "NoneType": "null"}
_MOST_SHOWN = 12


@dataclass
class _Reading:
    """The content of a nested message, collected level by level."""

    keys: list[str] = field(default_factory=list)
    owner: str = ""
    """Import path of the innermost class."""
    types: str = ""
    """The innermost list of admissible types."""
    found: str | None = None
    expected: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    """All other statements of the message."""


def explain(message: str, options: Iterable[str] = ()) -> str:
    """Shorten a message of jsonargparse: no nesting, no types, and only the wrong value.

    Args:
        message: The message of the parser, or of the creation of the parsed classes.
        options: All known options, from which the nearest one is suggested for an unknown option.
    """
    reading = _read(message.split("\n"))
    key = ".".join(reading.keys)
    problems = [_problem(text, reading, list(options)) for text in dict.fromkeys(reading.others)]
    if not problems and reading.expected:
        found = "" if reading.found is None else f", found {reading.found!r}"
        problems = [f"expected {_listed(dict.fromkeys(reading.expected), ' or ')}{found}"]
    return "\n".join(f"{key}: {problem}" if key and i == 0 else problem for i, problem in enumerate(problems))


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean …?)` with the nearest known name; empty if none is near."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def _read(lines: list[str]) -> _Reading:
    reading = _Reading()
    for line in lines:
        text = line.strip()
        while text:
            text = text.removeprefix("- ")
            if match := _KEY.match(text):
                reading.keys.append(match["key"] + (match["element"] or ""))
            elif match := _CLASS.match(text):
                reading.owner = match["path"]
            else:
                _read_leaf(text, reading)
                break
            text = match["rest"]
    return reading


def _read_leaf(text: str, reading: _Reading) -> None:
    if match := _EXPECTED.match(text):
        if reading.found is None:  # the innermost level comes first; later lines are alternatives to the outer levels
            reading.expected.append(_type_name(match["type"]))
            reading.found = match["found"]
    elif match := _GIVEN.match(text):
        reading.found = match["found"] if reading.found is None else reading.found
    elif match := _SUBTYPES.match(text):
        reading.types = match["types"] if reading.found is None else reading.types
    elif not _NOISE.match(text):
        reading.others.append(text.removeprefix("Not of type Source: "))


def _type_name(text: str) -> str:
    if match := re.fullmatch(r"typing\.Literal\[(.*)\]", text):
        return f"one of {match[1]}"
    name = text.removeprefix("<class '").removesuffix("'>")
    return _TYPES.get(name, name.removeprefix("typing."))


def _problem(text: str, reading: _Reading, options: list[str]) -> str:
    """One statement of the parser, with the names that would be valid."""
    if match := re.fullmatch(r"Option '([^']+)' is not accepted", text):
        known = sorted(set(_arguments(_imported(reading.owner))))
        owner = reading.owner.rpartition(".")[2]
        return f"{owner} has no argument {match[1]!r}{nearest(match[1], known)}. It has: {_listed(known)}"
    if match := re.fullmatch(r"Subcommand '[^']+' does not accept option '([^']+)'", text):
        return f"unknown key {match[1]!r}{nearest('--' + match[1], options).replace('--', '')}"
    if match := re.match(r"unrecognized arguments: (.*)", text):
        flag = match[1].split()[0].partition("=")[0]
        return f"unknown argument {flag!r}{nearest(flag, options)}"
    if match := re.match(r"the following arguments are required: (.*)", text):
        names = [re.sub(r"^\w+\.(?=data$|model$)", "--", name) for name in match[1].split(", ")]  # of the command
        return f"missing: {', '.join(names)}"
    if _BAD_CLASS.match(text):
        known = sorted({name.rpartition(".")[2] for name in _subclasses(reading.types)})
        found = reading.found or text.rpartition(": ")[2]
        found = re.sub(r"(Namespace\(|\{')class_path'?[=:] ?'([^']+)'.*", r"\2", found)
        expected = f". Expected one of {_listed(known)}, or the import path of your own" if known else ""
        return f"{found!r} is not a class that fits here{nearest(found, known)}{expected}"
    return text


def _subclasses(types: str) -> Iterator[str]:
    """The non-abstract classes among the named types and their subclasses."""
    for path in re.findall(r"<class '([^']+)'>", types):
        pending = [_imported(path)]
        while pending:
            cls = pending.pop()
            if isinstance(cls, type) and cls is not type(None):
                pending += cls.__subclasses__()
                if not inspect.isabstract(cls):
                    yield f"{cls.__module__}.{cls.__qualname__}"


def _imported(path: str) -> object:
    """A class that the parser has imported already, or `None`."""
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name, None) if module else None


def _arguments(cls: object) -> Iterator[str]:
    """Names of a class's arguments, including those that it passes on to its bases."""
    for base in inspect.getmro(cls) if isinstance(cls, type) else ():
        if "__init__" in vars(base) and base.__module__.partition(".")[0] not in ("builtins", "lightning", "torch"):
            for name, parameter in inspect.signature(base).parameters.items():
                if parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                    yield name


def _listed(names: Iterable[str], separator: str = ", ") -> str:
    shown = list(names)
    return separator.join(shown[:_MOST_SHOWN]) + (", …" if len(shown) > _MOST_SHOWN else "")

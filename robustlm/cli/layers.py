"""Settings in layers: defaults, config files, a checkpoint, flags. Each layer overrides those before it.

A layer may put another class into a slot (`--model.adversary FGSM` over a config's NRM). By default, jsonargparse then
keeps every argument of the old class whose name the new class also has. An ε written for NRM would make FGSM thirty
times too strong, without a message. `drop_on_switch` changes that: the arguments of the old class are dropped, and
`reported` prints them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pydoc import locate
from typing import Any

import jsonargparse
from jsonargparse import Namespace, _typehints

from robustlm.utils.ranks import is_first
from robustlm.utils.serialization import to_plain

_HOOK = "discard_init_args_on_class_path_change"
_keep_shared = getattr(_typehints, _HOOK, None)
_dropped: dict[tuple[str, str], dict[str, object]] = {}
"""The values dropped since `reported` began, by name, keyed by the names of the old and the new class."""


def drop_on_switch(*sharing: type) -> None:
    """Make parsers drop the arguments of a class when a later layer replaces it by another class.

    Args:
        sharing: Exempt base classes: their subclasses keep the arguments that both classes have. For example, a model
            that replaces another model keeps the backbone, the tuning and the optimiser.

    Raises:
        ImportError: The installed jsonargparse does not support this. It must not be used, since runs would then train
            with wrong settings.
    """

    def discard(parser: object, previous: Any, value: Any) -> None:
        if not previous or not previous.get("init_args"):
            return
        plain = previous["class_path"] is None  # only the fields of a dataclass, without its class name
        if not plain and _same(previous["class_path"], value["class_path"]):
            return
        if plain or _is_subclass(value["class_path"], sharing):
            assert _keep_shared is not None
            _keep_shared(parser, previous, value)
            return
        written = _not_default(previous)
        if written:
            names = tuple(str(spec["class_path"]).rpartition(".")[2] for spec in (previous, value))
            _dropped.setdefault((names[0], names[1]), {}).update(written)
        previous["init_args"] = type(previous["init_args"])()

    setattr(_typehints, _HOOK, discard)
    if _keep_shared is None or not _works():
        raise ImportError(
            f"jsonargparse {jsonargparse.__version__} keeps arguments of a class that a flag replaces, and robustlm "
            "does not know how to change that in this version; install another one (4.53 is known to work)"
        )


@contextmanager
def reported() -> Iterator[None]:
    """Print to stderr the arguments that parsing in this context dropped, unless parsing fails."""
    _dropped.clear()
    try:
        yield
    except SystemExit as end:  # --print_config and --help end the program
        if not end.code:
            _report()
        raise
    _report()


def _report() -> None:
    if not is_first():
        return
    for (old, new), values in _dropped.items():
        listed = ", ".join(f"{name}: {value}" for name, value in values.items())
        print(f"{new} replaces {old}, so settings written for {old} are not used: {listed}", file=sys.stderr)


def _same(left: str, right: str) -> bool:
    """Whether two names mean the same class, which may have several import paths (`robustlm.NRM`)."""
    return left == right or locate(left) is locate(right) is not None


def _is_subclass(class_path: str, bases: tuple[type, ...]) -> bool:
    found = locate(class_path)
    return isinstance(found, type) and issubclass(found, bases)


def _not_default(spec: Any) -> dict[str, object]:
    """The arguments of a class that differ from its defaults, by name."""
    cls = locate(spec["class_path"])
    given = _flat(spec["init_args"])
    known = _flat(_defaults(cls)) if isinstance(cls, type) and is_dataclass(cls) else {}
    return {name: value for name, value in given.items() if name not in known or known[name] != to_plain(value)}


def _defaults(cls: type) -> dict[str, object]:
    found = {}
    for item in fields(cls):
        if item.init and (item.default is not MISSING or item.default_factory is not MISSING):
            found[item.name] = to_plain(item.default if item.default_factory is MISSING else item.default_factory())
    return found


def _flat(value: object, prefix: str = "") -> dict[str, object]:
    """Nested arguments as one level of dotted names; classes by the last part of their names."""
    if isinstance(value, Namespace):
        value = vars(value)
    if not isinstance(value, dict):
        return {prefix: str(value).rpartition(".")[2] if prefix.endswith("class_path") else value}
    found = {}
    for name, item in value.items():
        inner = prefix if name == "init_args" else f"{prefix}.{name}" if prefix else name
        found.update(_flat(item, inner))
    return found


class _Base:
    """Base of the two classes that `_works` switches between."""


@dataclass
class _Old(_Base):
    size: int = 1


@dataclass
class _New(_Base):
    size: int = 2


def _works() -> bool:
    """Whether parsers really drop the arguments of a replaced class, both by flag and by config."""
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--slot", type=_Base)
    parser.add_argument("--config", action="config")
    new = f"{__name__}._New"
    old = f"{{slot: {{class_path: {__name__}._Old, init_args: {{size: 7}}}}}}"
    by_flag = parser.parse_args([f"--config={old}", f"--slot={new}"])
    by_config = parser.parse_args([f"--config={old}", f"--config={{slot: {{class_path: {new}}}}}"])
    return all(found.slot.init_args.size == 2 for found in (by_flag, by_config))

"""Checks of the classes that a checkpoint's settings name, and of their arguments."""

from __future__ import annotations

import enum
import importlib
import inspect
import os
import sys
import types
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

from robustlm.checkpoints.words import Words, is_dotted, plain_value, shown
from robustlm.utils.public import HOME_OF, current_name

PACKAGE = "robustlm"


def allow_classes(path: str, settings: Mapping[str, object], base: type, words: Words | None) -> None:
    """Raise if settings of a checkpoint would import a class that the user has not named.

    Settings must have the form that this package writes: a class is a dict with `class_path`, and text is allowed only
    for arguments that take text. Otherwise text could be read as a class, a file or YAML.

    Args:
        path: The checkpoint, for messages.
        settings: `{"class_path": …, "init_args": …}`.
        base: The class in `settings` must be a subclass of this one.
        words: Values that the user gave. With `None`, classes of other packages must be imported already.

    Raises:
        ValueError: A class or a setting is not allowed; the message names it.
    """
    SettingsCheck(path, words).spec(settings, (base,), "model")


class SettingsCheck:
    """Checks settings recursively against the annotated types of the arguments that they are for.

    Args:
        path: The checkpoint, for messages.
        words: Values that the user gave. With `None`, classes of other packages must be imported already.
    """

    def __init__(self, path: str, words: Words | None) -> None:
        self._path = path
        self._words = words

    def spec(self, value: Mapping[str, object], bases: Collection[type], key: str) -> None:
        """Check a class and its arguments."""
        extra = set(value) - {"class_path", "init_args", "dict_kwargs"}
        if extra:
            raise self._refused(key, f"the keys {sorted(map(str, extra))} beside class_path", "init_args alone")
        cls = self._class(value["class_path"], key)
        if bases and not any(issubclass(cls, base) for base in bases):
            wanted = ", ".join(sorted(base.__name__ for base in bases))
            raise self._refused(key, f"the class {value['class_path']}", f"a subclass of {wanted}")
        for part in ("init_args", "dict_kwargs"):
            inner = value.get(part)
            if inner is None:
                continue
            if not isinstance(inner, Mapping):
                raise self._refused(f"{key}.{part}", type(inner).__name__, "a dict")
            self.arguments(inner, cls, key)

    def arguments(self, values: Mapping[str, object], cls: type, key: str) -> None:
        """Check the arguments of a class, by name."""
        hints = _hints(cls)
        for name, value in values.items():
            if not isinstance(name, str):
                raise self._refused(key, f"the key {name!r}", "names")
            self.value(value, hints.get(name, Any), f"{key}.{name}")

    def value(self, value: object, hint: object, key: str) -> None:
        """Check one value for an argument of the type `hint`."""
        if value is None or isinstance(value, bool | int | float):
            return
        options = _options(hint)
        if isinstance(value, str):
            if (not options and _is_inert(value)) or any(_takes_text(option) for option in options):
                return
            raise self._refused(key, f"the text {shown(value)}", _expected(options))
        if isinstance(value, list | tuple):
            inner = [item for option in options for item in typing.get_args(option) if item is not Ellipsis]
            if options and not inner:
                raise self._refused(key, "a list", _expected(options))
            for i, item in enumerate(value):
                self.value(item, typing.Union[tuple(inner)] if inner else Any, f"{key}[{i}]")  # noqa: UP007
            return
        if not isinstance(value, Mapping):
            raise self._refused(key, type(value).__name__, "text, numbers, lists and dicts")
        classes = [option for option in options if isinstance(option, type) and not _is_builtin(option)]
        if "class_path" in value:
            if options and not classes:
                raise self._refused(key, "a class_path", _expected(options))
            self.spec(value, classes, key)
        elif plain := [option for option in classes if is_dataclass(option) and not inspect.isabstract(option)]:
            self.arguments(value, plain[0], key)
        else:
            inner = [args[-1] for option in options if len(args := typing.get_args(option)) == 2]
            if options and not inner:
                raise self._refused(key, "a dict without class_path", _expected(options))
            for name, item in value.items():
                if not isinstance(name, str):
                    raise self._refused(key, f"the key {name!r}", "names")
                self.value(item, inner[0] if inner else Any, f"{key}.{name}")

    def _class(self, path: object, key: str) -> type:
        if not isinstance(path, str) or not all(part.isidentifier() for part in path.split(".")):
            raise self._refused(f"{key}.class_path", shown(path), "the import path of a class")
        path = current_name(path)
        module, _, name = path.rpartition(".")
        own = module.partition(".")[0] == PACKAGE or (not module and name in HOME_OF)
        if not own and not self._is_named(path):
            raise ValueError(
                f"ckpt_path: {self._path} asks for the class {path} ({key}), but a file may not choose which code is "
                "imported; "
                + (
                    "if you trust the class, import its module before"
                    if self._words is None
                    else "if you trust the class, name it in a config or by flag (--model, --model.adversary, …)"
                )
            )
        try:
            found = getattr(sys.modules.get(module) or importlib.import_module(module or PACKAGE), name, None)
        except ImportError as error:
            raise ValueError(f"ckpt_path: {self._path} asks for the class {path} ({key}): {error}") from error
        if not isinstance(found, type) or (own and found.__module__.partition(".")[0] != PACKAGE):
            raise self._refused(f"{key}.class_path", path, "a class of robustlm, or one that you name")
        return found

    def _is_named(self, path: str) -> bool:
        if self._words is None:
            module, _, name = path.rpartition(".")
            return isinstance(getattr(sys.modules.get(module), name, None), type)
        if path in self._words.paths():
            return True
        # the user may give another import path for the class than the module that defines it
        last = path.rpartition(".")[2]
        return any(_home(word) == path for word in self._words.paths() if word.rpartition(".")[2] == last)

    def _refused(self, key: str, found: str, expected: str) -> ValueError:
        return ValueError(
            f"ckpt_path: {self._path}: {key}: found {found}; expected {expected}, as `robustlm fit` writes it"
        )


def _home(path: str) -> str | None:
    """`module.Class` with the module that defines a class named by the user; imports the module that the user gave."""
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
    return f"{found.__module__}.{found.__qualname__}" if isinstance(found, type) else None


def _hints(cls: type) -> dict[str, object]:
    """Types of the arguments of a class and of its base classes, by name."""
    found: dict[str, object] = {}
    for base in reversed(cls.__mro__):
        if "__init__" in vars(base):
            try:
                found |= typing.get_type_hints(vars(base)["__init__"])
            except (NameError, TypeError, AttributeError):  # the annotations cannot be resolved
                continue
    return found


def _options(hint: object) -> list[object]:
    """The members of a union without `None`, or the type itself; empty for `Any`."""
    if isinstance(hint, typing.TypeVar):
        hint = hint.__bound__ or Any
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _options(typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        found = [_options(member) for member in typing.get_args(hint) if member is not type(None)]
        return [] if not all(found) else [option for options in found for option in options]
    return [] if hint in (Any, object, inspect.Parameter.empty) else [hint]


def _takes_text(option: object) -> bool:
    if typing.get_origin(option) is typing.Literal:
        return True
    return isinstance(option, type) and issubclass(option, str | Path | enum.Enum)


def _is_builtin(option: type) -> bool:
    return option.__module__ in ("builtins", "pathlib", "collections.abc") or typing.get_origin(option) is not None


def _expected(options: Sequence[object]) -> str:
    names = [getattr(option, "__name__", str(option)) for option in options]
    return f"plain data for {' or '.join(names)}" if names else "text that names nothing"


def _is_inert(text: str) -> bool:
    """Whether text is neither an import path, nor an existing file, nor a list or dict in YAML."""
    return not is_dotted(text) and not os.path.exists(text) and not isinstance(plain_value(text), dict | list)

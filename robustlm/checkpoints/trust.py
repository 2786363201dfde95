"""What a checkpoint may decide by itself, and what needs the user's word.

A checkpoint is a file that may come from anywhere. Its settings are data: they choose among the classes of this
package, and a model that is on this machine already. Classes of others, code that comes with a model, hosted models,
and names at the hub that this machine never loaded count only where a flag, a config or an argument names them too.
"""

from __future__ import annotations

import enum
import importlib
import inspect
import json
import os
import re
import sys
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
import torch
import yaml

from robustlm.assets import TINY
from robustlm.checkpoints.words import Words, _mapping, is_dotted, plain_value
from robustlm.endpoint import is_hosted
from robustlm.instructions.banks import known_banks
from robustlm.utils.public import HOME_OF, current_name
from robustlm.utils.yaml_text import check_yaml

PACKAGE = "robustlm"
_MODEL_KEYS = ("_instantiator", "_class_path")


def allow_classes(path: str, settings: Mapping[str, Any], base: type, words: Words | None) -> None:
    """Refuse settings of a checkpoint that would import what the user has not named.

    Settings have to be as this package writes them: a class is a dict with `class_path`; text stands only where text is
    expected, so that no text is taken for a class, a file or more YAML.

    Args:
        path: The checkpoint, for messages.
        settings: `{"class_path": …, "init_args": …}`.
        base: Class that the settings have to be of.
        words: What the user has said; `None` allows classes that are imported already, and imports none.

    Raises:
        ValueError: Names the class or the setting.
    """
    _Check(path, words).spec(settings, (base,), "model")


def allow_model(path: str, stored: Mapping[str, Any], used: Mapping[str, Any], words: Words) -> list[str]:
    """Refuse a model that a checkpoint chooses and that is not the user's to run.

    Args:
        path: The checkpoint, for messages.
        stored: Arguments of the model's class as the checkpoint has them.
        used: The same as they will be used, after flags.
        words: What the user has said.

    Returns:
        A line for each thing that the checkpoint chose and the user did not name.

    Raises:
        ValueError: Says which setting needs the user's word, and how to give it.
    """
    lines = []
    kept, taken = _mapping(stored.get("loading")), _mapping(used.get("loading"))
    revision = taken.get("revision")
    for key, flag, mine, chosen in (
        ("backbone", "--model.backbone", stored.get("backbone"), used.get("backbone")),
        ("tokenizer", "--model.loading.tokenizer", kept.get("tokenizer"), taken.get("tokenizer")),
    ):
        if chosen is None or not _same(mine, chosen) or any(_same(chosen, value) for value in words.values(key)):
            continue
        others = [value for value in words.values(key) if isinstance(value, str)]
        if others:
            raise ValueError(
                f"ckpt_path: {path} was tuned with the {key} {_shown(chosen)}, but the configs name {others[0]!r}; "
                f"expected the same one, or {flag} with the one you mean"
            )
        _allow_name(path, key, flag, str(chosen), revision)
        lines.append(f"{key}: {chosen}, as {path} has it")
    if taken.get("trust_remote_code"):
        flags = {
            "--model.loading.trust_remote_code": ("trust_remote_code", True),
            "--model.backbone": ("backbone", used.get("backbone")),
            "--model.loading.tokenizer": ("tokenizer", taken.get("tokenizer")),
            "--model.loading.revision": ("revision", revision),
        }
        for flag, (key, value) in flags.items():
            if value is not None and not words.says(key, value):
                raise ValueError(
                    f"ckpt_path: {path} would have code run that comes with the model "
                    f"(loading.trust_remote_code: true, {key}: {_shown(value)}), which takes your word; expected "
                    f"{flag} {_shown(value)}, if you have read that code, or --model.loading.trust_remote_code false"
                )
    return lines


def allow_prompt(place: str, prompt: Mapping[str, Any], data: Any, words: Words | None) -> None:
    """Refuse settings of prompts that are no plain values of their kind, or that name a file the user has not named.

    Args:
        place: The checkpoint or adapter, for messages.
        prompt: Settings of data by name.
        data: The class of the datamodule that they are for; its `prompt_files` may name files.
        words: What the user has said; `None`: nothing.

    Raises:
        ValueError: Names the setting.
    """
    _Check(place, words).arguments(prompt, data, "data")
    for name in data.prompt_files:
        value = prompt.get(name)
        if value is None or value in known_banks() or (words is not None and words.says(name, value)):
            continue
        raise ValueError(
            f"{place} was tuned with data.{name} {_shown(value)}, which is a file; a checkpoint does not choose which "
            f"files are read: expected --data.{name} {_shown(value)}, if it is yours, or --data.{name} null"
        )


def allow_paths(states: Any, folders: Sequence[str]) -> None:
    """Refuse states of callbacks that would have files deleted outside of a run: of older checkpoints, one is removed.

    Args:
        states: States of callbacks, as a checkpoint has them.
        folders: Where this run keeps its checkpoints.

    Raises:
        ValueError: A path leaves its folder, or leads to other machines.
    """
    for path in _checkpoints(states):
        remote = re.match(r"\w+(::|://)", path) and not any(path.startswith(f"{one.rstrip('/')}/") for one in folders)
        if remote or any(_leaves(path, folder) for folder in folders):
            raise ValueError(
                f"the checkpoint names the file {_shown(path)} as one of its run's checkpoints, which may be deleted "
                "in their turn; expected a file in the run's own folder"
            )


def _checkpoints(states: Any) -> Iterator[str]:
    """The checkpoints that states of `ModelCheckpoint` name."""
    for state in states.values() if isinstance(states, Mapping) else ():
        if isinstance(state, Mapping):
            named = [state.get(f"{which}_model_path") for which in ("best", "kth_best", "last")]
            known = state.get("best_k_models")
            yield from (path for path in [*named, *(known or ())] if isinstance(path, str))


def _leaves(path: str, folder: str) -> bool:
    """Whether a path begins with a folder and then goes out of it: what Lightning takes for a file inside of it."""
    whole, start = Path(path).absolute(), Path(folder).absolute()
    return start in whole.parents and ".." in whole.parts[len(start.parts) :]


def stored_settings(path: Any) -> dict[str, Any]:
    """Arguments that a checkpoint holds; weights stay on disk.

    Args:
        path: A file, or an open one, which is wound back.

    Raises:
        ValueError: It holds more than weights and plain data.
    """
    try:
        checkpoint = torch.load(path, weights_only=True, map_location="meta")
    except Exception as error:
        reason = str(error).strip().split("\n")[0].partition(". ")[0] or type(error).__name__
        raise ValueError(f"checkpoint {path}: cannot be read as weights and plain data ({reason})") from error
    finally:
        if hasattr(path, "seek"):
            path.seek(0)
    found = checkpoint.get("hyper_parameters") if isinstance(checkpoint, dict) else None
    return dict(found) if isinstance(found, Mapping) else {}


def file_settings(path: Any) -> dict[str, Any]:
    """Arguments that a YAML file holds in place of a checkpoint's. Raises `ValueError` for another file."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        check_yaml(text)
        found = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"hparams_file: {path} cannot be read as YAML: {error}") from error
    if not str(path).endswith((".yaml", ".yml")) or not isinstance(found, dict):
        raise ValueError(f"hparams_file: {path}; expected a .yaml file of names and values")
    return found


def allow_stored(path: str, settings: Mapping[str, Any], cls: type, given: Mapping[str, Any]) -> None:
    """Refuse what `load_from_checkpoint` must not take from a file: see `allow_classes` and `allow_model`.

    Args:
        path: The checkpoint, for messages.
        settings: What it holds.
        cls: The class that is loaded.
        given: Arguments of the caller, which replace stored ones: the caller's word.

    Raises:
        ValueError: Names the setting.
    """
    kept = {key: value for key, value in settings.items() if key not in given}
    arguments = {key: value for key, value in kept.items() if key not in _MODEL_KEYS}
    class_path = kept.get("_class_path") or f"{cls.__module__}.{cls.__qualname__}"
    check = _Check(path, None)
    if "_class_path" in kept:
        check.spec({"class_path": class_path, "init_args": arguments}, (cls,), cls.__name__)
    else:
        check.arguments(arguments, cls, cls.__name__)
    pairs: set[tuple[str, Any]] = {(key, value) for key, value in given.items() if isinstance(value, str)}
    loading = _mapping(given["loading"] if "loading" in given else settings.get("loading"))
    if "loading" in given:
        pairs |= {(key, value) for key, value in loading.items() if isinstance(value, str | bool)}
    used = {"backbone": given.get("backbone", settings.get("backbone")), "loading": loading}
    try:
        allow_model(path, settings, used, Words(frozenset(pairs)))
    except ValueError as error:
        raise ValueError(f"{error}\n(in Python: backbone=… and loading=Loading(…) of load_from_checkpoint)") from error


# --- classes ---------------------------------------------------------------------------------------------------


class _Check:
    """Walks through settings along the types of the arguments that they are for.

    Args:
        path: The checkpoint, for messages.
        words: What the user has said; `None` allows classes that are imported already.
    """

    def __init__(self, path: str, words: Words | None) -> None:
        self._path = path
        self._words = words

    def spec(self, value: Mapping[str, Any], bases: Collection[type], key: str) -> None:
        """A class and its arguments."""
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

    def arguments(self, values: Mapping[str, Any], cls: type, key: str) -> None:
        """The arguments of a class by name."""
        hints = _hints(cls)
        for name, value in values.items():
            if not isinstance(name, str):
                raise self._refused(key, f"the key {name!r}", "names")
            self.value(value, hints.get(name, Any), f"{key}.{name}")

    def value(self, value: Any, hint: Any, key: str) -> None:
        """One value for an argument of this type."""
        if value is None or isinstance(value, bool | int | float):
            return
        options = _options(hint)
        if isinstance(value, str):
            if (not options and _is_inert(value)) or any(_takes_text(option) for option in options):
                return
            raise self._refused(key, f"the text {_shown(value)}", _expected(options))
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

    def _class(self, path: Any, key: str) -> type:
        if not isinstance(path, str) or not all(part.isidentifier() for part in path.split(".")):
            raise self._refused(f"{key}.class_path", _shown(path), "the import path of a class")
        path = current_name(path)
        module, _, name = path.rpartition(".")
        own = module.partition(".")[0] == PACKAGE or (not module and name in HOME_OF)
        if not own and not self._is_named(path):
            raise ValueError(
                f"ckpt_path: {self._path} asks for the class {path} ({key}), which is not imported on a file's word; "
                + (
                    "import its module before, if you trust it"
                    if self._words is None
                    else "name it in a config or by flag (--model, --model.adversary, …) if you trust it"
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
        # a user may name a class by another path than the one of its module
        last = path.rpartition(".")[2]
        return any(_home(word) == path for word in self._words.paths() if word.rpartition(".")[2] == last)

    def _refused(self, key: str, found: str, expected: str) -> ValueError:
        return ValueError(
            f"ckpt_path: {self._path}: {key}: found {found}; expected {expected}, as `robustlm fit` writes it"
        )


def _home(path: str) -> str | None:
    """`module.Class` of a class that the user names, by where it is defined; imports it, on the user's word."""
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None
    return f"{found.__module__}.{found.__qualname__}" if isinstance(found, type) else None


def _hints(cls: type) -> dict[str, Any]:
    """Types of the arguments of a class, with those that go on to its bases."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if "__init__" in vars(base):
            try:
                found |= typing.get_type_hints(vars(base)["__init__"])
            except (NameError, TypeError, AttributeError):  # of a class whose annotations cannot be resolved
                continue
    return found


def _options(hint: Any) -> list[Any]:
    """The members of a union without `None`; none for `Any`."""
    if isinstance(hint, typing.TypeVar):
        hint = hint.__bound__ or Any
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return _options(typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        found = [_options(member) for member in typing.get_args(hint) if member is not type(None)]
        return [] if not all(found) else [option for options in found for option in options]
    return [] if hint in (Any, object, inspect.Parameter.empty) else [hint]


def _takes_text(option: Any) -> bool:
    if typing.get_origin(option) is typing.Literal:
        return True
    return isinstance(option, type) and issubclass(option, str | Path | enum.Enum)


def _is_builtin(option: type) -> bool:
    return option.__module__ in ("builtins", "pathlib", "collections.abc") or typing.get_origin(option) is not None


def _expected(options: Sequence[Any]) -> str:
    names = [getattr(option, "__name__", str(option)) for option in options]
    return f"plain data for {' or '.join(names)}" if names else "text that names nothing"


def _is_inert(text: str) -> bool:
    """Whether text for an argument of any type is nothing but text: no import path, no file, no YAML."""
    return not is_dotted(text) and not os.path.exists(text) and not isinstance(plain_value(text), dict | list)


# --- models ----------------------------------------------------------------------------------------------------


def _allow_name(path: str, key: str, flag: str, name: str, revision: Any) -> None:
    """Refuse a name that leads to another machine."""
    if name == TINY:
        return
    if is_hosted(name):
        what = "a hosted model, which would be sent your rows"
    elif (folder := Path(name).expanduser()).is_dir():
        base = _adapter_base(folder)
        if base is None or base == TINY or Path(base).expanduser().is_dir() or (folder / base).is_dir():
            return
        if _is_cached(base, None):
            return
        what = f"an adapter of {_shown(base)}, which is no folder and not among the models that this machine has loaded"
    elif _is_cached(name, revision if isinstance(revision, str) else None):
        return
    else:
        what = "which is no folder and not among the models that this machine has loaded"
    raise ValueError(
        f"ckpt_path: {path} was tuned with the {key} {_shown(name)}, {what}; a file does not choose whom this program "
        f"asks: expected {flag} {_shown(name)}, if you trust it"
    )


def _adapter_base(folder: Path) -> str | None:
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # no adapter; a broken one is refused where it is loaded
    name = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    return name if isinstance(name, str) else None


def _is_cached(name: str, revision: str | None) -> bool:
    """Whether a hub model was loaded on this machine before."""
    try:
        found = huggingface_hub.try_to_load_from_cache(name, "config.json", revision=revision)
        also = huggingface_hub.try_to_load_from_cache(name, "tokenizer_config.json", revision=revision)
    except (ValueError, OSError):  # no name that the hub could have
        return False
    return isinstance(found, str) or isinstance(also, str)


def _same(one: Any, other: Any) -> bool:
    """Whether two names lead to the same model."""
    if one == other:
        return True
    if not isinstance(one, str) or not isinstance(other, str):
        return False
    folders = [Path(name).expanduser() for name in (one, other)]
    return all(folder.is_dir() for folder in folders) and folders[0].resolve() == folders[1].resolve()


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 120 else f"{text[:120]}…"

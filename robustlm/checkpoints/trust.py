"""What a checkpoint may decide by itself, and what needs the user's word.

A checkpoint is a file that may come from anywhere. Its settings are data: they choose among the classes of this
package, and a model that is on this machine already. Classes of others, code that comes with a model, hosted models,
and names at the hub that this machine never loaded count only where a flag, a config or an argument names them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robustlm.checkpoints.classes import SettingsCheck, allow_classes
from robustlm.checkpoints.files import allow_paths, file_settings, stored_settings
from robustlm.checkpoints.model_names import allow_model
from robustlm.checkpoints.words import Words, _mapping, shown
from robustlm.instructions.banks import known_banks

__all__ = [
    "allow_classes",
    "allow_model",
    "allow_paths",
    "allow_prompt",
    "allow_stored",
    "file_settings",
    "stored_settings",
]


_MODEL_KEYS = ("_instantiator", "_class_path")


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
    SettingsCheck(place, words).arguments(prompt, data, "data")
    for name in data.prompt_files:
        value = prompt.get(name)
        if value is None or value in known_banks() or (words is not None and words.says(name, value)):
            continue
        raise ValueError(
            f"{place} was tuned with data.{name} {shown(value)}, which is a file; a checkpoint does not choose which "
            f"files are read: expected --data.{name} {shown(value)}, if it is yours, or --data.{name} null"
        )


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
    check = SettingsCheck(path, None)
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

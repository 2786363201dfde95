"""What a checkpoint may decide by itself, and what the user must name too.

A checkpoint is a file that may come from anywhere, so its settings are treated as data. They may choose classes of this
package, and a model that is on this machine already. Classes of other packages, code that comes with a model, hosted
models, and hub models that this machine has never loaded are used only if a flag, a config or an argument names them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Protocol

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


class ChecksPrompt(Protocol):
    """A datamodule whose prompt settings travel with a checkpoint."""

    prompt_files: ClassVar[tuple[str, ...]]
    """The settings that may name files."""


def allow_prompt(place: str, prompt: Mapping[str, object], data: type[ChecksPrompt], words: Words | None) -> None:
    """Raise if prompt settings are of the wrong type, or name a file that the user has not named.

    Args:
        place: The checkpoint or adapter, for messages.
        prompt: Settings of data by name.
        data: Class of the datamodule that they are for; its `prompt_files` lists the settings that may name files.
        words: Values that the user gave; `None` if there are none.

    Raises:
        ValueError: A setting is not allowed; the message names it.
    """
    SettingsCheck(place, words).arguments(prompt, data, "data")
    for name in data.prompt_files:
        value = prompt.get(name)
        if value is None or value in known_banks() or (words is not None and words.says(name, value)):
            continue
        raise ValueError(
            f"{place} was tuned with data.{name} {shown(value)}, which is a file; a checkpoint may not choose which "
            f"files are read: expected --data.{name} {shown(value)}, if it is yours, or --data.{name} null"
        )


def allow_stored(path: str, settings: Mapping[str, object], cls: type, given: Mapping[str, object]) -> None:
    """Raise if `load_from_checkpoint` must not use the settings of a file: see `allow_classes` and `allow_model`.

    Args:
        path: The checkpoint, for messages.
        settings: Settings in the checkpoint.
        cls: The class to load.
        given: Arguments of the caller; they replace stored ones and count as named by the user.

    Raises:
        ValueError: A setting is not allowed; the message names it.
    """
    kept = {key: value for key, value in settings.items() if key not in given}
    arguments = {key: value for key, value in kept.items() if key not in _MODEL_KEYS}
    class_path = kept.get("_class_path") or f"{cls.__module__}.{cls.__qualname__}"
    check = SettingsCheck(path, None)
    if "_class_path" in kept:
        check.spec({"class_path": class_path, "init_args": arguments}, (cls,), cls.__name__)
    else:
        check.arguments(arguments, cls, cls.__name__)
    pairs: set[tuple[str, object]] = {(key, value) for key, value in given.items() if isinstance(value, str)}
    loading = _mapping(given["loading"] if "loading" in given else settings.get("loading"))
    if "loading" in given:
        pairs |= {(key, value) for key, value in loading.items() if isinstance(value, str | bool)}
    used = {"backbone": given.get("backbone", settings.get("backbone")), "loading": loading}
    try:
        allow_model(path, settings, used, Words(frozenset(pairs)))
    except ValueError as error:
        raise ValueError(f"{error}\n(in Python: backbone=… and loading=Loading(…) of load_from_checkpoint)") from error

"""Checks of the model that a checkpoint chooses: one on this machine, or one that the user names too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import huggingface_hub

from robustlm.assets import TINY
from robustlm.checkpoints.words import Words, _mapping, shown
from robustlm.endpoint import is_hosted


def allow_model(path: str, stored: Mapping[str, object], used: Mapping[str, object], words: Words) -> list[str]:
    """Raise if a checkpoint chooses a model or code that the user must name first.

    Args:
        path: The checkpoint, for messages.
        stored: Arguments of the model's class in the checkpoint.
        used: The same arguments after flags are applied.
        words: Values that the user gave.

    Returns:
        One line for each value that the checkpoint chose and the user did not name.

    Raises:
        ValueError: The user must name a value; the message says which setting, and how to set it.
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
                f"ckpt_path: {path} was tuned with the {key} {shown(chosen)}, but the configs name {others[0]!r}; "
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
                    f"ckpt_path: {path} would run code that comes with the model "
                    f"(loading.trust_remote_code: true, {key}: {shown(value)}), which needs your consent; expected "
                    f"{flag} {shown(value)}, if you have read that code, or --model.loading.trust_remote_code false"
                )
    return lines


def _allow_name(path: str, key: str, flag: str, name: str, revision: object) -> None:
    """Raise if a name leads to another machine."""
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
        what = f"an adapter of {shown(base)}, which is neither a folder nor a model that this machine has loaded before"
    elif _is_cached(name, revision if isinstance(revision, str) else None):
        return
    else:
        what = "which is neither a folder nor a model that this machine has loaded before"
    raise ValueError(
        f"ckpt_path: {path} was tuned with the {key} {shown(name)}, {what}; a file may not choose which model is "
        f"used: expected {flag} {shown(name)}, if you trust it"
    )


def _adapter_base(folder: Path) -> str | None:
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None  # not an adapter; loading raises for a broken one
    name = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    return name if isinstance(name, str) else None


def _is_cached(name: str, revision: str | None) -> bool:
    """Whether a hub model was loaded on this machine before."""
    try:
        found = huggingface_hub.try_to_load_from_cache(name, "config.json", revision=revision)
        also = huggingface_hub.try_to_load_from_cache(name, "tokenizer_config.json", revision=revision)
    except (ValueError, OSError):  # not a valid name for the hub
        return False
    return isinstance(found, str) or isinstance(also, str)


def _same(one: object, other: object) -> bool:
    """Whether two names lead to the same model."""
    if one == other:
        return True
    if not isinstance(one, str) or not isinstance(other, str):
        return False
    folders = [Path(name).expanduser() for name in (one, other)]
    return all(folder.is_dir() for folder in folders) and folders[0].resolve() == folders[1].resolve()

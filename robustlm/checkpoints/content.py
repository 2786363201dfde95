"""Checks of each entry of a checkpoint file, before a trainer reads it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from robustlm.checks.numbers import check_seed

EXPECTED = "expected a .ckpt file that `robustlm fit` wrote"


def check_content(path: str, checkpoint: Mapping[object, object]) -> None:
    """Raise if an entry of a checkpoint is of the wrong kind. Entries that only training needs may be missing.

    Args:
        path: The file; the message begins with it.
        checkpoint: Contents of the file.

    Raises:
        ValueError: An entry is wrong; the message says which one, what was found and what was expected.
    """
    try:
        _check(checkpoint)
    except ValueError as error:
        raise ValueError(f"ckpt_path: {path} is damaged or of another kind: {error}; {EXPECTED}") from None


def _check(checkpoint: Mapping[Any, Any]) -> None:
    _kind(checkpoint, "state_dict", Mapping, "weights by name")
    for name, value in checkpoint["state_dict"].items():
        if not isinstance(name, str) or not isinstance(value, torch.Tensor):
            raise ValueError(f"state_dict: found {type(value).__name__} for {name!r}, not a tensor by name")
        if value.is_complex() or value.layout != torch.strided:
            raise ValueError(f"state_dict: found a complex or sparse tensor for {name!r}, not a dense real one")
    _kind(checkpoint, "hyper_parameters", Mapping, "settings by name", needed=False)
    for name, value in (checkpoint.get("hyper_parameters") or {}).items():
        if not isinstance(name, str):
            raise ValueError(f"hyper_parameters: found the name {name!r}, which is not text")
        _check_plain(name, value)
    _kind(checkpoint, "robustlm", Mapping, "this package's own entries")
    if (seed := checkpoint["robustlm"].get("seed")) is not None:
        check_seed("robustlm: seed", seed)
    resumes = bool(checkpoint.get("optimizer_states"))
    for name in ("epoch", "global_step"):
        value = _kind(checkpoint, name, int, "a count", needed=resumes)
        if value is not None and (value < 0 or isinstance(value, bool)):
            raise ValueError(f"{name}: found {value}, not a count")
    version = _kind(checkpoint, "pytorch-lightning_version", str, "a version", needed=False)
    if version is not None and not version[:1].isdigit():
        raise ValueError(f"pytorch-lightning_version: found {version!r}, not a version")
    _kind(checkpoint, "callbacks", Mapping, "states by callback", needed=False)
    counters = (_kind(checkpoint, "loops", Mapping, "counters", needed=resumes) or {}).get("fit_loop")
    if counters is not None and (not isinstance(counters, Mapping) or "epoch_progress" not in counters):
        raise ValueError("loops: the counters of fit_loop are missing, which say how far training was")
    for name in checkpoint:
        if isinstance(name, str) and name.endswith("DataModule"):
            _kind(checkpoint, name, Mapping, "the state of a datamodule")
    for name in ("optimizer_states", "lr_schedulers"):
        states = _kind(checkpoint, name, list, "a state of each", needed=False)
        if states is not None and (len(states) != 1 or not isinstance(states[0], Mapping)):
            raise ValueError(f"{name}: found {len(states)} entries, not one state")
    if "optimizer_states" in checkpoint:
        _check_moments(checkpoint["optimizer_states"][0])


def _check_plain(name: str, value: object) -> None:
    """Raise if a setting is not plain data, as `robustlm.utils.serialization` makes it."""
    if isinstance(value, list | tuple):
        for item in value:
            _check_plain(name, item)
    elif isinstance(value, Mapping):
        for item in value.values():
            _check_plain(name, item)
    elif not isinstance(value, str | int | float | bool | None):
        raise ValueError(f"hyper_parameters: {name}: found {type(value).__name__}, not plain data")


def _check_moments(state: Mapping[str, object]) -> None:
    """Raise if an optimiser's state is not finite, since it would spoil every weight that it updates."""
    moments = state.get("state")
    if not isinstance(moments, Mapping) or not isinstance(state.get("param_groups"), list):
        raise ValueError("optimizer_states: the state or the param_groups of an optimiser are missing")
    for number, entry in moments.items():
        for name, value in entry.items() if isinstance(entry, Mapping) else ():
            if isinstance(value, torch.Tensor) and value.is_floating_point() and not torch.isfinite(value).all():
                raise ValueError(f"optimizer_states: {name} of weight {number} holds numbers that are not finite")


def _kind(checkpoint: Mapping[object, object], name: str, kind: type, what: str, *, needed: bool = True) -> Any:
    if name not in checkpoint and not needed:
        return None
    if name not in checkpoint:
        raise ValueError(f"{name} is missing ({what})")
    value = checkpoint[name]
    if not isinstance(value, kind):
        raise ValueError(f"{name}: found {type(value).__name__}, not {what}")
    return value

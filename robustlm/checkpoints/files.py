"""What is read from the files of checkpoints, and which files their states of callbacks may name."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from robustlm.checkpoints.words import shown
from robustlm.utils.yaml_text import check_yaml


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
                f"the checkpoint names the file {shown(path)} as one of its run's checkpoints, which may be deleted "
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

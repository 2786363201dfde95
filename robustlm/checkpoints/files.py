"""Reading of settings from checkpoint files, and checks of the paths in their callback states."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

import torch
import yaml

from robustlm.checkpoints.words import shown
from robustlm.utils.yaml_text import check_yaml


def allow_paths(states: object, folders: Sequence[str]) -> None:
    """Raise if callback states name checkpoints outside of this run's folders.

    A callback deletes older checkpoints by these paths, so a wrong path could delete other files.

    Args:
        states: Callback states of a checkpoint.
        folders: Folders in which this run keeps its checkpoints.

    Raises:
        ValueError: A path leaves its folder, or leads to another machine.
    """
    for path in _checkpoints(states):
        remote = re.match(r"\w+(::|://)", path) and not any(path.startswith(f"{one.rstrip('/')}/") for one in folders)
        if remote or any(_leaves(path, folder) for folder in folders):
            raise ValueError(
                f"the checkpoint names the file {shown(path)} as one of its run's checkpoints, which a callback may "
                "delete; expected a file in the run's own folder"
            )


def _checkpoints(states: object) -> Iterator[str]:
    """Paths of checkpoints in the states of `ModelCheckpoint`."""
    for state in states.values() if isinstance(states, Mapping) else ():
        if isinstance(state, Mapping):
            named = [state.get(f"{which}_model_path") for which in ("best", "kth_best", "last")]
            known = state.get("best_k_models")
            yield from (path for path in [*named, *(known or ())] if isinstance(path, str))


def _leaves(path: str, folder: str) -> bool:
    """Whether a path begins with `folder` but leaves it by `..`; Lightning takes such a path for one inside of it."""
    whole, start = Path(path).absolute(), Path(folder).absolute()
    return start in whole.parents and ".." in whole.parts[len(start.parts) :]


def stored_settings(path: str | Path | IO[bytes]) -> dict[str, object]:
    """Read the arguments that a checkpoint holds, without loading its weights into memory.

    Args:
        path: Path of a file, or an open file, which is rewound afterwards.

    Raises:
        ValueError: The file holds more than weights and plain data, or cannot be read.
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


def file_settings(path: str | Path) -> dict[str, object]:
    """Read arguments from a YAML file, to replace those of a checkpoint. Raises `ValueError` for other files."""
    try:
        text = Path(path).read_text(encoding="utf-8")
        check_yaml(text)
        found = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"hparams_file: {path} cannot be read as YAML: {error}") from error
    if not str(path).endswith((".yaml", ".yml")) or not isinstance(found, dict):
        raise ValueError(f"hparams_file: {path}; expected a .yaml file of names and values")
    return found

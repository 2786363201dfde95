"""Folders of runs: where a named run's fit and tests are stored, and how to find its checkpoints and adapters.

`--run NAME` puts a fit into `runs/NAME/fit`, a test into `runs/NAME/test`, further tests into `runs/NAME/test-2` and so
on; the same for `validate` and `predict`. Lightning numbers the folders of runs without a name: `runs/version_0` and so
on.
"""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path

from robustlm.checks.places import what_is

FIT = "fit"
ADAPTER = "adapter_config.json"
"""Name of the file that every folder of a PEFT adapter holds."""
_COUNTED = re.compile(r"(test|predict|validate)(-\d+)?")
_UNFINISHED = ("*.parquet.run.json", "*.parquet.part-*", "attacks.jsonl")
"""Files that an interrupted evaluation leaves behind."""


def is_part(folder: Path) -> bool:
    """Whether a folder has the name of a part of a named run (`test`, `test-2`, `fit`)."""
    return folder.name == FIT or _COUNTED.fullmatch(folder.name) is not None


def is_run(folder: Path) -> bool:
    """Whether a folder holds the checkpoints of a run."""
    places = (".", "checkpoints", FIT, f"{FIT}/checkpoints")
    return any(True for place in places for _ in (folder / place).glob("last*.ckpt"))


def fit_folder(run: Path, *, goes_on: bool) -> Path:
    """Folder for the fit of a named run.

    Args:
        run: The run's folder.
        goes_on: Whether to resume a fit that exists already.

    Raises:
        ValueError: A fit exists already and is not resumed.
    """
    folder = run / FIT
    if not goes_on and folder.is_dir() and any(folder.iterdir()):
        raise ValueError(
            f"run: {folder} holds a fit already; expected another name, or --resume auto, which goes on with that fit"
        )
    return folder


def evaluation_folder(run: Path, command: str) -> Path:
    """Folder for a test of a named run: the first of `test`, `test-2`, … that is missing or empty.

    Args:
        run: The run's folder.
        command: `test`, `predict` or `validate`.
    """
    names = (command if number == 1 else f"{command}-{number}" for number in count(1))
    return next(run / name for name in names if not (run / name).is_dir() or not any((run / name).iterdir()))


def checkpoint_in(setting: str, folder: Path) -> Path:
    """Find the `last.ckpt` of a run.

    Args:
        setting: The setting that names the folder; the message begins with it.
        folder: Folder of a run (`runs/version_0`, `runs/NAME`), of its fit, or of its checkpoints.

    Raises:
        ValueError: There is no such checkpoint, or there are several.
    """
    for inner in (".", "checkpoints", FIT, f"{FIT}/checkpoints"):
        found = sorted(file for file in (folder / inner).glob("last*.ckpt") if file.is_file())
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(f"{setting}: {folder} holds several: {_listed(found)}; expected one of them")
    below = sorted(folder.glob("*/checkpoints/last*.ckpt")) + sorted(folder.glob(f"*/{FIT}/checkpoints/last*.ckpt"))
    runs = sorted({file.parents[2] if file.parents[1].name == FIT else file.parents[1] for file in below})
    there = f", but those of {_listed(runs)}" if runs else ""
    raise ValueError(
        f"{setting}: {folder} holds no last.ckpt{there}; expected the folder of a `robustlm fit` that saved one, or a "
        "checkpoint's path"
    )


def adapter_in(folder: Path) -> Path:
    """Find the folder of the adapter that a run saved.

    Args:
        folder: Folder of a run (`runs/NAME`, `runs/version_0`), of its fit, or of the adapter.

    Raises:
        ValueError: There is no adapter, or there are several.
    """
    if what_is(folder) != "a folder":
        raise ValueError(f"{folder}: found {what_is(folder)}; expected the folder of a run or of an adapter")
    for pattern in (ADAPTER, f"*/{ADAPTER}", f"{FIT}/*/{ADAPTER}"):
        found = sorted(file.parent for file in folder.glob(pattern))
        if len(found) > 1:
            raise ValueError(f"{folder}: found several adapters: {_listed(found)}; expected one of them")
        if found:
            return found[0]
    raise ValueError(
        f"{folder}: no {ADAPTER} there; expected the folder of a `robustlm fit` with an adapter, or an adapter. If "
        "all weights were tuned, there is nothing to merge"
    )


def evaluation_in(folder: Path) -> Path:
    """Find the interrupted evaluation in a run's folder.

    Returns `folder` itself if it holds files of an evaluation, or if no interrupted evaluation was found.

    Raises:
        ValueError: There are several interrupted evaluations.
    """
    if what_is(folder) != "a folder" or _is_unfinished(folder) or any(folder.glob("*.parquet")):
        return folder
    found = sorted(one for one in folder.iterdir() if _COUNTED.fullmatch(one.name) and _is_unfinished(one))
    if len(found) > 1:
        raise ValueError(
            f"predictions.resume: {folder} holds several evaluations that did not end: {_listed(found)}; expected one "
            "of them"
        )
    return found[0] if found else folder


def _is_unfinished(folder: Path) -> bool:
    left = any(True for pattern in _UNFINISHED for _ in folder.glob(pattern))
    return left and not any(folder.glob("*.parquet"))


def _listed(paths: list[Path]) -> str:
    shown = ", ".join(map(str, paths[:8]))
    return shown + (" …" if len(paths) > 8 else "")

"""Folders of runs: where a named run's fit and tests lie, and what a run's folder holds to go on with.

`--run NAME` puts a fit into `runs/NAME/fit`, a test into `runs/NAME/test`, further tests into `runs/NAME/test-2` and so
on; the same for `validate` and `predict`. Runs without a name lie in `runs/version_0` and so on, as Lightning counts.
"""

from __future__ import annotations

import re
from itertools import count
from pathlib import Path

from robustlm.checks.places import what_is

FIT = "fit"
ADAPTER = "adapter_config.json"
"""What the folder of a PEFT adapter holds."""
_COUNTED = re.compile(r"(test|predict|validate)(-\d+)?")
_UNFINISHED = ("*.parquet.run.json", "*.parquet.part-*", "attacks.jsonl")
"""What an evaluation that did not end leaves behind."""


def is_part(folder: Path) -> bool:
    """Whether a folder is called like a part of a named run (`test`, `test-2`, `fit`)."""
    return folder.name == FIT or _COUNTED.fullmatch(folder.name) is not None


def is_run(folder: Path) -> bool:
    """Whether a folder holds the checkpoints of a run."""
    places = (".", "checkpoints", FIT, f"{FIT}/checkpoints")
    return any(True for place in places for _ in (folder / place).glob("last*.ckpt"))


def fit_folder(run: Path, *, goes_on: bool) -> Path:
    """Where the fit of a named run goes.

    Args:
        run: The run's folder.
        goes_on: Whether the fit that is there is gone on with.

    Raises:
        ValueError: There is a fit already, and it is not gone on with.
    """
    folder = run / FIT
    if not goes_on and folder.is_dir() and any(folder.iterdir()):
        raise ValueError(
            f"run: {folder} holds a fit already; expected another name, or --resume auto, which goes on with that fit"
        )
    return folder


def evaluation_folder(run: Path, command: str) -> Path:
    """Where a test of a named run goes: the first of `test`, `test-2`, … that is not there yet, or is empty.

    Args:
        run: The run's folder.
        command: `test`, `predict` or `validate`.
    """
    names = (command if number == 1 else f"{command}-{number}" for number in count(1))
    return next(run / name for name in names if not (run / name).is_dir() or not any((run / name).iterdir()))


def checkpoint_in(setting: str, folder: Path) -> Path:
    """The `last.ckpt` that a run's folder holds.

    Args:
        setting: What names the folder; begins the message.
        folder: Of a run (`runs/version_0`, `runs/NAME`), of its fit, or of its checkpoints.

    Raises:
        ValueError: There is none, or several.
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
    """The folder of the adapter that a run has left.

    Args:
        folder: Of a run (`runs/NAME`, `runs/version_0`), of its fit, or of the adapter.

    Raises:
        ValueError: There is none, or there are several.
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
        f"{folder}: no {ADAPTER} there; expected the folder of a `robustlm fit` with an adapter, or an adapter. A "
        "model of which all weights were tuned has nothing to merge"
    )


def evaluation_in(folder: Path) -> Path:
    """The evaluation that did not end in a run's folder; the folder itself where it holds files of one, or nothing.

    Raises:
        ValueError: There are several.
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

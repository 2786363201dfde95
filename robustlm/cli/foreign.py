"""Explain errors that other libraries raise at known places because of a user's input.

An error counts only if no code of this package ran below the known place. So bugs of this package stay visible.
"""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass

from robustlm.assets import PACKAGE

_OWN = str(PACKAGE)


@dataclass(frozen=True)
class _Place:
    """A function of another library that receives a user's settings or files."""

    file: str
    """End of the path of its source file."""
    function: str
    """Regular expression that matches its name."""
    message: str
    """The message for the user; `{error}` stands for the library's own message."""
    own: tuple[str, ...] = ()
    """Functions of this package that may appear below it, since they only read the user's input."""


_RESTORING = ("connectors/checkpoint_connector.py", r"_?(restore|resume|load|migrate)\w*")
_PLACES = (
    _Place(
        *_RESTORING,
        "ckpt_path: {path} cannot be restored ({error}); expected a whole checkpoint of a run with the same model, "
        "optimizer and schedule",
        own=("on_load_checkpoint", "resume", "load_state_dict"),
    ),
    _Place(
        "lightning/pytorch/trainer/trainer.py",
        "__init__",
        "trainer: the settings cannot be used ({error}); `robustlm fit --help` explains them",
    ),
)
_MEMORY = re.compile(r"can't allocate memory|out of memory|not enough memory|unable to allocate", re.IGNORECASE)


def as_user_error(error: BaseException, ckpt_path: str | None = None) -> str | None:
    """The message for the user about an error of another library, or `None` for a bug.

    Args:
        error: The error, with its traceback.
        ckpt_path: The checkpoint that the command names.
    """
    reason = str(error).strip().split("\n")[0]
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _MEMORY.search(reason)):
        return (
            f"memory: there is not enough of it ({reason or type(error).__name__}); try a smaller data.batch_size, "
            "data.max_length or model, or smaller numbers in model.tuning"
        )
    if not isinstance(error, Exception):
        return None
    frames = traceback.extract_tb(error.__traceback__)
    for place in _PLACES:
        at = _found(frames, place.file, place.function)
        own = [frame.name for frame in frames[at or 0 :] if frame.filename.startswith(_OWN)]
        if at is not None and all(name in place.own for name in own):
            found = f"{type(error).__name__}: {reason}" if reason else type(error).__name__
            return place.message.format(error=found, path=ckpt_path)
    return None


def in_checkpoint(text: str, error: BaseException, ckpt_path: str | None) -> str:
    """The message of an error. If a checkpoint was being restored, the message begins with its path."""
    restoring = _found(traceback.extract_tb(error.__traceback__), *_RESTORING) is not None
    return f"ckpt_path: {ckpt_path}: {text}" if restoring and ckpt_path and ckpt_path not in text else text


def _found(frames: traceback.StackSummary, file: str, function: str) -> int | None:
    """Index of the first frame of a traceback in this function of this file; `None` if there is none."""
    for at, frame in enumerate(frames):
        if frame.filename.endswith(file) and re.fullmatch(function, frame.name):
            return at
    return None

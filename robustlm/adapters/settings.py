"""How prompts were written in training: kept in checkpoints, and beside an adapter as `robustlm.json`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

from robustlm.checks.places import check_file
from robustlm.utils.files import write_text
from robustlm.utils.version import __version__

FILE = "robustlm.json"
"""Name of the file beside an adapter."""
VERSION = 1
"""Version of the file's format; files of later versions are refused."""
_EXPECTED = "expected the file that `robustlm fit` writes beside an adapter"


@runtime_checkable
class WritesPrompts(Protocol):
    """A datamodule that knows how its prompts are written."""

    def prompt(self) -> dict[str, object]:
        """The settings that decide how training prompts are written, by name, as plain data."""


def write_prompt(folder: Path, prompt: Mapping[str, object] | None, base_model: str) -> None:
    """Write `robustlm.json`.

    Args:
        folder: The adapter's folder.
        prompt: The data settings that decide a prompt's text, by name; null if they are unknown.
        base_model: Name of the model that was tuned.
    """
    content = {
        "format": VERSION,
        "robustlm": __version__,
        "base_model": base_model,
        "prompt": None if prompt is None else dict(prompt),
    }
    write_text(folder / FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_prompt(folder: Path) -> dict[str, object] | None:
    """Read the data settings in a folder's `robustlm.json`; null if the file is missing or holds no settings.

    Raises:
        ValueError: The file is damaged, or of a later version.
    """
    file = folder / FILE
    if not file.exists():
        return None
    check_file(file, "a file of settings")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not valid JSON ({error}); {_EXPECTED}") from error
    if not isinstance(content, dict) or not isinstance(content.get("format"), int):
        raise ValueError(f"{file}: the key format with a number is missing; {_EXPECTED}")
    if content["format"] > VERSION:
        raise ValueError(
            f"{file}: format: found {content['format']}, written by robustlm {content.get('robustlm')}; expected at "
            f"most {VERSION}. Update robustlm {__version__}"
        )
    return checked_prompt(str(file), content.get("prompt"))


def checked_prompt(place: str, prompt: object) -> dict[str, object] | None:
    """Check that prompt settings are a mapping by name, or null.

    Args:
        place: The file, for messages.
        prompt: The value in the file.

    Raises:
        ValueError: `prompt` is neither.
    """
    if prompt is None:
        return None
    if not isinstance(prompt, Mapping) or not all(isinstance(name, str) and name.isidentifier() for name in prompt):
        raise ValueError(f"{place}: prompt: found {type(prompt).__name__}; expected data settings by name")
    return dict(prompt)

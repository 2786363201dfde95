"""One question for all kinds of wrong input: is the answer a short message, and is nothing left behind?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from robustlm.checks.texts import MOST_LINES
from robustlm.cli import main


def _names(folder: Path) -> list[str]:
    return sorted(os.path.join(place, name) for place, *found in os.walk(folder) for names in found for name in names)


def refused(args: Sequence[str], folder: Path, capfd: pytest.CaptureFixture[str]) -> str:
    """The message that a command ends with. Opens no file of the folder, which may hold pipes."""
    before = _names(folder)
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(args)
    message = capfd.readouterr().err
    message = message[message.index("robustlm: error: ") :]
    assert ended.value.code == 2
    assert "Traceback" not in message
    assert message.count("\n") <= MOST_LINES + 2
    assert len(message) < 2_700
    assert _names(folder) == before
    return message

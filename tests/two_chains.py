"""What the processes of `test_quickstart` run."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path


def say(command: Sequence[str]) -> None:
    """Print, fail or wait, as told."""
    what, value = command
    if what == "say":
        print(value, flush=True)
        os.system("echo also from below Python")
    elif what == "fail":
        for number in range(30):
            print(f"{value} {number}")
        raise SystemExit(2)
    else:
        Path(value).write_text(str(os.getpid()), encoding="utf-8")
        time.sleep(60)

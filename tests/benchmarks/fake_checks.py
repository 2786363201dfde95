"""Checks that end in every way that a check can end."""

from __future__ import annotations

import math
import os
import time
from typing import Any

from benchmarks.gpu import runner
from benchmarks.gpu.runner import Check, Finding, Note, Settings, Skip


def good(note: Note) -> Finding:
    return Finding("pass", figures={"worst": 0.5, "rows": [{"what": "a|b", "error": 0.5}, {"what": "c", "limit": 1}]})


def bad(note: Note) -> Finding:
    return Finding("fail", "too far apart", {"error": math.nan})


def skipped(note: Note) -> Finding:
    raise Skip("no such device")


def killed(note: Any) -> Finding:
    note({"before": 7})
    os._exit(3)


def hanging(note: Any) -> Finding:
    note({"rows": [{"round": 1}]})
    time.sleep(60)
    raise AssertionError


def noisy(note: Any) -> Finding:
    note({"half": 1})
    print("said by a library")
    raise ValueError("first line\nsecond line")


def checks(settings: Settings) -> list[Check]:
    runner.about_machine = lambda: {"GPU 0": "a card"}  # type: ignore[attr-defined]  # without torch, so quick
    if settings.tiny:
        return [Check("good", 1, good), Check("hanging", 1, hanging), Check("last", 1, good)]
    plan = {"good": good, "bad": bad, "noisy": noisy, "skipped": skipped, "killed": killed, "hanging": hanging}
    return [*(Check(name, 1, run) for name, run in plan.items()), Check("huge", 900, good), Check("last", 1, good)]

"""The rehearsal of the evaluation command on a CPU."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache

import pytest

from benchmarks.gpu import evaluation_checks
from benchmarks.gpu.evaluation_checks import KINDS, WAYS
from benchmarks.gpu.runner import START_S, Check, Settings, Skip

SETTINGS = Settings("unused", True, "cpu", 8.5, None, {"prompts": 8, "tokens": 4})


@cache
def plan() -> dict[str, Check]:
    return {check.name: check for check in evaluation_checks.checks(SETTINGS)}


def test_all_measurements_fit_into_the_budget() -> None:
    assert START_S + sum(check.seconds for check in plan().values()) <= 60 * SETTINGS.minutes


@pytest.mark.parametrize("kind", KINDS)
def test_ways_of_answering_are_compared(kind: str) -> None:
    figures = {}
    for way in WAYS:
        check = plan()[f"{way}: {kind}"]
        if way == "continuous batching":
            with pytest.raises(Skip, match="CUDA"):
                check.run(note=lambda _: None)
            continue
        finding = check.run(note=lambda _: None)
        assert (finding.verdict, finding.reason) == ("pass", "")
        figures[way] = finding.figures
        json.dumps(finding.figures)
    assert "÷ generate in batches" not in figures["generate, batch"]
    assert figures["robustlm"]["÷ generate in batches"] > 0
    lengths = {figures["robustlm"]["tokens of answers"], figures["generate, batch"]["tokens of answers"]}
    assert all(0 < total <= 8 * 6 for total in lengths)


def test_options_are_compared_with_generation_and_vllm_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = plan()["options"].run(note=lambda _: None)
    assert [row["prompts"] for row in finding.figures["rows"]] == list(KINDS)
    assert all(row["÷ generated"] > 0 for row in finding.figures["rows"])
    monkeypatch.setattr(evaluation_checks, "find_spec", lambda name: None)
    with pytest.raises(Skip, match="vLLM is not installed"):
        plan()["vLLM"].run(note=lambda _: None)


def test_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="--prompts: found 4; expected 8 to 4096"):
        evaluation_checks.checks(replace(SETTINGS, extra={"prompts": 4, "tokens": 4}))

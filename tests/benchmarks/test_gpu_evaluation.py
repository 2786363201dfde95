"""The rehearsal of the evaluation command on a CPU."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.gpu import evaluation_checks
from benchmarks.gpu.evaluation_checks import KINDS, LENGTHS, WAYS, Evaluations
from benchmarks.gpu.runner import START_S, Check, Settings, Skip
from benchmarks.gpu.speed_checks import Bench

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


def test_vllm_gives_answers_as_long_as_those_of_an_earlier_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for vLLM, since it needs a GPU; the call before is one of `--resume`."""
    lengths = {kind: [3, 0, 5, 1, 2, 4, 6, 2] for kind in KINDS}
    stored = [
        {"name": f"generate, batch: {kind}", "verdict": "pass",
         "figures": {"seconds": 2.0, LENGTHS: " ".join(map(str, found))}}
        for kind, found in lengths.items()
    ]  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps({"checks": stored}))
    asked: list[list[int]] = []

    class Engine:
        def __init__(self, folder: str, **settings: Any) -> None:
            assert settings["load_format"] == "dummy"
            assert Path(folder, "config.json").is_file()

        def generate(self, prompts: list[Any], limits: list[Any], *, use_tqdm: bool) -> list[Any]:
            asked.append([one["max_tokens"] for one in limits])
            assert all(set(one) == {"prompt_token_ids"} for one in prompts)
            return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=[0] * n)]) for n in asked[-1]]

    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=Engine, SamplingParams=lambda **kwargs: kwargs))
    monkeypatch.setattr(evaluation_checks, "find_spec", lambda name: name)
    monkeypatch.setattr(Bench, "wait", lambda self: None)
    monkeypatch.setattr(Bench, "release", lambda self: None)
    bench = Evaluations(replace(SETTINGS, output=str(tmp_path)))
    bench.bench.device = "cuda"
    finding = evaluation_checks.vllm_check(bench, lambda _: None)
    assert [row["prompts"] for row in finding.figures["rows"]] == list(KINDS)
    assert all(row["÷ generate in batches"] > 0 for row in finding.figures["rows"])
    assert asked[0] == [3, 1, 5, 1, 2, 4, 6, 2]


def test_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="--prompts: found 4; expected 8 to 4096"):
        evaluation_checks.checks(replace(SETTINGS, extra={"prompts": 4, "tokens": 4}))

"""The rehearsal of the correctness command on a CPU, and that its limits tell right from wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.gpu import correctness_checks, lab
from benchmarks.gpu.compare import Measure, Step, compare, limit, worst
from benchmarks.gpu.machine import ROOT
from benchmarks.gpu.runner import START_S, Check, Finding, Settings, Skip
from robustlm.models.tuning import LoRA

SETTINGS = Settings("unused", True, "cpu", 8.5, None, {})


@cache
def plan(tiny: bool = True) -> dict[str, Check]:
    return {check.name: check for check in correctness_checks.checks(replace(SETTINGS, tiny=tiny))}


def found(name: str) -> Finding:
    return plan()[name].run(note=lambda figures: None)


def test_all_checks_fit_into_the_budget() -> None:
    named = plan(tiny=False)
    assert START_S + sum(check.seconds for check in named.values()) <= 60 * SETTINGS.minutes
    assert len(named) == len(correctness_checks.checks(replace(SETTINGS, tiny=False)))  # no name twice
    for case in correctness_checks.CASES:
        assert all(f"{case.name}, {mode}" in named for mode in correctness_checks.MODES)


@pytest.mark.parametrize(
    "name",
    [
        "InstructionTuning, float32",
        "InstructionTuning chunk_rows, float32",
        "ANIT NRM, fp16-mixed",
        "ANIT FGM, fp16-mixed",
        "ContrastiveTuning symmetric, bf16-true",
        "AlignmentTuning, float32",
        "RobustTuning all slots, fp16-mixed",
        "checkpointing: ANIT NRM ascent clean, bf16-mixed",
        "eager: InstructionTuning, fp16-mixed",
        "broken variant: padding mask dropped, bf16-mixed",
        "broken variant: other start of delta, float32",
        "broken variant: step taken backwards, bf16-true",
        "broken variant: adapter scaled by 9/8, fp16-mixed",
        "random draws",
        "dropout replayed, fp16-mixed",
        "dropout in passes run again: checkpointing",
        "dropout in passes run again: chunk_rows",
        "resume, fp16-mixed",
        "generation, bfloat16",
        "option scores, float16",
    ],
)
def test_checks_pass_where_all_is_right(name: str) -> None:
    finding = found(name)
    assert (finding.verdict, finding.reason if "broken" not in name else "") == ("pass", "")
    assert finding.figures["rows"]
    json.dumps(finding.figures)


@pytest.mark.parametrize("name", ["flash_attention_2: ANIT NRM, bf16-true", "4-bit: InstructionTuning, bf16-mixed"])
def test_what_needs_a_gpu_is_skipped_with_the_reason(name: str) -> None:
    with pytest.raises(Skip, match="CUDA"):
        found(name)


def test_checks_fail_where_something_is_wrong() -> None:
    """An adapter that is scaled by another factor on the device alone."""
    case = correctness_checks.BY_NAME["InstructionTuning"]
    found("InstructionTuning, float32")  # the reference is there
    wrong = replace(case, tuning=LoRA(r=8, alpha=9, dropout=0.0))
    for mode in correctness_checks.MODES:
        finding = correctness_checks.step_check(
            correctness_checks.Bench(SETTINGS), wrong, mode, note=lambda figures: None
        )
        assert finding.verdict == "fail"
        assert "gradient" in finding.reason
        assert finding.figures["worst"] > 1


def test_a_broken_variant_that_nobody_notices_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(correctness_checks.BROKEN, "nothing", ("InstructionTuning", None, {}))
    bench = correctness_checks.Bench(SETTINGS)
    finding = correctness_checks.broken_check(bench, "nothing", "float32", note=lambda figures: None)
    assert finding.verdict == "fail"
    assert "not noticed" in finding.reason


def test_a_resumed_run_that_differs_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lab.Same, "__init__", _from_the_start(lab.Same.__init__))
    bench = correctness_checks.Bench(SETTINGS)
    finding = correctness_checks.resume_check(bench, "float32", note=lambda figures: None)
    assert finding.verdict == "fail"
    assert "resumed against uninterrupted" in finding.reason


def _from_the_start(own: Any) -> Any:
    """As if the batches before the interruption came again."""

    def init(self: Any, batches: Any, count: int, start: int = 0) -> None:
        own(self, batches, count + (1 if start else 0), start + (1 if start else 0))

    return init


def test_an_answer_may_differ_only_where_it_makes_no_difference() -> None:
    backbone = correctness_checks._shipped("cpu", "float32")
    prompt = torch.tensor(backbone.tokenizer("Instruction: Say it. Answer:")["input_ids"])
    with torch.no_grad():
        logits = backbone.base(input_ids=prompt[None]).logits[0, -1]
    ours, theirs = " yes", " no"
    first, second = (backbone.tokenizer(text)["input_ids"][0] for text in (ours, theirs))
    expected = float((logits[first] - logits[second]) / logits.abs().max())
    assert correctness_checks._preference(backbone, prompt, "yes", "no") == pytest.approx(expected, rel=1e-5)


def test_the_limit_is_that_of_the_rule() -> None:
    assert limit(torch.bfloat16, 3, 64, 4) == pytest.approx(2 * 2**-8 * 12)
    assert limit(torch.float16, 3, 64, 4, gain=2) == pytest.approx(4 * 2**-11 * 12)
    assert limit(torch.float32, 3, 64, 4) == pytest.approx(2 * 2**-24 * 12 * 8)


def test_comparisons_are_relative_and_never_pass_nan() -> None:
    one = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([0.0])}
    expected = Step({"train/loss": 2.0}, one, {"clean": torch.tensor([1.0, 2.0])}, torch.ones(2, 2))
    measures = compare(expected, expected, 0.1)
    assert all(measure.error == 0 for measure in measures)
    assert {"train/loss", "gradient", "delta", "row losses, clean"} < {measure.name for measure in measures}
    other = replace(expected, losses={"train/loss": 2.1}, gradients={"a": torch.tensor([3.0, 4.5]), "b": one["b"]})
    errors = {measure.name: measure.error for measure in compare(other, expected, 0.1)}
    assert errors["train/loss"] == pytest.approx(0.05)
    assert errors["gradient"] == pytest.approx(0.1)
    spoilt = replace(expected, gradients={"a": torch.tensor([float("nan"), 4.0]), "b": one["b"]})
    assert not worst(compare(spoilt, expected, 0.1)).ok
    assert not all(one.ok for one in compare(replace(expected, gradients={"a": one["a"]}), expected, 0.1))
    assert not all(one.ok for one in compare(replace(expected, delta=None), expected, 0.1))
    assert not Measure("x", float("nan"), 1.0).ok


def test_the_command_runs_without_what_a_gpu_machine_may_lack(tmp_path: Path) -> None:
    """As a user starts it: from the repository, without the command line's and the data's packages."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\nfor name in ('jsonargparse', 'docstring_parser', 'datasets', 'Levenshtein', 'rapidfuzz'):\n"
        "    sys.modules[name] = None\n"
    )
    out = tmp_path / "out"
    command = [sys.executable, "-m", "benchmarks.gpu.correctness", "--tiny", "--output", str(out)]
    done = subprocess.run(
        [*command, "--only", "ANIT NRM, *"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr + (out / "report.md").read_text()
    results = json.loads((out / "results.json").read_text())
    assert [check["verdict"] for check in results["checks"]] == ["pass", "pass"]
    assert "torch" in results["machine"]["versions"]

"""The rehearsal of the speed command on a CPU, and its count of operations."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import loops
from benchmarks.gpu import speed_checks
from benchmarks.gpu.runner import START_S, Check, Settings, Skip
from benchmarks.gpu.speed_checks import (
    NAMES,
    OUT,
    PLAIN,
    WARM_UP,
    Bench,
    Comparison,
    Weights,
    compared_check,
    operations,
    weights_of,
)
from benchmarks.loops import Result, Taken, Way
from benchmarks.step import ALL, METHODS
from robustlm.batch import View
from robustlm.models import compiling

SETTINGS = Settings("unused", True, "cpu", 8.5, None, {"rows": 2, "rounds": 1})
BY_NAME = {method.name: method for method in METHODS}


@cache
def plan() -> dict[str, Check]:
    return {check.name: check for check in speed_checks.checks(SETTINGS)}


def test_all_measurements_fit_into_two_calls() -> None:
    """The first call ends with what has most value; `--resume` runs the rest."""
    shares = {name: check.seconds for name, check in plan().items()}
    first = list(shares)[: list(shares).index("steps, gradient checkpointing")]
    assert {"steps", "compiled layers", "TRL on short answers", "rows of uneven length"} <= set(first)
    assert START_S + sum(shares[name] for name in first) <= 60 * SETTINGS.minutes
    assert START_S + sum(shares[name] for name in shares if name not in first) <= 60 * SETTINGS.minutes


@pytest.mark.parametrize("name", ["large bf16 product", "model", "data"])
def test_measurements_run(name: str) -> None:
    finding = plan()[name].run(note=lambda figures: None)
    assert finding.verdict == "pass"
    json.dumps(finding.figures)


@pytest.mark.parametrize("name", ["steps", "steps, gradient checkpointing", "steps on the built-in rows"])
def test_steps_of_every_method_are_timed(name: str) -> None:
    noted: list[Any] = []
    finding = plan()[name].run(note=noted.append)
    assert (finding.verdict, finding.reason) == ("pass", "")
    assert finding.figures["gradient checkpointing"] == ("checkpointing" in name)
    rows = {row["method"]: row for row in finding.figures["rows"]}
    assert set(rows) == set(NAMES)
    assert rows[PLAIN]["÷ plain"] == 1
    assert all(row["ms a step"] > 0 and "trouble" not in row for row in rows.values())
    assert ("MFU, %" in rows[PLAIN]) == (name != "steps on the built-in rows")
    assert len(noted) == speed_checks.WARM_UP + 1  # a killed run keeps its rounds


def test_a_method_that_does_not_fit_is_a_figure_and_one_that_diverges_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    own = Bench.step

    def step(bench: Bench, module: Any, batch: Any) -> float:
        if module is bench.modules[ALL]:
            raise torch.OutOfMemoryError("too large")
        return math.nan if module is bench.modules["KL"] and broken else own(bench, module, batch)

    monkeypatch.setattr(Bench, "step", step)
    monkeypatch.setattr(speed_checks, "NAMES", (PLAIN, "KL", ALL))
    broken = False
    finding = plan()["steps"].run(note=lambda figures: None)
    assert (finding.verdict, finding.reason) == ("pass", f"{OUT}: {ALL}")
    rows = {row["method"]: row for row in finding.figures["rows"]}
    assert rows[ALL]["trouble"] == OUT
    assert math.isnan(rows[ALL]["ms a step"])
    broken = True
    finding = plan()["steps"].run(note=lambda figures: None)
    assert finding.verdict == "fail"
    assert "KL: its loss is nan" in finding.reason


def test_data_is_skipped_without_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_checks, "find_spec", lambda name: None)
    with pytest.raises(Skip, match="Levenshtein"):
        plan()["data"].run(note=lambda figures: None)


def test_ways_of_training_are_compared_in_processes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "BACKEND", "eager")  # the compiler itself takes most of a minute
    noted: list[Any] = []
    ways = ("robustlm", "compiled", "all logits at once", "FSDP2", "padding-free, FlashAttention-2")
    bench = Bench(SETTINGS)
    finding = compared_check(bench, Comparison(ways, "equal", bench.size, "bf16-true"), 60, noted.append)
    assert finding.verdict == "pass", finding.reason
    assert finding.reason == "padding-free, FlashAttention-2: flash-attn is not installed"
    assert finding.figures["frozen / trained weights"] == "bfloat16 / bfloat16"
    assert finding.figures["goal: MFU of at least 45 % by the best way"] == "not known here"  # on a CPU
    rows = {row["variant"]: row for row in finding.figures["rows"]}
    assert list(rows) == list(ways)
    losses = {rows[name]["loss"] for name in ways[:-1]}
    assert max(losses) == pytest.approx(min(losses), rel=0.01)  # the same rows and weights
    assert all(rows[name]["tokens/s"] > 0 and rows[name]["TFLOP/s"] > 0 for name in ways[:-1])
    assert rows["robustlm"]["÷ the first"] == 1
    assert len(noted) == WARM_UP + 1
    json.dumps(finding.figures)


def test_a_way_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(loops.WAYS, "compiled", Way({"compile": True, "padding_free": True}))
    ways = ("robustlm", "compiled", "padding-free, by tokens")
    bench = Bench(SETTINGS)
    finding = compared_check(bench, Comparison(ways, "mixed", bench.size, "bf16"), 60, lambda _: None)
    assert finding.verdict == "fail"
    assert finding.reason.startswith("compiled: ValueError: loading.compile: found true with padding_free true")
    rows = {row["variant"]: row for row in finding.figures["rows"]}
    assert rows["compiled"] == {"variant": "compiled", "trouble": finding.reason.removeprefix("compiled: ")}
    assert rows["padding-free, by tokens"]["tokens/s"] > 0
    assert finding.figures["frozen / trained weights"] == "bfloat16 / float32"


def test_a_trainer_of_others_is_compared_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def measure(case: Any, size: Any, precision: str, **settings: Any) -> dict[str, Result]:
        asked.append((precision, settings["device"]))
        seconds = {"robustlm": 0.1, "padding-free": 0.08, "TRL, padding-free": 0.11}
        return {
            name: Result("bfloat16 / float32", 0, [Taken(seconds.get(name, 0.2), 1000, 10, 6.0, 1 << 30)])
            for name in settings["variants"]
        }

    monkeypatch.setattr("benchmarks.loops.measure", measure)
    monkeypatch.setattr(speed_checks, "find_spec", lambda name: name)
    finding = plan()["TRL on short answers"].run(note=lambda figures: None)
    assert asked == [("bf16", "cpu")]
    row = finding.figures["rows"][0]
    assert (row["variant"], row["tokens/s"], row["peak GiB"]) == ("robustlm", pytest.approx(1e4), 1.0)
    goal = finding.figures["goal: tokens/s of at least 1.2 × the best of TRL"]
    assert goal == "robustlm 1.1: missed; padding-free 1.375: reached"
    monkeypatch.setattr(speed_checks, "find_spec", lambda name: None if name == "trl" else name)
    with pytest.raises(Skip, match="TRL is not installed"):
        plan()["TRL on short answers"].run(note=lambda figures: None)


def test_a_product_of_an_earlier_call_is_known(tmp_path: Path) -> None:
    settings = replace(SETTINGS, output=str(tmp_path))
    assert math.isnan(Bench(settings).matmul)
    check = {"name": "large bf16 product", "verdict": "pass", "figures": {"TFLOP/s": 700.0}}
    (tmp_path / "results.json").write_text(json.dumps({"checks": [check]}))
    assert Bench(settings).matmul == 700


def test_weights_follow_from_the_size() -> None:
    bench = Bench(SETTINGS)
    assert weights_of(bench.size) == bench.weights


def test_operations_are_counted_as_written() -> None:
    mask = torch.tensor([[0, 1, 1, 1], [1, 1, 1, 1]])
    labels = torch.tensor([[-100, -100, 5, 2], [-100, -100, -100, 2]])
    view = View(mask, mask, labels, mask.bool(), mask.bool())
    weights = Weights(linear=100, adapter=10, head=50, hidden=8, layers=2)
    forward = 2 * 110 * 7 + 2 * 50 * 3 + 2 * 2 * 8 * (9 + 16)
    backward = 2 * 110 * 7 + 2 * 50 * 3 + 2 * 2 * 2 * 8 * (9 + 16)
    of_weights = 2 * 10 * 7
    assert operations(weights, view, BY_NAME["plain"]) == forward + backward + of_weights
    assert operations(weights, view, BY_NAME["NRM"]) == 3 * (forward + backward) + 2 * of_weights
    assert operations(weights, view, BY_NAME["NRM, ascent: clean"]) == 2 * (forward + backward + of_weights)


def test_the_counted_operations_are_those_that_torch_sees() -> None:
    """Products of a whole step, as torch counts them, without attention, which it counts as a full square."""
    from torch.utils.flop_counter import FlopCounterMode

    bench = Bench(SETTINGS)
    batch = speed_checks._equal_rows(bench)
    for name in (PLAIN, "NRM", "NRM, ascent: clean", "FGM", "CoIN"):
        with FlopCounterMode(display=False) as counter:
            bench.step(bench.modules[name], batch)
        products = sum(
            count
            for kind, count in counter.get_flop_counts()["Global"].items()
            if str(kind) in ("aten.mm", "aten.addmm")
        )
        bare = Weights(bench.weights.linear, bench.weights.adapter, bench.weights.head, 0, bench.size.layers)
        # the first layer's inputs need no gradient in plain tuning, and a contrast has small products of its own
        assert operations(bare, batch.raw, BY_NAME[name]) == pytest.approx(products, rel=0.12), name

"""The rehearsal of the speed command on a CPU, and its count of operations."""

from __future__ import annotations

import json
import math
from functools import cache
from typing import Any

import pytest
import torch

from benchmarks.gpu import speed_checks
from benchmarks.gpu.runner import START_S, Check, Settings, Skip
from benchmarks.gpu.speed_checks import NAMES, OUT, PLAIN, Bench, Weights, operations
from benchmarks.step import ALL, METHODS
from benchmarks.trl import Result, Taken
from robustlm.batch import View

SETTINGS = Settings("unused", True, "cpu", 8.5, None, {"rows": 2, "rounds": 1})
BY_NAME = {method.name: method for method in METHODS}


@cache
def plan() -> dict[str, Check]:
    return {check.name: check for check in speed_checks.checks(SETTINGS)}


def test_all_measurements_fit_into_the_budget() -> None:
    assert START_S + sum(check.seconds for check in plan().values()) <= 60 * SETTINGS.minutes


@pytest.mark.parametrize("name", ["large bf16 product", "model", "generation", "option scores", "data"])
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


def test_a_trainer_of_others_is_compared_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def measure(case: Any, size: Any, precision: str, **settings: Any) -> dict[str, Result]:
        asked.append((precision, settings["device"]))
        steps = [Taken(0.1, 1000, 10, 6.0, 1 << 30)]
        return {name: Result("bfloat16 / float32", 0, steps) for name in settings["variants"]}

    monkeypatch.setattr("benchmarks.trl.measure", measure)
    monkeypatch.setattr(speed_checks, "find_spec", lambda name: name)
    finding = plan()["TRL on short answers"].run(note=lambda figures: None)
    assert asked == [("bf16", "cpu")]
    assert finding.figures["rows"][0] == {
        "trainer": "robustlm", "tokens/s": pytest.approx(1e4), "robustlm's tokens/s ÷": 1.0, "peak GiB": 1.0
    }  # fmt: skip
    monkeypatch.setattr(speed_checks, "find_spec", lambda name: None)
    with pytest.raises(Skip, match="TRL is not installed"):
        plan()["TRL on short answers"].run(note=lambda figures: None)


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

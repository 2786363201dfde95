"""The comparison with TRL's trainer: its rows, its table, and this project's side of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from benchmarks import loops, memory, trl
from benchmarks.loops import OURS, Job, Meter, Result, Taken
from benchmarks.step import Size, lay_out
from benchmarks.trl import CASES

SIZE = Size(vocab=400, hidden=64, layers=1, rows=2, tokens=540, answer=20, rank=2)


class Pipe:
    """The parent's end: lets the loop take some steps, and keeps what it sends.

    Args:
        steps: How many.
    """

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.sent: list[Any] = []

    def send(self, message: Any) -> None:
        self.sent.append(message)

    def recv(self) -> bool:
        self.left -= 1
        return self.left >= 0


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_this_projects_loop_is_measured_step_by_step(precision: str, tmp_path: Path) -> None:
    lay_out(str(tmp_path), SIZE)
    pipe = Pipe(3)
    job = Job(OURS, CASES["short"], SIZE, precision, "cpu", 12, 4, str(tmp_path))
    loops.ours(job, Meter(cast(Any, pipe), "cpu"))
    first, *steps = pipe.sent
    assert first.dtypes == ("float32 / float32" if precision == "fp32" else "bfloat16 / float32")
    assert len(steps) == 3
    lengths = [len(prompt) + len(answer) for prompt, answer in CASES["short"].rows(12, SIZE.vocab)]
    batches = [sum(lengths[i] for i in key.indices) for key in loops.sampler_of(job)]
    assert [step.tokens for step in steps] == batches[:3]
    assert all(step.seconds > 0 and step.peak > 0 and 5 < step.loss < 7 for step in steps)


def test_rows_are_as_long_as_the_case_says_and_the_same_in_every_process() -> None:
    for case in CASES.values():
        rows = case.rows(50, 100)
        assert rows == case.rows(50, 100)
        for prompt, answer in rows:
            assert case.prompt[0] <= len(prompt) <= case.prompt[1]
            assert case.answer[0] <= len(answer) <= case.answer[1]


def results() -> dict[str, Result]:
    def result(seconds: float, peak: int) -> Result:
        steps = [Taken(seconds * factor, 1000, 10, 6.0, peak << 20) for factor in (1.0, 5.0, 1.0)]
        return Result("float32 / float32", 100 << 20, steps)

    return {OURS: result(0.1, 400), "TRL, grouped": result(0.15, 500)}


def test_tables_have_medians_and_ratios() -> None:
    assert list(trl.table(results()))[2:] == [
        "| robustlm | 100.0 | 1.00 | 400 | 300 | 1000 | 6.00 |",
        "| TRL, grouped | 150.0 | 1.50 | 500 | 400 | 1000 | 6.00 |",
    ]
    assert list(memory.table(results()))[2:] == [
        "| robustlm | 400 | 300 | 1.00 | 0.300 |",
        "| TRL, grouped | 500 | 400 | 1.33 | 0.400 |",
    ]

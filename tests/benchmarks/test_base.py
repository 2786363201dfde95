"""The rehearsal of the command that trains a base model on text."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from benchmarks.gpu import base
from benchmarks.gpu.base import main
from benchmarks.gpu.base_training import TINY, operations
from robustlm.modules import Pretraining
from tests.processes import Forked

LONG = ["--tiny", "--steps", "40", "--look", "10", "--save", "0.002"]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    parts = [f"A dog runs {n} times.\nIt sleeps in house {n % 7}." for n in range(400)]
    (folder / "a.txt").write_text("\n<|endoftext|>\n".join(parts[:200]), encoding="utf-8")
    rows = "".join(json.dumps({"text": part}) + "\n" for part in parts[200:])
    (folder / "b.jsonl").write_text(rows, encoding="utf-8")
    return folder


def lines(output: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (output / "training.jsonl").read_text().splitlines()]


def weights(output: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = transformers.AutoModelForCausalLM.from_pretrained(output / "model").state_dict()
    return found


def started(text: Path, output: Path) -> Forked:
    """The command in a process of its own, slow enough to be stopped."""

    def run() -> None:
        step = Pretraining.training_step

        def slow(*args: Any) -> Any:
            time.sleep(0.02)
            return step(*args)

        Pretraining.training_step = slow  # type: ignore[method-assign]
        raise SystemExit(main(["--text", str(text), "--output", str(output), *LONG]))

    return Forked(run)


def stopped(process: Forked, number: int, when: Callable[[], bool]) -> tuple[str, int | None]:
    """What it said, and its exit status, after a signal as soon as something holds."""
    until = time.monotonic() + 120
    while not when() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    os.kill(process.pid, number)
    said, _ = process.communicate()
    return said, process.returncode


def test_a_run_that_is_stopped_and_killed_ends_as_one_that_never_was(text: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(["--text", str(text), "--output", str(whole), *LONG]) == 0
    found = lines(whole)
    assert [line["step"] for line in found] == [10, 20, 30, 40]
    assert found[-1]["held-out loss"] < found[0]["held-out loss"] < 6
    assert {"tokens/s", "TFLOP/s", "MFU, %", "loss", "minutes", "held-out bits a byte"} <= set(found[0])
    assert sorted(path.name for path in whole.iterdir()) == [
        "base", "checkpoints", "model", "plan.json", "tokens", "training.jsonl",
    ]  # fmt: skip
    tokenizer = transformers.AutoTokenizer.from_pretrained(whole / "model")
    assert tokenizer.decode(tokenizer("A dog runs 3 times.")["input_ids"]) == "A dog runs 3 times."

    file = cut / "training.jsonl"
    said, status = stopped(started(text, cut), signal.SIGTERM, lambda: file.exists() and bool(file.read_text()))
    assert status == 143, said
    assert "the same command goes on" in said
    before = len(lines(cut))
    said, status = stopped(started(text, cut), signal.SIGKILL, lambda: len(lines(cut)) > before)
    assert status == -signal.SIGKILL, said
    assert not (cut / "model").exists()
    assert main(["--text", str(text), "--output", str(cut), *LONG]) == 0
    same = ("step", "loss", "held-out loss", "held-out bits a byte")
    assert [[line[key] for key in same] for line in lines(cut)] == [[line[key] for key in same] for line in found]
    assert all(torch.equal(value, weights(cut)[key]) for key, value in weights(whole).items())


def test_the_number_of_steps_follows_from_the_time(
    text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    command = ["--text", str(text), "--output", str(output), "--tiny", "--steps", "0", "--minutes", "0.001"]
    assert main(command) == 0
    plan = json.loads((output / "plan.json").read_text())
    assert plan["steps"] > 0
    assert plan["steps"] % plan["look"] == 0
    assert f"so {plan['steps']} steps take about 0.001 minutes" in capsys.readouterr().out
    assert lines(output)[-1]["step"] == plan["steps"]
    assert main([*command[:-4], "--minutes", "0.001"]) == 0
    assert "the run is finished" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*command[:5], "--layers", "3"])
    assert "--layers: found 3; the run in" in capsys.readouterr().err


def test_what_is_wrong_is_said(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()

    def refused(*options: str, source: Path = empty, output: Path = tmp_path / "o") -> str:
        try:
            status: Any = main(["--text", str(source), "--output", str(output), "--tiny", *options])
        except SystemExit as end:
            status = end.code
        assert status in (1, 2)
        return capsys.readouterr().err

    assert f"{empty}: found a folder without text" in refused()
    (empty / "a.txt").write_bytes(b"\xff\xfe\xfa")
    assert "a.txt:1: " in refused()
    (empty / "a.txt").write_text("Short.")
    assert "expected enough for 8 rows of 32 tokens to hold out" in refused()
    assert not (tmp_path / "o").exists()
    assert "holds files, but no run (plan.json); expected a new folder" in refused(source=text, output=text)
    assert "--steps: found 7; expected a multiple of --look 3, or 0" in refused("--steps", "7", source=text)
    assert "--context: found 2000; expected at most 1024" in refused("--context", "2000", source=text)
    assert "--hidden: 30 is not a multiple of 2 × --heads = 4" in refused("--hidden", "30", source=text)
    assert "--rows: found 0; expected a number above 0" in refused("--rows", "0", source=text)


def test_a_missing_package_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(base.importlib.util, "find_spec", lambda name: None if name == "Levenshtein" else name)
    assert main(["--help"]) == 2
    assert "not installed: python-Levenshtein; docs/performance.md says how" in capsys.readouterr().err


def test_operations_of_a_token() -> None:
    assert operations(TINY, 1000) == 6 * 1000 + 6 * 2 * 32 * 32

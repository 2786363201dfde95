"""`make base`: its commands, on a few lines of text and rows."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from robustlm.cli import run
from tests.datamodules.test_text import text_of, write
from tests.tiny import make_rows, write_rows

ROOT = Path(__file__).parents[2]
SMALL = ["--vocab_size=300", "--hidden_size=32", "--layers=2", "--heads=2", "--intermediate_size=48"]
SHORT = [
    "--trainer.max_steps=2", "--trainer.max_epochs=-1", "--trainer.enable_progress_bar=false", "--logger=csv",
    "--model.loading.compile=false", "--data.cache_dir=null", "--trainer.val_check_interval=2",
]  # fmt: skip
TEXT = ["--data.max_length=32", "--data.held_out=4", "--data.batch_size=2"]


def commands(data: Path, base: Path) -> list[list[str]]:
    """The arguments of robustlm that `make base` runs, in their order."""
    make = ["make", "--dry-run", "--no-print-directory", "-C", str(ROOT), "base", f"DATA={data}", f"BASE={base}"]
    said = subprocess.run(make, capture_output=True, text=True, check=True).stdout.replace("\\\n", " ")
    return [shlex.split(found) for found in re.findall(r"/robustlm ((?:init|fit) [^;}\n]+)", said)]


def test_what_make_runs_makes_a_tuned_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, base = tmp_path / "data", tmp_path / "base"
    (data / "text").mkdir(parents=True)
    write(data / "text" / "a.txt", text_of(60))
    rows = write_rows(data / "rows.jsonl", make_rows(20))
    init, text, tune = commands(data, base)
    assert (init[0], text[:3], tune[:3]) == ("init", ["fit", "-c", "base"], ["fit", "-c", "base_instruct"])
    run([*init, *SMALL])
    run([*text, *SHORT, *TEXT])
    monkeypatch.chdir(data)
    own = [f"--data.{role}={rows}" for role in ("train", "validation")]
    replay = {"path": "text", "share": 0.5, "length": 32, "held_out": 0}
    run([*tune, *SHORT, *own, "--data.batch_size=4", f"--data.replay={json.dumps(replay)}"])
    folder = base / "instruct" / "fit"
    assert (folder / "adapter" / "model.safetensors").is_file()
    steps = (folder / "metrics.csv").read_text()
    assert "val/loss" in steps
    assert (folder / "checkpoints" / "last.ckpt").is_file()


def test_make_says_what_is_missing() -> None:
    found = subprocess.run(
        ["make", "--no-print-directory", "-C", str(ROOT), "-o", ".venv/.installed", "base"],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 2
    assert "DATA is not set" in found.stderr

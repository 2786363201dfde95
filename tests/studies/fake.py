"""Stands for the commands of `robustlm` in studies that are about anything but training."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from robustlm.cli.arguments import value_of
from robustlm.evaluation.record import Record
from robustlm.evaluation.table import read_table, write_table

CONDITIONS = ("clean", "mixed@0.2", "mixed@0.4", "unseen")
WAITS = "ROBUSTLM_TEST_WAITS"
"""Folder in which each fit waits for the one of another process, if this environment variable is set."""


def answers(run: str, seed: int, count: int = 12) -> list[Record]:
    """Answers on two datasets, right or wrong by a hash of the run and the sample."""
    return [
        Record(
            sample_id=f"{dataset}-{i}",
            dataset=dataset,
            task="generation",
            condition=condition,
            instruction_id="i",
            prediction="a" if right else "b",
            parsed=[["a" if right else "b"]],
            target="a",
            correct=right,
            prompt=f"{condition} {i}",
        )
        for condition in CONDITIONS
        for dataset in ("d", "e")
        for i in range(count)
        for right in [sha256(f"{run} {seed} {condition} {dataset} {i}".encode()).digest()[0] < 150]
    ]


def main(command: Sequence[str]) -> None:
    """Write what a fit or a test writes. A fit of an arm with the option `--fails` ends with status 2."""
    root, name = Path(str(value_of(command, "--trainer.default_root_dir"))), str(value_of(command, "--run"))
    seed = int(str(value_of(command, "--data.seed")))
    folder = root / name / command[0]
    folder.mkdir(parents=True, exist_ok=True)
    print(f"{command[0]} of {root.name}", flush=True)
    if command[0] == "test":
        (folder / "cost.json").write_text(json.dumps({"seconds": 0.5, "peak_bytes": 2**20}), encoding="utf-8")
        write_table(folder / "predictions.parquet", answers(root.name, seed), CONDITIONS)
        return
    if "--fails" in command:
        raise SystemExit(2)
    if WAITS in os.environ:
        _meet(Path(os.environ[WAITS]))
    steps = int(value_of(command, "--trainer.max_steps") or 10)
    each = float(value_of(command, "--each") or 1)
    cost = {"seconds": 2 * steps * each, "cpu_seconds": steps * each, "forward": steps * each, "backward": steps * each}
    first = {key: 5 * value / steps for key, value in cost.items()}  # the first step warms up
    whole = {key: value + first[key] - value / steps for key, value in cost.items()}
    text = json.dumps({**whole, "steps": steps, "first": first, "peak_bytes": 3 * 2**20})
    (folder / "cost.json").write_text(text, encoding="utf-8")


def _meet(folder: Path) -> None:
    """Wait until two processes are here at once."""
    (folder / str(os.getpid())).touch()
    until = time.monotonic() + 60
    while len(list(folder.iterdir())) < 2:
        assert time.monotonic() < until, "no other process came"
        time.sleep(0.05)


def answers_with(table: Path, **changes: str) -> None:
    """Change a column of a prediction table."""
    rows = read_table(table)
    write_table(table, [replace(row, **changes, correct=False) for row in rows], CONDITIONS)  # type: ignore[arg-type]

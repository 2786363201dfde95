"""`docs/evaluation.md` names every number, and its commands run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustlm.cli import main
from robustlm.evaluation import displacement
from robustlm.evaluation.robustness import NUMBERS
from robustlm.evaluation.state_table import StateWriter, merge_states
from robustlm.evaluation.table import TableWriter, key_of

PAGE = (Path(__file__).parents[2] / "docs/evaluation.md").read_text(encoding="utf-8")


def test_the_table_has_every_number() -> None:
    numbers = sorted([*NUMBERS, *displacement.NUMBERS])
    assert sorted(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == numbers


def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("RUN", "OTHER"):
        row: dict[str, Any] = {"dataset": "d", "task": "generation", "condition": "clean", "prediction": "a"}
        row |= {"parsed": [["a"]], "target": "a", "correct": True}
        writer = TableWriter(Path(name) / "predictions.parquet")
        rows = [{**row, "sample_id": sample, "instruction_id": way} for sample in "st" for way in "ij"]
        writer.write(rows)
        writer.close()
        writer.merge()
        states = StateWriter(Path(name) / "states.parquet")
        states.write([key_of(row) for row in rows], np.eye(4, dtype=np.float32))
        states.close()
        merge_states(Path(name) / "states.parquet", ["clean"], {"layer": -2, "position": "prompt_end"})
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", "").splitlines()]
    assert len(lines) == 5
    for line in lines:
        if not line.startswith("robustlm test"):
            main(shlex.split(line, comments=True)[1:])
    assert {file.suffix for file in Path("distances").iterdir()} == {".md", ".csv", ".json", ".png"}
    assert {file.name for file in Path("report").iterdir()} == {
        f"robustness.{ending}" for ending in ("md", "csv", "json")
    }
    assert Path("flips.jsonl").read_text(encoding="utf-8") == ""

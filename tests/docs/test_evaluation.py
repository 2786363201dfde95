"""`docs/evaluation.md` names every number, and its commands run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from robustlm.cli import main
from robustlm.evaluation.robustness import NUMBERS
from robustlm.evaluation.table import TableWriter

PAGE = (Path(__file__).parents[2] / "docs/evaluation.md").read_text(encoding="utf-8")


def test_the_table_has_every_number() -> None:
    assert sorted(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == sorted(NUMBERS)


def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("RUN", "OTHER"):
        row: dict[str, Any] = {"dataset": "d", "task": "generation", "condition": "clean", "prediction": "a"}
        row |= {"parsed": [["a"]], "target": "a", "correct": True}
        writer = TableWriter(Path(name) / "predictions.parquet")
        writer.write([{**row, "sample_id": sample, "instruction_id": way} for sample in "st" for way in "ij"])
        writer.close()
        writer.merge()
    (block,) = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines():
        main(shlex.split(line, comments=True)[1:])
    assert {file.name for file in Path("report").iterdir()} == {
        *(f"robustness.{ending}" for ending in ("md", "csv", "json", "html")),
        *("comparison.md", "comparison.png", "comparison.html", "paired.md"),
    }
    assert Path("flips.jsonl").read_text(encoding="utf-8") == ""

"""`docs/evaluation.md` names every number, and its commands run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from robustlm.cli import main
from robustlm.evaluation import displacement
from robustlm.evaluation.hidden_state_table import HiddenStatePart, merge_hidden_states
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import NUMBERS
from robustlm.evaluation.table import TableWriter, read_table
from tests.tiny import write_rows

PAGE = (Path(__file__).parents[2] / "docs/evaluation.md").read_text(encoding="utf-8")


def test_the_table_has_every_number() -> None:
    numbers = sorted([*NUMBERS, *displacement.NUMBERS])
    assert sorted(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == numbers


def test_the_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("RUN", "OTHER"):
        writer = TableWriter(Path(name) / "predictions.parquet")
        rows = [
            Record(sample, "d", "generation", "clean", way, "a", parsed=[["a"]], target="a", correct=True)
            for sample in "st"
            for way in "ij"
        ]
        writer.write(rows)
        writer.close()
        writer.merge()
        parts = HiddenStatePart(Path(name) / "states.parquet")
        parts.write([row.cell for row in rows], np.eye(4, dtype=np.float32))
        parts.close()
        merge_hidden_states(Path(name) / "states.parquet", ["clean"], {"layer": -2, "position": "prompt_end"})
    first, *blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    states = [line for block in blocks for line in block.splitlines() if line.startswith("robustlm states")]
    assert len(states) == 1
    for line in [*first.splitlines(), *states]:
        main(shlex.split(line, comments=True)[1:])
    assert {file.suffix for file in Path("distances").iterdir()} == {".md", ".csv", ".json", ".png"}
    assert {file.name for file in Path("report").iterdir()} == {
        *(f"robustness.{ending}" for ending in ("md", "csv", "json", "html")),
        *("comparison.md", "comparison.png", "comparison.html", "paired.md"),
    }
    assert Path("flips.jsonl").read_text(encoding="utf-8") == ""


def test_the_study_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (banks,) = re.findall(r"^```json lists\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (config,) = re.findall(r"^```yaml study\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    Path("banks.json").write_text(banks, encoding="utf-8")
    Path("study.yaml").write_text(config, encoding="utf-8")
    write_rows(
        Path("riddles.jsonl"),
        [{"id": f"r{i}", "question": f"What is {i}?", "choices": ["odd", "even"], "answer": "odd"} for i in range(2)],
    )
    write_rows(Path("news.jsonl"), [{"id": f"n{i}", "text": f"It is {i}.", "label": "ab"[i]} for i in range(2)])
    main(
        ["test", "-c", "robustness", "-c", "study.yaml", "--model.backbone=builtin:tiny", "--data.prompts=2",
         "--trainer.accelerator=cpu", "--trainer.default_root_dir=.", "--trainer.enable_progress_bar=false"]
    )  # fmt: skip
    rows = read_table(Path("version_0/predictions.parquet"))
    asked: dict[str, set[str]] = {}
    for row in rows:
        asked.setdefault(row["condition"], set()).add(row["instruction_id"])
    assert asked["incorrect"] == {
        f"{a}/incorrect/{b}/concise/seen/{i}" for a, b in (("riddles", "news"), ("news", "riddles")) for i in (0, 1)
    }
    assert asked["list:designer"] == {"riddles/list/designer/0", "news/list/designer/0"}
    assert asked["clean"] == asked["negated"] == asked["nonsensical"]
    assert len(rows) == 4 * (4 * 2 + 2 * 1)

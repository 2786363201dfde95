"""An evaluation that was killed goes on where it stood, and ends with the table it would have had."""

from __future__ import annotations

import json
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robustlm.cli import main
from robustlm.evaluation.hidden_state_table import HiddenStateTable
from robustlm.evaluation.record import Record
from robustlm.evaluation.table import TableWriter, read_parts, read_table
from tests.processes import command
from tests.tiny import write_rows

QUIET = ("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false")


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> str:
    sentences = ("it rains", "all is well", "she is ill and stays in bed", "we won", "no news", "a fine day out there")
    made = [
        {"id": f"r{i}", "sentence": f"{sentences[i % 6]} {i}", "label": "good" if i % 2 else "bad"} for i in range(20)
    ]
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", made)


def arguments(backbone: str, rows: str, folder: Path, *more: str) -> list[str]:
    return [
        "test", "--model=InstructionTuning", f"--model.backbone={backbone}", "--model.tuning=null",
        "--model.max_new_tokens=4", "--data=RobustnessDataModule", f"--data.test={rows}", "--data.prompts=2",
        "--data.samples=9", "--data.conditions=[clean,random_typos@0.3]", "--data.eval_batch_size=4",
        f"--trainer.default_root_dir={folder}", *QUIET, *more,
    ]  # fmt: skip


def scores(folder: Path) -> dict[str, str]:
    *_, header, values = [line.split(",") for line in (folder / "metrics.csv").read_text().splitlines()]
    return dict(zip(header, values, strict=True))


@pytest.mark.parametrize("scoring", ["generation", "options"])
def test_killed_three_times_it_ends_with_the_same_table(
    scoring: str, llama: str, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = (f"--data.scoring={scoring}", "--states.layer=-2")
    main(arguments(llama, rows, tmp_path / "whole", *how))
    wanted = read_table(tmp_path / "whole/version_0/predictions.parquet")
    states = HiddenStateTable(tmp_path / "whole/version_0/states.parquet")
    assert len(wanted) == 9 * 2 * 2

    first = tmp_path / "killed" / "version_0"
    resume: list[str] = []
    for limit in (4, 12, 24):
        script = arguments(llama, rows, tmp_path / "killed", *how, "--trainer.callbacks+=tests.tiny.Slow", *resume)
        victim = command(*script)
        deadline = time.monotonic() + 300
        while _lines(first) < limit:
            assert victim.poll() is None, victim.communicate()[0]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        victim.send_signal(signal.SIGKILL)
        victim.communicate()
        resume = [f"--predictions.resume={first}"]
    assert not (first / "predictions.parquet").exists()
    newest = max(first.glob("predictions.parquet.part-*"), key=lambda part: part.stat().st_mtime)
    with newest.open("a", encoding="utf-8") as part:
        part.write('{"sample_id": "r1", "cond')  # as a full disk or a power cut leaves it
    for part_of_states in first.glob("states.parquet.part-*"):  # killed between answers and their states
        part_of_states.write_bytes(part_of_states.read_bytes()[:-3000])

    capsys.readouterr()
    main(arguments(llama, rows, tmp_path / "killed", *how, *resume))
    assert "were answered by the earlier run" in capsys.readouterr().out
    assert read_table(first / "predictions.parquet") == wanted
    assert sorted(file.name for file in first.glob("*.parquet*")) == ["predictions.parquet", "states.parquet"]
    found = HiddenStateTable(first / "states.parquet")
    assert found.keys == states.keys == [row.cell for row in wanted]
    np.testing.assert_array_equal(found.read(range(36)), states.read(range(36)))
    last = max((tmp_path / "killed").glob("version_*"), key=lambda folder: int(folder.name.rpartition("_")[2]))
    assert scores(last) == scores(tmp_path / "whole/version_0")


def _lines(folder: Path) -> int:
    return sum(part.read_bytes().count(b"\n") for part in folder.glob("predictions.parquet.part-*"))


@pytest.fixture
def begun(llama: str, rows: str, tmp_path: Path) -> Path:
    """A folder as a killed evaluation leaves it."""
    main(arguments(llama, rows, tmp_path / "begun"))
    folder = tmp_path / "begun/version_0"
    table = read_table(folder / "predictions.parquet")
    (folder / "predictions.parquet").unlink()
    writer = TableWriter(folder / "predictions.parquet")
    writer.write(table[:8])
    writer.close()
    return folder


def test_another_evaluation_is_not_continued(
    begun: Path, llama: str, t5: str, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    resume = f"--predictions.resume={begun}"

    def refused(*more: str) -> str:
        with pytest.raises(SystemExit):
            main(arguments(llama, rows, tmp_path / "again", resume, *more))
        return capsys.readouterr().err

    assert "no predictions.parquet.run.json" in refused()
    script = arguments(llama, rows, tmp_path / "other", "--trainer.callbacks+=tests.tiny.Slow")
    victim = command(*script)
    while not _lines(tmp_path / "other/version_0"):
        assert victim.poll() is None
        time.sleep(0.02)
    victim.kill()
    victim.communicate()
    shutil.copy(tmp_path / "other/version_0/predictions.parquet.run.json", begun)
    before = {file.name: file.read_bytes() for file in begun.glob("predictions*")}
    assert "the same rows, conditions" in refused("--data.seed=3")
    assert "the same rows, conditions" in refused("--data.samples=8")
    assert "expected data.eval_batch_size 4" in refused("--data.eval_batch_size=5")
    assert "the same model" in refused("--model.loading.scratch=true", "--seed_everything=5")
    assert "model.max_new_tokens 4" in refused("--model.max_new_tokens=5")
    assert "expected states.layer None" in refused("--states.layer=-2")
    assert {file.name: file.read_bytes() for file in begun.glob("predictions*")} == before
    assert not (tmp_path / "again").exists(), "what was refused leaves folders behind"
    main(arguments(llama, rows, tmp_path / "again", resume))
    assert len(read_table(begun / "predictions.parquet")) == 36
    assert "is complete; there is nothing left" in refused()


def test_parts_of_all_attempts_are_read_and_the_newest_counts(tmp_path: Path) -> None:
    table = tmp_path / "t.parquet"
    row = Record("a", "d", "generation", "clean", "0", "", parsed=None, target=None, correct=None)
    for rank, attempt in ((2, 0), (0, 0), (0, 10), (0, 9)):
        writer = TableWriter(table, rank, attempt)
        name = f"{rank}.{attempt}"
        writer.write([replace(row, prediction=name), replace(row, sample_id=name)])
        writer.close()
    found = {one["sample_id"]: one for one in read_parts(table)}
    assert len(found) == 5
    assert found["a"]["prediction"] == "0.10"


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    (tmp_path / "t.parquet.part-0").write_text(json.dumps({"condition": "clean"}) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"t\.parquet\.part-0:1: found no row"):
        read_parts(tmp_path / "t.parquet")

"""Rows that bring no answer are answered by `predict`, and refused elsewhere; free text is scored by overlap."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from lightning.pytorch.callbacks import Callback

from robustlm.callbacks.hidden_states import HiddenStateWriter
from robustlm.callbacks.predictions import PredictionWriter
from robustlm.cli import main
from robustlm.datamodules import InstructionDataModule, RobustnessDataModule
from robustlm.evaluation.free_text import free_text
from robustlm.evaluation.metrics import overlap
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import Settings
from robustlm.evaluation.table import read_table, write_table
from robustlm.modules import InstructionTuning
from robustlm.rows.base import BadRowsError, SourceError
from robustlm.rows.readers import iter_rows
from robustlm.sources.loading import KnownLabels, load_all
from robustlm.sources.source import Source
from tests.tiny import trainer, write_rows

USER, REPLY = {"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}
UNANSWERED: dict[str, dict[str, Any]] = {
    "robustlm": {"instruction": "Find.", "text": "a b"},
    "robustlm, empty": {"instruction": "Find.", "target": " ", "context": {"text": "a b"}},
    "robustlm, choices": {"instruction": "Find.", "choices": ["a", "b"]},
    "alpaca": {"instruction": "Find.", "input": "a b"},
    "alpaca, empty": {"instruction": "Find.", "output": ""},
    "completion": {"prompt": "Find."},
    "completion, null": {"prompt": "Find.", "completion": None},
    "messages": {"messages": [USER, REPLY, {"role": "user", "content": "Find."}]},
    "anit": {"instruction": "Find.", "adv_instruction": "Fnid.", "input": "a b"},
    "coin": {"original_instruction": "Find.", "paraphrased_instruction": "Seek."},
}


def of(path: str | Source, *, answered: bool = True) -> list[Any]:
    source = path if isinstance(path, Source) else Source(path)
    return load_all([source], "test", answered=answered, known=KnownLabels({"test": [source]}))


@pytest.mark.parametrize("name", UNANSWERED)
def test_rows_without_an_answer_are_read_for_predict_and_refused_elsewhere(tmp_path: Path, name: str) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [UNANSWERED[name]])
    (sample,) = of(file, answered=False)
    assert (sample.instruction, sample.target) == ("Find.", "")
    assert [error.line for error in _errors(file)] == [1]


def _errors(file: str) -> list[Any]:
    with pytest.raises(BadRowsError, match=re.escape(f"{file}:1: ")) as caught:
        of(file)
    return caught.value.errors


def test_a_file_may_mix_rows_with_and_without_answers(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("instruction,input,output\nFind.,a,\nFind.,b,yes\n")
    assert [sample.target for sample in of(str(file), answered=False)] == ["", "yes"]


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [{"prompt": "Find."}])
    assert str(_errors(file)[0]).endswith(
        "no answer: found keys prompt; expected those of completion (prompt, completion). Only `robustlm predict` "
        "takes rows without answers, and data.train does with data.unlabelled, if they have options"
    )
    file = write_rows(tmp_path / "rows.jsonl", [{"messages": [USER]}])
    assert "`robustlm predict` also takes chats that end with the user" in str(_errors(file)[0])
    file = write_rows(tmp_path / "rows.jsonl", [{"ask": "Find."}])
    assert "unknown keys" in str(_errors(file)[0])


def test_rows_of_tasks_need_their_task_and_labels(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [{"text": "a b"}])
    with pytest.raises(BadRowsError, match=r"ambiguous keys: found text, which fit .*name the shape with format="):
        of(file, answered=False)
    with pytest.raises(SourceError, match=r"rows of rows without labels.*expected all of them by `labels`"):
        of(Source(file, task="tc"), answered=False)
    (sample,) = of(Source(file, task="tc", labels=["good", "bad"]), answered=False)
    assert (sample.target, sample.context.option, sample.choices) == ("", "good, bad", ("label: good", "label: bad"))
    (sample,) = of(Source(file, format="tc", labels=["good", "bad"]), answered=False)
    assert sample.bank == "tc"
    (sample,) = of(Source(file, task="ner", labels=["PER"]), answered=False)
    assert (sample.target, sample.context.option) == ("", "PER")
    asked = write_rows(tmp_path / "asked.jsonl", [{"question": "q?", "choices": ["a", "b"]}])
    (sample,) = of(asked, answered=False)
    assert (sample.task, sample.target, sample.choices) == ("choice", "", ("a", "b"))


def asked_of(folder: Path, llama: str, data: Any, stage: str, *callbacks: Callback) -> Path:
    """The prediction table of a run."""
    folder.mkdir()
    run = trainer(folder, callbacks=[PredictionWriter(), *callbacks])
    getattr(run, stage)(InstructionTuning(llama, max_new_tokens=4), datamodule=data)
    return folder / "predictions.parquet"


def test_predict_writes_answers_without_scores_and_reports_leave_them_out(tmp_path: Path, llama: str) -> None:
    rows = [{"prompt": "Find."}, {"prompt": "Name it.", "completion": "yes"}]
    data = InstructionDataModule(test=write_rows(tmp_path / "rows.jsonl", rows))
    table = asked_of(tmp_path / "predicted", llama, data, "predict")
    first, second = read_table(table, answered=False)
    assert (first["target"], first["correct"], first["token_f1"], first["rouge_l"]) == (None, None, None, None)
    assert (second["target"], second["correct"]) == ("yes", False)
    assert second["token_f1"] is not None
    with pytest.warns(UserWarning, match="1 of 2 rows are left out: they have no target"):
        assert read_table(table) == [second]
    with pytest.raises(BadRowsError, match="no answer: found keys prompt"):
        asked_of(tmp_path / "tested", llama, data, "test")  # although it read these rows before
    alone = InstructionDataModule(test=write_rows(tmp_path / "alone.jsonl", rows[:1]))
    table = asked_of(tmp_path / "alone", llama, alone, "predict")
    with pytest.raises(ValueError, match="none of the 1 rows has a target to compare answers with"):
        read_table(table)


def test_attacks_need_answers(tmp_path: Path, llama: str) -> None:
    file = write_rows(tmp_path / "rows.jsonl", [{"prompt": "Find."}])
    data = RobustnessDataModule(test=file, conditions=["attack:textbugger@0.2"])
    with pytest.raises(ValueError, match=r"'attack:textbugger@0.2' searches for wrong answers, but 1 of 1 rows"):
        asked_of(tmp_path / "attacked", llama, data, "predict")


def test_states_of_answers_need_answers(tmp_path: Path, llama: str) -> None:
    data = InstructionDataModule(test=write_rows(tmp_path / "rows.jsonl", [{"prompt": "Find."}]))
    with pytest.raises(
        ValueError, match=r"states\.position: 'last' reads the true answer, but the row .*rows:1 has none"
    ):
        asked_of(tmp_path / "last", llama, data, "predict", HiddenStateWriter(-1, "last"))
    asked_of(tmp_path / "end", llama, data, "predict", HiddenStateWriter(-1))


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [{"messages": [{"role": "system", "content": "Be brief."}, USER, REPLY, USER]}]
    Path("chats.json").write_text(json.dumps(rows))
    settings = "--model InstructionTuning --model.backbone builtin:tiny --model.max_new_tokens 4"
    main(["predict", *settings.split(), "--data", "InstructionDataModule", "--data.test", "chats.json"])
    (table,) = tmp_path.glob("runs/*/predictions.parquet")
    assert f"predictions: {table.relative_to(tmp_path)}" in capsys.readouterr().out
    (row,) = read_table(table, answered=False)
    assert "Assistant: Hello." in row["prompt"]


# ------------------------------------------------------------------------------------ overlap


@pytest.mark.parametrize(
    ("pred", "gold", "f1", "rouge"),
    [
        ("Oslo", "Oslo", 1.0, 1.0),
        ("the cat sat.", "A cat sat down", 0.8, 4 / 7),
        ("b a", "a b", 1.0, 0.5),  # `a` is an article to SQuAD
        ("", "a b", 0.0, 0.0),
        ("Größe", "ganze größe", 2 / 3, 2 / 3),
        ("我住在城里", "我住在乡下", 0.0, 3 / 5),
    ],
)
def test_overlap(pred: str, gold: str, f1: float, rouge: float) -> None:
    assert overlap(pred, gold) == (pytest.approx(f1), pytest.approx(rouge))


def test_free_text_is_scored_in_table_metrics_and_report(
    tmp_path: Path, llama: str, capsys: pytest.CaptureFixture[str]
) -> None:
    logged: dict[str, float] = {}

    class Keep(Callback):
        def on_test_end(self, trainer: Any, pl_module: Any) -> None:
            logged.update({name: float(value) for name, value in trainer.callback_metrics.items()})

    rows = [{"prompt": f"Find {n}.", "completion": "yes no find"} for n in range(5)]
    data = InstructionDataModule(test=write_rows(tmp_path / "rows.jsonl", rows))
    table = asked_of(tmp_path / "run", llama, data, "test", Keep())
    found = read_table(table)
    for name in ("token_f1", "rouge_l"):
        assert logged[f"test/clean/rows/{name}"] == pytest.approx(sum(row[name] for row in found) / 5)
    assert "free text, %" in capsys.readouterr().out
    main(["report", str(table), "--output", str(tmp_path / "report"), "--draws", "20"])
    said = capsys.readouterr().out
    assert "## Free-text answers" in said
    assert "| rows    | clean     | 5       |" in said
    listed = json.loads((tmp_path / "report/robustness.json").read_text())["free_text"]
    assert [one["number"] for one in listed] == ["token_f1", "rouge_l"]
    in_csv = [row.data for row in iter_rows(str(tmp_path / "report/robustness.csv"))]
    assert [row["number"] for row in in_csv[-2:]] == ["token_f1", "rouge_l"]
    assert "ROUGE-L" in (tmp_path / "report/robustness.html").read_text()


def test_intervals_are_of_samples() -> None:
    def row(sample: int, value: float, condition: str) -> Record:
        said = Record(str(sample), "d", "generation", condition, "own", "x", [["x"]], target="y", correct=False)
        return replace(said, token_f1=value, rouge_l=value / 2)

    rows = [row(n, n % 2, condition) for condition in ("clean", "noisy") for n in range(40) for _ in range(3)]
    first, second = free_text(rows, Settings(500))
    estimate = first.numbers["token_f1"]
    assert (first.rows, estimate.value) == (120, 0.5)
    assert 0.3 < estimate.low < 0.4 < 0.6 < estimate.high < 0.7, "forty samples, not 120 answers"
    assert first.numbers == second.numbers
    assert free_text([replace(row(0, 1.0, "clean"), token_f1=None)], Settings(10)) == []


def test_a_table_from_before_overlap_was_measured_loads_and_reports(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = Record("a", "d", "generation", "clean", "own", "x", [["x"]], target="x", correct=True)
    write_table(tmp_path / "new.parquet", [one])
    old = pq.read_table(tmp_path / "new.parquet").drop_columns(["token_f1", "rouge_l"])
    pq.write_table(old, tmp_path / "old.parquet")
    (row,) = read_table(tmp_path / "old.parquet")
    assert row == one
    main(["report", str(tmp_path / "old.parquet"), "--draws", "0"])
    assert "Free-text" not in capsys.readouterr().out

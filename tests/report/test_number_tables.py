"""Robustness reports, and the commands that make them."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from robustlm.cli import main
from robustlm.evaluation.numbers import DRAWN, ESTIMATED
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import NUMBERS, Settings, robustness
from robustlm.evaluation.table import TableWriter
from robustlm.report.number_tables import number_rows, to_csv, to_json, to_markdown, write_whole


def rows(wrong: tuple[int, ...] = (), dataset: str = "d", gap: bool = False) -> list[Record]:
    """Eight samples under two instructions and two conditions; `wrong` are answered so when they are noisy."""
    found = []
    for condition in ("clean", "noisy"):
        for s in range(8):
            for i in "ij":
                right = condition == "clean" or s not in wrong or i == "i"
                said = "a" if right else "b"
                place = str(s), dataset, "generation", condition, f"bank|{i}"
                found.append(Record(*place, said, parsed=[[said]], target="a", correct=right))
    return found[:-1] if gap else found


def written(folder: Path, table: list[Record]) -> str:
    writer = TableWriter(folder / "predictions.parquet")
    writer.write(table)
    writer.close()
    writer.merge()
    return str(folder)


def test_all_forms_hold_the_same_numbers() -> None:
    settings = Settings(100)
    results = robustness(rows((0, 1)) + rows((2,), "e"), settings)
    plain = number_rows(results)
    assert {row["number"] for row in plain} == set(NUMBERS) - {
        *ESTIMATED,
        *DRAWN,
    }  # no cell is missing, and each has one answer
    read = list(csv.DictReader(to_csv(results).splitlines()))
    assert len(read) == len(plain)
    for text, row in zip(read, plain, strict=True):
        assert {key: "" if value is None else str(value) for key, value in row.items()} == text
    found = json.loads(to_json(results, settings))
    assert found["numbers"] == plain
    assert found["interval"] == {"draws": 100, "seed": 0, "level": 0.95, "resample": "samples"}
    unknown = {"wording": None, "instruction": None}
    assert {"dataset": "d", "condition": "noisy", "instruction_id": "bank|j", "value": 0.75} | unknown in found[
        "instructions"
    ]
    (worst,) = [r for r in plain if (r["dataset"], r["condition"], r["number"]) == ("d", "noisy", "worst_instruction")]
    assert (worst["value"], worst["worst"], worst["rows"], worst["instructions"]) == (0.75, "bank|j", 16, 2)


def test_the_summary_can_be_read() -> None:
    text = to_markdown(robustness(rows((0, 1), gap=True), Settings(0)), Settings(0))
    lines = [[cell.strip() for cell in line.replace("\\|", "¦").split("|")[1:-1]] for line in text.splitlines()]
    assert ["score over all answers", "100.0", "87.5"] not in lines  # the noisy mean misses a row
    assert ["score over all answers", "100.0", "86.7"] in lines
    assert ["d", "noisy", "accuracy", "86.7", "-", "-", "71.4", "71.4", "71.4", "bank¦j"] in lines
    assert ["d", "noisy", "15", "8", "7", "2", "1"] in lines
    assert "1 cells are missing in 1 of 2 tables" in text
    assert "no intervals" in text


def test_report_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = written(tmp_path / "run", rows((0, 1)))
    main(["report", run, "--draws", "50"])
    printed = capsys.readouterr().out
    assert printed.startswith("# Robustness\n")
    main(["report", run, "--draws", "50", "--output", str(tmp_path / "out")])
    assert capsys.readouterr().out.startswith(printed)
    names = ["robustness.csv", "robustness.html", "robustness.json", "robustness.md"]
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == names
    assert (tmp_path / "out" / "robustness.md").read_text(encoding="utf-8") == printed
    main(["report", run, "--output", str(tmp_path / "one"), "--format", "csv", "--resample", "both", "--draws", "9"])
    assert [file.name for file in (tmp_path / "one").iterdir()] == ["robustness.csv"]


def test_what_is_no_run_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("text", encoding="utf-8")
    empty = written(tmp_path / "empty", [])
    run = written(tmp_path / "run", rows())
    unknown = written(tmp_path / "unknown", [replace(row, task="poem") for row in rows()])
    for args, message in (
        ([str(tmp_path / "nowhere")], "no predictions.parquet there"),
        ([str(tmp_path / "file")], "no prediction table"),
        ([empty], "holds no answers"),
        ([unknown], "unknown task 'poem' in the table; name its class with --tasks"),
        ([run, "--output", str(tmp_path / "file")], "is a file; expected a folder"),
        ([run, "--clean", "cleen"], "clean: found 'cleen'; expected a condition of the table: clean, noisy"),
        ([run, "--draws", "-1"], "draws: found -1; expected ≥ 0"),
        ([run, "--seed", "-1"], "seed: found -1; expected ≥ 0"),
        ([run, "--level", "95"], "level: found 95.0; expected a share"),
    ):
        with pytest.raises(SystemExit):
            main(["report", *args])
        assert message in capsys.readouterr().err


def test_a_file_is_whole_or_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_whole(tmp_path / "a.md", "before")

    def fails(*args: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fails)
    with pytest.raises(OSError, match="disk full"):
        write_whole(file, "after")
    assert [path.name for path in tmp_path.iterdir()] == ["a.md"]
    assert file.read_text(encoding="utf-8") == "before"


def test_a_place_where_no_file_can_be_is_said(tmp_path: Path) -> None:
    for file, found in ((tmp_path / "no" / "a", "no folder"), (tmp_path, "a folder")):
        with pytest.raises(ValueError, match=f"expected a file name .* found {found}"):
            write_whole(file, "text")


def test_compare_tests_and_lists_flips_when_asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [f"{name}={written(tmp_path / name, rows(wrong))}" for name, wrong in (("base", (0, 1)), ("new", (1, 2)))]
    main(["compare", *runs])
    plain = capsys.readouterr().out
    assert plain.splitlines() == [
        "| mean score over tasks, % | clean | noisy |",
        "|--------------------------|------:|------:|",
        "| base                     | 100.0 |  87.5 |",
        "| new                      | 100.0 |  87.5 |",
    ]
    flips, out = tmp_path / "flips.jsonl", tmp_path / "out"
    main(["compare", *runs, "--paired", "true", "--flips", str(flips), "--output", str(out)])
    printed = capsys.readouterr().out
    assert printed.startswith(plain)
    assert "## new against base" in printed
    assert (out / "comparison.md").read_text(encoding="utf-8") == plain
    assert "## new against base" in (out / "paired.md").read_text(encoding="utf-8")
    found = [json.loads(line) for line in flips.read_text(encoding="utf-8").splitlines()]
    assert [(one["sample_id"], one["flip"]) for one in found] == [("0", "wrong→right"), ("2", "right→wrong")]
    assert {(one["first"], one["second"]) for one in found} == {("base", "new")}


def test_one_run_has_nothing_to_be_tested_against(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", written(tmp_path / "run", rows()), "--paired", "true"])
    assert "found 1; expected two or more" in capsys.readouterr().err

"""The benchmark of observed and unobserved instructions: which types there are, and what they are made of."""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from robustlm.conditions.misleading import negated
from robustlm.instructions.slots import slots

FILE = Path(__file__).parents[2] / "benchmarks" / "alignment.py"
DEFINITIONS = ("73_commonsense_qa", "1420_mathqa_other", "1286_openbook_qa", "1565_trivia_qa_classification",
               "229_arc_qa_hard")  # fmt: skip


@pytest.fixture(scope="module")
def study() -> ModuleType:
    spec = importlib.util.spec_from_file_location("alignment_study", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write(file: Path, data: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(data), encoding="utf-8")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two tasks with files, one of them without collected instructions, and FLAN's templates and definitions."""
    about = ("common sense", "mathematics", "books", "trivia", "gods and myths")
    definitions = {
        f"niv2_{name}": {"definition": f"Choose an answer about {what}.", "input": "{question} {options_}"}
        for name, what in zip(DEFINITIONS, about, strict=True)
    }
    definitions["niv2_56_multirc_classification"] = {"definition": "Judge.", "input": "{question} {correct_answer}"}
    given = {
        "NIV2": {"templates": {f"t{i}": f"{i}: {{definition}}\n{{inputs}}" for i in range(10)},
                 "task_definitions": definitions},
        "FLAN": {"sentiment140_1": "{text}\nWhat is the sentiment?\n{options_}", "rte_1": "{premise}: {hypothesis}?",
                 **{f"multirc_{i}": f"{{paragraph}}\n{{question}} Is it {{response}}? {i}" for i in range(8)}},
        "T0": {}, "Alpaca": {},
    }  # fmt: skip
    written = {
        "templates": ["Which of the gods of myths is it? {question} {choiceA} or {choiceB}"],
        "alpaca_instructions": ["Say it."],
    }
    write(tmp_path / "instructions" / "instructioneval_observed.json", given)
    write(tmp_path / "instructions" / "instructioneval_unobserved.json", {"bbl_hindu_knowledge": written})
    write(tmp_path / "instructions" / "bbl_task_descriptions.json", {"bbl_hindu_knowledge": {"description": "Myths"}})
    for task in ("bbl_hindu_knowledge", "bbl_winowhy"):
        (tmp_path / task).mkdir()
        with gzip.open(tmp_path / task / "test.jsonl.gz", "wt", encoding="utf-8") as file:
            for i in range(24):  # each question twice
                row = {"question": f"q{i // 2}", "choices": ["a", "b"], "answer": "ab"[i % 2]}
                file.write(json.dumps(row) + "\n")
    return tmp_path


def test_the_tasks_are_those_of_the_study(study: ModuleType, data: Path) -> None:
    assert {name: len(tasks) for name, tasks in study.GROUPS.items()} == {
        "MMLU": 1, "BBL-QA": 8, "BBL-MC": 2, "BBL-BC": 4,
    }  # fmt: skip
    tasks, missing = study.present(data)
    assert tasks == {"bbl_hindu_knowledge": "QA"}
    assert len(missing) == 14
    assert any(line.startswith("bbl_winowhy (BBL-BC): no collected instructions") for line in missing)
    assert not study.undefined(data, {"QA", "BC"})


def test_the_six_types_are_observed_and_unobserved_ones(study: ModuleType, data: Path) -> None:
    bank = study.banks(data / "instructions", "FLAN", {"bbl_hindu_knowledge": "QA"})["bbl_hindu_knowledge"]
    assert len(bank["seen"]) == 50  # as the study counts them
    lists = bank["lists"]
    assert len(lists["closest"]) == 10
    assert all("gods and myths" in text for text in lists["closest"])
    assert set(lists["closest"]) <= set(bank["seen"])
    assert lists["negated"] == [negated(text) for text in lists["closest"]]
    assert lists["incorrect"] == ["{question}\nWhat is the sentiment?\n{options_}"]
    assert not set(lists["incorrect"]) & set(bank["seen"])
    assert lists["designer"] == ["Myths"]
    assert not {*lists["collected"], *lists["designer"]} & {*bank["seen"], *lists["incorrect"]}
    fields = next(study.rows(data / "bbl_hindu_knowledge" / "test.jsonl.gz", "bbl_hindu_knowledge"))
    assert all(set(slots(text)) <= set(fields) for texts in (bank["seen"], *lists.values()) for text in texts)
    given = json.loads((data / "instructions" / "instructioneval_observed.json").read_text())
    assert len(study._in_turn(*study.observed(given, "FLAN", "BC").values())) == 18


def test_examples_are_kept_out_of_the_questions(study: ModuleType, data: Path, tmp_path: Path) -> None:
    study.prepare(data, tmp_path / "out", "FLAN", {"bbl_hindu_knowledge": "QA"})
    splits = {}
    for split in ("test", "dev"):
        lines = (tmp_path / "out" / "rows" / "bbl_hindu_knowledge" / f"{split}.jsonl").read_text().splitlines()
        splits[split] = [json.loads(line)["question"] for line in lines]
    assert (len(splits["test"]), len(splits["dev"])) == (14, 10)
    assert not set(splits["test"]) & set(splits["dev"])

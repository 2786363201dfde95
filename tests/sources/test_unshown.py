"""Fields of rows that no prompt shows are reported, and others are not."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from robustlm.cli.check import check
from robustlm.datamodules import InstructionDataModule
from robustlm.modules import InstructionTuning
from robustlm.sample import Sample
from robustlm.sources.samples import read_samples
from robustlm.sources.shapes import register_shape
from robustlm.sources.source import Source
from tests.tiny import load, write_rows

WIC = [
    {"word": word, "sentence1": f"a {word}", "sentence2": f"the {word}", "idx": i, "label": label, "start1": 3}
    for i, (word, label) in enumerate([("bank", "yes"), ("bass", "no")])
]
MULTIRC = [
    {
        "paragraph": f"Ada lived in {city}.",
        "question": "Where?",
        "answer": city,
        "label": label,
        "idx": {"paragraph": 0},
    }
    for city, label in [("Oslo", "yes"), ("Bern", "no")]
]
NLI = [{"premise": "a b", "hypothesis": "c", "label": "yes"}, {"premise": "d", "hypothesis": "e f", "label": "no"}]


def unshown(tmp_path: Path, rows: list[dict[str, Any]], **settings: Any) -> dict[str, int]:
    """The fields in the line, and in how many rows they are."""
    line = read_samples(write_rows(tmp_path / "rows.jsonl", rows), **settings).unshown
    return {name: int(count.replace(",", "")) for name, count in re.findall(r"`(\w+)` \(([\d,]+)\)", line)}


def bank(tmp_path: Path, *templates: str) -> str:
    file = tmp_path / f"bank{len(list(tmp_path.glob('bank*')))}.json"  # banks are read once
    file.write_text(json.dumps({"b": templates}))
    return f"{file}#b"


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (WIC, {"word": 2}),
        (MULTIRC, {"paragraph": 2, "answer": 2}),
        (NLI, {}),
        (MULTIRC[:1], {"paragraph": 1, "answer": 1}),
        ([row | {"paragraph": "the same long text for all"} for row in MULTIRC], {"paragraph": 2, "answer": 2}),
        ([WIC[0] | {"word": ""}, WIC[1]], {"word": 1}),
        ([row | {"source": "the corpus"} for row in NLI], {}),
        ([row | {"guid": f"x{i}", "gold_label": f"y{i}", "pos_tags": [f"N{i}"], "url": str(i)} for i, row in
          enumerate(NLI)], {}),
        ([row | {"tokens2": [f"N{i}"]} for i, row in enumerate(NLI)], {"tokens2": 2}),
        ([{"question": "q", "choices": ["a", "b"], "answer": "a", "answer_key": x, "answerNr": x} for x in "AB"], {}),
        ([{"question": "q", "choices": ["a", "b"], "answer": "a", "subject": x} for x in "AB"], {"subject": 2}),
        ([{"instruction": "I", "output": "y", "input": "t", "hint": x} for x in "AB"], {"hint": 2}),
        ([{"instruction": "I", "target": "y", "noise_kind": x, "distortion": 0.1} for x in "AB"], {}),
        ([{"text": "a", "relations": [], "entities": [{"text": "a", "type": x}]} for x in "AB"], {}),
    ],
)  # fmt: skip
def test_what_is_reported(tmp_path: Path, rows: list[dict[str, Any]], expected: dict[str, int]) -> None:
    assert unshown(tmp_path, rows) == expected


def test_what_shows_them(tmp_path: Path) -> None:
    templates = ["{word}: {sentence1} {sentence2}", "{sentence1} {sentence2}: what of {word}?"]
    assert unshown(tmp_path, WIC, bank=bank(tmp_path, *templates)) == {}
    assert unshown(tmp_path, WIC, bank=bank(tmp_path, "{w}: {a} {b}"), fields={"w": "word", "a": "sentence1",
                                                                              "b": "sentence2"}) == {}  # fmt: skip
    rows = [{"question": "q", "choices": ["a", "b"], "answer": "a", "subject": x} for x in "AB"]
    assert unshown(tmp_path, rows, topic="subject") == {}
    # all phrasings have placeholders, so that the rest of the context is not written
    assert unshown(tmp_path, NLI, bank=bank(tmp_path, "{premise}?", "So {premise}?")) == {"hypothesis": 2}
    assert unshown(tmp_path, NLI, bank=bank(tmp_path, "{premise}?", "Judge the pair.")) == {}
    assert unshown(tmp_path, NLI, bank=bank(tmp_path, "Judge the pair.")) == {}
    assert unshown(tmp_path, NLI, bank=bank(tmp_path, "{premise} {hypothesis} {options_}")) == {}


def test_a_shape_of_ones_own_that_copies_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from robustlm.sources import shapes

    monkeypatch.setattr(shapes, "SHAPES", shapes.SHAPES.copy())

    @register_shape("copied", needs=("ask", "reply"))
    def read_copied(row: Any, id: str) -> Sample:
        data = {**row}
        return Sample(id, data["ask"] + data["more"], data["reply"])

    @register_shape("picked", needs=("say", "reply"))
    def read_picked(row: Any, id: str) -> Sample:
        return Sample(id, row["say"], row["reply"])

    rows = [{"ask": "I", "reply": "y", "more": x} for x in "AB"]
    assert unshown(tmp_path, rows) == {}
    assert unshown(tmp_path, [{"say": "I", "reply": "y", "more": x} for x in "AB"]) == {"more": 2}


def test_check_and_the_start_of_a_run_say_so(
    models: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_rows(tmp_path / "wic.jsonl", WIC)
    line = f"data.train: wic ({path}): no prompt shows these fields of 2 rows (number of rows with it): `word` (2); a"
    check(InstructionTuning(models["llama"]), InstructionDataModule(train=path))
    assert sum(line in shown for shown in capsys.readouterr().out.splitlines()) == 1
    data = InstructionDataModule(train=path, template="{instruction} {option}\n")
    data.connect(load(models["llama"], None))
    data.setup("fit")
    messages = [record.getMessage() for record in caplog.records]
    assert sum(message.startswith(line) for message in messages) == 1
    hidden = (
        "data.template: has no {text} and no {context}, so no prompt shows the text that 2 rows of wic in data.train"
    )
    assert sum(message.startswith(hidden) for message in messages) == 1
    shown = InstructionDataModule(
        train=[Source(path, bank=bank(tmp_path, "{word}, {sentence1}, {sentence2}"))], template="{instruction} "
    )
    shown.connect(data.backbone)
    shown.setup("fit")
    assert not shown.notes


DATA = os.environ.get("ROBUSTLM_DATA", "")


@pytest.mark.skipif(not DATA, reason="ROBUSTLM_DATA names no folder of datasets")
def test_no_wolf_is_cried_over_published_rows() -> None:
    found = {}
    for file in sorted(Path(DATA).glob("*/*.jsonl.gz")):
        line = read_samples(str(file)).unshown
        if line:
            found[file.parent.name] = re.findall(r"`(\w+)` \(", line)
    # what a question is about is no part of its prompt
    assert found == {"mmlu": ["subject"], "bbl_logical_deduction": ["subtask"]}

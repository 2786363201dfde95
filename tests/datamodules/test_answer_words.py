"""Templates with answers of their own, and templates that rows cannot be asked with."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from robustlm.datamodules import InstructionDataModule, ParaphraseDataModule, RobustnessDataModule
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import Settings, robustness
from robustlm.rows.base import BadRowsError, SourceError
from robustlm.sample import Sample
from robustlm.sources.samples import load_samples
from robustlm.sources.source import Source
from robustlm.tools.two_phrasings import phrased
from tests.tiny import load, write_rows

ROWS = [{"id": f"r{i}", "sentence": f"text {i}", "label": i % 2} for i in range(6)]
LABELS = ["unacceptable", "acceptable"]


def template(name: str, jinja: str, choices: list[str]) -> dict[str, Any]:
    return {"name": name, "jinja": f"{jinja} ||| {{{{answer_choices[label]}}}}", "answer_choices": choices}


TEMPLATES = [
    template("sense", "{{sentence}} Does it make sense?", ["no", "yes"]),
    template("which", "{{sentence}} Acceptable or unacceptable?", LABELS),
    template("again", "Is this fine? {{sentence}}", ["no", "yes"]),
]


def source(folder: Path, templates: list[Any], **settings: Any) -> Source:
    (folder / "templates.json").write_text(json.dumps({"cola": templates}), encoding="utf-8")
    path = write_rows(folder / "cola.jsonl", ROWS)
    return Source(path, bank=f"{folder / 'templates.json'}#cola", **({"labels": LABELS} | settings))


def ready(llama: str, given: Source, kind: Any = RobustnessDataModule, **settings: Any) -> Any:
    found = kind(test=[given], **({"conditions": ["clean"], "unseen_share": 0} | settings))
    found.connect(load(llama, None))
    found.setup("test")
    return found


def test_each_template_has_its_answers(llama: str, tmp_path: Path) -> None:
    data = ready(llama, source(tmp_path, TEMPLATES), scoring="options")
    found = {(one.id, one.instruction_id[-1]): one for one in data.conditioned["clean"].samples}
    assert len(found) == 6 * 3
    assert [found["r0", str(k)].target for k in range(3)] == ["no", "unacceptable", "no"]
    assert [found["r1", str(k)].target for k in range(3)] == ["yes", "acceptable", "yes"]
    assert found["r0", "0"].choices == ("no", "yes")
    assert found["r0", "0"].task == "tc_bare"
    batch = next(iter(data.test_dataloader()[0]))
    assert set(batch.answer_words[0]) & {("no", "unacceptable"), ("unacceptable", "unacceptable")}


def test_examples_have_the_answers_of_the_template(llama: str, tmp_path: Path) -> None:
    given = source(tmp_path, TEMPLATES)
    shown = [{"id": f"s{i}", "sentence": f"shown {i}", "label": i % 2} for i in range(2)]
    examples = [Source(write_rows(tmp_path / "shown.jsonl", shown))]
    data = ready(llama, given, shots=2, examples=examples)
    for sample in data.conditioned["clean"].samples:
        words = {word for word, _ in sample.answer_words}
        assert {one.target for one in sample.examples} == words


def test_labels_have_to_be_named_in_their_order(tmp_path: Path, llama: str) -> None:
    with pytest.raises((SourceError, ValueError), match="labels: found none; expected all labels of the rows in the "):
        ready(llama, source(tmp_path, TEMPLATES, labels=None))
    three = source(tmp_path, TEMPLATES, labels=["a", "b", "c"])
    with pytest.raises(ValueError, match=r"no phrasing that r0 can be asked with; .* and 2 labels.* and 3 labels"):
        ready(llama, three)


def test_training_keeps_to_the_answers_of_the_target(tmp_path: Path, llama: str) -> None:
    data = ParaphraseDataModule(train=[source(tmp_path, TEMPLATES)], unseen_share=0, variants=1)
    data.connect(load(llama, None))
    data.setup("fit")
    found = data.phrasings(data.rows["train"], variants=True)
    for at, sample in enumerate(data.rows["train"].samples):
        words = {word for word, _ in sample.answer_words}
        fitting = {one["jinja"].partition(" |||")[0].replace("{{", "{").replace("}}", "}") for one in TEMPLATES
                   if set(one["answer_choices"]) == words}  # fmt: skip
        assert set(found.of(at)) == fitting


def record(at: int, instruction: int, text: str, target: str, words: list[list[str]]) -> Record:
    return Record(f"r{at}", "cola", "tc_bare", "clean", f"cola/concise/seen/{instruction}", text, [[text]], target,
                  text == target, answer_words=words)  # fmt: skip


def test_answers_that_mean_the_same_are_consistent() -> None:
    words = [[["no", "unacceptable"], ["yes", "acceptable"]], [[one, one] for one in LABELS]]
    rows = [
        record(at, k, ("yes", "acceptable")[k], ("yes", "acceptable")[k], words[k]) for at in range(8) for k in (0, 1)
    ]
    (result, *_) = robustness(rows, Settings(draws=10))
    assert result.numbers["consistency"].value == 1.0
    plain = [replace(row, answer_words=None) for row in rows]
    (result, *_) = robustness(plain, Settings(draws=10))
    assert result.numbers["consistency"].value == 0.0


def test_pairs_ask_for_the_same_answers(tmp_path: Path) -> None:
    bank = source(tmp_path, TEMPLATES).bank
    samples = load_samples(str(tmp_path / "cola.jsonl"), bank=bank, labels=LABELS)
    rows: list[Sample] = []
    for one in samples:
        try:
            rows += phrased([one], "both", {}, 0, unseen_share=0)
        except SourceError as error:
            assert "no second phrasing" in str(error)  # noqa: PT017 - of the template with other answers
    assert rows
    for one in rows:
        assert one.target in ("no", "yes")
        assert "Acceptable or" not in f"{one.instruction} {one.variant}"


def test_a_template_that_no_row_can_fill_is_left_out(
    tmp_path: Path, llama: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    templates = ["Judge: {sentence}", "From {soruce_lang}: {sentence}", "Is {sentence} fine?", "Fine?"]
    data = ready(llama, source(tmp_path, templates))
    assert {one.instruction for one in data.conditioned["clean"].samples} == {templates[0], templates[2], templates[3]}
    assert "left out the template cola/concise/seen/1" in caplog.text
    assert (
        "as no row has a text for its placeholder {soruce_lang} ('From {soruce_lang}: {sentence}' (str))" in caplog.text
    )
    single = ready(llama, source(tmp_path, templates), InstructionDataModule)
    assert all("soruce" not in one.instruction for one in single.conditioned["clean"].samples)
    ROWS[2]["soruce_lang"] = "French"
    try:
        with pytest.raises(BadRowsError, match=r"5 of 6 rows cannot be used \(no field for \{soruce_lang\}: 5\)"):
            ready(llama, source(tmp_path, templates))
    finally:
        del ROWS[2]["soruce_lang"]
    with pytest.raises(BadRowsError, match=r"no field for \{soruce_lang\}"):
        ready(llama, source(tmp_path, templates[1:2]))


def test_lists_alone_are_asked_by_conditions(tmp_path: Path, llama: str) -> None:
    (tmp_path / "x.json").write_text(json.dumps({"cola": {"templates": ["a {content}"], "more": ["b"]}}), "utf-8")
    given = Source(write_rows(tmp_path / "cola.jsonl", ROWS), bank=f"{tmp_path / 'x.json'}#cola", labels=LABELS)
    data = ready(llama, given, conditions=["list:templates", "list:more+deepwordbug@0.5"])
    assert {one.instruction for one in data.conditioned["list:templates"].samples} == {"a {content}"}
    assert dict(data.conditioned["list:templates"].samples[0].fields) == {"content": "text 0"}
    with pytest.raises(ValueError, match="instruction bank 'cola': no seen phrasings"):
        ready(llama, given)

"""Instructions that state the format of answers: prompts state no other, and classification answers with the label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustlm.datamodules import InstructionDataModule
from robustlm.instructions.banks import InstructionBank
from robustlm.prompts.templates import make_template
from robustlm.rows.base import BadRowsError, SourceError
from robustlm.rows.fields import squeezed
from robustlm.sources.loading import KnownLabels, load, load_all
from robustlm.sources.samples import load_samples
from robustlm.sources.source import Source
from robustlm.tasks import TASKS
from tests.tiny import load as load_model
from tests.tiny import write_rows

ROWS = [{"sentence": "fine", "label": "label: a"}, {"sentence": "dull", "label": "b c"}]


def banks(tmp_path: Path, **more: Any) -> str:
    entry = {"seen": ["Say a or b c.", "One of a, b c."], "unseen": ["Which? {options_}"], **more}
    (tmp_path / "banks.json").write_text(json.dumps({"b": entry}))
    one = {"task": "mine", "concise": {"seen": ["Say a or b c."]}, **more}
    (tmp_path / "bank.json").write_text(json.dumps(one))
    return f"{tmp_path / 'banks.json'}#b"


def test_the_source_and_the_bank_say_so(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "set.jsonl", ROWS)
    named = banks(tmp_path, format="none")
    plain = load(Source(path), "train")
    assert {sample.context.format for sample in plain} == {"label: class"}
    for source in (
        Source(path, format="none"),
        Source(path, bank=named),
        Source(path, bank=str(tmp_path / "bank.json")),
        Source(path, bank=named, format="none", task="tc"),
    ):
        samples = load(source, "train")
        assert [sample.target for sample in samples] == ["label: a", "b c"]
        assert {sample.choices for sample in samples} == {("b c", "label: a")}
        assert {(sample.task, sample.context.format, sample.context.option) for sample in samples} == {
            ("tc_bare", "", "b c, label: a")
        }
        for sample, other in zip(samples, plain, strict=True):
            prompt = make_template("plain", None).render(sample, "Do it.").text
            assert "Format:" not in prompt
            assert "label: class" not in prompt
            assert TASKS["tc_bare"].parse(sample.target).items == TASKS["tc"].parse(other.target).items
    assert "- b c\n- label: a" in dict(load(Source(path, bank=named), "train")[0].fields)["options_"]
    assert load(Source(path, format="none"), "train")[0].bank == "tc"


@given(st.text())
def test_the_bare_parser_is_the_exact_inverse(text: str) -> None:
    bare = TASKS["tc_bare"]
    label = squeezed(text)
    if label:
        assert bare.parse(bare.format([(label,)])).items == ((label,),)
        assert bare.format([(label,)]) == label
    else:
        assert bare.parse(text).malformed == 1
        with pytest.raises(ValueError, match="tc_bare: found items"):
            bare.format([(text,)])


def test_choice_and_generic_rows(tmp_path: Path) -> None:
    row = {"question": "q", "choices": ["a", "b"], "answer": "b"}
    (sample,) = load_samples(write_rows(tmp_path / "c.jsonl", [row]), format="none")
    assert (sample.target, sample.task, sample.context.format) == ("b", "choice", "")
    assert sample.context.option == "(A) a (B) b"
    generic = {"instruction": "I", "target": "y"}
    (sample,) = load_samples(write_rows(tmp_path / "g.jsonl", [generic]), format="none")
    assert sample.target == "y"
    with pytest.raises(
        BadRowsError, match=r"format none: found a row of the shape 'robustlm' with a format of its own"
    ):
        load_samples(write_rows(tmp_path / "g.jsonl", [generic | {"format": "one word"}]), format="none")


@pytest.mark.parametrize(
    "row",
    [
        {"tokens": ["a"], "ner_tags": ["O"]},
        {"text": "a", "relations": []},
        {"text": "a", "triplets": []},
    ],
)
def test_answers_that_need_their_form_are_refused(row: dict[str, Any], tmp_path: Path) -> None:
    path = write_rows(tmp_path / "x.jsonl", [row])
    for more in ({"format": "none"}, {"bank": banks(tmp_path, format="none").replace("banks.json#b", "bank.json")}):
        with pytest.raises(BadRowsError, match=r"x.jsonl:1: format none: found a row of the task '\w+', whose answers"):
            load(Source(path, **more), "train")


def test_wrong_words(tmp_path: Path) -> None:
    for wrong in ("None", None, "label: class", 3):
        named = banks(tmp_path, format=wrong)
        for one in (named, str(tmp_path / "bank.json")):
            with pytest.raises(ValueError, match=r"bank.*: format: found .*; expected 'none'"):
                InstructionBank.load(one)
    with pytest.raises(SourceError, match="format none"):
        load(Source("builtin:quickstart", format="none"), "train")


def test_labels_are_shared_with_the_other_form(tmp_path: Path) -> None:
    train = write_rows(tmp_path / "t.jsonl", [*ROWS, {"sentence": "x", "label": "d"}])
    test = write_rows(tmp_path / "u.jsonl", ROWS)
    known = KnownLabels({"train": [Source(train, name="s")], "test": [Source(test, name="s", format="none")]})
    samples = load_all([Source(test, name="s", format="none")], "test", known=known)
    assert samples[0].choices == ("b c", "d", "label: a")


def test_the_bare_label_is_trained_and_scored(models: dict[str, str], tmp_path: Path) -> None:
    path = write_rows(tmp_path / "set.jsonl", ROWS)
    data = InstructionDataModule(train=path, test=path, bank=str(tmp_path / "bank.json"), scoring="options")
    banks(tmp_path, format="none")
    data.connect(load_model(models["llama"], None))
    for stage in ("fit", "test"):
        data.setup(stage)
    decode = data.backbone.tokenizer.decode
    for row, answer in zip(data.rows["train"].encoded, ("label: a", "b c"), strict=True):
        assert decode(row.answer_ids, skip_special_tokens=True).strip() == answer
    options = [decode(row.answer_ids, skip_special_tokens=True) for row in data.conditioned["clean"].options[0]]
    assert [text.strip() for text in options] == ["b c", "label: a"]

"""Sources with a bank, and fields for its slots."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from robustlm.instructions import banks as instructions
from robustlm.instructions.banks import InstructionBank
from robustlm.instructions.slots import pieces
from robustlm.noise.base import KINDS, Noise
from robustlm.prompts.base import Origin
from robustlm.prompts.templates import make_template
from robustlm.rows.base import BadRowsError, SourceError
from robustlm.rows.writers import write_rows
from robustlm.sample import Sample
from robustlm.sources.loading import load
from robustlm.sources.samples import load_samples
from robustlm.sources.source import Source
from robustlm.tasks import TASKS

BANKS = {
    "pair": ["{one} then {two}?\n{options_}", "{two} after {one}?"],
    "text": ["About {text}:"],
    "options": ["{question} {options_}"],
    "plain": ["Do it.", "Do that."],
}


@pytest.fixture
def banks(tmp_path: Path) -> str:
    path = tmp_path / "banks.json"
    path.write_text(json.dumps(BANKS))
    return str(path)


def read(tmp_path: Path, rows: list[dict[str, Any]], **settings: Any) -> list[Sample]:
    path = tmp_path / "rows.jsonl"
    write_rows(path, rows)
    return load(Source(str(path), **settings), "train")


def test_fields_come_from_the_row(tmp_path: Path, banks: str) -> None:
    rows = [
        {"sentence1": "A", "sentence2": "B", "label": "no"},
        {"sentence1": "C ", "sentence2": "D", "label": "yes"},
    ]
    found = read(tmp_path, rows, bank=f"{banks}#pair", fields={"one": "sentence1", "two": "sentence2"}, limit=1)
    options = "OPTIONS:\n- label: no\n- label: yes"
    assert [sample.fields for sample in found] == [(("one", "A"), ("two", "B"), ("options_", options))]
    assert (found[0].bank, found[0].instruction, found[0].target) == (f"{banks}#pair", "", "label: no")
    assert found[0].choices == ("label: no", "label: yes")


@pytest.mark.parametrize(
    ("row", "bank", "fields", "expected"),
    [
        ({"tokens": ["A", "b"], "ner_tags": ["O", "O"]}, "text", {"text": "tokens"}, {"text": "A b"}),
        ({"text": "t", "relations": []}, "text", None, {"text": "t"}),
        ({"text": "t", "triplets": []}, "text", None, {"text": "t"}),
        ({"instruction": "I", "input": "t", "output": "y"}, "text", {"text": "input"}, {"text": "t"}),
        ({"instruction": "I", "context": {"text": "t"}, "target": "y"}, "text", None, {"text": "t"}),
        ({"instruction": "I", "text": "t", "target": "y", "number": 3}, "text", {"text": "number"}, {"text": "3"}),
        ({"instruction": "I", "fields": {"text": "f"}, "text": "t", "target": "y"}, "text", None, {"text": "f"}),
        ({"prompt": "p", "completion": "y"}, "text", {"text": "prompt"}, {"text": "p"}),
        ({"prompt": "p", "completion": "y"}, "plain", None, {}),
        (
            {"question": "q", "choices": ["x", "y"], "answer": "y"},
            "options",
            None,
            {"question": "q", "options_": "OPTIONS:\n- x\n- y"},
        ),
        (
            {"instruction": "I", "target": "y", "question": "q", "all": ["x", "y"]},
            "options",
            {"options_": "all"},
            {"question": "q", "options_": "OPTIONS:\n- x\n- y"},
        ),
    ],
)
def test_every_shape_of_row(
    tmp_path: Path, banks: str, row: dict[str, Any], bank: str, fields: dict[str, str] | None, expected: dict[str, str]
) -> None:
    (sample,) = read(tmp_path, [row], bank=f"{banks}#{bank}", fields=fields)
    assert dict(sample.fields) == expected
    assert (sample.bank, sample.instruction) == (f"{banks}#{bank}", "")


def test_rows_that_lack_a_field_are_bad_rows(tmp_path: Path, banks: str) -> None:
    rows: list[dict[str, Any]] = [
        {"instruction": "I", "target": "y", "text": "t"},
        {"instruction": "I", "target": "y", "mine": "t"},
        {"instruction": "I", "target": "y", "text": {"deep": "t"}, "task": "generation"},
    ]
    with pytest.raises(BadRowsError) as caught:
        read(tmp_path, rows[:2], bank=f"{banks}#text")
    (error,) = caught.value.errors
    assert str(error).endswith("rows.jsonl:2: " + error.problem)
    assert error.problem == (
        "no field for {text}: found keys instruction, target, mine; expected 'text' among them, or another key named "
        "by `fields` of the source"
    )
    with pytest.raises(BadRowsError, match=r"no field for {options_}: .*no choices; expected choices, or a key named"):
        read(tmp_path, [{"instruction": "I", "target": "y", "question": "q"}], bank=f"{banks}#options")
    with pytest.raises(BadRowsError, match="text is no"):
        read(tmp_path, rows[2:], bank=f"{banks}#text")


def test_settings_are_checked(tmp_path: Path, banks: str) -> None:
    with pytest.raises(
        SourceError, match=r"data.train: .*fields: found 'tow'; expected placeholders .*#pair: one, two"
    ):
        read(tmp_path, [{}], bank=f"{banks}#pair", fields={"tow": "x"})
    with pytest.raises(SourceError, match=r"placeholders of the bank .*: none, as its phrasings have no"):
        read(tmp_path, [{}], bank=f"{banks}#plain", fields={"tow": "x"})
    with pytest.raises(
        SourceError, match=r"data.train: .*found no bank 'x'; expected one of pair, text, options, plain"
    ):
        read(tmp_path, [{}], bank=f"{banks}#x")
    with pytest.raises(ValueError, match=r"rows: fields: .*without a bank"):
        Source("rows", fields={"a": "b"})
    with pytest.raises(ValueError, match=r"rows: fields: found .*; expected keys of rows by placeholder"):
        Source("rows", bank="ner", fields={"a": 3})  # type: ignore[dict-item]
    with pytest.raises(ValueError, match="rows: bank: found 3"):
        Source("rows", bank=3)  # type: ignore[arg-type]


def test_the_built_in_corpus_takes_banks_without_slots(banks: str) -> None:
    samples = load(Source("builtin:quickstart", bank=f"{banks}#plain", limit=5), "train")
    assert {(sample.bank, sample.instruction) for sample in samples} == {(f"{banks}#plain", "")}
    with pytest.raises(SourceError, match=r"found the placeholder {text} in the bank .*expected a bank without"):
        load(Source("builtin:quickstart", bank=f"{banks}#text", limit=5), "train")


def test_a_bank_that_a_row_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "packaged.json"
    file.write_text(json.dumps({"task": "pair", "concise": {"seen": BANKS["pair"], "unseen": []}}), encoding="utf-8")
    monkeypatch.setattr(instructions, "_packaged", lambda: {"pair_of_test": file})
    bank = "pair_of_test"
    base = {"instruction": "", "target": "y", "bank": bank}
    fields = {"one": "a", "two": "b", "options_": "-"}
    found = read(tmp_path, [base | fields, base | {"fields": fields}, base | {"text": "t"}])
    assert [dict(sample.fields) for sample in found] == [fields, fields, {}]
    with pytest.raises(BadRowsError, match=r"no field for {two}"):
        read(tmp_path, [base | {"one": "a"}])
    (own,) = read(tmp_path, [base | {"instruction": "{one}!", "fields": {"one": "a"}}])
    assert (own.instruction, own.fields) == ("{one}!", (("one", "a"),))


DATA = os.environ.get("ROBUSTLM_DATA", "")
FLAN: dict[str, tuple[str, dict[str, str] | None]] = {
    "cola": ("cola", None),
    "mrpc": ("glue_mrpc", None),
    "rte": ("rte", {"premise": "sentence1", "hypothesis": "sentence2"}),
    "sst2": ("sst2", None),
    "qnli": ("qnli", None),
}


def flan(dataset: str, split: str = "validation") -> Source:
    bank, fields = FLAN[dataset]
    file = f"{DATA}/instructions/flan_templates.json#{bank}"
    return Source(f"{DATA}/{dataset}", split=split, bank=file, fields=fields)


@pytest.mark.skipif(not DATA, reason="ROBUSTLM_DATA names no folder of datasets")
@pytest.mark.parametrize("dataset", FLAN)
def test_flan_templates_on_real_rows(dataset: str) -> None:
    samples = load(flan(dataset), "test")
    plain = load_samples(f"{DATA}/{dataset}/validation.jsonl.gz")
    assert [sample.target for sample in samples] == [sample.target for sample in plain]
    bank = InstructionBank.load(samples[0].bank)
    assert bank.phrasings("both", "seen")
    assert bank.phrasings("both", "unseen")
    template = make_template("plain", None)
    for sample in samples:
        assert len(TASKS["tc"].parse(sample.target).items) == 1
        fields = dict(sample.fields)
        assert fields.keys() == set(bank.slots)
        assert f"- {sample.target}" in fields["options_"].splitlines()
        for phrasing in bank.instructions:
            prompt = template.render(sample, phrasing.text)
            shown = [prompt.text[a:b] for a, b, origin in prompt.spans if origin is Origin.CONTEXT]
            names = [name for _, name in pieces(phrasing.text, fields) if name]
            assert shown == [fields[name] for name in names if name != "options_"]
            assert all(fields[name] in prompt.text for name in names)
            assert prompt.text.count("Answer:") >= 1
            assert "Format:" not in prompt.text


@pytest.mark.skipif(not DATA, reason="ROBUSTLM_DATA names no folder of datasets")
def test_noise_on_flan_templates_keeps_every_slot() -> None:
    for dataset in FLAN:
        samples = load(flan(dataset), "test")[:100]
        bank = InstructionBank.load(samples[0].bank)
        asked = [bank.assign(sample, "both", "unseen").instruction for sample in samples]
        for kind in KINDS:
            names = [[name for name, _ in sample.fields] for sample in samples]
            noisy = Noise(kind, omega=0.3).apply(asked, [sample.id for sample in samples], slots=names)
            assert all(noisy.noisy)
            for raw, text, slots in zip(asked, noisy.texts, names, strict=True):
                assert [name for _, name in pieces(text, slots)] == [name for _, name in pieces(raw, slots)]


@pytest.mark.skipif(not DATA, reason="ROBUSTLM_DATA names no folder of datasets")
def test_flan_templates_are_dealt_out_evenly() -> None:
    samples = load(flan("cola"), "test")
    bank = InstructionBank.load(samples[0].bank)
    counts = Counter(bank.assign(sample).instruction_id for sample in samples)
    assert len(counts) == len(bank.phrasings("both", "seen"))
    assert min(counts.values()) > 0.7 * len(samples) / len(counts)


def test_a_sample_is_built_once_after_its_shape_has_read_the_row(
    tmp_path: Path, banks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Task, bank, fields, topic, options, choices and dataset are resolved first, and set in one go."""
    built = Counter[str]()
    init = Sample.__init__

    def counted(self: Sample, id: str, *args: Any, **kwargs: Any) -> None:
        built[id] += 1
        init(self, id, *args, **kwargs)

    rows = [{"id": str(i), "question": f"Q{i}?", "label": "ab"[i % 2], "about": "x"} for i in range(4)]
    monkeypatch.setattr(Sample, "__init__", counted)
    found = read(tmp_path, rows, bank=f"{banks}#options", topic="about", name="mine", format="none")
    assert {(one.dataset, one.topic, one.task, one.choices) for one in found} == {("mine", "x", "tc_bare", ("a", "b"))}
    assert [dict(one.fields)["options_"] for one in found] == ["OPTIONS:\n- a\n- b"] * 4
    assert set(built.values()) == {2}

"""The examples of `docs/data.md` are rows of the shapes they stand for, and the names it lists are all there are."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from robustlm.cli import main
from robustlm.conditions.condition import parse_condition
from robustlm.instructions.banks import InstructionBank, known_banks
from robustlm.instructions.paraphrases import load_paraphrases
from robustlm.noise.base import KINDS, Noise
from robustlm.noise.edits import replay
from robustlm.rows.writers import write_rows
from robustlm.sources.loading import load_all
from robustlm.sources.samples import load_samples
from robustlm.sources.shapes import known_shapes
from robustlm.sources.source import Source
from robustlm.tasks import TASKS

PAGE = (Path(__file__).parents[2] / "docs/data.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"^```json shape=(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize(("shape", "row"), EXAMPLES, ids=[shape for shape, _ in EXAMPLES])
def test_an_example_is_recognised_and_read(shape: str, row: str, tmp_path: Path) -> None:
    found = [name for name, known in known_shapes().items() if known.recognises(json.loads(row))]
    assert found == [shape]
    file = tmp_path / "rows.jsonl"
    file.write_text(row, encoding="utf-8")
    (sample,) = load_samples(str(file))
    assert sample.target
    assert sample.instruction or sample.bank in known_banks()


def test_every_shape_has_an_example() -> None:
    documented = {"dialogue"} | {shape for shape, _ in EXAMPLES}  # docs/extending.md registers one more
    assert set(known_shapes()) <= documented


def test_the_bank_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```json bank\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    file = tmp_path / "bank.json"
    file.write_text(text, encoding="utf-8")
    assert len(InstructionBank.load(str(file)).phrasings("both", "seen")) == 3


def test_the_file_of_banks_holds_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```json banks\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "templates.json").write_text(text, encoding="utf-8")
    bank = InstructionBank.load(str(tmp_path / "templates.json#rte"))
    assert [instruction.id for instruction in bank.instructions] == ["rte/concise/seen/0", "rte/concise/seen/1"]
    assert bank.slots == ["premise", "hypothesis", "options_"]


def test_the_sources_with_banks_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = re.findall(r"^```json banks\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (sources,) = re.findall(r"^```yaml sources\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("templates.json").write_text(text, encoding="utf-8")
    rows = {
        "rte": [{"sentence1": f"a{i}", "sentence2": f"b{i}", "label": "yes" if i % 2 else "no"} for i in range(8)],
        "sst2": [{"sentence": "fine", "label": "positive"}, {"sentence": "dull", "label": "negative"}],
    }
    for name, data in rows.items():
        Path(name).mkdir()
        write_rows(f"{name}/train.jsonl", data)
    train = [Source(**fields) for fields in yaml.safe_load(sources)["data"]["init_args"]["train"]]
    assert [sample.bank for sample in load_all(train, "train")] == ["templates.json#rte"] * 8 + ["sentiment"] * 2
    (command,) = re.findall(r"^robustlm (pairs .*)$", PAGE, re.MULTILINE)
    main(shlex.split(command))
    assert len({sample.group for sample in load_samples("pairs.jsonl")}) < 8


def test_the_labels_are_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (sources,) = re.findall(r"^```yaml labels\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    rows: dict[str, dict[str, object]] = {
        "sst2": {"sentence": "fine", "label": 1},
        "wic": {"word": "bank", "sentence1": "a", "sentence2": "b", "label": True},
        "conll03": {"tokens": ["Oslo"], "ner_tags": [3]},
    }
    for name, row in rows.items():
        Path(name).mkdir()
        write_rows(f"{name}/train.jsonl", [row])
    train = [Source(**fields) for fields in yaml.safe_load(sources)["data"]["init_args"]["train"]]
    samples = load_all(train, "train")
    assert [sample.target for sample in samples] == ["label: positive", "label: same", "LOC: Oslo"]
    assert [sample.context.option for sample in samples] == ["negative, positive", "different, same", "PER, LOC"]


def test_the_bank_that_states_the_format(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```json bare\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "mood.json").write_text(text, encoding="utf-8")
    rows = tmp_path / "rows.jsonl"
    write_rows(rows, [{"sentence": "fine", "label": "positive"}, {"sentence": "dull", "label": "negative"}])
    samples = load_all([Source(str(rows), bank=str(tmp_path / "mood.json"))], "train")
    assert [(sample.target, sample.context.format) for sample in samples] == [("positive", ""), ("negative", "")]


def test_the_published_rows_load(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```jsonl published\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    targets = []
    for number, line in enumerate(text.splitlines()):
        file = tmp_path / f"{number}.jsonl"
        file.write_text(line, encoding="utf-8")
        targets += [sample.target for sample in load_samples(str(file))]
    assert targets == [
        "MET: Ada, Bo", "born in: Ada, Oslo", "NEG: soup, cold", "label: yes", "label: duplicate", "PER: Ada",
    ]  # fmt: skip


def test_the_limits_are_some(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (sources,) = re.findall(r"^```yaml limits\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    monkeypatch.chdir(tmp_path)
    for name in ("sst2", "rte"):
        Path(name).mkdir()
        write_rows(f"{name}/train.jsonl", [{"sentence": f"{i}", "label": ("no", "yes")[i % 2]} for i in range(20)])
    train = [Source(**fields) for fields in yaml.safe_load(sources)["data"]["init_args"]["train"]]
    assert [len(load_all([source], "train")) for source in train] == [5, 16]


def test_the_paraphrase_file_is_one(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```jsonl paraphrases\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    file = tmp_path / "paraphrases.jsonl"
    file.write_text(text, encoding="utf-8")
    assert [len(found) for found in load_paraphrases(str(file)).values()] == [2, 0]


def test_the_conditions_are_some() -> None:
    (text,) = re.findall(r"^```yaml conditions\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    found = [parse_condition(name) for name in yaml.safe_load(text)["data"]["init_args"]["conditions"]]
    assert sum(one.noise is not None and one.noise.protect for one in found) == 2


def test_the_synonyms_and_the_manifest_are_some(tmp_path: Path) -> None:
    (text,) = re.findall(r"^```json synonyms\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (tmp_path / "mine.json").write_text(text, encoding="utf-8")
    noise = Noise(f"synonyms:{tmp_path / 'mine.json'}", omega=1)
    assert noise.apply(["Classify it"], ["x"]).texts == ["Sort it"]
    (note,) = map(json.loads, re.findall(r"^```jsonl manifest\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
    assert replay(note["instruction"], note["edits"]) == "Categorize the review."


def test_every_kind_is_in_the_table() -> None:
    assert [name for name in KINDS if "." not in name and f"\n| `{name}` |" not in PAGE] == []


def test_all_names_are_listed() -> None:
    banks = {name for name in known_banks() if "/" not in name}
    kinds = set(KINDS) - {name for name in KINDS if "." in name}
    names = banks | kinds | {item.name for item in fields(Source)} - {"path"}
    assert [name for name in sorted(names) if f"`{name}" not in PAGE] == []
    assert [name for name in TASKS if f"({name})" not in PAGE and f"`{name}`" not in PAGE] == []

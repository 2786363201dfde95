"""Labels by name, and options that do not depend on the split that rows are in."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from robustlm.cli import main
from robustlm.cli.check import check
from robustlm.datamodules import InstructionDataModule, RobustnessDataModule
from robustlm.modules import InstructionTuning
from robustlm.noise.protection import protected_phrases
from robustlm.rows.base import BadRowsError, SourceError
from robustlm.sample import Sample
from robustlm.sources.loading import KnownLabels, load_all
from robustlm.sources.samples import load_samples
from robustlm.sources.source import Source
from robustlm.tasks import TASKS
from robustlm.tasks.labels import Labels, quoted
from tests.tiny import load, write_rows


def classes(*labels: Any) -> list[dict[str, Any]]:
    return [{"sentence": f"text {i}", "label": label} for i, label in enumerate(labels)]


def relation(label: str) -> dict[str, Any]:
    return {"text": "a b", "relations": [{"head": "a", "type": label, "tail": "b"}]}


def entity(label: str) -> dict[str, Any]:
    return {"tokens": ["a"], "ner_tags": [f"B-{label}"]}


def aspect(label: str) -> dict[str, Any]:
    return {"text": "a b", "triplets": [{"aspect": "a", "opinion": "b", "sentiment": label}]}


def folder(path: Path, **splits: list[dict[str, Any]]) -> str:
    path.mkdir(exist_ok=True)
    for name, rows in splits.items():
        write_rows(path / f"{name}.jsonl", rows)
    return str(path)


def options(sample: Sample) -> tuple[str, ...]:
    return sample.choices or tuple(sample.context.option.split(", "))


# ------------------------------------------------------------------------------------------ across splits


@pytest.mark.parametrize(
    ("row", "task"), [(lambda x: classes(x)[0], "tc"), (relation, "re"), (entity, "ner"), (aspect, "absa")]
)
@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_a_test_row_is_shown_the_labels_of_all_splits(
    kind: str, row: Any, task: str, models: dict[str, str], tmp_path: Path
) -> None:
    path = folder(tmp_path / "set", train=[row("b"), row("d")], validation=[row("c"), row("a")], test=[row("c")] * 2)
    expected = "a, b, c, d"
    backbone = load(models[kind], None)
    for reversed_ in (False, True):
        sources: dict[str, Any] = {role: [path] for role in ("train", "validation", "test")}
        if reversed_:
            for name in ("train", "validation"):
                file = tmp_path / "set" / f"{name}.jsonl"
                file.write_text("".join(reversed(file.read_text().splitlines(keepends=True))))
        data = InstructionDataModule(**sources, scoring="options" if task == "tc" else "generation")
        data.connect(backbone)
        for stage in ("fit", "test"):
            data.setup(stage)
        assert not data.notes
        for rows in (*data.rows.values(), *data.conditioned.values()):
            for at, sample in enumerate(rows.samples):
                assert sample.context.option == expected
                text = backbone.tokenizer.decode(rows.encoded[at].prompt_ids)
                assert f"Option: {expected}" in text
                if task == "tc":
                    assert sample.choices == tuple(f"label: {label}" for label in "abcd")
        if task == "tc":
            assert {len(found) for found in data.conditioned["clean"].options} == {4}


def test_another_name_or_task_shares_nothing(tmp_path: Path) -> None:
    a = folder(tmp_path / "a", train=classes("x", "y"), test=classes("x", "y"))
    b = folder(tmp_path / "b", train=classes("p", "q"))
    c = folder(tmp_path / "c", train=[relation("z")])
    known = KnownLabels({"train": [b, Source(c, name="a")], "test": [a]})
    samples = load_all([a], "test", known=known, say=lambda _: None)
    assert options(samples[0]) == ("label: x", "label: y")
    known = KnownLabels({"train": [Source(b, name="a")], "test": [a]})
    assert options(load_all([a], "test", known=known)[0]) == tuple(f"label: {label}" for label in "pqxy")


def test_sources_of_one_name_share_their_labels(tmp_path: Path) -> None:
    one, two = write_rows(tmp_path / "1.jsonl", classes("x", "y")), write_rows(tmp_path / "2.jsonl", classes("z"))
    samples = load_all([Source(one, name="s"), Source(two, name="s")], "train")
    assert {options(sample) for sample in samples} == {("label: x", "label: y", "label: z")}


def test_the_limit_of_a_source_does_not_hide_labels(tmp_path: Path) -> None:
    path = folder(tmp_path / "set", train=classes("x", "y", "z"), test=classes("x", "x"))
    known = KnownLabels({"train": [Source(path, limit=1)], "test": [Source(path, limit=1)]})
    (sample,) = load_all([Source(path, limit=1)], "test", known=known)
    assert options(sample) == ("label: x", "label: y", "label: z")


def test_examples_are_shown_the_same_options(models: dict[str, str], tmp_path: Path) -> None:
    train = [row | {"sentence": f"other {row['sentence']}"} for row in classes(*"xyzw")]
    path = folder(tmp_path / "set", train=train, test=classes("v", "v", "x"))
    data = RobustnessDataModule(test=[path], examples=[path], shots=2, prompts=1)
    data.connect(load(models["llama"], None))
    data.setup("test")
    for sample in data.conditioned["clean"].samples:
        assert {one.context.option for one in (sample, *sample.examples)} == {"v, w, x, y, z"}


def test_only_test_rows_say_so(
    models: dict[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    path = folder(tmp_path / "set", test=classes("x", "y"))
    expected = f"data.test: {path}: the options of set (x, y) were taken from the targets of these rows themselves"
    data = InstructionDataModule(test=[path])
    data.connect(load(models["llama"], None))
    with caplog.at_level(logging.WARNING):
        data.setup("test")
    assert [record.getMessage().startswith(expected) for record in caplog.records] == [True]
    check(InstructionTuning(models["llama"]), InstructionDataModule(test=[path]))
    assert sum(expected in line for line in capsys.readouterr().out.splitlines()) == 1
    named = InstructionDataModule(test=[Source(path, labels=["y", "x"])])
    named.connect(data.backbone)
    named.setup("test")
    assert not named.notes


@pytest.mark.parametrize("role", ["train", "validation", "test"])
def test_a_choice_of_one_is_refused(role: Any, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "one.jsonl", classes("x"))
    with pytest.raises(SourceError, match=rf"data.{role}: .*one.jsonl: found one label, 'x', .*by `labels` of the sou"):
        load_all([path], role)
    (sample,) = load_all([Source(path, labels=["y", "x"])], role)
    assert options(sample) == ("label: y", "label: x")
    with pytest.raises(SourceError, match="found one label"):
        load_all([Source(path, labels=["x"])], role)
    # one type of entity is no choice: a text may hold none
    assert load_all([write_rows(tmp_path / "e.jsonl", [entity("x")])], role)[0].context.option == "x"


def test_a_train_source_that_cannot_be_read(tmp_path: Path) -> None:
    path = folder(tmp_path / "set", test=classes("x", "y"))
    known = KnownLabels({"train": [path], "test": [path]})
    with pytest.raises(SourceError, match=r"data.test: the options of set also come from data.train .*cannot be read"):
        load_all([path], "test", known=known)
    assert load_all([Source(path, labels=["x", "y"])], "test", known=known)


# ------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("given", "values", "expected"),
    [
        (["no", "yes"], [0, 1, "1", "no", " yes "], ["no", "yes", "yes", "no", "yes"]),
        ({0: "no", 1: "yes"}, [0, "1", 1.0], None),
        ({0: "no", 1: "yes"}, [0, "1"], ["no", "yes"]),
        ({True: "yes", False: "no"}, [True, "true", "False"], ["yes", "yes", "no"]),
        ({1: "yes", 0: "no"}, [True, "false"], ["yes", "no"]),
        ({"POS": "good", "NEU": "bad", "NEG": "bad"}, ["NEU", "NEG"], ["bad", "bad"]),
        (["2", "1"], ["1", 1, 2], ["1", "1", "2"]),
        ({"a": "b"}, ["b"], None),
        (["a", "b"], [True], None),
        (["a", "b"], [None], None),
        (["a", "b"], [2], None),
        (["a", "b"], [[0]], None),
        (["a", "b"], [-1], None),
    ],
)
def test_names_of_values(given: Any, values: list[Any], expected: list[str] | None) -> None:
    labels = Labels(given)
    if expected is None:
        with pytest.raises(ValueError, match=r"unknown label: found .*; expected one that `labels` has"):
            [labels.name(value) for value in values]
    else:
        assert [labels.name(value) for value in values] == expected


@pytest.mark.parametrize(
    "given", [[], {}, ["a", "a"], ["a", " "], "ab", {0: "a", "0": "b"}, [1, 2], {"a": 1}, 3, [None]]
)
def test_labels_that_are_none(given: Any) -> None:
    with pytest.raises(ValueError, match=r"^rows: labels: found .*; expected"):
        Source("rows", labels=given)


def test_numbers_and_truth_values_get_names(tmp_path: Path) -> None:
    rows = [{"premise": "a", "hypothesis": "b", "label": label} for label in (0, 1, 2)]
    path = write_rows(tmp_path / "nli.jsonl", rows)
    names = ["entailment", "neutral", "contradiction"]
    samples = load_samples(path, labels=names)
    assert [sample.target for sample in samples] == [f"label: {name}" for name in names]
    assert {sample.context.option for sample in samples} == {", ".join(names)}
    assert {sample.bank for sample in samples} == {"nli"}
    with pytest.raises(BadRowsError, match=r"nli.jsonl:3: unknown label: found 2 \(int\); expected .*'0'.*'1'"):
        load_samples(path, labels=names[:2])
    with pytest.raises(BadRowsError, match=r"label is no string: found 0 \(int\); .*`labels` of the source"):
        load_samples(path)


@pytest.mark.parametrize("given", [["O", "B-PER", "I-PER", "B-LOC", "I-LOC"], ["PER", "LOC"]])
def test_tags_by_number_or_type(given: list[str], tmp_path: Path) -> None:
    tags = ["B-PER", "I-PER", "O", "B-LOC"]
    row = {"tokens": ["Ada", "L", "in", "Oslo"], "ner_tags": tags}
    numbered = row | {"ner_tags": [given.index(tag) if tag in given else 0 for tag in tags]}
    for one in (row, numbered) if "O" in given else (row,):
        (sample,) = load_samples(write_rows(tmp_path / "x.jsonl", [one]), labels=given)
        assert (sample.target, sample.context.option) == ("PER: Ada L; LOC: Oslo", "PER, LOC")
    if "O" not in given:
        with pytest.raises(BadRowsError, match=r"unknown tag: found 0 \(int\).*labels` that name tags"):
            load_samples(write_rows(tmp_path / "x.jsonl", [numbered]), labels=given)
    with pytest.raises(BadRowsError, match=r"ner_tags: .*`labels` of the source gives numbers theirs"):
        load_samples(write_rows(tmp_path / "x.jsonl", [row | {"ner_tags": [0, 1, 2, 3]}]))
    with pytest.raises(ValueError, match="labels: found 'PERSON' among names of tags"):
        load_samples(write_rows(tmp_path / "x.jsonl", [row]), labels=["O", "B-PER", "I-PER", "B-LOC", "PERSON"])


def test_relations_and_polarities_get_names(tmp_path: Path) -> None:
    labels = {"USED-FOR": "used for", "PART-OF": "part of"}
    (sample,) = load_samples(write_rows(tmp_path / "x.jsonl", [relation("PART-OF")]), labels=labels)
    assert (sample.target, sample.context.option) == ("part of: a, b", "used for, part of")
    (sample,) = load_samples(write_rows(tmp_path / "x.jsonl", [aspect("NEG")]), labels={"NEG": "bad", "POS": "good"})
    assert (sample.target, sample.context.option) == ("bad: a, b", "bad, good")


def test_rows_that_have_no_labels_to_name(tmp_path: Path) -> None:
    for row, found in (
        ({"question": "q", "choices": ["a", "b"], "answer": "a"}, "a row of the task 'choice'"),
        ({"instruction": "I", "output": "a"}, "a row of the shape 'alpaca'"),
    ):
        with pytest.raises(BadRowsError, match=f"labels: found them for {found}.*expected"):
            load_samples(write_rows(tmp_path / "x.jsonl", [row]), labels=["a", "b"])
    with pytest.raises(SourceError, match="labels"):
        load_all([Source("builtin:quickstart", labels=["a", "b"], limit=2)], "train")


def test_sources_that_disagree(tmp_path: Path) -> None:
    path = folder(tmp_path / "set", train=classes(0, 1), test=classes("x", "y"))
    train = Source(path, labels=["x", "y"])
    known = KnownLabels({"train": [train], "test": [path]})
    assert options(load_all([path], "test", known=known)[0]) == ("label: x", "label: y")
    for other in (["y", "x"], ["x", "y", "z"]):
        with pytest.raises(SourceError, match=r"data.train: .*`labels` names x, y; expected those of data.test"):
            load_all([Source(path, labels=other)], "test", known=known)
    write_rows(tmp_path / "set" / "test.jsonl", classes("x", "w"))
    with pytest.raises(SourceError, match=r"data.test: .*found the label 'w' in its rows; .*`labels` of data.train"):
        load_all([path], "test", known=known)


@pytest.mark.parametrize("values", [(0, 1), (False, True)])
@pytest.mark.parametrize(
    "labels", ['["no", "yes"]', '{false: "no", true: "yes"}', '{0: "no", 1: "yes"}', '{"0": "no", "1": "yes"}']
)
def test_the_command_line_takes_them(
    labels: str, values: Any, models: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if ("true" in labels) != (values[1] is True):
        pytest.skip("other values")
    path = write_rows(tmp_path / "rows.jsonl", classes(*values))
    config = tmp_path / "data.yaml"
    source = f"{{path: {path}, labels: {labels}}}"
    config.write_text(f"data:\n  class_path: InstructionDataModule\n  init_args:\n    train:\n    - {source}\n")
    main(["check", "-c", str(config), "--model", "InstructionTuning", "--model.backbone", models["llama"]])
    assert "Option: no, yes" in capsys.readouterr().out


# ------------------------------------------------------------------------------------ labels with commas

COMMAS = ["Billing, refunds", "Other", 'Say "hi", then', '"a, b"', '" a, b "', '"a", "b"', "Refund"]


@pytest.mark.parametrize("label", COMMAS)
@pytest.mark.parametrize("task", ["tc", "tc_bare", "ner", "re", "absa"])
def test_a_label_with_a_comma_is_read_with_and_without_the_quotes_of_the_options(task: str, label: str) -> None:
    spans = {"tc": 0, "tc_bare": 0, "ner": 1, "re": 2, "absa": 2}[task]
    item = (label, *("Ada", "Oslo")[:spans])
    answer = TASKS[task].format([item])
    assert TASKS[task].parse(answer).items == (item,)
    shown = quoted(label)
    copied = {0: shown, 1: f"{shown}: Ada", 2: f"{shown}: Ada, Oslo"}[spans]
    copied = f"label: {shown}" if task == "tc" else copied
    assert TASKS[task].parse(copied).items == (item,)


def test_options_quote_labels_with_commas_and_choices_do_not(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": label} for n, label in enumerate(["Billing, refunds", "Other", "Bug"])]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, *_ = load_samples(str(path))
    assert first.context.option == '"Billing, refunds", Bug, Other'
    assert first.target == "label: Billing, refunds"
    assert first.choices == ("label: Billing, refunds", "label: Bug", "label: Other")
    assert {"Billing, refunds", "Bug", "Other"} <= set(protected_phrases(first))
    assert not {'"Billing', "refunds", 'refunds"', "Billing"} & set(protected_phrases(first))

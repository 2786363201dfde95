"""Rows in the forms that datasets were published in."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

import pytest

from robustlm.rows.base import BadRowsError, SourceError
from robustlm.sources.loading import load
from robustlm.sources.samples import load_samples
from robustlm.sources.source import Source
from robustlm.tasks import TASKS
from tests.tiny import write_rows

SCIERC = {
    "clusters": [[[0, 0], [5, 5]]],
    "sentences": [["Graphs", "help", "parsers", "."], ["Of", "graphs", "we", "speak", "."]],
    "ner": [[[0, 0, "Method"], [2, 2, "Task"]], [[5, 5, "Method"], [4, 5, "Other"]]],
    "relations": [[[0, 0, 2, 2, "USED-FOR"]], []],
    "doc_key": "J01-1",
}
NYT = {
    "sentText": "Ada was born in Oslo , Norway .\r\n",
    "articleId": "m1",
    "relationMentions": [
        {"em1Text": "Oslo", "em2Text": "Norway", "label": "country of"},
        {"em1Text": "Ada", "em2Text": "Norway", "label": "None"},
    ],
    "entityMentions": [{"start": 0, "label": "PERSON", "text": "Ada"}],
    "sentId": "1",
}
WSC = {
    "text": "Mark told Pete many lies about himself, which he believed. He lied.",
    "target": {"span1_index": 0, "span1_text": "Mark", "span2_index": 8, "span2_text": "he"},
    "idx": 0,
    "label": False,
}
ASTE = "But the staff was so horrible to us .####[([2], [5], 'NEG')]"


def answers(tmp_path: Path, rows: list[dict[str, Any]], **settings: Any) -> list[str]:
    samples = load(Source(write_rows(tmp_path / "rows.jsonl", rows), **settings), "train")
    for sample in samples:
        task = TASKS[sample.task]
        assert task.format(task.parse(sample.target).items) == sample.target
    return [sample.target for sample in samples]


def problem(tmp_path: Path, row: dict[str, Any], **settings: Any) -> str:
    with pytest.raises(BadRowsError) as caught:
        load_samples(write_rows(tmp_path / "bad.jsonl", [row]), **settings)
    assert str(caught.value.errors[0]).startswith(f"{tmp_path}/bad.jsonl:1: ")
    return caught.value.errors[0].problem


def test_qqp(tmp_path: Path) -> None:
    rows = [{"question1": "Why?", "question2": "How so?", "label": label, "idx": label} for label in (0, 1)]
    source = Source(write_rows(tmp_path / "qqp.jsonl", rows), labels=["not_duplicate", "duplicate"])
    samples = load(source, "train")
    assert [sample.target for sample in samples] == ["label: not_duplicate", "label: duplicate"]
    assert {(sample.bank, sample.context.text) for sample in samples} == {
        ("paraphrase", "Sentence 1: Why? Sentence 2: How so?")
    }


def test_qqp_as_glue_publishes_it(tmp_path: Path) -> None:
    folder = tmp_path / "QQP"
    folder.mkdir()
    lines = [
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate",
        '7\t1\t2\tWhy "so?\tHow so?\t1',
        "9\t3\t4\tWho?\tWhen?\t0",
    ]
    (folder / "dev.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    source = Source(str(folder), labels=["not_duplicate", "duplicate"], split="dev")
    samples = load(source, "test")
    assert [sample.target for sample in samples] == ["label: duplicate", "label: not_duplicate"]
    assert samples[0].context.text == 'Sentence 1: Why "so? Sentence 2: How so?'
    assert {sample.bank for sample in samples} == {"paraphrase"}
    (folder / "dev.tsv").write_text("\n".join([*lines, "11\t5\tWho?"]), encoding="utf-8")
    with pytest.raises(BadRowsError, match=r"dev\.tsv:4: wrong number of fields: found 3 fields; expected 6"):
        load(source, "test")


def test_tasks_of_big_bench(tmp_path: Path) -> None:
    examples = [
        {"input": "Who made it?", "target_scores": {"Ada": 0, "Bo": 1}, "target": "Bo, since …"},
        {"input": "Who?", "target_scores": {"Ada": 1, "Bo": 0, "Cy": 0}},
    ]
    path = tmp_path / "task.json"
    path.write_text(json.dumps({"name": "who", "examples": examples}), encoding="utf-8")
    samples = load(Source(str(path)), "test")
    assert [(sample.task, sample.target, sample.choices) for sample in samples] == [
        ("choice", "Bo", ("Ada", "Bo")),
        ("choice", "Ada", ("Ada", "Bo", "Cy")),
    ]
    twice = {"input": "Who?", "target_scores": {"Ada": 1, "Bo": 1}}
    assert problem(tmp_path, twice).startswith("several answers: found the highest score for Ada, Bo")
    path.write_text(json.dumps({"data": examples[:0]}), encoding="utf-8")
    with pytest.raises(SourceError, match=r"task\.json:1: found '\{'; expected '\['"):
        load(Source(str(path)), "test")


def test_wsc_numbers_that_are_off_by_one(tmp_path: Path) -> None:
    """As some published rows are; fairseq's reader of WSC corrects the same."""
    for shift in (-1, 1):
        target = WSC["target"] | {"span2_index": 8 + shift}  # type: ignore[operator]
        path = write_rows(tmp_path / "wsc.jsonl", [WSC | {"target": target}])
        (sample,) = load_samples(path, labels={"false": "no", "true": "yes"})
        assert sample.context.text == "Mark told Pete many lies about himself, which *he* believed. He lied."
    target = WSC["target"] | {"span2_index": 10, "span2_text": "He."}  # type: ignore[operator]
    (sample,) = load_samples(
        write_rows(tmp_path / "wsc.jsonl", [WSC | {"target": target}]), labels={"false": "no", "true": "yes"}
    )
    assert sample.context.text == "Mark told Pete many lies about himself, which he believed. *He* lied."


def test_sts_b(tmp_path: Path) -> None:
    rows = [
        {"sentence1": "a", "sentence2": f"b{i}", "label": label} for i, label in enumerate([3.8, 0.0, 2.5, 5, -0.2])
    ]
    assert answers(tmp_path, rows, round_to=1) == [f"label: {label}" for label in (4, 0, 3, 5, 0)]
    assert answers(tmp_path, rows[:3], round_to=0.2) == ["label: 3.8", "label: 0", "label: 2.6"]
    names = {str(i): ("far", "near")[i > 2] for i in range(6)}
    assert answers(tmp_path, rows, round_to=1, labels=names) == [
        f"label: {n}" for n in ("near", "far", "near", "near", "far")
    ]
    (first, *_) = load_samples(write_rows(tmp_path / "x.jsonl", rows), round_to=1, labels=[str(i) for i in range(6)])
    assert first.context.option == "0, 1, 2, 3, 4, 5"
    assert "`round_to` makes classes of a scale" in problem(tmp_path, rows[0])
    for wrong in ("x", None, True, float("1e999")):
        if wrong != float("inf"):
            assert problem(tmp_path, rows[0] | {"label": wrong}, round_to=1).startswith("label is no number: found")
    for wrong in (0, -1, float("nan"), float("inf"), True):
        with pytest.raises(ValueError, match=r"rows: round_to: found .*; expected a number above 0"):
            Source("rows", round_to=wrong)


def test_wsc(tmp_path: Path) -> None:
    flat = {"text": WSC["text"], "label": 1, "idx": 1, **WSC["target"]}  # type: ignore[dict-item]
    path = write_rows(tmp_path / "wsc.jsonl", [WSC, flat])
    samples = load(Source(path, labels={"false": "no", "true": "yes", "1": "yes"}), "train")
    assert [sample.target for sample in samples] == ["label: no", "label: yes"]
    for sample in samples:
        assert sample.context.question == 'Does "he" refer to "Mark"?'
        assert sample.context.text == "Mark told Pete many lies about himself, which *he* believed. He lied."
        assert sample.bank == "yes_no"
    labels = {"labels": ["no", "yes"]}
    wrong = flat | {"span2_index": 3}
    assert problem(tmp_path, wrong, **labels).startswith("span2_index does not fit: found 'many' (str) at word 3")
    assert problem(tmp_path, flat | {"span2_index": [8]}, **labels).startswith("span2_index is no number")
    without = {key: value for key, value in flat.items() if key != "span2_index"}
    assert load_samples(write_rows(tmp_path / "x.jsonl", [without]), **labels)[0].context.text == WSC["text"]
    assert problem(tmp_path, without | {"span2_text": "who"}, **labels).startswith("unclear pronoun: found 'who'")
    assert problem(tmp_path, {key: value for key, value in flat.items() if key != "span1_text"}, **labels).startswith(
        "no span1_text"
    )


def test_scierc_documents(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "train.jsonl", [SCIERC])
    samples = load(Source(path), "train")
    assert [sample.target for sample in samples] == ["USED-FOR: Graphs, parsers", "None"]
    assert [sample.id for sample in samples] == [f"{tmp_path.name}/train:1/{i}" for i in (0, 1)]
    assert [sample.context.text for sample in samples] == ["Graphs help parsers .", "Of graphs we speak ."]
    named = load(Source(path, task="ner", labels={"Method": "method", "Task": "task", "Other": "other"}), "train")
    assert [sample.target for sample in named] == ["method: Graphs; task: parsers", "method: graphs; other: Of graphs"]
    assert {sample.context.option for sample in named} == {"method, task, other"}
    only = {key: value for key, value in SCIERC.items() if key != "relations"}
    assert answers(tmp_path, [only]) == ["Method: Graphs; Task: parsers", "Method: graphs; Other: Of graphs"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"relations": [[]]}, "relations does not fit sentences: found 1 lists; expected 2"),
        ({"relations": [[[0, 0, 2, 9, "X"]], []]}, "no such words: found 2 to 9; expected numbers of the 9 words"),
        ({"relations": [[[0, 0, 2, "X"]], []]}, "wrong element of relations: sentence 0 has [0, 0, 2, 'X']"),
        ({"relations": [["X"], []]}, "wrong element of relations: sentence 0 has 'X'"),
        ({"sentences": "a"}, "sentences is no list"),
        ({"sentences": [["a", 3], []]}, "wrong word: found 3 (int) in sentence 0"),
        ({"ner": 3}, "ner is no list"),
    ],
)
def test_documents_that_are_none(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    assert problem(tmp_path, {**SCIERC, **change}).startswith(expected)


def test_nyt(tmp_path: Path) -> None:
    assert answers(tmp_path, [NYT]) == ["country of: Oslo, Norway"]
    assert answers(tmp_path, [NYT], labels={"country of": "in"}) == ["in: Oslo, Norway"]
    none = {**NYT, "relationMentions": []}
    assert answers(tmp_path, [NYT, none | {"sentText": "x"}])[1] == "None"
    assert problem(tmp_path, {**NYT, "relationMentions": [{"em1Text": "a", "label": "x"}]}).startswith("no em2Text")


def test_aste(tmp_path: Path) -> None:
    lines = [ASTE, "fish and rice were fresh and tasty .####[([0, 1, 2], [4], 'POS'), ([0], [6], 'POS')]", "Hm .####[]"]
    (tmp_path / "train.txt").write_text("\n".join(lines) + "\n\n")
    with gzip.open(tmp_path / "test.txt.gz", "wt") as file:
        file.write(ASTE)
    names = {"POS": "positive", "NEG": "negative", "NEU": "neutral"}
    samples = load(Source(str(tmp_path / "train.txt"), labels=names), "train")
    assert [sample.target for sample in samples] == [
        "negative: staff, horrible", "positive: fish and rice, fresh; positive: fish, tasty", "None",
    ]  # fmt: skip
    assert samples[0].id == f"{tmp_path.name}/train:1"
    assert samples[0].context.text == "But the staff was so horrible to us ."
    assert {sample.dataset for sample in samples} == {tmp_path.name}
    assert load(Source(str(tmp_path / "test.txt.gz"), task="absa"), "test")[0].target == "NEG: staff, horrible"
    assert answers(tmp_path, [{"text": line} for line in lines])[0] == "NEG: staff, horrible"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("[([2], [5], 'NEG'", "wrong triplets: found"),
        ("[([2], 'NEG')]", "wrong triplets: found"),
        ("[([2], [5], 'NEG'), import os]", "wrong triplets: found"),
        ("[([2], [50], 'NEG')]", "no such words: found 50 to 50; expected numbers of the 9 words"),
        ("[([2, 4], [5], 'NEG')]", "words apart: found the numbers [2, 4]"),
        ("", "wrong triplets: found"),
    ],
)
def test_triplets_that_are_none(tmp_path: Path, given: str, expected: str) -> None:
    assert problem(tmp_path, {"text": ASTE.partition("####")[0] + "####" + given}).startswith(expected)


DATA = os.environ.get("ROBUSTLM_DATA", "")


@pytest.mark.skipif(not DATA, reason="ROBUSTLM_DATA names no folder of datasets")
def test_real_rows_in_their_published_forms(tmp_path: Path) -> None:
    """The real rows, written as they were published, give the answers that they give as they are."""

    def rows(name: str) -> list[dict[str, Any]]:
        with gzip.open(f"{DATA}/{name}/test.jsonl.gz", "rt", encoding="utf-8") as file:
            return [json.loads(line) for line in file]

    def found(data: list[dict[str, Any]], **settings: Any) -> list[str]:
        return [sample.target for sample in load_samples(write_rows(tmp_path / "x.jsonl", data), **settings)]

    scierc, conll, aste = rows("scierc"), rows("conll03"), rows("14res")
    relations = [
        {
            "sentText": row["text"],
            "relationMentions": [
                {"em1Text": r["head"], "em2Text": r["tail"], "label": r["type"]} for r in row["relations"]
            ],
        }
        for row in scierc
    ]
    assert found(relations) == found(scierc)
    entities = found(scierc, task="ner")
    assert [len(TASKS["ner"].parse(target).items) for target in entities] == [len(row["entities"]) for row in scierc]
    tags = sorted({tag for row in conll for tag in row["ner_tags"]})
    numbered = [row | {"ner_tags": [tags.index(tag) for tag in row["ner_tags"]]} for row in conll]
    assert found(numbered, labels=tags) == found(conll)
    lines, kept = [], []
    for row in aste:
        words = row["text"].split()

        def places(span: str, words: list[str] = words) -> list[int]:
            size = len(span.split())
            at = next(i for i in range(len(words)) if " ".join(words[i : i + size]) == span)
            return list(range(at, at + size))

        try:
            marks = [(places(t["aspect"]), places(t["opinion"]), t["sentiment"]) for t in row["triplets"]]
        except StopIteration:
            continue
        lines.append({"text": f"{row['text']}####{marks!r}"})
        kept.append(row)
    assert len(kept) > 0.99 * len(aste)
    assert found(lines) == found(kept)

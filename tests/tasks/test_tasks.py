from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustlm.rows.readers import iter_rows
from robustlm.sample import Context
from robustlm.sources.shapes import known_shapes
from robustlm.tasks import TASKS, Answer, Generation, Item, Task, register

# words made of the separators and of what might be taken for an answer's own words, besides any text
WORDS = st.lists(
    st.sampled_from(["None", ";", ":", ",", "\\", "\\;", "label:", "a:", "b,", "; ", ": "]) | st.text(max_size=5),
    min_size=1,
    max_size=4,
).map(lambda parts: " ".join("".join(parts).split()) or "x")
LOOSE = st.text(min_size=1).map(lambda text: text.strip() or "x")


def items_of(parts: int) -> st.SearchStrategy[list[Item]]:
    return st.lists(st.tuples(*[WORDS] * parts), max_size=4)


ITEMS = {
    "ner": items_of(2),
    "re": items_of(3),
    "absa": items_of(3),
    "tc": st.tuples(WORDS).map(lambda item: [item]),
    "tc_bare": st.tuples(WORDS).map(lambda item: [item]),
    "choice": st.tuples(LOOSE).map(lambda item: [item]),
    "tool_calls": st.lists(
        st.tuples(
            LOOSE,
            st.dictionaries(st.text(), st.text() | st.integers() | st.none(), max_size=3).map(
                lambda given: json.dumps(given, ensure_ascii=False, sort_keys=True)
            ),
        ),
        min_size=1,
        max_size=3,
    ),
    "generation": st.tuples(LOOSE).map(lambda item: [item]),
}


def test_every_task_is_covered() -> None:
    assert set(ITEMS) == set(TASKS)
    assert all(name == task.name and task.score in ("f1", "accuracy") for name, task in TASKS.items())


@pytest.mark.parametrize("name", ITEMS)
@settings(deadline=None)
@given(data=st.data())
def test_parse_inverts_format(name: str, data: st.DataObject) -> None:
    items = data.draw(ITEMS[name])
    assert TASKS[name].parse(TASKS[name].format(items)) == Answer(tuple(items))


@pytest.mark.parametrize("name", ITEMS)
@settings(deadline=None)
@given(text=st.text() | st.text(alphabet="None;:, \\ab\n"))
def test_parse_reads_any_text_and_only_once(name: str, text: str) -> None:
    answer = TASKS[name].parse(text)
    assert answer.malformed >= 0
    if answer.parsed:
        assert TASKS[name].parse(TASKS[name].format(answer.items)) == answer


@pytest.mark.parametrize(
    ("name", "items", "text"),
    [
        ("ner", [("LOC", "New York"), ("PER", "Ada, Countess of L."), ("TIME", "10:30")],
         "LOC: New York; PER: Ada, Countess of L.; TIME: 10:30"),
        ("ner", [("LOC", "a;b")], r"LOC: a\;b"),
        ("ner", [("X:Y", "a\\b")], r"X\:Y: a\\b"),
        ("ner", [("PER", "None")], "PER: None"),
        ("re", [("Used-for", "a, b", "c: d")], r"Used-for: a\, b, c: d"),
        ("absa", [("positive", "bread", "top notch")], "positive: bread, top notch"),
        ("re", [], "None"),
        ("ner", [], "None"),
        ("tc", [("Sci/Tech",)], "label: Sci/Tech"),
        ("tc", [("None",)], "label: None"),
        ("tc_bare", [("label: a",)], "label: a"),
        ("choice", [("a;\nb",)], "a;\nb"),
    ],
)  # fmt: skip
def test_answers_look_natural(name: str, items: list[Item], text: str) -> None:
    assert TASKS[name].format(items) == text
    assert TASKS[name].parse(text) == Answer(tuple(items))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("ner", "", Answer((), 1)),
        ("ner", " None\n", Answer(())),
        ("ner", "none", Answer((), 1)),
        ("ner", "None; PER: x", Answer((("PER", "x"),), 1)),
        ("ner", "PER: x;", Answer((("PER", "x"),), 1)),
        ("ner", "PER: ; : y; z", Answer((), 3)),
        ("ner", "PER:x ;LOC :  y  z", Answer((("PER", "x"), ("LOC", "y z")))),
        ("ner", "PER: a\\b\\", Answer((("PER", "a\\b\\"),))),
        ("re", "r: a; r: a, b, c; r: a, ; r: a, b", Answer((("r", "a", "b"),), 3)),
        ("tc", "positive", Answer((), 1)),
        ("tc", "label:", Answer((), 1)),
        ("tc_bare", " ", Answer((), 1)),
        ("tc", "label:positive ", Answer((("positive",),))),
        ("choice", " \n", Answer((), 1)),
    ],
)
def test_sloppy_answers(name: str, text: str, expected: Answer) -> None:
    assert TASKS[name].parse(text) == expected


@pytest.mark.parametrize(
    ("name", "items"),
    [
        ("ner", [("PER",)]),
        ("ner", [("PER", "")]),
        ("ner", [("PER", "a  b")]),
        ("re", [("r", "a")]),
        ("tc", []),
        ("tc", [("a",), ("b",)]),
        ("tc", [("",)]),
        ("choice", [(" a",)]),
        ("generation", []),
    ],
)
def test_items_that_no_row_has_cannot_be_formatted(name: str, items: list[Item]) -> None:
    with pytest.raises(ValueError, match=f"^{name}: found item"):
        TASKS[name].format(items)


def read(name: str, **row: Any) -> tuple[Context, tuple[Item, ...], tuple[str, ...]]:
    assert TASKS[name].recognises(row)
    return TASKS[name].read(row)


def test_ner_rows() -> None:
    context, items, choices = read(
        "ner",
        tokens=["Ada", "King", "visits", "New", "York", "City", "Ada"],
        ner_tags=["B-PER", "B-PER", "O", "I-LOC", "I-LOC", "I-ORG", "B-PER"],
    )
    assert context.text == "Ada King visits New York City Ada"
    assert items == (("PER", "Ada"), ("PER", "King"), ("LOC", "New York"), ("ORG", "City"), ("PER", "Ada"))
    assert choices == ()


@pytest.mark.parametrize(
    ("tokens", "tags", "reason"),
    [
        (["a"], ["O", "O"], "tags do not fit tokens"),
        (["a"], ["S-PER"], "unknown tag"),
        (["a"], ["PER"], "unknown tag"),
        (["a"], ["B-"], "unknown tag"),
        (["a"], [3], "wrong element of ner_tags"),
        (["a", None], ["O", "O"], "wrong element of tokens"),
        ("a", ["O"], "tokens is no list"),
        ([], [], "empty tokens"),
        (["a", " "], ["O", "B-PER"], "empty entity"),
    ],
)
def test_bad_ner_rows(tokens: Any, tags: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}: .*expected"):
        read("ner", tokens=tokens, ner_tags=tags)


def test_re_and_absa_rows() -> None:
    relations = [{"head": "b  c", "type": "uses", "tail": "not in the text"}]
    context, items, _ = read("re", text="a b", relations=relations)
    assert (context.text, items) == ("a b", (("uses", "b c", "not in the text"),))
    triplets = [{"aspect": "bread", "opinion": "good", "sentiment": "positive"}] * 2
    assert read("absa", text="good bread", triplets=triplets)[1] == (("positive", "bread", "good"),) * 2
    assert TASKS["re"].format(read("re", text="a", relations=[])[1]) == "None"


@pytest.mark.parametrize(
    ("relations", "reason"),
    [
        (None, "relations is no list"),
        (["a"], "wrong element of relations"),
        ([{"head": "a", "type": "t"}], "no tail"),
        ([{"head": "a", "type": "t", "tail": " "}], "empty tail"),
        ([{"head": 1, "type": "t", "tail": "b"}], "head is no string"),
    ],
)
def test_bad_relations(relations: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}: .*expected"):
        read("re", text="a b", relations=relations)


@pytest.mark.parametrize(
    ("row", "context"),
    [
        ({"sentence": "s"}, Context(text="s")),
        ({"text": "t"}, Context(text="t")),
        ({"question": "q"}, Context(text="q")),
        ({"question": "q", "sentence": "s"}, Context(question="q", text="s")),
        ({"question": "q", "passage": "p"}, Context(question="q", text="p")),
        ({"sentence1": "a", "sentence2": "b"}, Context(text="Sentence 1: a Sentence 2: b")),
        ({"premise": "a", "hypothesis": "b"}, Context(text="Sentence 1: a Sentence 2: b")),
    ],
)
def test_classification_rows(row: dict[str, str], context: Context) -> None:
    found, items, choices = read("tc", **row, label="some  label")
    assert (found.question, found.text) == (context.question, context.text)
    assert (items, choices) == ((("some label",),), ())


def test_bad_classification_rows() -> None:
    with pytest.raises(ValueError, match=r"^label is no string: found 1"):
        read("tc", text="t", label=1)
    with pytest.raises(ValueError, match=r"^empty text"):
        read("tc", text=" ", label="a")
    with pytest.raises(ValueError, match=r"^unclear text: found sentence or text"):
        read("tc", text="t", sentence="s", label="a")
    assert not TASKS["tc"].recognises({"sentence1": "a", "label": "b"})


@pytest.mark.parametrize(
    ("context", "labels", "bank"),
    [
        (Context(text="t"), ["negative", "positive"], "sentiment"),
        (Context(text="t"), ["Sci/Tech", "Sports"], "topic"),
        (Context(text="t"), ["human", "numeric"], "question_type"),
        (Context(text="t"), ["acceptable"], "acceptability"),
        (Context(text="t"), ["spam", "ham"], "tc"),
        (Context(text="Sentence 1: a Sentence 2: b"), ["neutral", "entailment"], "nli"),
        (Context(text="Sentence 1: a Sentence 2: b"), ["equivalent", "not_equivalent"], "paraphrase"),
        (Context(question="q", text="t"), ["yes", "no"], "yes_no"),
        (Context(question="q", text="t"), ["not_entailment", "entailment"], "answerability"),
        (Context(question="q", text="t"), ["a", "b"], "tc"),
    ],
)
def test_labels_choose_the_bank(context: Context, labels: list[str], bank: str) -> None:
    assert TASKS["tc"].bank(context, labels) == bank


def test_choice_rows() -> None:
    context, items, choices = read("choice", question="q?", choices=["a ", "b, c"], answer="b, c")
    assert context.option == "(A) a (B) b, c"
    assert (items, choices) == ((("b, c",),), ("a", "b, c"))


@pytest.mark.parametrize(
    ("choices", "answer", "reason"),
    [
        (["a", "b"], "c", "answer not among choices"),
        (["a", "b"], 0, "answer is no string"),
        (["a"], "a", "unusable choices"),
        (["a", ""], "a", "unusable choices"),
        ([str(i) for i in range(27)], "1", "unusable choices"),
        ("ab", "a", "choices is no list"),
    ],
)
def test_bad_choice_rows(choices: Any, answer: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=f"^{reason}: "):
        read("choice", question="q?", choices=choices, answer=answer)


def test_registering_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robustlm.tasks.base.TASKS", TASKS.copy())
    with pytest.raises(ValueError, match="second task named 'generation'"):
        register(Generation)
    with pytest.raises(ValueError, match="no row shape"):
        TASKS["generation"].read({"a": 1})
    assert not TASKS["generation"].recognises({"a": 1})


DATA = os.environ.get("ROBUSTLM_DATA", "")
FILES = sorted(path for path in Path(DATA).glob("*/*.jsonl.gz") if path.parent.name != "text") if DATA else []


@pytest.mark.skipif(not DATA, reason="ROBUSTLM_DATA names no folder of datasets")
def test_every_gold_row_comes_back() -> None:
    assert FILES
    lost = []
    for file in FILES:
        for row in iter_rows(str(file)):
            task = task_of(row.data)
            items = task.read(row.data)[1]
            if task.parse(task.format(items)) != Answer(items):
                lost.append(row.where)
    assert lost == []


def task_of(row: dict[str, Any]) -> Task:
    (shape,) = [shape for shape in known_shapes().values() if shape.recognises(row)]
    return TASKS[shape.name]

"""The lenient reading: 317 answers in the forms in which models write them, and what holds for any answer."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustlm.tasks import TASKS, Task
from robustlm.tasks.labels import listed, quoted
from tests.tasks.test_tasks import ITEMS

FILE = Path(__file__).with_name("answers.jsonl")
"""`expected`: the label, the items or the text that a careful reader takes from the answer; null: none is clear.
`held_out`: the answer was written after the rules. Of these 158, the rules as they were then read 145 as expected."""

ANSWERS: list[dict[str, Any]] = [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def wanted(expected: Any) -> list[list[str]] | None:
    return [[expected]] if isinstance(expected, str) else expected


def lenient(answer: dict[str, Any]) -> list[list[str]] | None:
    found = TASKS[answer["task"]].lenient(answer["answer"], tuple(answer["labels"]))
    return None if found is None else [list(item) for item in found]


KNOWN = {"positive: pizza, delicious; positive: pasta, tasty."}
"""An answer in the format keeps its strict reading, here with the full stop."""


@pytest.mark.parametrize("kind", dict.fromkeys(answer["kind"] for answer in ANSWERS))
def test_answers_are_read_as_a_careful_reader_does(kind: str) -> None:
    own = [answer for answer in ANSWERS if answer["kind"] == kind and answer["answer"] not in KNOWN]
    wrong = {one["answer"]: found for one in own if (found := lenient(one)) != wanted(one["expected"])}
    assert wrong == {}


def test_there_are_three_hundred_answers_and_many_are_unclear() -> None:
    assert len(ANSWERS) >= 300
    assert sum(answer["held_out"] for answer in ANSWERS) >= 150
    assert sum(answer["expected"] is None for answer in ANSWERS) >= 60


def test_an_answer_of_nothing_but_marks_is_kept() -> None:
    for text in (":", "**", '"'):
        assert TASKS["generation"].leniently_correct(TASKS["generation"].lenient(text), text)


@pytest.mark.parametrize("name", ITEMS)
@settings(deadline=None, max_examples=60)
@given(data=st.data())
def test_what_is_strictly_right_is_leniently_right(name: str, data: st.DataObject) -> None:
    """The lenient reading never loses an answer that is in the format: with known labels it is the strict one."""
    marks = "<[◁ar" if name == "tool_calls" else "*`[({-•"  # calls may hold all but what looks like reasoning
    items = data.draw(ITEMS[name].filter(lambda items: not any(set(marks) & set("".join(i)) for i in items)))
    text = TASKS[name].format(items)
    labels = () if name == "generation" else tuple(dict.fromkeys(item[0] for item in items))
    assert TASKS[name].leniently_correct(TASKS[name].lenient(text, labels), text, labels)


@pytest.mark.parametrize("name", ITEMS)
@settings(deadline=None, max_examples=60)
@given(text=st.text() | st.text(alphabet="None;:, \\ab\n*`\"'{}[]()<>|/think-1.") | st.text(alphabet="ab \nnot."))
def test_any_text_is_read(name: str, text: str) -> None:
    for labels in ((), ("a", "b", "not_a"), ("1", "2"), ("*", "", "-")):
        found = TASKS[name].lenient(text, labels)
        assert found is None or all(isinstance(part, str) for item in found for part in item)
        if found and labels and TASKS[name].score == "accuracy":
            assert len(found) == 1
            assert found[0][0] in labels


@pytest.mark.parametrize(
    "text", ["answer is " * 2000, "[" * 20000, "\\boxed{" * 3000, "not positive " * 1500, "(" * 9999]
)
@pytest.mark.parametrize("name", ["tc", "ner", "re", "generation"])
def test_long_answers_take_no_time(name: str, text: str) -> None:
    labels = () if name == "generation" else ("positive", "negative")
    start = time.process_time()
    TASKS[name].lenient(text, labels)
    assert time.process_time() - start < 3


def test_a_task_of_ones_own_is_read_after_the_reasoning() -> None:
    class Shout(Task):
        name, score = "shout", "accuracy"

        def format(self, items: Any) -> str:
            return str(items[0][0]) + "!"

        def parse(self, text: str) -> Any:
            return TASKS["generation"].parse(text.removesuffix("!"))

    assert Shout().lenient("<think>Oslo?</think>\nOslo!") == (("Oslo",),)
    assert Shout().lenient("<think>Oslo?") is None


def test_labels_of_a_prompt() -> None:
    labels = ("Refund", "Billing, refunds", 'say "no", please', 'the "end"')
    assert listed(", ".join(map(quoted, labels))) == labels
    assert listed("") == ()
    assert TASKS["ner"].shown_labels((), "LOC, PER") == ("LOC", "PER")
    assert TASKS["tc"].shown_labels(("label: good", "label: bad"), "good, bad") == ("good", "bad")
    assert TASKS["choice"].shown_labels(("Mars", "Venus"), "(A) Mars (B) Venus") == ("Mars", "Venus")

from __future__ import annotations

import doctest
import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustlm.instructions.banks import known_banks
from robustlm.rows.base import BadRowsError, SourceError
from robustlm.rows.readers import iter_rows
from robustlm.sample import Context, Sample
from robustlm.sources import shapes
from robustlm.sources.samples import load_samples
from robustlm.sources.shapes import SHAPES, known_shapes, register_shape
from robustlm.tasks import TASKS


def put(path: Path, *rows: Any) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
    return str(path)


def load_one(tmp_path: Path, row: dict[str, Any], **options: Any) -> Sample:
    (sample,) = load_samples(put(tmp_path / "set" / "train.jsonl", row), **options)
    assert sample.id == str(row.get("id", "set/train:1"))
    return sample


def problem_of(tmp_path: Path, row: dict[str, Any], **options: Any) -> str:
    with pytest.raises(BadRowsError) as caught:
        load_samples(put(tmp_path / "x.jsonl", row), **options)
    (error,) = caught.value.errors
    assert (error.line, error.found) == (1, row)
    return error.problem


PARTS = {"question": "q", "format": "f", "option": "o", "text": "t"}
CONTEXT = Context(**PARTS)


def called(name: str, arguments: object) -> dict[str, object]:
    """A message that calls a tool."""
    return {"role": "assistant", "tool_calls": [{"function": {"name": name, "arguments": arguments}}]}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": " Do it. ", "target": "y\n"}, Sample("set/train:1", "Do it.", "y")),
        (
            {"instruction": "Do it.", "target": "y", "context": "t", "id": "mine", "variant": "Please do."},
            Sample("mine", "Do it.", "y", Context(text="t"), variant="Please do."),
        ),
        (
            {"instruction": "I", "target": "y", "context": PARTS},
            Sample("set/train:1", "I", "y", CONTEXT),
        ),
        (
            {"instruction": "I", "target": "y", **PARTS},
            Sample("set/train:1", "I", "y", CONTEXT),
        ),
        (
            {"instruction": "", "target": "a: b", "bank": "ner", "task": "ner", "choices": ["a: b", "None"]},
            Sample("set/train:1", "", "a: b", task="ner", bank="ner", choices=("a: b", "None")),
        ),
        (
            {"instruction": "{a}?", "target": "y", "fields": {"a": " x", "b": None}, "group": 3, "dataset": "set"},
            Sample("set/train:1", "{a}?", "y", fields=(("a", " x"),), group="3", dataset="set"),
        ),
        (
            {"original_instruction": "Is it? ", "paraphrased_instruction": "Or not?", "targets": "y"},
            Sample("set/train:1", "Is it?", "y", variant="Or not?"),
        ),
        (
            {"instruction": "I", "input": "t", "output": "y"},
            Sample("set/train:1", "I", "y", Context(text="t")),
        ),
        ({"instruction": "I", "output": "y", "id": 7}, Sample("7", "I", "y")),
        ({"prompt": "I", "completion": " y"}, Sample("set/train:1", "I", "y")),
        (
            {
                "instruction": "I", "adv_instruction": "J", "question": "q", "format": "f", "option": "o",
                "input": "t", "output": "y",
            },
            Sample("set/train:1", "I", "y", CONTEXT, variant="J"),
        ),
        (
            {"instruction": "I", "adv_instruction": "", "question": None, "input": "t", "output": "y"},
            Sample("set/train:1", "I", "y", Context(text="t")),
        ),
        (
            {"messages": [{"role": "user", "content": "I"}, {"role": "assistant", "content": "y"}]},
            Sample("set/train:1", "I", "y"),
        ),
        (
            {
                "messages": [
                    {"role": "system", "content": "S"},
                    {"role": "user", "content": "I"},
                    {"role": "assistant", "content": "a"},
                    {"role": "user", "content": "b"},
                    {"role": "assistant", "content": "y"},
                ]
            },
            Sample("set/train:1", "b", "y", turns=(("system", "S"), ("user", "I"), ("assistant", "a"))),
        ),
        (
            {
                "messages": [
                    {"role": "developer", "content": " S\n"},
                    {"role": "user", "content": "I"},
                    {"role": "assistant", "content": "y"},
                ]
            },
            Sample("set/train:1", "I", "y", turns=(("developer", "S"),)),
        ),
        (
            {
                "messages": [
                    {"role": "system", "content": ""},
                    {"role": "user", "content": "I"},
                    {"role": "assistant", "content": "y"},
                ]
            },
            Sample("set/train:1", "I", "y"),
        ),
        (
            {"turns": [{"role": "system", "content": "S"}], "instruction": "I", "target": "y"},
            Sample("set/train:1", "I", "y", turns=(("system", "S"),)),
        ),
    ],
)  # fmt: skip
def test_generic_shapes(tmp_path: Path, row: dict[str, Any], expected: Sample) -> None:
    assert load_one(tmp_path, row) == expected


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"instruction": "I", "target": " "}, "empty target: "),
        ({"instruction": "I", "target": 3}, "target is no string: found 3 (int)"),
        ({"instruction": "", "target": "y"}, "empty instruction: "),
        ({"instruction": ["I"], "target": "y"}, "instruction is no string: "),
        (
            {"instruction": "I", "target": "y", "task": "poetry"},
            "unknown task: found 'poetry'; expected one of ",
        ),
        ({"instruction": "I", "target": "y", "task": "ner"}, "unreadable target: found 'y'"),
        ({"instruction": "I", "target": "y", "context": 3}, "context is no object: "),
        ({"instruction": "I", "target": "y", "context": "c", "text": "t"}, "two contexts: "),
        (
            {"instruction": "I", "target": "y", "context": {"txet": "t"}},
            "unknown part of context: found txet",
        ),
        ({"instruction": "I", "target": "y", "context": {"text": 1}}, "text is no string: "),
        ({"instruction": "I", "target": "y", "choices": ["a"]}, "target not among choices: "),
        (
            {"instruction": "I", "target": "label: a", "task": "tc", "choices": ["label: a", "b"]},
            "unreadable choice: found 'b' (str); expected an answer that the task 'tc' can read",
        ),
        ({"instruction": "I", "target": "y", "choices": "y"}, "choices is no list: "),
        ({"instruction": "I", "target": "y", "id": 1.5}, "unusable id: "),
        ({"instruction": "I", "target": "y", "id": " "}, "unusable id: "),
        ({"instruction": "", "output": "y"}, "empty instruction: "),
        ({"prompt": "I", "completion": [{"role": "assistant"}]}, "completion is no string: "),
        ({"messages": []}, "wrong roles: found no turns"),
        ({"messages": [{"role": "user", "content": "I"}]}, "wrong roles: found user; "),
        ({"messages": [{"role": "system", "content": "I"}]}, "wrong roles: "),
        (
            {"messages": [{"role": "assistant", "content": "I"}, {"role": "user", "content": "y"}]},
            "wrong roles: found assistant, user; ",
        ),
        ({"messages": [{"role": "user"}, {"role": "assistant", "content": "y"}]}, "no content: "),
        ({"messages": "hello"}, "messages is no list: "),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y", "tool_calls": [{}]}]},
            "calls of tools: found {} (dict); expected an object {function: {name, arguments}}",
        ),
        (
            {"messages": [{"role": "user", "content": "x", "tool_calls": [{}]}, {"role": "assistant", "content": "y"}]},
            "calls of tools: found tool_calls in a message of 'user' (str); expected them in messages of the assistant",
        ),
        (
            {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "function_call": {"name": "f"}}]},
            "calls of tools: found function_call in a message of 'assistant' (str), the older form of calls; expected",
        ),
        (
            {"messages": [{"role": "user", "content": "x"}, called("f", "{"), {"role": "tool", "content": "y"}]},
            "calls of tools: found {'function': {'name': 'f', 'arguments': '{'}} (dict); the arguments of 'f' are no J",
        ),
        (
            {"messages": [{"role": "user", "content": "x"}, called("f", {}), {"role": "tool", "content": "y"}]},
            "wrong roles: found user, assistant, tool; expected user, assistant in turns, the assistant last",
        ),
        (
            {"messages": [{"role": "user", "content": "x"}, called("f", {}), {"role": "assistant", "content": "y"}]},
            "wrong roles: found user, assistant, assistant; ",
        ),
        (
            {"messages": [{"role": "user", "content": "x"}, called("f", {})], "tools": "[{]"},
            "tools is no JSON: found '[{]' (str)",
        ),
        (
            {"messages": [{"role": "user", "content": "x"}, called("f", {})], "tools": [{"type": "function"}]},
            "wrong element of tools: found {'type': 'function'} (dict); expected an object with a function's name",
        ),
        (
            {"messages": [{"role": role, "content": "x"} for role in ("user", "tool", "assistant", "assistant")]},
            "wrong roles: found user, tool, assistant, assistant; ",
        ),
        (
            {"instruction": "I", "target": "y", "turns": [{"role": "user", "content": "x"}]},
            "wrong roles in turns: found user; expected user, assistant in turns, the assistant last",
        ),
        ({"tokens": ["a"], "ner_tags": ["B-X", "O"]}, "tags do not fit tokens: "),
    ],
)
def test_bad_rows_say_what_is_wrong(tmp_path: Path, row: dict[str, Any], problem: str) -> None:
    assert problem_of(tmp_path, row).startswith(problem)


KEYS = sorted({key for shape in known_shapes().values() for key in re.findall(r"\w+", shape.keys)})
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 1) | st.sampled_from(["", "a", "None", "B-X", "user", "ner"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=2),
    max_leaves=4,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=st.dictionaries(st.sampled_from([*KEYS, "id", "context"]), VALUES, min_size=1, max_size=6))
@pytest.mark.parametrize("format", [None, *known_shapes()])
def test_any_row_is_a_sample_or_a_bad_row(tmp_path: Path, format: str | None, row: dict[str, Any]) -> None:
    path = put(tmp_path / "x.jsonl", row)
    try:
        (sample,) = load_samples(path, format=format)
    except BadRowsError:
        return
    assert sample.target
    assert sample.instruction or sample.bank


def test_unknown_and_ambiguous_keys(tmp_path: Path) -> None:
    problem = problem_of(tmp_path, {"foo": 1, "bar": 2})
    assert problem.startswith("unknown keys: found foo, bar; expected ")
    assert all(f"{name} ({shape.keys})" in problem for name, shape in known_shapes().items())
    both = {"text": "a", "relations": [], "triplets": []}
    assert problem_of(tmp_path, both).startswith("ambiguous keys: found text, relations, triplets, which fit ")
    assert load_one(tmp_path, both, format="re").task == "re"
    assert load_one(tmp_path, both, task="absa").task == "absa"


def test_a_named_format_must_fit(tmp_path: Path) -> None:
    problem = problem_of(tmp_path, {"instruction": "I", "target": "y"}, format="alpaca")
    assert problem == "no output: found keys instruction, target; expected 'output' among them"


@pytest.mark.parametrize("options", [{"format": "x"}, {"task": "x"}, {"limit": 0}])
def test_bad_options(tmp_path: Path, options: dict[str, Any]) -> None:
    path = put(tmp_path / "x.jsonl", {"instruction": "I", "target": "y"})
    with pytest.raises(ValueError, match=f"^{next(iter(options))}: found .*expected"):
        load_samples(path, **options)


def test_task_says_what_generic_rows_answer(tmp_path: Path) -> None:
    row = {"instruction": "I", "output": "PER: Ada"}
    assert load_one(tmp_path, row, task="ner").task == "ner"
    problem = problem_of(tmp_path, {"text": "t", "label": "a"}, task="ner")
    assert problem.startswith("another task: found a row of task 'tc'; expected 'ner'")


def test_labels_come_from_the_whole_source(tmp_path: Path) -> None:
    rows = [{"sentence": str(i), "label": label} for i, label in enumerate(["positive", "negative", "positive"])]
    (first,) = load_samples(put(tmp_path / "set" / "train.jsonl", *rows), limit=1)
    assert first == Sample(
        "set/train:1",
        instruction="",
        target="label: positive",
        context=Context(format="label: class", option="negative, positive", text="0"),
        task="tc",
        bank="sentiment",
        choices=("label: negative", "label: positive"),
    )


def test_span_tasks_list_their_types_as_options(tmp_path: Path) -> None:
    rows = [
        {"tokens": ["Oslo"], "ner_tags": ["B-LOC"]},
        {"tokens": ["hm"], "ner_tags": ["O"]},
        {"tokens": ["Ada"], "ner_tags": ["B-PER"], "instruction": "Own words."},
        {"tokens": ["Ada"], "ner_tags": ["B-PER"], "bank": "quickstart/entities"},
    ]
    samples = load_samples(put(tmp_path / "x.jsonl", *rows))
    assert {sample.context.option for sample in samples} == {"LOC, PER"}
    assert [sample.target for sample in samples] == ["LOC: Oslo", "None", "PER: Ada", "PER: Ada"]
    assert [sample.bank for sample in samples] == ["ner", "ner", "", "quickstart/entities"]
    assert {sample.choices for sample in samples} == {()}


def test_choice_rows_keep_their_own_choices(tmp_path: Path) -> None:
    sample = load_one(tmp_path, {"question": "q", "choices": ["a", "b"], "answer": "b", "subject": "s"})
    assert (sample.target, sample.choices, sample.bank) == ("b", ("a", "b"), "choice")
    assert sample.context.option == "(A) a (B) b"


def test_all_bad_rows_are_found_at_once(tmp_path: Path) -> None:
    good = {"instruction": "I", "target": "y"}
    path = put(tmp_path / "x.jsonl", good, "{", good | {"target": ""}, good | {"id": "a"}, good | {"id": "a"}, "[]")
    with pytest.raises(BadRowsError) as caught:
        load_samples(path)
    assert [(error.line, error.reason) for error in caught.value.errors] == [
        (2, "broken JSON"),
        (3, "empty target"),
        (5, "duplicate id"),
        (6, "not an object"),
    ]
    assert f"found 'a', already used at {path}:4" in str(caught.value)
    assert "4 of 6 rows" in str(caught.value)
    assert "on_bad_row=skip" in str(caught.value)


def test_skipped_rows_are_listed_and_counted(tmp_path: Path) -> None:
    good = {"instruction": "I", "target": "y"}
    path = put(tmp_path / "x.jsonl", good, "{", {"foo": 1}, good | {"id": "own"})
    rejected = tmp_path / "rejected.jsonl"
    with pytest.warns(UserWarning, match=r"left out 2 of 4 rows \(broken JSON: 1; unknown keys: 1\).*rejected.jsonl"):
        samples = load_samples(path, on_bad_row="skip", rejected=rejected)
    assert [sample.id for sample in samples] == [f"{tmp_path.name}/x:1", "own"]
    listed = [row.data for row in iter_rows(str(rejected))]
    assert [(row["file"], row["line"], row["found"]) for row in listed] == [
        (path, 2, "{"),
        (path, 3, {"foo": 1}),
    ]
    assert listed[0]["problem"].startswith("broken JSON: ")


def test_nothing_good_is_an_error_even_when_skipping(tmp_path: Path) -> None:
    with pytest.raises(BadRowsError, match="2 of 2 rows"):
        load_samples(put(tmp_path / "x.jsonl", "{", "{"), on_bad_row="skip")
    with pytest.raises(SourceError, match="no rows"):
        load_samples(put(tmp_path / "y.jsonl"), on_bad_row="skip")


def test_a_source_without_bad_rows_warns_of_nothing(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_one(tmp_path, {"prompt": "I", "completion": "y"}, on_bad_row="skip", rejected=tmp_path / "no.jsonl")
    assert not (tmp_path / "no.jsonl").exists()


def test_ids_do_not_depend_on_where_the_program_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "set" / "train.jsonl", {"prompt": "I", "completion": "y"})
    monkeypatch.chdir(tmp_path / "set")
    assert load_samples("train.jsonl")[0].id == load_samples(path)[0].id == "set/train:1"


def test_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "SHAPES", SHAPES.copy())
    failed, attempted = doctest.testmod(shapes)
    assert attempted
    assert not failed


def test_own_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "SHAPES", SHAPES.copy())

    @register_shape("poll", needs=("ask", "reply"), unless=("skip",))
    def read_poll(row: Any, id: str) -> Sample:
        return Sample(id, row["ask"], row["reply"])

    assert load_one(tmp_path, {"ask": "I", "reply": "y"}).target == "y"
    assert problem_of(tmp_path, {"ask": "I", "reply": "y", "skip": 1}).startswith("unknown keys")
    for taken in ("poll", "ner"):
        with pytest.raises(ValueError, match=f"second shape named '{taken}'"):
            register_shape(taken, needs=("a",))


DATA = os.environ.get("ROBUSTLM_DATA", "")


@pytest.mark.skipif(not DATA, reason="ROBUSTLM_DATA names no folder of datasets")
def test_every_dataset_loads_whole() -> None:
    for file in sorted(Path(DATA).glob("*/*.jsonl.gz")):
        if file.parent.name == "text":
            continue
        samples = load_samples(str(file))
        assert len(samples) == sum(1 for _ in iter_rows(str(file)))
        assert {sample.bank for sample in samples} <= set(known_banks())
        for sample in samples:
            assert TASKS[sample.task].parse(sample.target).parsed
            assert not sample.choices or sample.target in sample.choices


@given(
    sample=st.builds(
        Sample,
        id=st.just("mine"),
        instruction=st.just("{a} so {b}?"),
        target=st.just("y"),
        context=st.sampled_from([Context(), CONTEXT, Context(text="x\n")]),
        task=st.sampled_from(["generation", "choice"]),
        bank=st.sampled_from(["", "ner"]),
        variant=st.sampled_from([None, "So {b} {a}"]),
        dataset=st.sampled_from(["", "set"]),
        choices=st.sampled_from([(), ("x", "y")]),
        fields=st.dictionaries(st.sampled_from(["a", "b", "options_"]), st.text("xyz \n")).map(
            lambda fields: tuple(fields.items())
        ),
        group=st.sampled_from(["", "a:1"]),
    )
)
def test_a_sample_becomes_a_row_and_the_same_sample_again(sample: Sample) -> None:
    row = json.loads(json.dumps(shapes.robustlm_row(sample)))
    assert shapes.read_robustlm(row, row["id"]) == sample


def test_fields_must_be_texts_by_name(tmp_path: Path) -> None:
    row = {"instruction": "I", "target": "y"}
    assert problem_of(tmp_path, row | {"fields": ["a"]}).startswith("fields is no object: found ['a'] (list)")
    assert problem_of(tmp_path, row | {"fields": {"a b": "x"}}).startswith("unusable field: found the name 'a b'")
    assert problem_of(tmp_path, row | {"fields": {"a": 3}}).startswith("a is no string: found 3 (int)")
    assert problem_of(tmp_path, row | {"group": ["a"]}).startswith("group is no string")


def test_items_of_a_json_list_are_named_by_their_number(tmp_path: Path) -> None:
    row = {"prompt": "I", "completion": "y"}
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([row] * 3))  # all on one line
    ids = [f"{tmp_path.name}/rows:{number}" for number in (1, 2, 3)]
    assert [sample.id for sample in load_samples(str(path))] == ids
    path.write_text(json.dumps([row] * 3, indent=2))
    assert [sample.id for sample in load_samples(str(path))] == ids
    path.write_text(json.dumps([row, row, {"ask": "I"}]))
    with pytest.raises(BadRowsError, match=r"rows\.json item 3: unknown keys"):
        load_samples(str(path))
    rejected = tmp_path / "rejected.jsonl"
    with pytest.warns(UserWarning, match="left out 1 of 3 rows"):
        assert len(load_samples(str(path), on_bad_row="skip", rejected=rejected)) == 2
    (listed,) = [row.data for row in iter_rows(str(rejected))]
    assert (listed["item"], "line" in listed) == (3, False)
    path.write_text(json.dumps([{**row, "id": "a"}, row, {**row, "id": "a"}]))
    with pytest.raises(BadRowsError, match=r"item 3: duplicate id: found 'a', already used at .*rows\.json item 1"):
        load_samples(str(path))

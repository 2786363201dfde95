"""Instruction lists in the files that were published."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from robustlm.instructions.banks import InstructionBank, load_bank
from robustlm.instructions.jinja import UnusableTemplateError, converted

YAML = """\
dataset: glue
subset: rte
templates:
  03a7ae07: !Template
    answer_choices: yes ||| no
    id: 03a7ae07
    jinja: 'Does the claim "{{sentence2}}" follow from "{{sentence1}}"? Answer {{"yes"}} or {{"no"}}.

      |||

      {{answer_choices[label]}}'
    metadata: !TemplateMetadata
      original_task: true
    name: claim
    reference: ''
  8ea6c1d0: !Template
    answer_choices: null
    id: 8ea6c1d0
    jinja: '{% if label == 0 %}{{sentence1}} ||| {{sentence2}}{% endif %}'
    metadata: !TemplateMetadata
      original_task: false
    name: write a hypothesis
    reference: ''
"""
COIN = """\
MNLI_LABEL = ["entailment", "neutral"]
LABEL_SET = {"rte": MNLI_LABEL}
PROMPT_SET_Promptbench_adv = {
    "clean": {"rte": ["Do these follow? ", "Is it entailed? "]},
    "deepwordbug": {"rte": ["Do tehse follow? ", "Is it entialed? "]},
}
"""
PROMPTBENCH = '''\
"""Task-oriented prompts."""
TASK_ORIENTED_PROMPTS = {
    'rte': [
        "Do they follow?\\nQuestion: {content}\\nAnswer:",
        # "Left out",
        "Is it entailed?\\nQuestion: {content}\\nAnswer:",
    ],
}
'''
ATTACKED = """\
# vicuna_zeroshot

# rte

## 10 prompts

Acc: 69.00%, prompt: Do they follow?

## textbugger

Original prompt: Do they follow?
Attacked prompt: b"Do they fol\\xd5\\xb8ow? 'It'"
Original acc: 69.00%, attacked acc: 1.70%, dropped acc: 67.30%

## translation

Language: french, acc: 41.90%, prompt: Does it follow?
# mnli

## 10 prompts

Acc: 9.00%, prompt: Which?
"""
STUDY = """\
import os
fewshot_examples = [1, 3]
class Knowledge(Preprocessor):
    _UNOBSERVED_ALPACA_INSTRUCTIONS = [
        "Answer questions.",
        "Pick one " "of these.",
    ]
    def unobserved1(self, item):
        input_template = "Question: {question} A. {choiceA} " \\
                         "B. {choiceB}"
        return self.unobserved_template_QA(item, input_template)
    def unobserved1_fs(self, item):
        input_template = "Question: {question}"
        return self.few(item, "", input_template)
"""
PROCESSORS = """\
class P3Templates:
    def t0_cos_e_1(self, question, answer, options):
        options_ = "".join(options)
        input_text = "{q}\\nOptions:{options_}".format(q=question, options_=options_)
        return input_text
    def t0_trec_1(self, text):
        input_text = "What is {text}?".format(text=text)
        return input_text
"""


def bank(folder: Path, file: str, text: str, entry: str = "") -> InstructionBank:
    (folder / file).write_text(text, encoding="utf-8")
    return load_bank(f"{folder / file}{entry and '#'}{entry}")


def texts(found: InstructionBank) -> list[str]:
    return [one.text for one in found.instructions if "/list/" not in one.id]


def lists(found: InstructionBank) -> dict[str, list[str]]:
    return {name: [one.text for one in listed] for name, listed in found.lists.items()}


def test_promptsource(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    found = bank(tmp_path, "templates.yaml", YAML)
    assert texts(found) == ['Does the claim "{sentence2}" follow from "{sentence1}"? Answer yes or no.']
    assert [one.id for one in found.instructions] == ["glue/rte/concise/seen/0"]
    assert found.instructions[0].answers == ("yes", "no")
    assert found.states_format
    assert found.has_answers
    assert "left out the template 'write a hypothesis': it asks for another task than the dataset's" in caplog.text


@pytest.mark.parametrize(
    ("jinja", "choices", "text", "answers"),
    [
        ("{{a}}{{'x'}}|||{% if label != -1 %}{{answer_choices[label]}}{% endif %}", ["n", "y"], "{a}x", ("n", "y")),
        ("{{a}} {{answer_choices | join('/')}}|||{{answer_choices[label]}}", "n ||| y", "{a} n/y", ("n", "y")),
        ("{{a}} {{answer_choices[1]}}|||{{answer_choices[k]}}", ["n", "y"], "{a} y", ("n", "y")),
        ("{{a}}|||{{answer_choices[0 if label else 1]}}", ["n", "y"], "{a}", ("y", "n")),
        ("{{a.lower()}} {{a|upper}}|||{{answer_choices[label]}}", ["n", "y"], "{a__lower} {a__upper}", ("n", "y")),
    ],
)
def test_jinja_becomes_slots(jinja: str, choices: Any, text: str, answers: tuple[str, ...]) -> None:
    assert converted({"jinja": jinja, "answer_choices": choices}) == (text, answers)


@pytest.mark.parametrize(
    ("jinja", "choices", "reason"),
    [
        ("{{a}} ||| {{b}}", ["n", "y"], "its target is not one of its answer choices"),
        ("{{a}}", ["n", "y"], "0 dividers"),
        ("{{a}}|||{{answer_choices[label]}}", None, "it has no answer_choices"),
        ("{{a}}|||{{answer_choices[label]}}", "{{b}} ||| {{c}}", "its answer_choices depend on the row"),
        ("{{a}}|||{{answer_choices[label]}}", ["n", "n"], "not two or more different"),
        ("{{a[0]}}|||{{answer_choices[label]}}", ["n", "y"], "its input computes a value"),
        ("{% if b %}{{a}}{% endif %}|||{{answer_choices[label]}}", ["n", "y"], "its input holds a statement"),
        ("{% if b %}{{a}}|||{{answer_choices[label]}}{% endif %}", ["n", "y"], "its jinja cannot be read"),
        ("{{a}}|||{{answer_choices[0]}}", ["n", "y"], "does not depend on the row's label"),
        ("{{a}}|||{{answer_choices[label + k]}}", ["n", "y"], "its target is not one of"),
        ("{{a}}|||{% for i in range(9**9) %}{{answer_choices[label]}}{% endfor %}", ["n", "y"], "its target is not"),
        ("{{a}}|||{{ ''.__class__.__mro__[label] }}", ["n", "y"], "its target is not"),
        ("{{a}}|||{{ lipsum(label) }}", ["n", "y"], "its target is not"),
        ("a" * 30_000 + "|||{{answer_choices[label]}}", ["n", "y"], "it has 30,028 characters"),
        ("{{a}}|||{{answer_choices[label.x]}}", ["n", "y"], "its target is not"),
    ],
)
def test_templates_that_are_unusable_say_why(jinja: str, choices: Any, reason: str) -> None:
    with pytest.raises(UnusableTemplateError, match=reason):
        converted({"jinja": jinja, "answer_choices": choices})


def test_a_set_without_a_usable_template_is_refused(tmp_path: Path) -> None:
    given = {"a": [{"name": "one", "template": "{{a}}", "answer_choices": ["n", "y"]}]}
    with pytest.raises(ValueError, match=r"x\.json#a: found no usable template among 1 \(the first is 'one': its text"):
        bank(tmp_path, "x.json", json.dumps(given), "a")


def test_coin(tmp_path: Path) -> None:
    found = bank(tmp_path, "config.py", COIN, "rte")
    assert texts(found) == ["Do these follow?", "Is it entailed?"]
    assert lists(found) == {"deepwordbug": ["Do tehse follow?", "Is it entialed?"]}
    with pytest.raises(ValueError, match=r"config\.py: found no bank 'cola'; expected one of .*rte"):
        load_bank(f"{tmp_path / 'config.py'}#cola")


def test_promptbench(tmp_path: Path) -> None:
    found = bank(tmp_path, "task_oriented.py", PROMPTBENCH, "rte")
    assert len(found.instructions) == 2
    assert found.slots == ["content"]
    many = {"task_oriented": {"rte": ["a", "b"]}, "role_oriented": {"rte": ["c"]}}
    both = bank(tmp_path, "clean.json", json.dumps(many), "rte")
    assert texts(both) == ["a", "b", "c"]
    assert lists(both) == {"task_oriented": ["a", "b"], "role_oriented": ["c"]}
    assert texts(load_bank(f"{tmp_path / 'clean.json'}#role_oriented/rte")) == ["c"]


def test_promptbench_attacks(tmp_path: Path) -> None:
    found = bank(tmp_path, "vicuna_zeroshot.md", ATTACKED, "rte")
    assert texts(found) == ["Do they follow?"]
    assert lists(found) == {"textbugger": ["Do they folոow? 'It'"], "translation-french": ["Does it follow?"]}


def test_the_study_of_instructions(tmp_path: Path) -> None:
    found = bank(tmp_path, "knowledge.py", STUDY)
    assert lists(found) == {
        "templates": ["Question: {question} A. {choiceA} B. {choiceB}"],
        "alpaca_instructions": ["Answer questions.", "Pick one of these."],
    }
    assert texts(bank(tmp_path, "P3.py", PROCESSORS, "t0_cos_e")) == ["{question}\nOptions:{options_}"]
    observed = {"T0": {"t0_a_1": "x", "t0_a_2": "y", "t0_b_1": "z"}}
    assert texts(bank(tmp_path, "observed.json", json.dumps(observed), "T0/t0_a")) == ["x", "y"]
    assert texts(load_bank(f"{tmp_path / 'observed.json'}#T0")) == ["x", "y", "z"]


def test_code_is_never_run(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    code = f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nPROMPTS = {{'rte': ['Do they follow?']}}\n"
    assert texts(bank(tmp_path, "code.py", code, "rte")) == ["Do they follow?"]
    evil = f"dataset: x\ntemplates:\n  a: !!python/object/apply:os.mkdir ['{mark}']\n"
    with pytest.raises(ValueError, match=r"evil\.yaml: found no plain YAML"):
        bank(tmp_path, "evil.yaml", evil)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("a.py", "def (", r"a\.py: .*expected a file with instruction banks"),
        ("a.py", "x = 1", r"a\.py: found neither objects nor lists of texts in this code"),
        ("a.md", "# rte\n", r"a\.md: found no line `Acc"),
        ("a.yaml", "a: [", r"a\.yaml: found no plain YAML"),
        ("a.yaml", "- a", r"a\.yaml: found list; expected an object of instruction banks"),
    ],
)
def test_files_without_a_known_form(tmp_path: Path, file: str, text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        bank(tmp_path, file, text, "rte")


DATA = os.environ.get("ROBUSTLM_DATA", "")


@pytest.mark.skipif(not DATA, reason="ROBUSTLM_DATA names no folder of datasets")
def test_the_published_lists_load() -> None:
    folder = Path(DATA) / "instructions"
    for name in ("glue/rte", "glue/cola", "glue/mrpc", "glue/qnli", "ag_news"):
        found = load_bank(f"{folder}/promptsource.json#{name}")
        assert found.has_answers, name
        assert all(len(one.answers) >= 2 for one in found.instructions), name
    usable = 0
    for templates in json.loads((folder / "promptsource.json").read_bytes()).values():
        for template in templates:
            try:
                text, _ = converted(template)
            except UnusableTemplateError:
                continue
            usable += 1
            assert "{{" not in text, text
            assert "{%" not in text, text
    assert usable >= 250
    promptbench = load_bank(f"{folder}/promptbench_clean.json#cola")
    assert {name: len(of) for name, of in promptbench.lists.items()} == {"task_oriented": 10, "role_oriented": 10}
    assert len(load_bank(f"{folder}/coin_clean.json#cola").instructions) == 6
    assert set(load_bank(f"{folder}/instructioneval_unobserved.json#mmlu_general").lists) == {
        "templates", "alpaca_instructions",
    }  # fmt: skip

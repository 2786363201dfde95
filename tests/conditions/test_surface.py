"""Changes that should not matter: what is asked stays the same, and the answer follows."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from robustlm.conditions.condition import parse_condition
from robustlm.conditions.surface import resurfaced
from robustlm.datamodules import InstructionDataModule, RobustnessDataModule
from robustlm.instructions.banks import LackingError
from robustlm.instructions.slots import option_lines
from robustlm.prompts.templates import PlainTemplate, make_template
from robustlm.report.levels import level_of
from robustlm.sample import Context, Sample
from tests.tiny import load, write_rows

PLANETS = ("Venus", "Mercury", "Mars", "Earth")
LETTERED = " ".join(f"({a}) {b}" for a, b in zip("ABCD", PLANETS, strict=True))
CHOICE = Sample(
    "c1", "Answer.", "Mercury", Context("Nearest?", "the text of one option", LETTERED), "choice", choices=PLANETS
)
LETTER = replace(CHOICE, target="B", choices=tuple("ABCD"), context=replace(CHOICE.context, format=""))
LABELS = Sample(
    "t1",
    "Sort.",
    'label: "Billing, refunds"',
    Context("", "label: class", 'Other, "Billing, refunds", Mood', "I paid."),
    "tc",
    choices=("label: Other", 'label: "Billing, refunds"', "label: Mood"),
)


def asked(sample: Sample, condition: str, seed: int = 0) -> Sample:
    (found,) = resurfaced([sample], parse_condition(condition), seed)
    return found


def prompt(sample: Sample) -> str:
    return PlainTemplate().render(sample, sample.instruction).text


def options(sample: Sample) -> dict[str, str]:
    """The text after each mark in the prompt."""
    return {a: b.strip() for a, b in re.findall(r"\(?(\b\w+)[.):] (\w+)", sample.context.option)}


def test_reversed_options() -> None:
    found = asked(CHOICE, "options:reversed")
    assert found.context.option == "(A) Earth (B) Mars (C) Mercury (D) Venus"
    assert (found.target, found.choices, found.answer_words) == ("Mercury", PLANETS[::-1], ())
    assert "Option: (A) Earth (B) Mars" in prompt(found)
    found = asked(LABELS, "options:reversed")
    assert found.context.option == 'Mood, "Billing, refunds", Other'
    assert found.choices == LABELS.choices[::-1]
    assert found.target == LABELS.target


@pytest.mark.parametrize("condition", ["options:reversed", *(f"options:shuffled@{k}" for k in range(30))])
@pytest.mark.parametrize("target", PLANETS)
def test_the_letter_follows_its_text(condition: str, target: str) -> None:
    letter = "ABCD"[PLANETS.index(target)]
    found = asked(replace(LETTER, target=letter), condition)
    assert options(found)[found.target] == target
    assert found.choices == tuple("ABCD")
    # an answer means the text that it names, whatever its letter is now
    for mark, meant in found.answer_words:
        assert options(found)[mark] == options(LETTER)[meant]
    text = asked(replace(CHOICE, target=target), condition)
    assert sorted(text.choices) == sorted(PLANETS)
    assert text.target == target
    assert text.context.option == found.context.option


def test_orders_depend_on_seed_number_and_sample_alone() -> None:
    many = [replace(CHOICE, id=f"c{i}") for i in range(40)]
    first = resurfaced(many, parse_condition("options:shuffled"), 0)
    assert first == resurfaced(many[::-1], parse_condition("options:shuffled"), 0)[::-1]
    for other in (("options:shuffled@1", 0), ("options:shuffled", 1)):
        assert first != resurfaced(many, parse_condition(other[0]), other[1])
    assert len({one.choices for one in first}) > 12
    at_first = [one.choices.index("Mercury") for one in first]
    assert set(at_first) == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("level", "shown", "marks"),
    [
        ("1.", "1. Venus 2. Mercury 3. Mars 4. Earth", "1234"),
        ("a)", "a) Venus b) Mercury c) Mars d) Earth", "abcd"),
        ("(i)", "(i) Venus (ii) Mercury (iii) Mars (iv) Earth", ("i", "ii", "iii", "iv")),
        ("I:", "I: Venus II: Mercury III: Mars IV: Earth", ("I", "II", "III", "IV")),
        ("A", "A Venus B Mercury C Mars D Earth", "ABCD"),
    ],
)
def test_enumerators(level: str, shown: str, marks: Any) -> None:
    found = asked(CHOICE, f"enumerator:{level}")
    assert found.context.option == shown
    assert (found.target, found.choices) == (CHOICE.target, PLANETS)
    lettered = asked(LETTER, f"enumerator:{level}")
    assert lettered.context.option == shown
    assert lettered.choices == tuple(marks)
    assert lettered.target == marks[1]
    assert dict(lettered.answer_words)[marks[1]] == "B"
    both = asked(LETTER, f"enumerator:{level}+options:reversed")
    assert both.target == marks[2]
    assert dict(both.answer_words)[marks[2]] == "B"


def test_bullets() -> None:
    assert asked(CHOICE, "enumerator:-").context.option == "\n- Venus\n- Mercury\n- Mars\n- Earth"
    assert asked(CHOICE, "enumerator:none").context.option == "Venus, Mercury, Mars, Earth"
    assert asked(LABELS, "enumerator:A.").context.option == "A. Other B. Billing, refunds C. Mood"
    with pytest.raises(LackingError, match="enumerator:- applies to no row \\(answers are the marks of options: 1\\)"):
        asked(LETTER, "enumerator:-")


def test_placeholders_follow() -> None:
    fields = (
        ("question", "Nearest?"),
        ("options_", option_lines(PLANETS)),
        ("choiceA", "Venus"),
        ("choiceB", "Mercury"),
    )
    slotted = replace(CHOICE, instruction="{question}\n{options_}", fields=fields)
    found = asked(slotted, "options:reversed")
    assert dict(found.fields)["options_"] == option_lines(PLANETS[::-1])
    assert (dict(found.fields)["choiceA"], dict(found.fields)["choiceB"]) == ("Earth", "Mars")
    assert (
        dict(asked(slotted, "enumerator:1.").fields)["options_"] == "OPTIONS:\n1. Venus\n2. Mercury\n3. Mars\n4. Earth"
    )
    with pytest.raises(LackingError, match="the instruction shows no list of options"):
        asked(replace(slotted, instruction="{question} Venus or Mars?"), "options:reversed")
    with pytest.raises(LackingError, match="writes the marks of options itself"):
        asked(replace(slotted, instruction="A. {choiceA} B. {choiceB}"), "enumerator:1.")


@pytest.mark.parametrize(
    "last", ["All of the above", "None of these", "Both A and B", "A and C only", "neither (A) nor (B)"]
)
def test_options_that_name_others_stay(last: str, caplog: pytest.LogCaptureFixture) -> None:
    texts = (*PLANETS[:3], last)
    option = " ".join(f"({a}) {b}" for a, b in zip("ABCD", texts, strict=True))
    sample = replace(CHOICE, choices=texts, context=replace(CHOICE.context, option=option))
    if "(" in last:  # no option can be told from the marks
        sample = replace(CHOICE, choices=texts, context=replace(CHOICE.context, option=", ".join(texts)))
    found = resurfaced([sample, CHOICE], parse_condition("options:reversed"), 0)
    assert found[0] == sample
    assert found[1].choices == PLANETS[::-1]
    assert "options:reversed does not change 1 of 2 prompts (an option that names other options: 1)" in caplog.text


def test_ordinary_options_are_no_names_of_others() -> None:
    texts = ("A plant and a fungus", "both parents", "All of the time", "one of them")
    option = " ".join(f"({a}) {b}" for a, b in zip("ABCD", texts, strict=True))
    sample = replace(CHOICE, target=texts[0], choices=texts, context=replace(CHOICE.context, option=option))
    assert asked(sample, "options:reversed").choices == texts[::-1]


def test_layout() -> None:
    first = asked(LABELS, "separator:newline+casing:upper+colon:dash")
    shown = 'FORMAT - label: class\nOPTIONS - Other, "Billing, refunds", Mood\nTEXT - I paid.'
    assert prompt(first) == f"Instruction: Sort.\n\n{shown} Answer:"
    last = asked(LABELS, "position:last+separator:bar")
    text = 'Format: label: class || Options: Other, "Billing, refunds", Mood || Text: I paid.\n\nSort.'
    assert prompt(last) == f"Instruction: {text} Answer:"
    for template in ("alpaca", "{instruction}\n{context}\n"):
        assert text in make_template(template, None).render(last, last.instruction).text
    assert (last.target, last.choices, last.context) == (LABELS.target, LABELS.choices, LABELS.context)
    braces = replace(LABELS, context=replace(LABELS.context, text="{input__format}"))
    assert "Text: {input__format}" in prompt(asked(braces, "position:last"))


def test_layout_with_examples() -> None:
    examples = tuple(
        replace(LABELS, id=f"e{i}", instruction="", context=replace(LABELS.context, text=f"Text {i}."))
        for i in range(4)
    )
    sample = replace(LABELS, examples=examples)
    found = prompt(asked(sample, "position:last"))
    assert found.count("Sort.") == 5
    assert 'Text: Text 2.\n\nSort. Answer: label: "Billing, refunds"' in found
    orders = [[one.id for one in asked(sample, f"shots:{k}").examples] for k in range(1, 9)]
    assert all(sorted(order) == ["e0", "e1", "e2", "e3"] for order in orders)
    assert len({tuple(order) for order in orders}) > 3
    assert orders[0] == [one.id for one in asked(replace(sample, id="other"), "shots:1").examples]
    both = asked(sample, "options:reversed")
    assert {one.context.option for one in both.examples} == {'Mood, "Billing, refunds", Other'}


@pytest.mark.parametrize(
    ("sample", "condition", "reason"),
    [
        (CHOICE, "shots:1", "fewer than two examples"),
        (Sample("a", "Say it.", "x"), "options:reversed", "no options that are shown apart from the text"),
        (Sample("a", "Say it.", "x"), "separator:bar", "no input besides the instruction"),
        (replace(CHOICE, turns=(("user", "a"), ("assistant", "b"))), "position:last", "a chat of several turns"),
        (replace(LETTER, context=replace(LETTER.context, option="A, B, C, E")), "options:reversed", "another form"),
        (replace(CHOICE, choices=PLANETS[:3]), "options:reversed", "options of another form"),
    ],
)
def test_what_does_not_fit_is_said(sample: Sample, condition: str, reason: str) -> None:
    with pytest.raises(LackingError, match=f"{condition} applies to no row .*{reason}.*; leave the condition out"):
        asked(sample, condition)


def test_marks_of_labels_alone_are_shown_as_labels() -> None:
    """A list of letters without texts is a list of labels; its order is all that changes."""
    sample = replace(LETTER, context=replace(LETTER.context, option="A, B, C, D"))
    found = asked(sample, "options:reversed")
    assert (found.context.option, found.target) == ("D, C, B, A", "B")


@pytest.mark.parametrize(
    ("condition", "says"),
    [
        ("options:sorted", "found the level 'sorted' of options; expected reversed, shuffled"),
        ("options:shuffled@x", "found the level 'shuffled@x' of options"),
        ("enumerator:(A", r"found the level '\(A' of enumerator"),
        ("shots:0", "found the level '0' of shots; expected the number of an order of the examples, from 1"),
        ("casing:camel", "found the level 'camel' of casing; expected one of upper, lower, title"),
        ("position:last+position:first", "names two levels of position; expected one"),
        ("attack:deepwordbug+casing:upper", "combines an attack with another casing"),
    ],
)
def test_levels_that_are_none(condition: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_condition(condition)


def test_the_order_of_writing_does_not_count() -> None:
    one, other = (
        parse_condition(text) for text in ("enumerator:1.+options:reversed", "options:reversed+enumerator:1.")
    )
    assert replace(one, name="") == replace(other, name="")
    assert level_of("options:reversed") == level_of("separator:bar") == "surface"
    assert level_of("options:reversed+deepwordbug@0.2") == "combined"


@pytest.mark.parametrize("kind", [InstructionDataModule, RobustnessDataModule])
def test_a_test_asks_under_them(kind: Any, llama: str, tmp_path: Any) -> None:
    rows = [
        {"id": f"r{i}", "question": f"Which {i}?", "choices": [f"a{i}", f"b{i}", f"c{i}"], "answer": f"b{i}"}
        for i in range(4)
    ]
    conditions = [
        "clean",
        "options:reversed+enumerator:1.",
        "position:last+deepwordbug@0.9",
        "attack:deepwordbug+options:reversed",
    ]
    if kind is InstructionDataModule:
        conditions = conditions[:3]
    data = kind(test=[write_rows(tmp_path / "rows.jsonl", rows)], conditions=conditions, scoring="options")
    data.connect(load(llama, None))
    data.setup("test")
    clean, turned, last = (data.conditioned[name].samples for name in conditions[:3])
    for one, other, third in zip(clean, turned, last, strict=True):
        assert (one.id, one.instruction_id, one.target) == (other.id, other.instruction_id, other.target)
        assert other.instruction == one.instruction
        assert other.choices == one.choices[::-1]
        assert third.instruction.startswith("Question: {input__question} Format: {input__format} Options: ")
        assert third.instruction.rpartition("\n\n")[2] != one.instruction
    assert "1. c0 2. b0 3. a0" in data.conditioned[conditions[1]].encoded[0].text
    text = data.conditioned[conditions[2]].encoded[0].text
    assert text.startswith(
        "Instruction: Question: Which 0? Format: the text of one option Options: (A) a0 (B) b0 (C) c0\n\n"
    )
    if kind is RobustnessDataModule:
        assert "(A) c0" in data.conditioned[conditions[3]].encoded[0].text

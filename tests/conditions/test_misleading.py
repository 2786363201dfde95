"""Phrasings by name, and those that mislead: another task's, negated, nonsense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustlm.conditions.condition import parse_condition
from robustlm.conditions.misleading import WORDS, misled, negated, nonsensical, phrasings_under
from robustlm.evaluation.directions import MISLEADING
from robustlm.instructions.banks import InstructionBank, known_banks
from robustlm.instructions.slots import slots

NAMES = [name for name in known_banks() if "/" not in name]


def banks_in(folder: Path, **entries: Any) -> dict[str, InstructionBank]:
    file = folder / "banks.json"
    file.write_text(json.dumps(entries), encoding="utf-8")
    return {f"{file}#{name}": InstructionBank.load(f"{file}#{name}") for name in entries}


def texts(condition: str, own: str, banks: dict[str, InstructionBank], seed: int = 0) -> list[str]:
    return [one.text for one in phrasings_under(parse_condition(condition), own, banks, "both", seed)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Name the topic.", "Do not name the topic."),
        ("Please answer, and explain why.", "Please do not answer, and do not explain why."),
        ("You should be brief. Then stop.", "You should not be brief. Then stop."),
        ("What is it about?", "Do not do what is asked here. What is it about?"),
        ("{premise}\nDecide  whether {hypothesis}\nAnswer:", "{premise}\nDo not decide  whether {hypothesis}\nAnswer:"),
        ("Question: {question}\nAnswer:", "Do not do what is asked here. Question: {question}\nAnswer:"),
    ],
)
def test_negation_by_hand(text: str, expected: str) -> None:
    assert negated(text) == expected


def test_every_packaged_phrasing_is_negated() -> None:
    for name in known_banks():
        for one in InstructionBank.load(name).instructions:
            assert "not" in negated(one.text).lower().split()
            assert len(negated(one.text).split()) > len(one.text.split())
            assert slots(negated(one.text)) == slots(one.text)


@given(st.lists(st.sampled_from(["Name", "it", "must.", "{a}", "{b}:", "\n", "and", "find", "?"]), min_size=1))
def test_slots_outlive_every_change(words: list[str]) -> None:
    text = " ".join(words)
    for made in MISLEADING[1:]:
        found = misled(text, parse_condition(made), "id", 0)
        assert found != text
        assert [found.count(slot) for slot in ("{a}", "{b}")] == [text.count(slot) for slot in ("{a}", "{b}")]


def test_nonsense_asks_for_nothing_and_is_drawn_by_its_key() -> None:
    text = "Decide whether {premise} means that {hypothesis}, and say yes or no."
    found = nonsensical(text, "a")
    assert found == nonsensical(text, "a") != nonsensical(text, "b")
    words = [word.strip(".").lower() for word in found.split() if "{" not in word]
    assert set(words) <= set(WORDS)
    assert len(words) == len(text.split()) - 2
    used = {word.strip(".,:;?'").lower() for name in known_banks() for one in InstructionBank.load(name).instructions
            for word in one.text.split()}  # fmt: skip
    assert not used & set(WORDS)
    assert len(set(WORDS)) == len(WORDS)


@given(st.sets(st.sampled_from(NAMES), min_size=2), st.integers(0, 20))
def test_incorrect_phrasings_are_dealt_out_to_others(names: set[str], seed: int) -> None:
    banks = {name: InstructionBank.load(name) for name in names}
    condition = parse_condition("incorrect")
    partners = {}
    for own in names:
        found = phrasings_under(condition, own, banks, "both", seed)
        (partner,) = {other for other in names for one in found if one.id.startswith(f"{own}/incorrect/{other}/")}
        assert {one.text for one in found} <= {one.text for one in banks[partner].phrasings("both", "seen")}
        assert len({one.id for one in found}) == len(found) > 0
        partners[own] = partner
    assert set(partners.values()) == names
    assert all(own != other for own, other in partners.items())


def test_incorrect_words_stand_around_ones_own_slots(tmp_path: Path) -> None:
    banks = banks_in(
        tmp_path,
        rte=["{premise}\nIs it true that {hypothesis}?\n{options_}"],
        plain=["Is it nice?", "Name the colour.", "Say when."],
        topic=["What is {text} about? Choose one: {options_}"],
    )
    rte, plain, topic = banks
    for seed in range(6):
        (found,) = texts("incorrect", rte, banks, seed)
        assert slots(found) == ["premise", "hypothesis", "options_"]
        assert "true" not in found
        (found,) = texts("incorrect", topic, banks, seed)
        assert slots(found) == ["text", "options_"]
        assert not any(slots(one) for one in texts("incorrect", plain, banks, seed))
    with pytest.raises(ValueError, match=r"'incorrect' asks with the phrasings of another bank.*rows of two banks"):
        texts("incorrect", rte, {rte: banks[rte]})
    same = banks_in(tmp_path, a=["Do it."], b=["do  it. {x}"])
    with pytest.raises(ValueError, match=r"found no phrasing in the bank .*#b that the bank .*#a does not have"):
        texts("incorrect", next(iter(same)), same)


def test_lists_are_asked_by_name_alone(tmp_path: Path) -> None:
    lists = {"designer": ["Sort it.", "Name {it}."], "negated": ["Leave it."]}
    banks = banks_in(tmp_path, own={"seen": ["Name it."], "unseen": ["Which is it?"], "lists": lists})
    (own,) = banks
    bank = banks[own]
    assert texts("clean", own, banks) == texts("correct", own, banks) == ["Name it."]
    assert texts("unseen", own, banks) == ["Which is it?"]
    assert texts("list:designer", own, banks) == ["Sort it.", "Name {it}."]
    assert [one.id for one in bank.listed("designer")] == ["own/list/designer/0", "own/list/designer/1"]
    assert texts("negated", own, banks) == ["Leave it."]
    assert texts("list:designer+negated", own, banks) == [negated("Sort it."), "Do not name {it}."]
    assert texts("unseen+negated+random_typos@0.2", own, banks) == [negated("Which is it?")]
    assert [one.text for one in bank.phrasings()] == ["Name it.", "Which is it?"]
    assert bank.slots == ["it"]
    with pytest.raises(ValueError, match="found no list 'collected'; expected one of designer, negated"):
        texts("list:collected", own, banks)
    file = tmp_path / "one.json"
    file.write_text(json.dumps({"task": "x", "concise": {"seen": ["Say."]}, "lists": {"mine": ["Tell."]}}))
    assert InstructionBank.load(str(file)).listed("mine")[0].id == "x/list/mine/0"


@pytest.mark.parametrize(
    ("lists", "says"),
    [
        ([], "#b: lists: found list; expected an object of lists"),
        ({"a/b": ["x"]}, "lists: found the name 'a/b'; expected letters"),
        ({"a": []}, "lists.a: found no template"),
        ({"a": "x"}, "lists.a: found str; expected a list of templates"),
        ({"a": [1]}, r"lists.a\[0\]: found 1"),
    ],
)
def test_broken_lists(lists: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=says):
        banks_in(tmp_path, b={"seen": ["Do."], "lists": lists})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("list:", "names no lists"),
        ("list:a+list:b", "names two lists"),
        ("negated+incorrect", "names two lists or ways to mislead"),
        ("unseen+list:a", "unseen phrasings and a list"),
        ("negate", "incorrect, negated, nonsensical"),
    ],
)
def test_conditions_that_cannot_be(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_condition(text)

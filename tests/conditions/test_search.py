"""A greedy attack on toy models, where the worst edits are known."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import pytest

from robustlm.conditions.search import Edit, attack

HARM = {"say": 0.0, "whether": 0.3, "this": 0.05, "is": 0.0, "good": 0.5}
TEXT = "say whether this is good"


class Model:
    """Loses a word's weight when the word is changed; counts what it is asked."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    def __call__(self, texts: Sequence[str]) -> list[float]:
        self.asked.append(list(texts))
        return [1 - sum(weight for word, weight in HARM.items() if word not in text.split()) for text in texts]


def misspelt(words: Sequence[str], at: int) -> list[str]:
    return [words[at] + "x", words[at][::-1] + "y", words[at]]


def test_the_words_that_matter_most_are_changed_first() -> None:
    found = attack(TEXT, misspelt, Model(), edits=2)
    assert [edit.before for edit in found.edits] == ["good", "whether"]
    assert found.score == pytest.approx(0.2)
    assert found.clean == 1
    assert found.text == "say whetherx this is goodx"
    assert found.edits[0] == Edit(4, "good", "goodx")


def test_it_is_as_bad_as_the_worst_of_all_edits_of_that_many_words() -> None:
    score = Model()
    words = TEXT.split()
    worst = {}
    for choice in product(*[[word, word + "x"] for word in words]):
        changed = sum(a != b for a, b in zip(choice, words, strict=True))
        worst[changed] = min(worst.get(changed, 9.0), score([" ".join(choice)])[0])
    for count in range(6):
        assert attack(TEXT, misspelt, Model(), edits=count).score == pytest.approx(
            min(value for changed, value in worst.items() if changed <= count)
        )


def test_no_text_is_asked_twice_and_the_budget_holds() -> None:
    for budget in range(1, 25):
        model = Model()
        found = attack(TEXT, misspelt, model, edits=5, budget=budget)
        asked = [text for batch in model.asked for text in batch]
        assert len(asked) == len(set(asked)) == found.queries <= budget
        assert found.score <= found.clean
        assert Model()([found.text]) == [pytest.approx(found.score)]


def test_ranking_is_one_batch() -> None:
    model = Model()
    attack(TEXT, misspelt, model, edits=1)
    assert [len(batch) for batch in model.asked] == [1, 5, 2]


def test_protected_words_stay() -> None:
    found = attack(TEXT, misspelt, Model(), edits=5, protected={1, 4})
    assert [edit.before for edit in found.edits] == ["this"]
    assert found.text.split()[1] == "whether"
    assert found.text.split()[4] == "good"


def test_it_stops_early() -> None:
    assert len(attack(TEXT, misspelt, Model(), edits=5, stop_at=0.6).edits) == 1
    assert attack(TEXT, misspelt, Model(), edits=0).queries == 1


def test_words_that_nothing_can_hurt_are_left_alone() -> None:
    found = attack(TEXT, misspelt, lambda texts: [0.5] * len(texts), edits=3)
    assert found.text == TEXT
    assert not found.edits


def test_settings_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="budget 0"):
        attack(TEXT, misspelt, Model(), edits=1, budget=0)
    with pytest.raises(ValueError, match="one for each"):
        attack(TEXT, misspelt, lambda texts: [1.0], edits=1)


def test_it_ends_when_told_so() -> None:
    seen = []

    def ended(text: str) -> bool:
        seen.append(text)
        return "goodx" in text

    found = attack(TEXT, misspelt, Model(), edits=5, ended=ended)
    assert [edit.after for edit in found.edits] == ["goodx"]
    assert seen == [TEXT, "say whether this is goodx"]
    assert attack("goodx", misspelt, Model(), edits=5, ended=ended).queries == 1


def test_where_one_word_may_change_none_is_ranked() -> None:
    model = Model()
    attack("good", misspelt, model, edits=1)
    assert [len(batch) for batch in model.asked] == [1, 2]

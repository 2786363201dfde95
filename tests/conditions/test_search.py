"""Searches for attacks on toy models, where the worst edits are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, product
from typing import Any, get_args
from zlib import crc32

import pytest

from robustlm.conditions.search import Attacked, Edit, Search, Space, attack

HARM = {"say": 0.0, "whether": 0.3, "this": 0.05, "is": 0.0, "good": 0.5}
TEXT = "say whether this is good"
SEARCHES = get_args(Search)
every_search = pytest.mark.parametrize("search", SEARCHES)


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
    found = attack(TEXT, misspelt, Model(), edits=2, search="greedy")
    assert [edit.before for edit in found.edits] == ["good", "whether"]
    assert found.score == pytest.approx(0.2)
    assert found.clean == 1
    assert found.text == "say whetherx this is goodx"
    assert found.edits[0] == Edit(4, "good", "goodx")


@every_search
def test_it_is_as_bad_as_the_worst_of_all_edits_of_that_many_words(search: Search) -> None:
    score = Model()
    words = TEXT.split()
    worst = {}
    for choice in product(*[[word, word + "x"] for word in words]):
        changed = sum(a != b for a, b in zip(choice, words, strict=True))
        worst[changed] = min(worst.get(changed, 9.0), score([" ".join(choice)])[0])
    for count in range(6):
        assert attack(TEXT, misspelt, Model(), edits=count, budget=400, search=search).score == pytest.approx(
            min(value for changed, value in worst.items() if changed <= count)
        )


@every_search
def test_no_text_is_asked_twice_and_the_budget_holds(search: Search) -> None:
    for budget in range(1, 25):
        model = Model()
        found = attack(TEXT, misspelt, model, edits=3, budget=budget, search=search, seed=budget)
        asked = [text for batch in model.asked for text in batch]
        assert len(asked) == len(set(asked)) == found.queries <= budget
        assert found.score <= found.clean
        assert Model()([found.text]) == [pytest.approx(found.score)]
        assert len(found.edits) <= 3


@pytest.mark.parametrize("search", ["bayesian", "random"])
def test_the_whole_budget_is_used(search: Search) -> None:
    for budget in (2, 10, 77, 125):
        assert attack(TEXT, misspelt, Model(), edits=3, budget=budget, search=search).queries == budget
    # 10 edits of one word, 40 of two, 80 of three
    assert attack(TEXT, misspelt, Model(), edits=3, budget=1000, search=search).queries == 1 + 10 + 40 + 80


@pytest.mark.parametrize("search", ["bayesian", "random"])
@pytest.mark.parametrize("edits", [0, 1, 2, 3, 9])
def test_a_budget_for_all_texts_finds_the_worst_of_all(search: Search, edits: int) -> None:
    model, words = Rugged(7), TEXT.split()
    options = {at: [one for one in misspelt(words, at) if one != words[at]] for at in range(5)}
    worst = model.clean
    for count in range(1, min(edits, 5) + 1):
        for places in combinations(range(5), count):
            for chosen in product(*(options[at] for at in places)):
                tried = list(words)
                for at, other in zip(places, chosen, strict=True):
                    tried[at] = other
                worst = min(worst, *model([" ".join(tried)]))
    assert attack(TEXT, misspelt, model, edits=edits, budget=300, search=search).score == worst


def test_ranking_is_one_batch() -> None:
    model = Model()
    attack(TEXT, misspelt, model, edits=1, search="greedy")
    assert [len(batch) for batch in model.asked] == [1, 5, 2]


def test_protected_words_stay() -> None:
    found = attack(TEXT, misspelt, Model(), edits=5, protected={1, 4}, search="greedy")
    assert [edit.before for edit in found.edits] == ["this"]
    for search in SEARCHES:
        found = attack(TEXT, misspelt, Model(), edits=5, protected={1, 4}, search=search)
        assert found.score == pytest.approx(0.95)
        assert found.text.split()[1] == "whether"
        assert found.text.split()[4] == "good"


@every_search
@pytest.mark.parametrize("budget", [8, 500])
def test_texts_that_are_not_allowed_are_not_asked(search: Search, budget: int) -> None:
    def allowed(words: Sequence[str]) -> bool:
        return sum(word.endswith("x") for word in words) < 2

    model = Model()
    found = attack(TEXT, misspelt, model, edits=3, budget=budget, allowed=allowed, search=search)
    tried = [text.split() for batch in model.asked for text in batch]
    assert all(map(allowed, tried))
    assert budget < 500 or found.score == pytest.approx(0.15)


def test_it_stops_early() -> None:
    assert len(attack(TEXT, misspelt, Model(), edits=5, stop_at=0.6, search="greedy").edits) == 1
    for search in SEARCHES:
        assert attack(TEXT, misspelt, Model(), edits=0, search=search).queries == 1
        found = attack(TEXT, misspelt, Model(), edits=2, budget=40, stop_at=0.6, search=search)
        assert found.score <= 0.6
        assert found.queries < 40


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

    found = attack(TEXT, misspelt, Model(), edits=5, ended=ended, search="greedy")
    assert [edit.after for edit in found.edits] == ["goodx"]
    assert seen == [TEXT, "say whether this is goodx"]
    for search in SEARCHES:
        assert attack("goodx", misspelt, Model(), edits=5, ended=ended, search=search).queries == 1
        assert "goodx" in attack(TEXT, misspelt, Model(), edits=1, ended=ended, search=search).text


def test_where_one_word_may_change_none_is_ranked() -> None:
    model = Model()
    attack("good", misspelt, model, edits=1, search="greedy")
    assert [len(batch) for batch in model.asked] == [1, 2]


# --- what searches find --------------------------------------------------------------------------------------------

LONG = "name the topic of this text in one word and nothing else"


class Rugged:
    """Few edits do harm, and most of them only beside certain others, as with a model: no edit alone shows it."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.asked: list[str] = []
        self.clean = 1.0

    def _hash(self, *parts: object) -> float:
        return crc32(repr((self._seed, *parts)).encode()) / 2**32

    def __call__(self, texts: Sequence[str]) -> list[float]:
        self.asked += texts
        return list(map(self._score, texts))

    def _score(self, text: str) -> float:
        known = set(LONG.split()) | set(TEXT.split())
        edited = [(at, word) for at, word in enumerate(text.split()) if word not in known]
        alone = math.prod(1 - self._hash(at) ** 9 * self._hash(at, word) for at, word in edited)
        together = math.prod(1 - self._hash(a, b) ** 25 for a, b in combinations(edited, 2))
        return alone * together


def letters(words: Sequence[str], at: int) -> list[str]:
    return [words[at] + letter for letter in "abcdefgh"]


def found_by(search: Search, model: Rugged, seed: int, **more: Any) -> Attacked:
    return attack(LONG, letters, model, edits=3, budget=100, search=search, seed=seed, **more)


def test_a_bayesian_search_beats_random_and_greedy_search_of_equal_queries() -> None:
    """On 10 rugged objectives: in the mean, and in most of them."""
    scores = {search: [found_by(search, Rugged(i), i).score for i in range(10)] for search in SEARCHES}
    means = {search: sum(own) / len(own) for search, own in scores.items()}

    assert means["bayesian"] < means["random"] - 0.02
    assert means["bayesian"] < means["greedy"] - 0.02
    for other in ("random", "greedy"):
        better = [a < b for a, b in zip(scores["bayesian"], scores[other], strict=True)]
        assert sum(better) >= 8


def test_texts_without_a_score_are_not_learnt_from() -> None:
    """A text that does not fit has an infinite score. The search goes on with the others, and uses its budget."""

    def score(texts: Sequence[str]) -> list[float]:
        return [math.inf if "nameb" in text else value for text, value in zip(texts, Rugged(2)(texts), strict=True)]

    found = attack(LONG, letters, score, edits=3, budget=60)
    assert found.queries == 60
    assert found.score < found.clean
    assert attack(LONG, letters, lambda texts: [math.inf] * len(texts), edits=3, budget=60).text == LONG


@every_search
def test_the_same_seed_finds_the_same(search: Search) -> None:
    first, again = (found_by(search, Rugged(1), 5) for _ in range(2))
    assert first == again
    assert (found_by(search, Rugged(1), 6) == first) is (search == "greedy")


@every_search
def test_edits_from_elsewhere_are_tried_first(search: Search) -> None:
    words = LONG.split()
    given = (Edit(11, words[11], "elsa"), Edit(2, "topic", "other than proposed"))
    model = Rugged(3)
    found = found_by(search, model, 0, starts=[given])
    assert model.asked[1] == "name the other than proposed of this text in one word and nothing elsa"
    assert found.score <= Rugged(3)([model.asked[1]])[0]
    assert found.queries == len(model.asked) <= 100


@every_search
@pytest.mark.parametrize(
    "given",
    [
        (Edit(2, "subject", "topica"),),  # of another text
        (Edit(2, "topic", "topica"), Edit(2, "topic", "topicb")),
        (Edit(99, "topic", "topica"),),
        (Edit(0, "name", "a"), Edit(1, "the", "a"), Edit(2, "topic", "a"), Edit(3, "of", "a")),  # too many
        (Edit(4, "this", "forbidden"),),
        (Edit(5, "text", "a"),),  # a protected word
        (),
    ],
)
def test_edits_that_may_not_be_made_are_left_out(search: Search, given: tuple[Edit, ...]) -> None:
    model = Rugged(3)
    how: dict[str, Any] = {"allowed": lambda words: "forbidden" not in words, "protected": {5}}
    plain = found_by(search, Rugged(3), 0, **how)
    assert found_by(search, model, 0, starts=[given], **how) == plain
    assert not any("forbidden" in text for text in model.asked)


def test_the_size_of_a_space_is_that_of_all_its_sets() -> None:
    for most in range(7):
        space = Space(TEXT, misspelt, most, protected={3})
        assert space.size == len(list(space.every())) == len(set(space.every()))


def test_a_search_that_is_none() -> None:
    search: Any = "annealing"
    with pytest.raises(ValueError, match="found the search 'annealing'; expected one of bayesian, greedy, random"):
        attack(TEXT, misspelt, Model(), edits=1, search=search)

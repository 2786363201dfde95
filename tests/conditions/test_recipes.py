"""What attacks may write in a word's stead: the edits of the blind kinds, several a word, the same every time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import Levenshtein
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustlm.conditions.condition import parse_condition
from robustlm.conditions.recipes import Attack
from robustlm.noise.base import KINDS
from robustlm.noise.pools import Pools
from robustlm.utils.random import Stream

WORDS = ["Classify", "the", "label", "of", "an", "answer", "as", "“good”", "or", "bad."]
words = st.text(st.sampled_from("abcos I.é3{"), min_size=1, max_size=6).filter(lambda word: len(word.split()) == 1)


def tried(recipe: str, place: int, words: Sequence[str] = WORDS, most: int = 1000, seed: int = 0) -> list[str]:
    return Attack(recipe).candidates(words, place, seed=seed, most=most)


def loud(words: Sequence[str], place: int, rng: Stream) -> list[list[str]]:
    """A recipe of one's own."""
    return [[words[place].upper(), words[place], ""], [words[place] + "!"]]


@given(word=words.map(str.strip).filter(bool), recipe=st.sampled_from(["deepwordbug", "textbugger"]))
def test_what_noise_can_write_is_a_candidate_or_differs_in_a_drawn_letter(word: str, recipe: str) -> None:
    found = tried(recipe, 0, [word])
    assert word not in found
    assert len(found) == len(set(found))
    drawn = {KINDS[recipe]([word], 1.0, Stream(bytes([i])), Pools())[0] for i in range(60)} - {word}
    assert bool(found) == bool(drawn)
    for other in drawn:
        one_away = [mine for mine in found if Levenshtein.distance(mine, other) <= 1 and len(mine) == len(other)]
        assert one_away, (other, found)


def test_all_edits_of_a_word() -> None:
    found = tried("textbugger", 2, ["is", "it", "cat"])
    assert set(found) >= {"c at", "ca t", "ct", "(at", "c@t", "ca+"}
    keys = {"xat", "vat", "cst", "car", "cay"}
    assert len(set(found) & keys) == 3, "one key beside each letter"
    assert len(tried("deepwordbug", 0, ["cat"])) <= 2 + 3 + 3 + 4


def test_kinds_of_edit_take_turns_up_to_the_most() -> None:
    (synonym, spaced, *rest) = tried("textbugger", 0, most=6)
    assert synonym == "Categorize"
    assert " " in spaced
    assert len(rest) == 4
    assert tried("textbugger", 0, most=1) == ["Categorize"]


def test_candidates_depend_on_word_place_and_seed_alone() -> None:
    assert tried("deepwordbug", 2, most=5) == tried("deepwordbug", 2, [*WORDS[:5], "x"], most=5)
    assert tried("deepwordbug", 2, most=5) != tried("deepwordbug", 2, most=5, seed=1)


def test_synonyms_keep_case_punctuation_and_the_article_before() -> None:
    assert "tag" in tried("textfooler", 2)
    assert tried("textfooler", 4) == []
    assert "reply" not in tried("textfooler", 5), "an reply"
    assert "reply" in tried("textfooler", 5, [*WORDS[:4], "the", "answer"])
    assert all(word.startswith("“") and word.endswith("”") for word in tried("textfooler", 7))


def test_a_thesaurus_of_ones_own(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"label": ["tag", "mark"]}), encoding="utf-8")
    assert tried(f"textfooler:{file}", 2) == ["tag", "mark"]
    assert tried(f"textbugger:{file}", 2)[0] == "tag"


def test_a_recipe_by_its_import_path() -> None:
    assert tried(f"{__name__}.loud", 1) == ["THE", "the!"]


def test_conditions_name_attacks() -> None:
    found = parse_condition("unseen+attack:textfooler@0.3")
    assert (found.split, found.noise, found.attack) == ("unseen", None, Attack("textfooler", 0.3))
    assert parse_condition("attack:deepwordbug").attack == Attack("deepwordbug", 0.2)
    assert parse_condition("clean").attack is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("attack:nobody@0.2", "unknown attack 'nobody': expected one of deepwordbug, textbugger, textfooler"),
        ("attack:deepwordbug:x@0.2", "unknown attack 'deepwordbug:x'"),
        ("attack:deepwordbug@1.5", "a share of words from 0 to 1, found 1.5"),
        ("attack:deepwordbug@much", "could not convert"),
        ("attack:textfooler:no.json@0.2", "attack textfooler: no.json: cannot be read"),
        ("attack:no.such.module@0.2", "cannot import"),
        ("attack:deepwordbug@0.2+protected", "combines an attack with another part"),
        ("random_typos@0.2+attack:deepwordbug@0.2", "combines an attack with another part"),
        ("attack:deepwordbug+attack:textfooler", "combines an attack with another part"),
    ],
)
def test_conditions_that_are_none(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"data\.conditions: ") as raised:
        parse_condition(text)
    assert said in str(raised.value)
    assert text in str(raised.value)

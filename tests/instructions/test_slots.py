"""Instructions with slots."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustlm.instructions.slots import Skeleton, defused, is_slotted, literal, option_lines, pieces, slots

NAMES = ("a", "b_")
texts = st.lists(st.sampled_from(["{a}", "{b_}", "{c}", "{", "}", "x", "yz", " ", "\n", "a"]), max_size=14).map("".join)


def test_only_identifiers_in_braces_are_slots() -> None:
    assert slots("{b} {a} {b} {} {1} {a.b} { c } {é} {_d1} {{e}}") == ["b", "a", "é", "_d1", "e"]


@given(texts)
def test_pieces_make_up_the_text(text: str) -> None:
    found = pieces(text, NAMES)
    assert "".join(piece + (f"{{{name}}}" if name else "") for piece, name in found) == text
    assert {name for _, name in found} <= {*NAMES, None}
    assert is_slotted(text, NAMES) == (len(found) > 1)
    assert not is_slotted(text, ())
    assert pieces(text, ()) == [(text, None)]
    assert literal(text, ()) is text


@given(texts)
def test_nothing_is_a_slot_once_defused(text: str) -> None:
    assert not is_slotted(defused(text, NAMES), NAMES)
    if not is_slotted(text, NAMES):
        assert defused(text, NAMES) == text


@given(texts)
def test_a_skeleton_with_its_own_words_is_the_text(text: str) -> None:
    skeleton = Skeleton(text, NAMES)
    filled = skeleton.filled(skeleton.words)
    assert filled.split() == text.split()
    assert Skeleton(filled, NAMES).words == skeleton.words


@given(texts, st.lists(st.sampled_from(["u", "v", "w"]), max_size=9))
def test_a_skeleton_keeps_its_slots_under_any_words(text: str, words: list[str]) -> None:
    filled = Skeleton(text, NAMES).filled(words)
    assert [name for _, name in pieces(filled, NAMES)] == [name for _, name in pieces(text, NAMES)]
    if is_slotted(text, NAMES) or words:
        assert Skeleton(filled, NAMES).words == words


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("Review: Is this good?", 'Review:\n{a}\nIs this good? "{b_}"'),
        ("r i t g R I T G", 'r i\n{a}\nt g R I T G "{b_}"'),
        ("one", '{a}\none "{b_}"'),
        ("", '{a}\n"{b_}"'),
    ],
)
def test_slots_keep_their_place_and_their_white_space(words: str, expected: str) -> None:
    assert Skeleton('Review:\n{a}\nIs this   good? "{b_}"\n', NAMES).filled(words.split()) == expected


def test_options() -> None:
    assert option_lines(["a", "b"]) == "OPTIONS:\n- a\n- b"

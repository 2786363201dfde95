"""Edits say what noise did, and do it again."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustlm.noise.base import KINDS, Noise
from robustlm.noise.edits import Edit, edited, replay, word_edits

words = st.lists(st.sampled_from(["a", "b", "c", "a b"]), max_size=8)


@given(before=st.lists(st.sampled_from("abc"), max_size=8), after=words)
def test_edits_lead_from_one_to_the_other(before: list[str], after: list[str]) -> None:
    edits = word_edits(before, after)
    assert edited(before, edits) == " ".join(after).split()
    assert [edit.place for edit in edits] == sorted(edit.place for edit in edits)
    assert bool(edits) == (before != after)


def test_edits_are_few_and_readable() -> None:
    assert word_edits(["tag", "the", "text"], ["tga", "the", "te", "xt"]) == (
        Edit(0, "tag", "tga"),
        Edit(2, "", "te"),
        Edit(2, "text", "xt"),
    )
    assert word_edits(["tag", "the", "text"], ["tag", "the", "te xt"]) == (Edit(2, "text", "te xt"),)
    assert word_edits(["a", "b", "c", "d"], ["a", "d"]) == (Edit(1, "b", ""), Edit(2, "c", ""))
    assert word_edits(["a", "b"], ["a", "x", "y", "b", "z"]) == (Edit(1, "", "x y"), Edit(2, "", "z"))


@pytest.mark.parametrize("edit", [(3, "x", "y"), (0, "b", "c"), (7, "", "c"), (2, "b", "")])
def test_edits_of_another_text_are_refused(edit: tuple[int, str, str]) -> None:
    with pytest.raises(ValueError, match="edits of another text: word"):
        replay("a b", [edit])


SLOTS = ("premise", "options_")
texts = st.lists(
    st.sampled_from(
        [
            "{premise}",
            "({options_})",
            "{other}",
            "Label",
            "an",
            "item",
            "positive",
            "negative.",
            '"as',
            'is"',
            "of",
            "…",
        ]
    ),
    max_size=12,
).flatmap(
    lambda found: st.lists(st.sampled_from([" ", "\n", "  \n"]), min_size=len(found), max_size=len(found)).map(
        lambda gaps: "".join(part for pair in zip(found, gaps, strict=True) for part in pair)
    )
)


@given(
    text=texts,
    kind=st.sampled_from(["mixed", *KINDS]),
    omega=st.sampled_from([0.0, 0.1, 0.4, 1.0]),
    key=st.integers(0, 1000),
    protect=st.booleans(),
    slots=st.sampled_from([None, [SLOTS]]),
)
def test_a_manifest_replays_every_kind(
    text: str, kind: str, omega: float, key: int, protect: bool, slots: list[tuple[str, ...]] | None
) -> None:
    noise = Noise(kind, omega, protect=protect)
    fixed = {"slots": slots, "protected": [("positive", "negative")], "contexts": ["one two three", "a positive one"]}
    batch = noise.apply([text], [str(key)], report=True, **fixed)  # type: ignore[arg-type]
    assert batch.edits is not None
    stored = json.loads(json.dumps(batch.edits[0]))
    assert replay(text, stored, SLOTS if slots else ()) == batch.texts[0]
    assert bool(stored) == batch.noisy[0]
    plain = noise.apply([text], [str(key)], **fixed)  # type: ignore[arg-type]
    assert plain.texts == batch.texts
    assert plain.edits is None

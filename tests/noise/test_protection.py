"""What an answer has to be written with survives every kind of noise."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustlm.instructions.slots import pieces
from robustlm.noise.base import KINDS, Noise
from robustlm.noise.protection import Guard, protected_phrases
from robustlm.sample import Context, Sample

SLOTS = ("premise", "options_")
PHRASES = ("positive", "not entailment", "entailment", "label:", "PER", "a", "+")
HELD = ["positive", "(Positive),", "positive/neutral", "not entailment.", "entailment", "label: x", "PER", "a", "+"]
HELD += ['"so be it"', "`x y`", "{premise}", '"{options_}"?']
FREE = ["Classify", "the", "sentence", "as", "or", "not", "label", "A", "Answer", "per-", "an", "positively", "{other}"]
texts = st.lists(st.sampled_from([*HELD, *FREE]), max_size=14).map(" ".join)
CONTEXTS = ["a positive word", "not entailment at all", "label: x", 'he said "no', "{premise} so", "+ one + two"]

KEPT = re.compile(
    r'"[^"\n]+"|`[^`]+`|(?<!\w)(?:(?i:not[\W_]+entailment|entailment|positive|per)|a)(?!\w)|(?i:label)\s*:|(?<!\S)\+(?!\S)'
)


def kept(text: str) -> list[str]:
    return KEPT.findall(text)


@given(
    text=texts,
    kind=st.sampled_from(["mixed", *KINDS]),
    omega=st.sampled_from([0.1, 0.3, 0.6, 1.0]),
    key=st.integers(0, 10_000),
)
def test_protected_words_survive_in_order_and_count(text: str, kind: str, omega: float, key: int) -> None:
    batch = Noise(kind, omega, protect=True).apply(
        [text], [str(key)], vocabulary=["positive", "not", "label:", "x"], contexts=CONTEXTS, slots=[SLOTS],
        protected=[PHRASES],
    )  # fmt: skip
    noisy = batch.texts[0]
    assert kept(noisy) == kept(" ".join(text.split()))
    assert [name for _, name in pieces(noisy, SLOTS)] == [name for _, name in pieces(text, SLOTS)]
    rest = iter(noisy.split())
    assert all(word in rest for word in text.split() if kept(word)), "with their punctuation"


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_other_words_are_still_noisy(kind: str) -> None:
    text = "Please classify the following sentence as positive or as negative and give the right answer below."
    ids = [str(i) for i in range(40)]
    batch = Noise(kind, 0.4, protect=True).apply(
        [text] * 40, ids, contexts=["one two three"], protected=[("positive", "negative")] * 40
    )
    assert sum(batch.noisy) == 40


@pytest.mark.parametrize("kind", ["mixed", *sorted(KINDS)])
def test_an_instruction_of_protected_words_stays(kind: str) -> None:
    batch = Noise(kind, 1.0, protect=True).apply(["positive \n negative"], ["x"], protected=[("positive", "negative")])
    assert batch.texts == ["positive \n negative"]
    assert batch.noisy == [False]


def test_without_protection_protected_words_mean_nothing() -> None:
    found = [Noise(omega=1.0).apply(["a b c d"], ["x"], protected=held) for held in (None, [("a", "b")])]
    assert found[0] == found[1]


def test_appended_noise_comes_after_protected_words_and_before_slots() -> None:
    guard = Guard("Is it positive\n{options_}", ("positive",), SLOTS)
    assert guard.words == ["Is", "it"]
    assert guard.text(guard.edits(lambda: ["Is", "it", "xyz"])) == "Is it positive xyz\n{options_}"


def test_noise_that_insists_on_protected_words_loses_them() -> None:
    guard = Guard("Is it positive", ("positive",))
    assert guard.text(guard.edits(lambda: ["positive", "Was", "it"])) == "Was it positive"


@pytest.mark.parametrize(
    ("sample", "expected"),
    [
        (
            Sample("0", "", "PER: Ada", Context(format="type: words; type: words (or None)", option="PER, LOC")),
            ("PER", "LOC", "type:", "None"),
        ),
        (
            Sample("0", "", "label: good", Context(format="label: class"), choices=("label: good", "label: bad")),
            ("label: good", "good", "label: bad", "bad", "label:"),
        ),
        (
            Sample("0", "", "Oslo", Context(format="the text of one option", option="(A) Oslo (B) New York")),
            ("Oslo", "New York"),
        ),
        (Sample("0", "", "x", Context(option="OPTIONS:\n- yes\n- hard to tell")), ("yes", "hard to tell")),
        (Sample("0", "", "x", Context(format="say 'fine' or Poor")), ("fine", "Poor")),
        (Sample("0", "", "x"), ()),
    ],
)  # fmt: skip
def test_what_a_sample_protects(sample: Sample, expected: tuple[str, ...]) -> None:
    assert protected_phrases(sample) == expected

"""Noise kinds: exact counts, no input that breaks them, and the same noise wherever it is computed."""

import itertools
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import jsonargparse
import Levenshtein
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from robustlm.instructions.banks import InstructionBank, known_banks
from robustlm.instructions.slots import Skeleton, pieces, slots
from robustlm.noise import base as noise_module
from robustlm.noise import opposites
from robustlm.noise import pools as pools_module
from robustlm.noise.base import CLEAN, KINDS, MIXED_KINDS, Noise, register_kind, resolve_kind, word_budget
from robustlm.noise.pools import Pools, build_pools, build_vocabulary, padding_text
from robustlm.noise.protection import Guard
from robustlm.sample import Context, Sample
from robustlm.utils.random import Stream
from robustlm.utils.words import FALLBACK_WORDS, is_unspaced, split_words

INSTRUCTION = (
    "Please extract all named entities from the given text and classify each of them as one of the "
    "following types: person, organization, location or miscellaneous."
)
VOCABULARY = ["alpha", "beta", "gamma", "delta", "epsilon"]
CONTEXTS = ["one two three four five six seven", "", "   ", "short one"]

Case = tuple[list[str], float, bytes, Pools]

PICKY = ("deepwordbug", "textbugger", "synonyms")
"""Kinds that leave words alone which have no letters, or which they do not know."""

instructions = st.one_of(
    st.text(st.characters(), max_size=60),
    st.lists(st.sampled_from(["a", "b", "not", "Classify", "all.", "to", "İ", "«é»", "..."]), max_size=12).map(
        " ".join
    ),
)
omegas = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.1, 0.2, 0.5, 1.0]))
keys = st.binary(max_size=12)


def pools_of(words: list[str]) -> st.SearchStrategy[Pools]:
    return st.builds(
        Pools,
        vocabulary=st.sampled_from([(), VOCABULARY, tuple(words), ("",), ("two words", " ")]),
        contexts=st.sampled_from([(), CONTEXTS, ("", " "), (" ".join(words),)]),
        own=st.sampled_from(["", " ".join(words), CONTEXTS[0]]),
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    words = draw(instructions).split()
    return words, draw(omegas), draw(keys), draw(pools_of(words))


def run(kind: str, case: Case) -> tuple[list[str], list[str], int]:
    words, omega, key, pools = case
    before = list(words)
    noisy = KINDS[kind](words, omega, Stream(key), pools)
    assert words == before, "a kind must not change its argument"
    return words, noisy, word_budget(len(words), omega)


@pytest.mark.parametrize("kind", sorted(KINDS))
@given(case=cases())
@example(case=(["a", "a"], 0.1, b"", Pools()))
@example(case=(["a", "a"], 1.0, b"", Pools(("a",), ("a",), "a")))
@example(case=(["a"], 1.0, b"", Pools()))
@example(case=([], 1.0, b"", Pools()))
def test_kind_always_changes_the_words_and_never_empties_them(kind: str, case: Case) -> None:
    words, noisy, budget = run(kind, case)
    joined = " ".join(noisy)
    assert " ".join(joined.split()) == joined, "the result must survive joining and splitting"
    if budget == 0:
        assert noisy == words
    elif kind in PICKY:
        assert len(noisy) == len(words)
    elif len(words) >= 2:
        assert noisy != words
        assert noisy
    elif words:
        assert noisy


@given(case=cases())
def test_replacement_changes_exactly_k_positions(case: Case) -> None:
    words, noisy, budget = run("random_replacement", case)
    assert len(noisy) == len(words)
    assert sum(a != b for a, b in zip(words, noisy, strict=True)) == budget


@given(case=cases())
def test_insertion_adds_exactly_k_words_around_the_raw_ones(case: Case) -> None:
    words, noisy, budget = run("random_insertion", case)
    assert len(noisy) == len(words) + budget
    rest = iter(noisy)
    assert all(word in rest for word in words)


@given(case=cases())
def test_truncation_removes_one_run_and_keeps_a_word(case: Case) -> None:
    words, noisy, budget = run("random_truncation", case)
    removed = len(words) - len(noisy)
    assert removed == min(budget, max(len(words) - 1, 0))
    assert any(words[:i] + words[i + removed :] == noisy for i in range(len(noisy) + 1))


@given(case=cases(), distinct=st.booleans())
def test_shuffling_moves_every_chosen_word(case: Case, distinct: bool) -> None:
    words, omega, key, pools = case
    if distinct:
        words = [f"{word}{i}" for i, word in enumerate(words)]
    words, noisy, budget = run("random_shuffling", (words, omega, key, pools))
    assert len(noisy) == len(words)
    if len(set(words)) > 1 or budget == 0:
        assert Counter(noisy) == Counter(words)
    moved = sum(a != b for a, b in zip(words, noisy, strict=True))
    if distinct and budget and len(words) > 1:
        assert moved == max(2, budget)
    elif len(set(words)) > 1:
        assert moved <= max(2, budget)


@given(case=cases())
def test_padding_embeds_one_run_of_at_most_k_words(case: Case) -> None:
    words, noisy, budget = run("in_context_padding", case)
    added = len(noisy) - len(words)
    assert min(budget, 1) <= added <= budget
    assert any(noisy[:i] + noisy[i + added :] == words for i in range(len(words) + 1))


def test_padding_comes_from_another_sample() -> None:
    words = INSTRUCTION.split()
    pools = Pools(VOCABULARY, ["own own own own own own own", "red green blue"], own="own own own own own own own")
    for i in range(50):
        noisy = KINDS["in_context_padding"](words, 0.2, Stream(bytes([i])), pools)
        added = Counter(noisy) - Counter(words)
        assert added == Counter(["red", "green", "blue"])


@given(case=cases())
@example(case=(INSTRUCTION.split(), 0.1, b"x", Pools()))
@example(case=(["Do", "NOT", "list", "All", "of", "them."], 1.0, b"x", Pools()))
def test_opposite_touches_at_most_k_words(case: Case) -> None:
    words, noisy, budget = run("opposite", case)
    assert Levenshtein.distance(words, " ".join(noisy).split()) <= budget


DATA = os.environ.get("ROBUSTLM_DATA", "")


def strings_of(value: object) -> Iterator[str]:
    """Every text in a JSON value, however deep."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings_of(part)


def assert_opposites_fit(texts: Sequence[str], omegas: Sequence[float], seeds: range) -> None:
    """`opposite` changes each text by 1 to k word edits, with the text's braces as slots or not, protected or not."""
    ids = [str(row) for row in range(len(texts))]
    fields = [tuple(slots(text)) for text in texts]
    for names_of, protect in ((None, False), (fields, False), (fields, True)):
        guards = [Guard(text, (), names if names_of else ()) for text, names in zip(texts, fields, strict=True)]
        plain = [Skeleton(text, names if names_of else ()) for text, names in zip(texts, fields, strict=True)]
        counts = [len(part.words) for part in (guards if protect else plain)]
        for omega, seed in itertools.product(omegas, seeds):
            batch = Noise("opposite", omega, protect=protect).apply(texts, ids, seed=seed, slots=names_of)
            for text, noisy, count in zip(texts, batch.texts, counts, strict=True):
                distance = Levenshtein.distance(text.split(), noisy.split())
                assert (count > 1) <= distance <= word_budget(count, omega), (text, noisy)


def test_opposite_of_every_packaged_instruction_fits_into_the_budget() -> None:
    texts = [text.text for bank in known_banks() for text in InstructionBank.load(bank).instructions]
    assert_opposites_fit([*texts, "Is.", "It is.", "'is {premise} is,' or {premise} is."], (0.05, 0.2, 1.0), range(3))


@pytest.mark.skipif(not DATA, reason="ROBUSTLM_DATA names no folder of datasets")
def test_opposite_of_every_published_instruction_fits_into_the_budget() -> None:
    files = sorted(Path(DATA, "instructions").glob("*.json"))
    texts = [text for file in files for text in strings_of(json.loads(file.read_bytes())) if text.split()]
    assert_opposites_fit(list(dict.fromkeys(texts)), (0.1, 0.5), range(1))


@pytest.mark.parametrize("word", ["Is.", "(is", '"is"', "is"])
def test_opposite_pays_for_punctuation_that_moves(word: str) -> None:
    found = {" ".join(KINDS["opposite"]([word], 1.0, Stream(bytes([i])), Pools())) for i in range(60)}
    assert max(Levenshtein.distance([word], noisy.split()) for noisy in found) == 1
    assert any(word in noisy.split() for noisy in found), "a word is appended where no rule fits"


def test_opposite_leaves_slots_between_the_same_words() -> None:
    text = "Are {premise} and {hypothesis} here ? {options_}"
    ids = [str(row) for row in range(100)]
    found = set(Noise("opposite", 1.0).apply([text] * 100, ids, slots=[SLOTS] * 100).texts)
    assert len(found) > 3
    for noisy in found:
        assert re.fullmatch(
            r"(Are|Are not|May be) {premise} (and|or) {hypothesis} here \?( \w+[.?]?)* {options_}", noisy
        )


def test_what_opposite_puts_beside_a_word_stays_beside_it() -> None:
    text = "Is yes or and no"
    batch = Noise("opposite", 1.0, protect=True).apply(
        [text] * 60, [str(row) for row in range(60)], protected=[("yes", "no")] * 60
    )
    assert any(noisy.startswith("Is not yes ") for noisy in batch.texts)
    assert not any(" yes not " in noisy for noisy in batch.texts)


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Include", {"Exclude"}),
        ("(NEGATIVE),", {"(POSITIVE),"}),
        ("always", {"never"}),
        ("gibberish", {"gibberish Conversely.", "gibberish Unless?"}),
        ("classify:", {"perhaps classify:", "never classify:"}),
    ],
)
def test_opposite_keeps_capitals_and_punctuation(raw: str, expected: set[str]) -> None:
    found = {" ".join(KINDS["opposite"]([raw], 1.0, Stream(bytes([i])), Pools())) for i in range(60)}
    assert found == expected


def test_opposite_negates_commands_but_not_nouns() -> None:
    label = "Label the text. The label is here. It is hard to label"
    found = dict(opposites.edits(label.split()))
    assert 0 in found
    assert 4 not in found
    assert {phrase.text for phrase in found[11]} == {"not label", "never label", "perhaps label"}


def test_opposite_has_rules_for_most_packaged_instructions() -> None:
    texts = [
        text.text for bank in ("ner", "re", "absa", "tc", "nli") for text in InstructionBank.load(bank).instructions
    ]
    found = [text for text in texts if opposites.edits(text.split())]
    assert len(found) > 0.95 * len(texts) > 50


def test_rule_costs_bound_the_edit_distance() -> None:
    for table in (opposites.WORDS, opposites.COMMANDS, opposites.INFINITIVES):
        for word, phrases in table.items():
            for phrase in phrases:
                assert phrase.text != word
                assert Levenshtein.distance([word], phrase.text.split()) <= phrase.cost
    assert min(phrase.cost for phrase in opposites.CONTRADICTIONS) == 1


@given(case=cases())
@example(case=(["ที่", "一x", "类"], 1.0, b"", Pools()))
def test_typos_edit_exactly_k_words_by_one_character_edit(case: Case) -> None:
    words, noisy, budget = run("random_typos", case)
    assert len(noisy) == len(words)
    edited = [(a, b) for a, b in zip(words, noisy, strict=True) if a != b]
    assert len(edited) == budget
    for a, b in edited:
        if is_unspaced(a) and len(split_words(a)) == 1:
            assert b == a + a, "a character with its marks"
            continue
        assert Levenshtein.distance(a, b) <= 2, "a swap counts as two"
        assert Levenshtein.distance(a, b) == 1 or sorted(a) == sorted(b)


@given(n=st.integers(0, 300), percent=st.integers(0, 100))
def test_word_budget_is_the_exact_ceiling(n: int, percent: int) -> None:
    assert word_budget(n, percent / 100) == -(-Fraction(percent, 100) * n // 1)


def test_word_budget_of_the_smallest_omega_is_one() -> None:
    assert word_budget(10, 5e-324) == 1


@given(n=st.integers(1, 50), data=st.data(), key=keys)
def test_stream_samples_distinct_numbers(n: int, data: st.DataObject, key: bytes) -> None:
    k = data.draw(st.integers(0, n))
    drawn = Stream(key).sample(n, k)
    assert len(set(drawn)) == k
    assert all(0 <= number < n for number in drawn)


def test_stream_is_uniform_across_blocks() -> None:
    rng = Stream(b"key")
    counts = Counter(rng.below(10) for _ in range(20_000))
    assert all(abs(count - 2000) < 5 * (20_000 * 0.1 * 0.9) ** 0.5 for count in counts.values())


texts_and_ids = st.lists(instructions, max_size=8).map(lambda texts: (texts, [f"s:{i}" for i in range(len(texts))]))


@given(
    rows=texts_and_ids,
    kind=st.sampled_from(["mixed", *KINDS]),
    phi=st.sampled_from([0.0, 0.5, 1.0]),
    data=st.data(),
)
def test_noise_does_not_depend_on_order_or_batching(
    rows: tuple[list[str], list[str]], kind: str, phi: float, data: st.DataObject
) -> None:
    texts, ids = rows
    noise = Noise(kind=kind, phi=phi)
    fixed = {"seed": 3, "epoch": 2, "vocabulary": VOCABULARY, "contexts": CONTEXTS}
    whole = noise.apply(texts, ids, **fixed)
    order = data.draw(st.permutations(range(len(texts))))
    for row in order:
        alone = Noise(kind=kind, phi=phi).apply([texts[row]], [ids[row]], **fixed)
        assert (alone.texts[0], alone.noisy[0], alone.kinds[0]) == (
            whole.texts[row],
            whole.noisy[row],
            whole.kinds[row],
        )
    for text, noisy_text, noisy, name in zip(texts, whole.texts, whole.noisy, whole.kinds, strict=True):
        assert (text.split() != noisy_text.split()) == noisy == (name != CLEAN)
        assert noisy or text is noisy_text


def test_noise_takes_any_string_including_lone_surrogates() -> None:
    assert Noise(omega=1.0).apply(["\ud800 \udfff x"], ["id\ud800"]).noisy == [True]


@pytest.mark.parametrize("argument", ["seed", "epoch", "variant"])
def test_noise_is_fresh_for_every(argument: str) -> None:
    ids = [f"s:{i}" for i in range(50)]
    first, second = (Noise().apply([INSTRUCTION] * 50, ids, **{argument: value}).texts for value in (0, 1))
    assert sum(a != b for a, b in zip(first, second, strict=True)) >= 45


@settings(max_examples=20)
@given(phi=st.floats(0, 1), epoch=st.integers(0, 1000))
def test_phi_is_the_share_of_noisy_samples(phi: float, epoch: int) -> None:
    n = 2000
    batch = Noise(phi=phi, kind="random_truncation").apply(["a b c"] * n, [str(i) for i in range(n)], epoch=epoch)
    assert abs(sum(batch.noisy) - phi * n) <= 6 * (n * phi * (1 - phi)) ** 0.5 + 1e-9


SLOTS = ("premise", "hypothesis", "options_")
slotted = st.lists(
    st.sampled_from(
        [
            "{premise}",
            '"{hypothesis}"?',
            "{options_}",
            "{{premise}}",
            "{other}",
            "Does",
            "this",
            "follow",
            "{premise",
            "{}",
        ]
    ),
    max_size=12,
).flatmap(
    lambda words: st.lists(st.sampled_from([" ", "\n", "\n\n"]), min_size=len(words), max_size=len(words)).map(
        lambda gaps: "".join(part for pair in zip(words, gaps, strict=True) for part in pair)
    )
)


@given(
    text=slotted,
    kind=st.sampled_from(["mixed", *KINDS]),
    omega=omegas,
    vocabulary=st.sampled_from([VOCABULARY, ["{premise}", "{{options_}}"], ["{other}"]]),
    contexts=st.sampled_from([CONTEXTS, ["a {hypothesis} b {premise} c"]]),
    key=st.integers(0, 1000),
)
def test_slots_stay_once_and_in_order_under_any_kind(
    text: str, kind: str, omega: float, vocabulary: list[str], contexts: list[str], key: int
) -> None:
    fixed = {"vocabulary": vocabulary, "contexts": contexts, "slots": [SLOTS]}
    batch = Noise(kind=kind, omega=omega).apply([text], [str(key)], **fixed)

    def held(text: str) -> list[str | None]:
        return [name for _, name in pieces(text, SLOTS)]

    assert held(batch.texts[0]) == held(text)
    words = Skeleton(text, SLOTS).words
    changed = Skeleton(batch.texts[0], SLOTS).words != words
    assert changed == batch.noisy[0] == (batch.kinds[0] != CLEAN)
    if vocabulary is VOCABULARY and contexts is CONTEXTS and len(words) > 1 and kind not in PICKY:
        assert changed == (omega > 0)


@given(text=instructions, kind=st.sampled_from(["mixed", *KINDS]), key=st.integers(0, 1000))
def test_fields_that_an_instruction_does_not_show_change_nothing(text: str, kind: str, key: int) -> None:
    plain, aware = (
        Noise(kind=kind).apply([text], [str(key)], vocabulary=VOCABULARY, contexts=CONTEXTS, slots=slots)
        for slots in (None, [("premise",)])
    )
    assert plain == aware


@given(kind=st.sampled_from([*KINDS]), key=st.integers(0, 1000))
def test_slots_stay_where_they_were_among_the_words(kind: str, key: int) -> None:
    words = [f"w{i}" for i in range(20)]
    text = " ".join([*words[:5], "{premise}", *words[5:15], "{hypothesis}", *words[15:]])
    batch = Noise(kind=kind).apply([text], [str(key)], vocabulary=VOCABULARY, slots=[SLOTS])
    found = batch.texts[0].split()
    share = [found.index(slot) / (len(found) - 2) for slot in ("{premise}", "{hypothesis}")]
    if kind == "opposite":
        assert " ".join(found).startswith(text), "nothing but appended words, as no rule knows these"
        return
    assert share == pytest.approx([0.25, 0.8], abs=0.06)


def test_the_white_space_around_slots_survives_noise() -> None:
    text = "Review:\n{premise}\nIs this review good or bad ?\n\n{options_}"
    batch = Noise("random_typos").apply([text], ["x"], slots=[SLOTS])
    assert batch.noisy == [True]
    assert "\n{premise}\n" in batch.texts[0]
    assert batch.texts[0].endswith("\n\n{options_}")


def test_slots_are_no_vocabulary() -> None:
    sample = Sample("0", "{premise} so {hypothesis}", "t", Context(text="c"), fields=(("premise", "p"),))
    assert build_pools([sample]).vocabulary == ("c", "hypothesis", "so")


def test_phi_is_decided_afresh_every_epoch() -> None:
    ids = [str(i) for i in range(200)]
    flags = [Noise(phi=0.5).apply([INSTRUCTION] * 200, ids, epoch=epoch).noisy for epoch in range(2)]
    assert flags[0] != flags[1]


def test_omega_zero_changes_nothing() -> None:
    batch = Noise(omega=0).apply(["a  b\n"], ["x"])
    assert (batch.texts, batch.noisy, batch.kinds) == (["a  b\n"], [False], [CLEAN])


def test_mixed_draws_by_weight() -> None:
    n = 3000
    ids = [str(i) for i in range(n)]
    counts = Counter(Noise().apply([INSTRUCTION] * n, ids).kinds)
    assert set(counts) == set(MIXED_KINDS)
    assert all(abs(count - n / 6) < 6 * (n * 5 / 36) ** 0.5 for count in counts.values())
    weighted = Noise(weights={"random_typos": 3, "opposite": 1, "random_insertion": 0})
    counts = Counter(weighted.apply([INSTRUCTION] * n, ids).kinds)
    assert set(counts) == {"random_typos", "opposite"}
    assert abs(counts["opposite"] - n / 4) < 6 * (n * 3 / 16) ** 0.5


GOLDEN = {
    "random_replacement": "Classify all words of the given text alpha positive or epsilon alpha",
    "random_insertion": "epsilon Classify all words of the given text as positive or negative . alpha delta",
    "random_truncation": "Classify all words of the given text as positive",
    "random_shuffling": "Classify all words of the given text negative positive or . as",
    "in_context_padding": "Classify all words of the given text as positive or negative four five six .",
    "opposite": "Classify all words of the given text as positive and positive . Unless?",
    "random_typos": "Classify all words of the given text ass positive or negatvie ..",
    "deepwordbug": "Classify all words og the given text a positive or negtaive .",
    "textbugger": "Classify all words 0f the given text a$ positive or nega tive .",
    "checklist": "Classify all words of the given text as positive or negative . 5m1AC86Eq0",
    "stresstest": "Classify all words of the given text as positive or negative . "
    "And true is true and true is true and true is true.",
    "synonyms": "Categorize all words of the provided text as positive or unfavorable .",
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_golden_values(kind: str) -> None:
    # changing these changes the noise of every run that names a seed: say so in the changelog
    fixed = {"seed": 7, "epoch": 1, "vocabulary": VOCABULARY, "contexts": CONTEXTS[:1]}
    batch = Noise(kind=kind).apply(
        ["Classify all words of the given text as positive or negative ."], ["gold:0"], **fixed
    )
    assert batch.texts == [GOLDEN[kind]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"omega": 1.5}, r"noise\.omega: found 1\.5"),
        ({"omega": float("nan")}, r"noise\.omega"),
        ({"phi": -0.1}, r"noise\.phi: found -0\.1"),
        (
            {"kind": "random_inserton"},
            r"unknown noise kind 'random_inserton': expected one of random_replacement, ",
        ),
        ({"kind": "robustlm.noise.base.missing"}, "unknown noise kind"),
        ({"kind": "no_such_module.fn"}, "cannot import 'no_such_module'"),
        ({"kind": "opposite", "weights": {"opposite": 1}}, r"noise\.weights: found weights for noise\.kind=opposite"),
        ({"weights": {"opposite": 0}}, r"noise\.weights: expected numbers"),
        ({"weights": {}}, r"noise\.weights: expected numbers"),
        ({"weights": {"opposite": -1}}, r"noise\.weights: .*'opposite': -1"),
        ({"weights": {"typo": 1}}, "unknown noise kind 'typo'"),
    ],
)
def test_bad_settings_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Noise(**arguments)


def test_configured_by_a_parser() -> None:
    parser = jsonargparse.ArgumentParser()
    parser.add_argument("--noise", type=Noise, default=Noise())
    parsed = parser.parse_args(["--noise.omega=0.1", '--noise.weights={"opposite": 1, "random_typos": 2}'])
    assert parser.instantiate(parsed).noise == Noise(omega=0.1, weights={"opposite": 1, "random_typos": 2})


def test_bad_lengths_are_named() -> None:
    with pytest.raises(ValueError, match="2 instructions need as many ids and own contexts, found 1 ids"):
        Noise().apply(["a b", "c d"], ["x"])
    with pytest.raises(ValueError, match="as many tuples of slots, found 1"):
        Noise().apply(["a b", "c d"], ["x", "y"], slots=[()])
    with pytest.raises(ValueError, match="and 1 own contexts"):
        Noise().apply(["a b", "c d"], ["x", "y"], own=["z"])


def reversed_words(words: list[str], omega: float, rng: Stream, pools: Pools) -> list[str]:
    return words[::-1]


def test_a_kind_is_added_by_name_or_import_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise_module, "KINDS", KINDS.copy())
    register_kind("reversed")(reversed_words)
    assert Noise(kind="reversed").apply(["a b c"], ["x"]).texts == ["c b a"]
    assert Noise(weights={"reversed": 1}).apply(["a b c"], ["x"]).kinds == ["reversed"]
    path = f"{__name__}.reversed_words"
    assert Noise(kind=path).apply(["a b c", "a a"], ["x", "y"]).kinds == [path, CLEAN]
    assert resolve_kind(path) is reversed_words
    for taken in ("reversed", "mixed", "clean"):
        with pytest.raises(ValueError, match="exists already"):
            register_kind(taken)


def test_vocabulary_is_ranked_stripped_and_cut() -> None:
    assert build_vocabulary(["b a, a", "(c) b -- a"], size=2) == ("a", "b")
    assert build_vocabulary(iter(["x y"])) == build_vocabulary(["y", "x"]) == ("x", "y")
    assert len(set(FALLBACK_WORDS)) == len(FALLBACK_WORDS) > 300


def test_pools_come_from_the_first_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pools_module, "_POOLED_SAMPLES", 3)
    samples = [
        Sample("0", "name it", "t", Context(text="long " * 1000, question="q")),
        Sample("1", "name it", "t", Context(question="which one")),
        Sample("2", "", "only target"),
        Sample("3", "left out", "t"),
    ]
    pools = build_pools(iter(samples))
    assert pools.contexts == [("long " * 400), "which one", "only target"]
    assert pools.vocabulary == ("long", "it", "name", "one", "only", "target", "which")
    assert [padding_text(sample) for sample in samples] == [*pools.contexts, "t"]


def test_noise_needs_no_framework() -> None:
    frameworks = "{'torch', 'lightning', 'transformers'}"
    code = f"import sys, robustlm.noise.base; print({frameworks} & set(sys.modules) or [])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"

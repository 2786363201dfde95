"""Perturbations do what they are named after, to as many words as they are told to."""

from __future__ import annotations

import json
import string
import sys
from collections.abc import Iterator
from pathlib import Path

import Levenshtein
import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustlm.conditions.condition import parse_condition
from robustlm.conditions.recipes import Attack
from robustlm.instructions.banks import InstructionBank, known_banks
from robustlm.noise import thesaurus as module
from robustlm.noise.base import KINDS, Noise, resolve_kind, word_budget
from robustlm.noise.character import _LOOKALIKES, NEIGHBOURS
from robustlm.noise.opposites import PUNCTUATION
from robustlm.noise.pools import Pools
from robustlm.noise.sentence import TAUTOLOGIES
from robustlm.noise.thesaurus import builtin
from robustlm.utils.random import Stream

TEXTS = [found.text for bank in known_banks() if "/" not in bank for found in InstructionBank.load(bank).instructions]
lists = st.lists(
    st.sampled_from(["a", "Of", "label:", "(TYPES),", "o'clock", "...", "7", "élan", "aa", "ß", "İ"]), max_size=9
)
omegas = st.sampled_from([0.0, 0.1, 0.34, 1.0])
keys = st.binary(max_size=6)


def ran(kind: str, words: list[str], omega: float = 1.0, key: bytes = b"") -> list[str]:
    return KINDS[kind](words, omega, Stream(key), Pools())


# ------------------------------------------------------------------------------------------------- characters


@given(words=lists, omega=omegas, key=keys)
def test_deepwordbug_edits_one_letter_of_each_of_k_words(words: list[str], omega: float, key: bytes) -> None:
    noisy = ran("deepwordbug", words, omega, key)
    edited = [(a, b) for a, b in zip(words, noisy, strict=True) if a != b]
    able = sum(any(char.isalpha() for char in word) for word in words)
    assert len(edited) == min(word_budget(len(words), omega), able)
    for before, after in edited:
        swapped = sorted(before) == sorted(after) and Levenshtein.distance(before, after) == 2
        assert swapped or Levenshtein.distance(before, after) == 1
        kept = [char for char in before if not char.isalpha()]
        assert [char for char in after if not char.isalpha()] == kept
        assert any(char.isalpha() for char in after)


def test_deepwordbug_makes_all_four_edits_at_any_letter() -> None:
    found = {ran("deepwordbug", ["(Word)"], key=bytes([i, j]))[0] for i in range(60) for j in range(30)}
    assert {"(oWrd)", "(Wrod)", "(Wodr)", "(ord)", "(Wrd)", "(Wod)", "(Wor)"} <= found
    assert {word for word in found if len(word) < 6} == {"(ord)", "(Wrd)", "(Wod)", "(Wor)"}
    assert {f"(Wor{char})" for char in string.ascii_lowercase if char != "d"} <= found
    assert {f"(Word{char})" for char in string.ascii_lowercase} <= found
    assert {f"({char.upper()}ord)" for char in string.ascii_lowercase} - found == {"(Word)"}


@given(words=lists, omega=omegas, key=keys)
def test_textbugger_edits_at_most_k_words(words: list[str], omega: float, key: bytes) -> None:
    noisy = ran("textbugger", words, omega, key)
    assert sum(a != b for a, b in zip(words, noisy, strict=True)) <= word_budget(len(words), omega)


def test_textbugger_makes_all_five_edits_and_spares_first_and_last_letters() -> None:
    word = "Tables."
    found = {ran("textbugger", [word], key=bytes([i, j]))[0] for i in range(60) for j in range(30)}
    spaces = {f"{word[:i]} {word[i:]}" for i in range(1, 6)}
    shorter = {word[:i] + word[i + 1 :] for i in range(1, 5)}
    swaps = {"Tbales.", "Talbes.", "Tabels."}
    alike = {word[:i] + _LOOKALIKES[c.lower()] + word[i + 1 :] for i, c in enumerate(word) if c.lower() in _LOOKALIKES}
    beside = {
        word[:i] + (key.upper() if char.isupper() else key) + word[i + 1 :]
        for i, char in enumerate(word)
        for key in NEIGHBOURS.get(char.lower(), "")
    }
    assert found == spaces | shorter | swaps | alike | beside
    assert len(alike) == 6


# -------------------------------------------------------------------------------------------------- sentences


def test_checklist_appends_one_string_of_ten() -> None:
    found = [ran("checklist", ["Classify", "it."], omega, bytes([i])) for i in range(30) for omega in (0.1, 1.0)]
    assert len({words[-1] for words in found}) == 30, "ω does not matter"
    for words in found:
        assert words[:-1] == ["Classify", "it."]
        assert len(words[-1]) == 10
        assert words[-1].isascii()
        assert words[-1].isalnum()


def test_stresstest_appends_a_tautology() -> None:
    found = {" ".join(ran("stresstest", ["Classify", "it"], 0.1, bytes([i]))) for i in range(200)}
    assert found == {f"Classify it {text}" for text in TAUTOLOGIES}
    ended = ran("stresstest", ["Classify", 'it."'], 0.1)
    assert ended[2] == "And"
    assert ended[-1].endswith(".")


@pytest.mark.parametrize("kind", ["checklist", "stresstest"])
def test_nothing_is_appended_without_noise(kind: str) -> None:
    assert ran(kind, ["a"], 0) == ["a"]
    assert ran(kind, []) == []


# ----------------------------------------------------------------------------------------------------- words


def swaps(words: str, of: str = "synonyms") -> set[str]:
    kind = resolve_kind(of)
    return {" ".join(kind(words.split(), 1.0, Stream(bytes([i])), Pools())) for i in range(100)}


def test_synonyms_come_from_the_thesaurus() -> None:
    known = builtin().words
    for i, text in enumerate(TEXTS):
        words = text.split()
        noisy = ran("synonyms", words, 0.5, bytes([i]))
        for before, after in zip(words, noisy, strict=True):
            left, right = before.strip(PUNCTUATION), after.strip(PUNCTUATION)
            if left != right:
                assert {left.lower(), right.lower()} <= known or {left.lower(), right.lower()} == {"a", "an"}
                assert left[0].isupper() == right[0].isupper()
                assert before.replace(left, "") == after.replace(right, "")
        assert sum(a != b for a, b in zip(words, ran("synonyms", words, 0.01), strict=True)) <= 2


def test_most_packaged_instructions_have_synonyms() -> None:
    assert sum(ran("synonyms", text.split()) != text.split() for text in TEXTS) > 0.9 * len(TEXTS)


def test_the_builtin_thesaurus_is_large_and_its_groups_are_apart() -> None:
    data = json.loads((Path(module.__file__).parents[1] / "assets/synonyms.json").read_text(encoding="utf-8"))
    for part in ("verbs", "nouns", "others"):
        words = [word for group in data[part] for word in group]
        assert len(set(words)) == len(words) > 90
        assert all(len(group) > 1 for group in data[part])
    assert len(builtin().words) > 900


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CHOOSE the chosen, choosing", {"SELECT the selected, selecting", "PICK the picked, picking"}),
        ("that identifies the identified", {"spots spotted", "recognizes recognized", "detects detected"}),
        ("one of the categories", {"one of the classes"}),
        ("Write down every word", {"Write down every term"}),
        ("an article", {"a report", "a piece"}),
        ('A "reply"', {'An "answer"', 'A "response"'}),
        ("which answers the question", {"which answers the query"}),
        ("the answers", {"the replies", "the responses"}),
        ("and answer with care", {"and answer with care"}),
        ("Label the label of it.", {"Mark the tag of it.", "Tag the tag of it.", "Annotate the tag of it."}),
        ("the use, a match", {"the use, a match"}),
        ("It is labelled so", {"It is labelled so"}),
        ("the hypotheses", {"the conjectures"}),
        ("-- Quux ...", {"-- Quux ..."}),
    ],
)
def test_synonyms_keep_form_case_and_article(text: str, expected: set[str]) -> None:
    found = swaps(text)
    if text.startswith(("CHOOSE", "that")):  # each word is drawn by itself
        found = {word for some in found for word in some.split()}
        words = {word for some in expected for word in some.split()}
        assert found - words <= {"the", "that", "it"} | {f"{word}," for word in words}
    else:
        assert found == expected


def test_a_file_of_synonyms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.json").write_text('{"Label": ["tag", "label", "Etikett"], "an": []}', encoding="utf-8")
    assert swaps("(Label) an labels", "synonyms:mine.json") == {"(Tag) an labels", "(Etikett) an labels"}
    condition = parse_condition("unseen+synonyms:mine.json@0.3+protected")
    assert condition.noise == Noise("synonyms:mine.json", 0.3, protect=True)
    assert condition.noise.apply(["a label"], ["x"]).texts in (["a tag"], ["an Etikett"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"noise kind synonyms: .*cannot be read .*expected wordnet, or a JSON file"),
        ("{", "found no UTF-8 JSON"),
        ("[]", "found list"),
        ("{}", "found dict"),
        ('{"a": "b"}', "'a': found str; expected a list"),
        ('{"a": ["b c"]}', "'a': found 'b c'; expected single words"),
        ('{"a": [1]}', "'a': found 1; expected single words"),
    ],
)
def test_a_bad_file_of_synonyms_is_named(text: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.json"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message) as caught:
        Noise(f"synonyms:{file}")
    assert str(file) in str(caught.value)


LEXICON = """<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE LexicalResource SYSTEM "http://globalwordnet.github.io/schemas/WN-LMF-1.1.dtd">
<LexicalResource xmlns:dc="https://globalwordnet.github.io/schemas/dc/">
  <Lexicon id="{id}" label="Small" language="{language}" email="a@example.org" license="CC0" version="{version}">
{entries}
  </Lexicon>
</LexicalResource>
"""


def lexicon(folder: Path, id: str, language: str, version: str, senses: list[tuple[str, list[str]]]) -> None:
    """Add a lexicon to wn's database: for each sense, its part of speech and its words."""
    import wn

    lines, synsets = [], []
    for number, (part, words) in enumerate(senses):
        for word in words:
            name = f"{id}-{part}{number}-{word.replace(' ', '_')}"
            sense = f'<Sense id="{name}-s" synset="{id}-{number}-{part}"/>'
            lines.append(f'<LexicalEntry id="{name}"><Lemma writtenForm="{word}" partOfSpeech="{part}"/>{sense}'
                         "</LexicalEntry>")  # fmt: skip
        synsets.append(f'<Synset id="{id}-{number}-{part}" ili="" partOfSpeech="{part}"/>')
    file = folder / f"{id}-{version}.xml"
    entries = "\n".join([*lines, *synsets])
    file.write_text(LEXICON.format(id=id, language=language, version=version, entries=entries), encoding="utf-8")
    wn.add(file, progress_handler=None)


@pytest.fixture
def wordnets(tmp_path: Path) -> Iterator[Path]:
    """An empty database of wn."""
    wn = pytest.importorskip("wn")
    before = wn.config.data_directory
    wn.config.data_directory = tmp_path / "wn"
    module.load_thesaurus.cache_clear()
    yield tmp_path
    module.load_thesaurus.cache_clear()
    wn.config.data_directory = before


def test_wordnet(wordnets: Path) -> None:
    senses = [
        ("v", ["label", "mark"]),
        ("n", ["label", "price tag", "tag", "Labeling"]),
        ("n", ["label", "brand"]),
        ("n", ["tally"]),
    ]
    lexicon(wordnets, "oewn", "en", "2024", senses)
    lexicon(wordnets, "oewn", "en", "2023", [("n", ["label", "old"])])
    assert swaps("Label the label run.", "synonyms:wordnet") == {"Mark the tag run."}
    assert swaps("Label the label run.", "synonyms:wordnet:oewn:2023") == {"Label the old run."}
    assert Noise("synonyms:wordnet:oewn:2024", 0.5).omega == 0.5
    assert parse_condition("attack:textfooler:wordnet@0.3").attack == Attack("textfooler:wordnet", 0.3)
    found = module.load_thesaurus("wordnet")
    assert isinstance(found, module.WordNet)
    assert found.lexicon == "oewn:2024"


def test_wordnets_of_other_languages(wordnets: Path) -> None:
    lexicon(wordnets, "odenet", "de", "1.4", [("n", ["Satz", "Phrase", "Wort Gruppe"]), ("v", ["finden", "suchen"])])
    assert swaps("Finden: den Satz hier.", "synonyms:wordnet:odenet") == {"Suchen: den Phrase hier."}
    with pytest.raises(ValueError, match=r"found no lexicon of English \(there: odenet:1.4\); expected it after"):
        Noise("synonyms:wordnet")


def test_wordnet_that_is_missing_is_named(wordnets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = r"noise kind synonyms: found no lexicon oewn:1999 \(there: none\); .*`python -m wn download oewn:1999`"
    with pytest.raises(ValueError, match=expected):
        Noise("synonyms:wordnet:oewn:1999")
    monkeypatch.setitem(sys.modules, "wn", None)
    with pytest.raises(ValueError, match=r"synonyms: the package wn is not installed; expected `pip install"):
        Noise("synonyms:wordnet")


# ------------------------------------------------------------------------------------------------- conditions


@pytest.mark.parametrize("kind", ["deepwordbug", "textbugger", "synonyms", "checklist", "stresstest"])
def test_conditions(kind: str) -> None:
    condition = parse_condition(f"unseen+{kind}@0.2")
    assert condition.split == "unseen"
    assert condition.noise == Noise(kind, 0.2)
    assert parse_condition(f"{kind}@0.2+protected").noise == Noise(kind, 0.2, protect=True)


@pytest.mark.parametrize("text", ["protected", "unseen+protected", "clean+protected"])
def test_protection_needs_noise(text: str) -> None:
    with pytest.raises(ValueError, match=r"protects words without noise"):
        parse_condition(text)

"""Words of texts in any script: Latin ones as they always were, and scripts without blanks character by character."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence

import numpy as np
import pytest
import regex  # type: ignore[import-untyped]
from hypothesis import given
from hypothesis import strategies as st

from robustlm.conditions.search import attack
from robustlm.instructions.slots import pieces
from robustlm.noise.base import KINDS, Noise, word_budget
from robustlm.noise.distortion import RBE, beta
from robustlm.noise.edits import replay
from robustlm.noise.pools import build_vocabulary
from robustlm.noise.protection import Guard, protected_phrases
from robustlm.sample import Context, Sample
from robustlm.utils.words import UNSPACED as SCRIPTS
from robustlm.utils.words import is_unspaced, rejoin, split_words

ENGLISH = (
    "Please extract all named entities from the given text and classify each of them as one of the following types: "
    "person, organization, location or miscellaneous.",
    "Is the following review positive or negative?\n\n{text}\n\n{options_}",
    'Premise: "{premise}"\nHypothesis: "{hypothesis}"\nDoes the premise imply the hypothesis? Answer \'yes\' or "no".',
    "List  every relation ; write None if there is none .\tDo not explain.",
    "Résumé — naïve “quotes” … don’t: déjà vu? Ünïcode, Ελληνικά и кириллица 한국어 문장 tiếng Việt",
    "Label:",
    "the the the",
)
SLOTS = ("text", "premise", "hypothesis", "options_")
VOCABULARY = ["alpha", "beta", "gamma", "naïve", "positive"]
CONTEXTS = ["one two three four five six seven", "a {text} b", "short one"]

RECORDED = {
    "checklist": "5f69edc3ffa2c341",
    "deepwordbug": "7dd90e961e4c45af",
    "in_context_padding": "38fc5ba38a1f6aae",
    "opposite": "02339b493f40a44a",
    "random_insertion": "e2a8c786141c82c8",
    "random_replacement": "da6d8d7bcb2681c7",
    "random_shuffling": "caf298c894a43ff0",
    "random_truncation": "1e099388b73d5274",
    "random_typos": "127271fb0fe5b69e",
    "stresstest": "7516786d13d89717",
    "synonyms": "0ec89a5207197ed2",
    "textbugger": "5bd00147b219a5c4",
}


def english_noise(kind: str) -> str:
    """Everything that a kind of noise says about the English texts, as a digest."""
    said = []
    for omega, seed, protect, fields in (
        (omega, seed, protect, fields)
        for omega in (0.1, 0.4, 1.0)
        for seed in range(5)
        for protect in (False, True)
        for fields in (None, [SLOTS] * len(ENGLISH))
    ):
        batch = Noise(kind, omega, protect=protect).apply(
            ENGLISH, [f"row:{row}" for row in range(len(ENGLISH))], seed=seed, vocabulary=VOCABULARY, contexts=CONTEXTS,
            slots=fields, protected=[("positive", "negative", "yes")] * len(ENGLISH), report=True,
        )  # fmt: skip
        assert batch.edits is not None
        for text, noisy, edits in zip(ENGLISH, batch.texts, batch.edits, strict=True):
            assert replay(text, edits, SLOTS if fields else ()) == noisy
        pairs = RBE().compare(ENGLISH, batch.texts)
        said.append([batch.texts, batch.noisy, batch.kinds, batch.edits, pairs.tolist()])
    return hashlib.blake2b(json.dumps(said).encode(), digest_size=8).hexdigest()


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_english_noise_is_what_it_was(kind: str) -> None:
    # recorded before words of scripts without blanks were told apart; changing these changes every run with a seed
    assert english_noise(kind) == RECORDED[kind]


UNSPACED = {
    "Chinese": "请判断下面这段评论的情感是正面还是负面，只回答一个词。",
    "Japanese": "次の文章の感情がポジティブかネガティブかを分類してください。",
    "Thai": "จงจำแนกความรู้สึกของข้อความต่อไปนี้ ว่าเป็นบวกหรือลบ",
    "Lao": "ຈົ່ງຈັດປະເພດຂໍ້ຄວາມຕໍ່ໄປນີ້ ວ່າເປັນບວກຫຼືລົບ",
    "Khmer": "សូមចាត់ថ្នាក់អត្ថបទខាងក្រោមថាវិជ្ជមានឬអវិជ្ជមាន",
    "Myanmar": "အောက်ပါစာသားကို အပြုသဘော သို့မဟုတ် အနုတ်သဘော ခွဲခြားပါ။",
    "mixed": "请把下面的text按照 sentiment 分为 positive 或negative：\n{text}\n只回答“positive”或“negative”。",
    "slots": "前提：{premise}\n假设：{hypothesis}，前提是否蕴含假设？{options_}",
}
BLANK_BETWEEN = regex.compile(rf"(?<=[{SCRIPTS}]\p{{M}}*)[ ]+(?=[{SCRIPTS}])")
CHINESE = ("今天天气很好", "我们一起去看电影。", "one two three")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("请把text分类。", ["请", "把", "text", "分", "类", "。"]),
        ("分为 A 或B：是,否", ["分", "为", "A", "或", "B", "：", "是", ",", "否"]),
        ("判断{premise}与{文本}？", ["判", "断", "{premise}", "与", "{文本}", "？"]),
        ("がカー『x』", ["が", "カ", "ー", "『", "x", "』"]),
        ("ต่อไปนี้ 2 ข้อ", ["ต่", "อ", "ไ", "ป", "นี้", "2", "ข้", "อ"]),
        ("ខ្មែរ\u200bអក្សរ", ["ខ្មែ", "រ", "អ", "ក្ស", "រ"]),
        ("葛\U000e0100城", ["葛\U000e0100", "城"]),
        ("Tag the 文 x", ["Tag", "the", "文", "x"]),
        ("don’t “naïve” 한국어 문장 good👍", ["don’t", "“naïve”", "한국어", "문장", "good👍"]),
        ("", []),
    ],
)
def test_words_of(text: str, words: Sequence[str]) -> None:
    assert split_words(text) == words
    assert rejoin(text, words) == (text if is_unspaced(text) else " ".join(text.split()))


characters = st.one_of(st.characters(), st.sampled_from("请把文本分类。 \n、がカทีั่ ក្ខабa b{x}\u200b\u3099"))
scripts = st.one_of(st.text(characters, max_size=40), st.sampled_from([*UNSPACED.values(), *ENGLISH]))


@given(text=scripts)
def test_words_join_to_the_text_again(text: str) -> None:
    words = split_words(text)
    assert all(word and word == word.strip() and len(word.split()) == 1 for word in words)
    joined = rejoin(text, words)
    if is_unspaced(text):
        bare = text.strip().strip("\u200b").strip()
        assert joined == bare or "\u200b" in text
        assert split_words(joined) == words
    else:
        assert (words, joined) == (text.split(), " ".join(text.split()))


@given(text=scripts, words=st.lists(st.sampled_from(["类", "x", "ที", "、", "a b"]), max_size=8))
def test_new_words_join_without_merging_into_others(text: str, words: list[str]) -> None:
    assert split_words(rejoin(text, words)) == " ".join(words).split()


@pytest.mark.parametrize("language", UNSPACED)
@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.parametrize("protect", [False, True])
def test_noise_of_scripts_without_blanks(kind: str, language: str, protect: bool) -> None:
    text = UNSPACED[language]
    words = split_words(text)
    assert len(words) > 15
    slots = ("text", "premise", "hypothesis", "options_")
    vocabulary = build_vocabulary([*UNSPACED.values(), *CHINESE])
    latin_only = kind in ("deepwordbug", "textbugger", "synonyms")
    for omega in (0.1, 0.3, 1.0):
        batch = Noise(kind, omega, protect=protect).apply(
            [text] * 8, [f"row:{row}" for row in range(8)], vocabulary=vocabulary, contexts=CHINESE,
            slots=[slots] * 8, report=True,
        )  # fmt: skip
        assert batch.edits is not None
        d = RBE().measure([text] * 8, batch.texts, batch.noisy)
        for noisy, changed, edits, distance in zip(batch.texts, batch.noisy, batch.edits, d, strict=True):
            assert changed == (noisy != text)
            assert changed or latin_only
            assert len(BLANK_BETWEEN.findall(noisy)) <= len(BLANK_BETWEEN.findall(text))
            assert replay(text, edits, slots) == noisy
            assert [name for _, name in pieces(noisy, slots)] == [name for _, name in pieces(text, slots)]
            assert 0 <= distance <= 1
            assert (distance > 0) == changed
        if omega < 1 and not latin_only:
            kept = [len(set(words) & set(split_words(noisy))) / len(set(words)) for noisy in batch.texts]
            assert min(kept) > 0.4, "an instruction is noisy, not gone"


@pytest.mark.parametrize("kind", ["random_replacement", "random_insertion", "random_truncation", "random_typos"])
def test_distortion_of_chinese_moves_with_the_edits(kind: str) -> None:
    text = UNSPACED["Chinese"]
    count = len(split_words(text))
    found = []
    for omega in (0.1, 0.3, 0.6):
        batch = Noise(kind, omega).apply([text] * 20, list(map(str, range(20))), vocabulary=list("天地玄黄宇宙洪荒"))
        pairs = RBE().compare([text] * 20, batch.texts)
        assert (pairs[:, 0] == word_budget(count, omega)).all()
        found.append(float(beta(RBE().measure([text] * 20, batch.texts, batch.noisy), batch.noisy).mean()))
    assert 0 < found[0] < found[1] < found[2] < 1


def test_opposite_of_chinese_stays_within_its_budget() -> None:
    for text in (UNSPACED["Chinese"], UNSPACED["mixed"], "是。", "判断"):
        for omega in (0.05, 0.2, 1.0):
            batch = Noise("opposite", omega).apply([text] * 20, list(map(str, range(20))))
            edits = RBE().compare([text] * 20, batch.texts)[:, 0]
            assert np.all((edits >= 1) & (edits <= word_budget(len(split_words(text)), omega)))


def test_noise_keeps_line_breaks_and_style_of_chinese() -> None:
    text = UNSPACED["mixed"]
    batch = Noise("random_replacement", 0.1).apply(
        [text] * 10, list(map(str, range(10))), vocabulary=["好"], slots=[("text",)] * 10
    )
    assert all("\n{text}\n" in noisy for noisy in batch.texts)


def test_words_of_another_script_in_an_english_instruction() -> None:
    batch = Noise("random_insertion", 1.0).apply(["Tag the text"], ["x"], vocabulary=["类", "请"])
    assert not BLANK_BETWEEN.search(batch.texts[0])
    assert [word for word in split_words(batch.texts[0]) if word.isascii()] == ["Tag", "the", "text"]


def test_labels_of_chinese_are_protected_within_running_text() -> None:
    context = Context(format="标签：类别", option="正面，负面")
    sample = Sample(
        "0", "请判断情感是正面还是负面，回答「正面」或“neutral”，标签：x。", "正面", context, choices=("正面", "负面")
    )
    phrases = protected_phrases(sample)
    assert set(phrases) >= {"正面", "负面", "标签:"}
    guard = Guard(sample.instruction, phrases)
    assert "".join(guard.words) == "请判断情感是还是，回答或，x。"
    assert guard.text(()) == sample.instruction
    for kind in KINDS:
        batch = Noise(kind, 0.5, protect=True).apply(
            [sample.instruction] * 10, list(map(str, range(10))), protected=[phrases] * 10
        )
        for noisy in batch.texts:
            assert re.findall("正面|负面|“neutral”|标签：", noisy) == ["正面", "负面", "正面", "“neutral”", "标签："]


def test_an_english_label_is_protected_between_chinese_characters() -> None:
    assert Guard("分为positive或'bad'类", ("positive",)).words == ["分", "为", "或", "类"]


def test_chinese_vocabulary_holds_characters_without_punctuation() -> None:
    assert build_vocabulary(["天气，天气。(x)"]) == ("天", "气", "x")


def test_attacks_change_characters_of_chinese() -> None:
    asked: list[str] = []

    def score(lines: Sequence[str]) -> list[float]:
        asked.extend(lines)
        return [0.0 if "坏" in line else len(line) for line in lines]

    found = attack("请判断 这段文本", lambda words, at: ["坏"], score, edits=1)
    assert (found.edits[0].after, len(found.edits)) == ("坏", 1)
    assert len(found.text) == len("请判断 这段文本")
    assert not any(
        BLANK_BETWEEN.search(line.replace("断 这", "断这")) for line in asked if "断" in line and "这" in line
    )

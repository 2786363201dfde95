import json
from collections import Counter
from importlib.resources import files
from typing import Any, get_args

import pytest

from robustlm.sample import Context
from robustlm.sources.corpus import TASK_OF, Split, samples, sentence
from robustlm.tasks import TASKS

SPLITS = get_args(Split)


def bank(name: str) -> dict[str, Any]:
    return json.loads((files("robustlm") / f"assets/instructions/quickstart/{name}.json").read_text("utf-8"))


@pytest.mark.parametrize("split", SPLITS)
def test_a_longer_corpus_starts_with_the_shorter(split: Split) -> None:
    assert samples(split, 100, seed=3)[:17] == samples(split, 17, seed=3)
    assert len(samples(split, 17, seed=3)) == 17


def test_another_seed_gives_other_sentences() -> None:
    first, second = ({s.context.text for s in samples("train", 600, seed=seed)} for seed in (0, 1))
    assert not first & second


def test_no_person_and_so_no_sentence_is_in_two_splits() -> None:
    people, texts = Counter(), Counter()
    for split in SPLITS:
        drawn = [sentence(split, number, seed) for number in range(800) for seed in (0, 1)]
        people.update({name for s in drawn for kind, name in s.items["entities"] if kind == "person"})
        texts.update({s.text for s in drawn})
    assert set(people.values()) == set(texts.values()) == {1}


def test_every_sentence_names_exactly_one_person() -> None:
    for number in range(500):
        kinds = [kind for kind, _ in sentence("train", number).items["entities"]]
        assert kinds.count("person") == 1
        assert len(set(kinds)) == len(kinds)


def test_answers_are_in_the_text_and_in_its_order() -> None:
    for number in range(500):
        drawn = sentence("test", number)
        words = [word for name in ("entities", "triplets") for _, *ws in drawn.items[name] for word in ws]
        words += [word for _, *ws in drawn.items["relation"] for word in ws]
        assert all(word in drawn.text for word in words)
        places = [drawn.text.index(name) for _, name in drawn.items["entities"]]
        assert places == sorted(places)
        assert drawn.text.endswith(".")
        assert drawn.text[0].isupper()
        assert "{" not in drawn.text


def test_relation_links_two_entities_of_the_sentence() -> None:
    for number in range(500):
        drawn = sentence("train", number)
        names = {name for _, name in drawn.items["entities"]}
        assert all({head, tail} <= names and head != tail for _, head, tail in drawn.items["relation"])


def test_sentiment_follows_from_the_opinions() -> None:
    expected = {
        frozenset(): "neutral",
        frozenset({"positive"}): "positive",
        frozenset({"negative"}): "negative",
        frozenset({"positive", "negative"}): "mixed",
    }
    seen = Counter()
    for number in range(500):
        items = sentence("validation", number).items
        label = expected[frozenset(polarity for polarity, _, _ in items["triplets"])]
        assert items["sentiment"] == ((label,),)
        assert items["aspects"] == tuple(("aspect", aspect) for _, aspect, _ in items["triplets"])
        seen[label] += 1
    assert min(seen.values()) > 30


def test_labels_are_varied_and_some_answers_are_empty() -> None:
    targets = Counter((s.id.split("/")[-1], s.target) for s in samples("train", 6000))
    assert len({target for name, target in targets if name == "topic"}) == 8
    assert {target.split(":")[0] for name, target in targets if name == "relation"} == {
        "works for", "leads", "founded", "owns", "lives in", "born in", "based in", "None",
    }  # fmt: skip
    for name in ("relation", "triplets", "aspects"):
        assert 0.05 < targets[name, "None"] / 1000 < 0.2


def test_sentences_vary() -> None:
    texts = [sentence("train", number).text for number in range(1000)]
    assert len(set(texts)) == 1000
    assert 16 < sum(len(text.split()) for text in texts) / 1000 < 24


def test_only_the_instruction_tells_which_task_is_meant() -> None:
    by_text = {}
    for sample in samples("test", 60):
        assert sample.context == Context(text=sample.context.text)
        by_text.setdefault(sample.context.text, []).append(sample)
    assert [len(group) for group in by_text.values()] == [6] * 10
    for group in by_text.values():
        assert [s.bank for s in group] == [f"quickstart/{name}" for name in TASK_OF]
        assert [s.task for s in group] == list(TASK_OF.values())
        assert not any(s.instruction for s in group)


def test_ids_name_split_sentence_and_task() -> None:
    assert [s.id for s in samples("train", 3, tasks=["topic", "entities"])] == [
        "quickstart/train:0/topic",
        "quickstart/train:0/entities",
        "quickstart/train:1/topic",
    ]


def test_pretraining_asks_in_phrasings_of_its_own_and_for_copies() -> None:
    asked = samples("pretrain", 7)
    assert [s.bank for s in asked] == [f"quickstart/pretrain/{name}" for name in (*TASK_OF, "copy")]
    assert asked[-1].target == asked[-1].context.text
    assert {s.dataset for s in samples("pretrain", 4, tasks=["topic"])} == {"topic"}
    assert "copy" not in {s.dataset for s in samples("train", 14)}


def test_answers_are_read_back_as_they_were_meant() -> None:
    for sample in samples("train", 600):
        number = int(sample.id.split(":")[1].split("/")[0])
        assert TASKS[sample.task].parse(sample.target).items == sentence("train", number).items[sample.dataset]


@pytest.mark.parametrize("name", TASK_OF)
def test_banks_hold_enough_different_phrasings(name: str) -> None:
    for loaded, split in ((bank(f"pretrain/{name}"), "seen"), (bank(name), "seen"), (bank(name), "unseen")):
        assert loaded["task"] == TASK_OF[name]
        assert len(loaded["concise"][split]) >= 8
        assert len(loaded["detailed"][split]) >= 3


def test_no_phrasing_occurs_twice_in_any_bank() -> None:
    banks = [bank(prefix + name) for name in TASK_OF for prefix in ("", "pretrain/")]
    versions = [each[version] for each in banks for version in ("concise", "detailed")]
    counts = Counter(p.lower() for version in versions for part in version.values() for p in part)
    assert set(counts.values()) == {1}


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown split 'dev'"):
        samples("dev", 1)
    with pytest.raises(ValueError, match="unknown quickstart tasks"):
        samples("train", 1, tasks=["ner"])

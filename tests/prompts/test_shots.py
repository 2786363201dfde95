"""Which rows are shown as examples."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustlm.prompts.few_shot import choose, input_of, pool_of
from robustlm.sample import Context, Sample

LABELS = ("good", "bad", "middling")


def rows(counts: tuple[int, ...], dataset: str = "films") -> list[Sample]:
    """So many rows of each label."""
    return [
        Sample(f"{dataset}-{label}-{i}", "", label, Context(text=f"{dataset} {label} {i}"), dataset=dataset,
               bank="sentiment", choices=LABELS)
        for label, count in zip(LABELS, counts, strict=True) for i in range(count)
    ]  # fmt: skip


@given(st.tuples(*[st.integers(0, 6)] * 3), st.integers(1, 12), st.integers(0, 5))
def test_labels_are_balanced_and_fewer_are_a_part_of_more(counts: tuple[int, ...], shots: int, seed: int) -> None:
    pool = ("films", "")
    if sum(counts) < shots:
        with pytest.raises(ValueError, match=f"found {sum(counts)} rows .* expected {shots} or more"):
            choose(rows(counts), [pool], (), shots, seed)
        return
    chosen = choose(rows(counts), [pool], (), shots, seed).by_pool[pool]
    assert len({sample.id for sample in chosen}) == shots
    shown = Counter(sample.target for sample in chosen)
    for label, count in zip(LABELS, counts, strict=True):
        assert shown[label] >= min(count, max(shown.values()) - 1)
    if shots > 1:
        fewer = choose(rows(counts), [pool], (), shots - 1, seed).by_pool[pool]
        assert [sample for sample in chosen if sample in fewer] == list(fewer)
    again = choose(rows(counts)[::-1], [pool, pool], (), shots, seed)
    assert again.by_pool == {pool: chosen}


def test_another_seed_draws_others() -> None:
    found = {choose(rows((6, 6, 6)), [("films", "")], (), 3, seed).by_pool[("films", "")] for seed in range(8)}
    assert len(found) > 4


def test_places_are_balanced_where_every_row_has_its_own_choices() -> None:
    given = [
        Sample(f"q{i}", "", f"{i}{'abcd'[i % 7 % 4]}", choices=tuple(f"{i}{letter}" for letter in "abcd"), dataset="d",
               context=Context(question=f"{i}?"))
        for i in range(40)
    ]  # fmt: skip
    chosen = choose(given, [("d", "")], (), 8, 0).by_pool[("d", "")]
    assert Counter(sample.choices.index(sample.target) for sample in chosen) == {0: 2, 1: 2, 2: 2, 3: 2}


def test_datasets_and_topics_are_kept_apart() -> None:
    given = [
        Sample(f"{dataset}{topic}{i}", "", "x", Context(text=f"{dataset}{topic}{i}"), dataset=dataset, topic=topic)
        for dataset in "ab" for topic in ("sea", "sky") for i in range(3)
    ]  # fmt: skip
    pools = [("a", "sea"), ("b", "sky")]
    found = choose(given, pools, (), 2, 0)
    assert sorted(found.by_pool) == pools
    assert all(pool_of(sample) == pool for pool, chosen in found.by_pool.items() for sample in chosen)
    assert found.of(Sample("other", "", "", dataset="a", topic="sea")) == found.by_pool["a", "sea"]
    with pytest.raises(ValueError, match=r"found 0 rows for the dataset 'c' and the topic 'sea'.*some of a, b"):
        choose(given, [("c", "sea")], (), 2, 0)


def test_rows_of_the_test_are_no_examples(caplog: pytest.LogCaptureFixture) -> None:
    given = rows((3, 0, 0))
    tested = {input_of(Sample("t", "", "bad", Context(text=" FILMS  good 1"), bank="sentiment"))}
    chosen = choose(given, [("films", "")], tested, 2, 0).by_pool[("films", "")]
    assert sorted(sample.id for sample in chosen) == ["films-good-0", "films-good-2"]
    assert "left out 1 rows whose input also occurs in data.test" in caplog.text
    with pytest.raises(ValueError, match=r"found 2 rows .* besides 1 that were left out.*; expected 3 or more"):
        choose(given, [("films", "")], tested, 3, 0)


def test_what_makes_two_inputs_equal() -> None:
    def same(one: Sample, other: Sample) -> bool:
        return input_of(one) == input_of(other)

    text = Context(text="The caf\u00e9.")
    first = Sample("a", "", "x", text, bank="b")
    assert same(first, Sample("b", "Do", "y", Context(text="the  cafe\u0301. ", option="p, q"), bank="b"))
    assert not same(first, Sample("b", "", "x", Context(question="The caf\u00e9."), bank="b"))
    assert not same(Sample("a", "Do this", "x", text), Sample("b", "Do that", "x", text))
    fields = (("premise", "It rains."), ("options_", "OPTIONS:\n- a"))
    assert same(
        Sample("a", "", "x", bank="b", fields=fields),
        Sample("b", "", "x", bank="b", fields=(("premise", "it rains."),)),
    )
    assert not same(Sample("a", "", "x", bank="b", fields=fields), Sample("b", "", "x", bank="b"))

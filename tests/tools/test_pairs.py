"""Contrastive rows."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustlm.cli import main
from robustlm.instructions.banks import InstructionBank
from robustlm.rows.base import SourceError
from robustlm.rows.readers import iter_rows
from robustlm.rows.writers import write_rows
from robustlm.sample import Context, Sample
from robustlm.sources.loading import load
from robustlm.sources.samples import load_samples
from robustlm.tools.hard_negatives import contrasted
from robustlm.tools.pairs import PairSummary, write_pairs
from robustlm.tools.two_phrasings import phrased
from tests.sources.test_sources import DATA, FLAN, flan


def made(count: int, labels: int = 2, dataset: str = "set", instruction: str = "Do.") -> list[Sample]:
    return [
        Sample(
            f"{dataset}:{i}",
            instruction,
            f"label: {i % labels}",
            Context(text=f"t{i}"),
            "tc",
            dataset=dataset,
            variant="Please do.",
        )
        for i in range(count)
    ]


def check_groups(groups: list[list[Sample]], samples: list[Sample], negatives: int) -> None:
    assert sorted(s.id for group in groups for s in group) == sorted(s.id for s in samples), "each once"
    for first, *others in groups:
        assert len(others) <= negatives
        for other in others:
            assert (other.instruction, other.dataset, other.task) == (first.instruction, first.dataset, first.task)
            assert other.target != first.target
        inputs = [(sample.context, sample.fields) for sample in (first, *others)]
        assert len(set(inputs)) == len(inputs)


@given(
    rows=st.lists(
        st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.sampled_from("123"), st.sampled_from("tuvw")),
        max_size=40,
    ),
    negatives=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_groups_hold_what_they_promise(rows: list[tuple[str, ...]], negatives: int, seed: int) -> None:
    samples = [
        Sample(str(i), instruction, target, Context(text=text), dataset=dataset)
        for i, (dataset, instruction, target, text) in enumerate(rows)
    ]
    groups = contrasted(samples, negatives, seed)
    check_groups(groups, samples, negatives)
    assert contrasted(samples[::-1], negatives, seed) == groups, "the order of rows does not matter"
    alone = [group[0] for group in groups if len(group) == 1]
    for one in alone:
        for other in alone:
            same = one.dataset == other.dataset and one.instruction == other.instruction
            assert not same or one.target == other.target or one.context == other.context, "none missed the other"


@pytest.mark.parametrize(
    ("counts", "negatives", "sizes"),
    [
        ((10, 10), 1, {2: 10}),
        ((10, 5), 1, {2: 5, 1: 5}),
        ((10, 5), 2, {3: 5}),
        ((6, 6), 2, {3: 4}),
        ((3, 3, 3), 2, {3: 3}),
        ((7, 1, 1, 1), 1, {2: 3, 1: 4}),
        ((2, 2), 3, {3: 1, 1: 1}),
        ((4,), 1, {1: 4}),
    ],
)
def test_few_rows_stay_alone(counts: tuple[int, ...], negatives: int, sizes: dict[int, int]) -> None:
    targets = [f"label: {label}" for label, count in enumerate(counts) for _ in range(count)]
    samples = [replace(s, target=target) for s, target in zip(made(len(targets)), targets, strict=True)]
    assert Counter(map(len, contrasted(samples, negatives, 0))) == sizes


@pytest.mark.parametrize("negatives", [1, 2, 7])
def test_every_row_of_two_labels_has_a_hard_negative(negatives: int) -> None:
    """Each row of a group is an anchor in training, not the first alone."""
    for group in contrasted(made(240), negatives, 0):
        assert all(any(other.target != own.target for other in group) for own in group)


def test_a_group_of_a_bank_is_asked_in_the_phrasing_of_its_first() -> None:
    """Rows of a bank are asked the same thing, whatever phrasing each has drawn: few of them are enough for pairs."""
    bare = [replace(sample, instruction="", variant=None, bank="sentiment") for sample in made(16)]
    own = {sample.id: sample for sample in phrased(bare, "both", {}, 0)}
    groups = contrasted(list(own.values()), 1, 0)
    assert Counter(map(len, groups)) == {2: 8}
    for first, other in groups:
        asked = [(one.instruction, one.instruction_id, one.variant) for one in (first, other, own[first.id])]
        assert len(set(asked)) == 1


def test_data_sets_take_turns_and_the_seed_shuffles() -> None:
    samples = [*made(20, dataset="b"), *made(8, dataset="a")]
    groups = contrasted(samples, 1, seed=0)
    assert "".join(group[0].dataset for group in groups) == "abababab" + "b" * 6
    assert contrasted(samples, 1, seed=1) != groups
    with pytest.raises(ValueError, match="negatives: found 0; expected at least 1"):
        contrasted(samples, 0, seed=0)


def test_two_phrasings(tmp_path: Path) -> None:
    bare = [replace(sample, instruction="", variant=None, bank="sentiment") for sample in made(200)]
    seen = {phrasing.text for phrasing in InstructionBank.load("sentiment").phrasings("concise", "seen")}
    found = phrased(bare, "concise", {}, seed=3)
    assert {sample.instruction for sample in found} == {sample.variant for sample in found} == seen
    assert all(sample.instruction != sample.variant for sample in found)
    assert found == phrased(bare[::-1], "concise", {}, seed=3)[::-1]
    assert found != phrased(bare, "concise", {}, seed=4)
    listed = {"Do.": ["Do.", "Go on.", "Begin."]}
    assert {sample.variant for sample in phrased(made(50), "both", listed, 0)} == {"Go on.", "Begin."}
    assert {sample.variant for sample in phrased(made(5), "both", {}, 0)} == {"Please do."}
    lone = [replace(sample, variant=None) for sample in made(30)]
    with pytest.raises(
        SourceError, match=r"30 of 31 rows have no second phrasing .*\(set:0, .*set:19, …\); expected a bank"
    ):
        phrased([*lone, *made(1, dataset="other")], "both", {}, 0)


@pytest.mark.parametrize("ending", ["jsonl", "json.gz", "parquet"])
def test_rows_load_back_as_they_are(tmp_path: Path, ending: str) -> None:
    fields = (("text", "t"), ("options_", "OPTIONS:"))
    samples = [
        *made(9),
        *(replace(s, fields=fields, choices=("label: 0", "label: 1")) for s in made(4, dataset="other")),
    ]
    output = tmp_path / f"out.{ending}"
    summary = write_pairs(samples, str(output), negatives=2)
    assert (summary.rows, summary.groups + summary.alone) == (13, 5)
    found = load_samples(str(output))
    expected = contrasted(phrased(samples, "both", {}, 0), 2, 0)
    assert found == [replace(sample, group=group[0].id) for group in expected for sample in group]
    assert len({sample.group for sample in found}) == len(expected)


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_the_released_columns(tmp_path: Path, ending: str) -> None:
    slotted = replace(made(1)[0], instruction="{a} so?", variant="Is it so that {a}", fields=(("a", "it, rains"),))
    samples = [*made(2), replace(slotted, id="s", dataset="other")]
    output = tmp_path / f"out.{ending}"
    write_pairs(samples, str(output), form="coin")
    rows = [row.data for row in iter_rows(str(output))]
    by_target = {row["original_instruction"]: row for row in rows}
    assert by_target["it, rains so?"] == {
        "original_instruction": "it, rains so?",
        "paraphrased_instruction": "Is it so that it, rains",
        "targets": "label: 0",
    }
    assert by_target["Do.\nt1"]["paraphrased_instruction"] == "Please do.\nt1"
    found = load_samples(str(output))
    assert {sample.task for sample in found} == {"generation"}
    assert [(s.instruction, s.variant, s.target, s.group) for s in found] == [(*row.values(), "") for row in rows]


def test_released_rows_are_groups_in_the_order_of_the_file(tmp_path: Path) -> None:
    """They name no group, so rows that stay alone come last: each two rows before them are a pair."""
    labels = [0, 0, 0, 1, 0, 1, 0, 0]
    samples = [replace(s, target=f"label: {label}") for s, label in zip(made(8), labels, strict=True)]
    samples += [replace(s, target=f"label: {i % 2}") for i, s in enumerate(made(6, dataset="other"))]
    output = tmp_path / "out.jsonl"
    summary = write_pairs(samples, str(output), form="coin")
    targets = [sample.target for sample in load_samples(str(output))]
    assert (summary.groups, summary.alone) == (5, 4)
    assert all(targets[at] != targets[at + 1] for at in range(0, 10, 2))


def test_nothing_half_written(tmp_path: Path) -> None:
    output = tmp_path / "out.jsonl"
    with pytest.raises(SourceError, match="no second phrasing"):
        write_pairs([Sample("a", "I", "y")], str(output))
    with pytest.raises(ValueError, match="found 'own'; expected one of robustlm, coin"):
        write_pairs(made(2), str(output), form="own")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"context.*CSV holds text only"):
        write_pairs(made(2), str(tmp_path / "out.csv"))
    assert not list(tmp_path.iterdir())


def test_summary() -> None:
    summary = PairSummary("out", groups=2, short=1, negatives=3, alone=1, datasets={"b": 4, "a": 2})
    assert str(summary).splitlines() == [
        "out: 6 rows, each with a variant",
        "groups: 2 with 3 hard negatives; 1 of them have too few",
        "without a negative: 1 rows, each a group of its own",
        "data sets: a 2, b 4",
    ]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"a": f"x{i}", "text": f"x{i}", "label": "yes" if i % 2 else "no"} for i in range(20)]
    write_rows(tmp_path / "rows.jsonl", rows)
    write_rows(tmp_path / "more.jsonl", [{"instruction": f"Say {i}.", "output": str(i)} for i in range(3)])
    write_rows(
        tmp_path / "others.jsonl", [{"instruction": f"Say {i}.", "paraphrases": [f"Tell {i}."]} for i in range(3)]
    )
    (tmp_path / "banks.json").write_text(json.dumps({"mine": ["{it} good?", "Is {it} good?"]}))
    output = tmp_path / "out.jsonl"
    options = {
        "--bank": f"{tmp_path}/banks.json#mine",
        "--fields": "{it: a}",
        "--limit": "10",
        "--more": json.dumps([str(tmp_path / "more.jsonl")]),
        "--paraphrases": str(tmp_path / "others.jsonl"),
        "--seed": "1",
    }
    main(["pairs", str(tmp_path / "rows.jsonl"), str(output), *(part for pair in options.items() for part in pair)])
    assert "out.jsonl: 13 rows" in capsys.readouterr().out
    found = load_samples(str(output))
    assert Counter(sample.dataset for sample in found) == {"rows": 10, "more": 3}
    assert {sample.variant for sample in found if sample.dataset == "more"} == {"Tell 0.", "Tell 1.", "Tell 2."}


def test_the_command_on_the_built_in_corpus(tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    main(["pairs", "builtin:quickstart", str(output), "--form", "coin", "--limit", "60", "--version", "concise"])
    assert len(load_samples(str(output))) == 60


@pytest.mark.skipif(not DATA, reason="ROBUSTLM_DATA names no folder of datasets")
def test_pairs_of_real_rows(tmp_path: Path) -> None:
    samples = [sample for dataset in FLAN for sample in load(flan(dataset), "test")]
    output = tmp_path / "out.jsonl.gz"
    summary = write_pairs(samples, str(output), negatives=1)
    assert summary.rows == len(samples)
    assert summary.alone < 0.2 * len(samples)
    found = load_samples(str(output))
    groups = [list(group) for _, group in groupby(found, key=lambda sample: sample.group)]
    check_groups(groups, samples, 1)
    assert {sample.id: sample.target for sample in found} == {sample.id: sample.target for sample in samples}
    of: dict[str, set[str]] = defaultdict(set)
    for sample in found:
        assert sample.variant != sample.instruction
        of[sample.dataset] |= {sample.instruction, sample.variant or ""}
    for dataset in FLAN:
        bank = InstructionBank.load(flan(dataset).bank or "")
        assert of[dataset] == {phrasing.text for phrasing in bank.phrasings("both", "seen")}

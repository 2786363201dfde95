"""Paraphrases, groups of hard negatives and explicit negatives: what contrast and alignment are fed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustlm.batch import IGNORE, InstructionBatch, View
from robustlm.datamodules import (
    ContrastiveDataModule,
    InstructionDataModule,
    NoisyInstructionDataModule,
    ParaphraseDataModule,
)
from robustlm.datamodules.batches import EncodedSamples
from robustlm.datamodules.grouping import HardNegativeGroups, task_of
from robustlm.datamodules.sampling import BatchKey, StepSampler
from robustlm.instructions.banks import InstructionBank
from robustlm.instructions.phrasings import meaning
from robustlm.noise.base import Noise
from robustlm.sample import Context, Sample
from robustlm.sources.source import Source
from tests.datamodules.test_datamodules import epoch_of, ready, same, tensors
from tests.tiny import write_rows

MOODS = ["positive", "negative", "neutral"]


def rows_of(count: int = 18) -> list[dict[str, Any]]:
    """Two tasks of a bank each, twice as many of the first."""
    found = []
    for i in range(count):
        first = i % 3 < 2
        labels = MOODS if first else ["world", "sports"]
        row = {"text": f"good text {i}", "label": labels[(i // 3) % len(labels)], "labels": labels, "id": f"row-{i}"}
        found.append({**row, "dataset": "mood" if first else "news", "bank": "sentiment" if first else "topic"})
    return found


@pytest.fixture(scope="session")
def bank_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_rows(tmp_path_factory.mktemp("rows") / "bank.jsonl", rows_of())


class Asked:
    """What a batch says, as text."""

    def __init__(self, tokenizer: Any, batch: InstructionBatch) -> None:
        self._tokenizer = tokenizer
        self.raw = self.instructions(batch.raw)
        self.variant = [] if batch.variant is None else self.instructions(batch.variant)
        self.negative = [] if batch.negative is None else self.instructions(batch.negative)

    def instructions(self, view: View) -> list[str]:
        return [
            self._tokenizer.decode(ids[on]).strip()
            for ids, on in zip(view.input_ids, view.instruction_mask, strict=True)
        ]


def made(cls: Any, folder: str, file: str, **more: Any) -> Any:
    return ready(cls(**({"train": file, "batch_size": 4, "instructions": "concise", "max_length": 256} | more)), folder)


def asked(datamodule: Any, epoch: int = 0) -> dict[str, tuple[str, list[str]]]:
    """Raw and variant instructions of each sample."""
    found = {}
    for batch in epoch_of(datamodule.train_dataloader(), epoch):
        texts = Asked(datamodule.backbone.tokenizer, batch)
        many = len(texts.variant) // len(batch)
        for i, key in enumerate(batch.ids):
            found[key] = texts.raw[i], texts.variant[i * many : (i + 1) * many]
    return found


def seen(bank: str, version: Any = "concise") -> set[str]:
    return {one.text for one in InstructionBank.load(bank).phrasings(version, "seen")}


def answers(view: View) -> list[list[int]]:
    return [labels[labels != IGNORE].tolist() for labels in view.labels]


# --- phrasings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [ParaphraseDataModule, ContrastiveDataModule])
def test_variants_are_other_phrasings(cls: Any, llama: str, bank_file: str) -> None:
    few = min(len(seen("sentiment")), len(seen("topic")))
    epochs = []
    for variants in (2, few + 3):
        datamodule = made(cls, llama, bank_file, variants=variants)
        epochs += [asked(datamodule, 0), asked(datamodule, 1)]
        for found in epochs[-2:]:
            assert len(found) == 18
            for key, (raw, others) in found.items():
                bank = "sentiment" if int(key[4:]) % 3 < 2 else "topic"
                assert {raw, *others} <= seen(bank)
                assert raw not in others
                assert len(set(others)) == min(variants, len(seen(bank)) - 1)
                if variants > len(seen(bank)) - 1:  # all the others, in turns
                    assert max(Counter(others).values()) - min(Counter(others).values()) <= 1
    first, second = epochs[:2]
    assert sum(first[key][1] != second[key][1] for key in first) > 9
    raws = [sum(first[key][0] != second[key][0] for key in first) for first, second in [epochs[:2]]]
    assert (raws[0] == 0) is (cls is ParaphraseDataModule)  # groups are new each epoch, and so is what they are asked


@pytest.mark.parametrize("cls", [InstructionDataModule, NoisyInstructionDataModule, ParaphraseDataModule])
def test_fresh_phrasings(cls: Any, llama: str, bank_file: str) -> None:
    datamodule = made(cls, llama, bank_file, phrasing="fresh")
    epochs = [{key: raw for key, (raw, _) in asked(datamodule, epoch).items()} for epoch in range(4)]
    assert epochs[0] == {key: raw for key, (raw, _) in asked(datamodule, 0).items()}
    for key in epochs[0]:
        assert {epoch[key] for epoch in epochs} <= seen("sentiment") | seen("topic")
    assert sum(epochs[0][key] != epochs[1][key] for key in epochs[0]) > 9
    other = made(cls, llama, bank_file, phrasing="fresh", batch_size=7, group_by_length=False)
    assert {key: raw for key, (raw, _) in asked(other, 2).items()} == epochs[2]
    seeded = made(cls, llama, bank_file, phrasing="fresh", seed=1)
    assert {key: raw for key, (raw, _) in asked(seeded, 0).items()} != epochs[0]


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_answers_are_the_same_tokens_and_beta_is_noise(kind: str, models: dict[str, str], bank_file: str) -> None:
    for noise in (None, Noise(omega=0.5, phi=0.5)):
        datamodule = made(
            ContrastiveDataModule, models[kind], bank_file, variants=2, negatives=2, noise=noise, beta="sample"
        )
        betas: list[float] = []
        noisy: list[bool] = []
        for batch in epoch_of(datamodule.train_dataloader(), 0):
            assert batch.variant is not None
            assert batch.beta is not None
            assert batch.seeds is not None
            assert answers(batch.variant) == [row for row in answers(batch.raw) for _ in range(2)]
            texts = Asked(datamodule.backbone.tokenizer, batch)
            clean = [text in seen("sentiment") | seen("topic") for text in texts.variant]
            assert not any(beta for beta, kept in zip(batch.beta.tolist(), clean, strict=True) if kept)
            assert noise is not None or all(clean)
            assert batch.beta.isfinite().all()
            assert len(set(batch.seeds.tolist())) == len(batch.seeds)
            betas += batch.beta.tolist()
            noisy += [not kept for kept in clean]
        assert (max(betas) == 0) is (noise is None)
        assert noise is None or 0.2 < np.mean(noisy) < 0.8


@pytest.mark.parametrize("cls", [ParaphraseDataModule, ContrastiveDataModule])
def test_workers_and_ranks_change_nothing(cls: Any, llama: str, bank_file: str) -> None:
    more: dict[str, Any] = {"variants": 2, "noise": Noise(phi=0.5), "phrasing": "fresh"}
    if cls is ContrastiveDataModule:
        more["negatives"] = 1
    loaders = [made(cls, llama, bank_file, num_workers=n, **more).train_dataloader() for n in (0, 1)]
    for epoch in (0, 1):
        ours, theirs = (epoch_of(loader, epoch) for loader in loaders)
        assert same(ours, theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a.keys, b.keys)  # type: ignore[arg-type]
            if cls is ContrastiveDataModule:
                assert torch.equal(a.negative.input_ids, b.negative.input_ids)  # type: ignore[union-attr]
    dataset = loaders[0].dataset  # a batch alone, whatever came before it
    batch = ours[-1]
    again = dataset[BatchKey(1, tuple(int(key[4:]) for key in batch.ids), batch.step_tokens)]
    assert all(torch.equal(value, tensors(again)[name]) for name, value in tensors(batch).items())


def own_rows(variants: Sequence[str | None]) -> list[dict[str, Any]]:
    keys = ("question", "format", "option")
    return [
        {"instruction": "find the words", "adv_instruction": text or "find the words", "input": f"hello {i}",
         "output": f"yes {i}", **dict.fromkeys(keys, "")}
        for i, text in enumerate(variants)
    ]  # fmt: skip


def test_rows_with_a_phrasing_of_their_own(llama: str, tmp_path: Path) -> None:
    """Their instruction and the variant they bring, both ways; a group is asked in one phrasing all the same."""
    file = write_rows(tmp_path / "own.jsonl", own_rows([f"name words {i}" for i in range(8)]))
    found = asked(made(ParaphraseDataModule, llama, file))
    assert all(raw == "find the words" and other.startswith("name words") for raw, (other,) in found.values())
    fresh = [asked(made(ParaphraseDataModule, llama, file, phrasing="fresh"), epoch) for epoch in range(3)]
    raws = {raw for epoch in fresh for raw, _ in epoch.values()}
    assert "find the words" in raws
    assert len(raws) > 3
    assert all(raw != other for epoch in fresh for raw, (other,) in epoch.values())
    datamodule = made(ContrastiveDataModule, llama, file)
    asked_so = set()
    for epoch in range(4):
        for batch in epoch_of(datamodule.train_dataloader(), epoch):
            texts = Asked(datamodule.backbone.tokenizer, batch)
            assert all(texts.raw[at] == texts.raw[at + 1] for at in range(0, len(batch), 2))
            assert all(a != b for a, b in zip(texts.raw, texts.variant, strict=True))
            asked_so |= set(texts.raw)
    assert len(asked_so) > 1


def test_noisy_instructions_that_came_with_rows_are_no_phrasings_of_theirs(llama: str, tmp_path: Path) -> None:
    """Where variants are noise, `fresh` must not ask the raw row with it."""
    file = write_rows(tmp_path / "own.jsonl", own_rows([f"nmae wrods {i}" for i in range(8)]))
    for epoch in range(3):
        found = asked(made(NoisyInstructionDataModule, llama, file, phrasing="fresh"), epoch)
        assert all(raw == "find the words" and other.startswith("nmae") for raw, (other,) in found.values())


def test_rows_without_another_phrasing(llama: str, train_file: str, tmp_path: Path, caplog: Any) -> None:
    for cls in (ParaphraseDataModule, ContrastiveDataModule):
        datamodule = made(cls, llama, train_file)
        with pytest.raises(ValueError, match=r"none of the 26 rows has another phrasing.*row-0.*data\.bank"):
            datamodule.train_dataloader()
    some = write_rows(tmp_path / "some.jsonl", own_rows(["name words", None, None, "list words"]))
    datamodule = made(ParaphraseDataModule, llama, some)
    found = asked(datamodule)
    assert "2 of 4 rows have no other phrasing" in caplog.text
    assert sum(raw == other for raw, (other,) in found.values()) == 2


def test_a_bank_given_to_all_rows_names_what_they_are_asked(llama: str, train_file: str, tmp_path: Path) -> None:
    """`data.bank` replaces what rows bring: rows with one target are asked the same thing, in whatever phrasing."""
    rows = [{**json.loads(line), "target": "yes"} for line in Path(train_file).read_text().splitlines()]
    file = write_rows(tmp_path / "one.jsonl", rows)
    dataset = made(ParaphraseDataModule, llama, file, bank="sentiment").train_dataloader().dataset
    assert len({sample.instruction for sample in dataset.rows.samples}) > 1
    assert len(set(dataset.keys.tolist())) == 1
    assert len({task_of(sample) for sample in dataset.rows.samples}) == 1


# --- groups ----------------------------------------------------------------------------------------------------


def samples_of(count: int, tasks: int, targets: int, inputs: int, groups: int = 0) -> list[Sample]:
    random = np.random.default_rng((count, tasks, targets, inputs))
    return [
        Sample(
            f"s{i}",
            f"do {random.integers(tasks)}",
            f"answer {random.integers(targets)}",
            Context(text=f"input {random.integers(inputs)}"),
            group=f"g{i % groups}" if groups and i % 5 else "",
        )
        for i in range(count)
    ]


@settings(max_examples=80, deadline=None)
@given(
    count=st.integers(4, 60),
    tasks=st.integers(1, 3),
    targets=st.integers(1, 4),
    inputs=st.integers(1, 30),
    size=st.integers(1, 4),
    per=st.integers(1, 3),
    world=st.integers(1, 3),
    accumulate=st.integers(1, 3),
    given_groups=st.sampled_from([0, 0, 30]),
    epoch=st.integers(0, 2),
)
def test_groups_stay_whole(
    count: int,
    tasks: int,
    targets: int,
    inputs: int,
    size: int,
    per: int,
    world: int,
    accumulate: int,
    given_groups: int,
    epoch: int,
) -> None:
    size = max(size, 2) if given_groups else size
    samples = samples_of(count, tasks, targets, inputs, given_groups)
    order = HardNegativeGroups(samples, size, 3)
    leaders = order.leaders(epoch)
    served: list[list[list[int]]] = []
    for rank in range(world):
        sampler = StepSampler(
            [1] * count, [1] * count, batch_size=size * per, seed=3, rank=rank, world=world,
            accumulate=lambda: accumulate, order=order,
        )  # fmt: skip
        sampler.set_epoch(epoch)
        keys = list(sampler)
        assert len(keys) == len(sampler)
        served.append([list(key.indices) for key in keys])
        assert all(0 < len(key.indices) <= size * per for key in keys)
    rows = [row for batches in served for batch in batches for row in batch]
    assert len(rows) == len(set(rows))
    assert count - len(rows) <= size * (world - 1)
    home = {row: (rank, at) for rank, batches in enumerate(served) for at, batch in enumerate(batches) for row in batch}
    for row in rows:
        if leaders[row] in home or leaders[row] != row:
            assert home[row] == home[leaders[row]]
    for name in {sample.group for sample in samples if sample.group}:
        mine = [i for i, sample in enumerate(samples) if sample.group == name]
        assert len({home.get(i) for i in mine}) == 1
        batch = next((b for bs in served for b in bs if mine[0] in b), mine)
        at = batch.index(mine[0])
        assert batch[at : at + len(mine)] == mine  # in the rows' order
    (one,) = [StepSampler([1] * count, [1] * count, batch_size=size * per, seed=3, order=order)]
    one.set_epoch(epoch)
    whole = [list(key.indices) for key in one]
    full = len(whole) // world
    for at in range(min(full, len(served[0])) - 1):  # ranks deal out the batches of one process, round by round
        assert [served[rank][at] for rank in range(world)] == whole[at * world : (at + 1) * world]


def hard_negatives(samples: Sequence[Sample], unit: Sequence[int]) -> list[int]:
    """How many rows of its unit are hard negatives of each row, by the definition of [CoIN], sec. 3.2."""
    rows = [samples[row] for row in unit]
    return [
        sum(
            task_of(other) == task_of(own) and other.target != own.target and other.applied_to != own.applied_to
            for other in rows
        )
        for own in rows
    ]


@settings(max_examples=60, deadline=None)
@given(count=st.integers(4, 60), targets=st.integers(2, 6), size=st.integers(2, 8), epoch=st.integers(0, 2))
def test_as_many_rows_as_can_have_hard_negatives(count: int, targets: int, size: int, epoch: int) -> None:
    samples = samples_of(count, 2, targets, 10**9)
    units = HardNegativeGroups(samples, size, 3)(epoch)
    assert sorted(row for unit in units for row in unit) == list(range(count))
    found = sum(number > 0 for unit in units for number in hard_negatives(samples, unit))
    best = 0  # a group needs one row of another target than the most frequent one
    for task in {task_of(s) for s in samples}:
        counts = Counter(s.target for s in samples if task_of(s) == task)
        full, rare = counts.total() // size, counts.total() - max(counts.values())
        best += size * min(full, rare)
        if full >= max(counts.values()):  # no target has to come twice
            whole = [unit for unit in units if len(unit) == size and {task_of(samples[row]) for row in unit} == {task}]
            assert sum(len({samples[row].target for row in unit}) == size for unit in whole) >= full
    assert found >= best


@pytest.mark.parametrize(("size", "least", "mean"), [(2, 1.0, 1.0), (3, 1.0, 4 / 3), (8, 1.0, 4.0)])
def test_two_labels_fill_groups_of_any_size(size: int, least: float, mean: float) -> None:
    samples = [
        Sample(f"{i}", f"task {i % 2}", "yes" if i % 4 < 2 else "no", Context(text=f"input {i}")) for i in range(240)
    ]
    found = [number for unit in HardNegativeGroups(samples, size, 0)(0) for number in hard_negatives(samples, unit)]
    assert np.mean([number > 0 for number in found]) >= least
    assert np.mean(found) == pytest.approx(mean)


@settings(max_examples=40, deadline=None)
@given(inputs=st.integers(8, 40), size=st.integers(2, 4), epoch=st.integers(0, 2))
def test_rows_with_one_input_do_not_meet(inputs: int, size: int, epoch: int) -> None:
    """Each input comes with every target, as a question does that is asked with several answers."""
    samples = [
        Sample(f"{i}-{j}", "do", f"answer {j}", Context(text=f"input {i}")) for i in range(inputs) for j in range(3)
    ]
    for unit in HardNegativeGroups(samples, size, 1)(epoch):
        assert len({samples[row].applied_to for row in unit}) == len(unit)


def test_the_start_of_a_run_says_how_many_rows_have_hard_negatives(
    llama: str, bank_file: str, tmp_path: Path, caplog: Any
) -> None:
    caplog.set_level("INFO", "robustlm")
    made(ContrastiveDataModule, llama, bank_file, group_size=2).train_dataloader()
    assert "data.train: data.group_size 2: 18 of 18 rows (100.0%) have a hard negative in their group" in caplog.text
    assert "1.0 in the mean" in caplog.text
    assert "asked and answered alike" not in caplog.text
    caplog.clear()
    made(ContrastiveDataModule, llama, bank_file, group_size=1).train_dataloader()
    assert "data.group_size 1: 0 of 18 rows (0.0%) have a hard negative" in caplog.text
    caplog.clear()
    labels = ["positive", "negative"]
    rows = [
        {"text": f"text {i}", "label": labels[i % 2], "labels": labels, "id": f"row-{i}", "bank": "sentiment"}
        for i in range(16)
    ]
    file = write_rows(tmp_path / "two.jsonl", rows)
    made(ContrastiveDataModule, llama, file, group_size=4, negatives=9).train_dataloader()
    assert "data.group_size 4: 16 of 16 rows (100.0%) have a hard negative in their group" in caplog.text
    assert "2.0 in the mean; 16 of 16 rows (100.0%) meet rows there that are asked and answered alike" in caplog.text
    assert "data.negatives 9: 0 of 16 rows (0.0%) find as many hard negatives in their task; the others" in caplog.text
    caplog.clear()
    made(ContrastiveDataModule, llama, file, shuffle=False, batch_size=2, negatives=8).train_dataloader()
    assert "data.negatives 8: 16 of 16 rows (100.0%) find as many hard negatives in their task\n" in caplog.text
    one = [{"original_instruction": f"A {i}", "paraphrased_instruction": f"B {i}", "targets": "x"} for i in range(4)]
    caplog.clear()
    file = write_rows(tmp_path / "coin.jsonl", one)
    made(ContrastiveDataModule, llama, file, shuffle=False, batch_size=2).train_dataloader()
    assert "data.group_size 2: instruction and input of each row are one text" in caplog.text


def test_tasks_take_turns_and_epochs_differ() -> None:
    samples = [Sample(f"{i}", "often" if i % 3 else "seldom", f"t{i % 7}", Context(text=str(i))) for i in range(120)]
    order = HardNegativeGroups(samples, 2, 0)
    arranged = [[row for unit in order(epoch) for row in unit] for epoch in (0, 1, 0)]
    assert arranged[0] == arranged[2] != arranged[1]
    assert arranged[0] != [row for unit in HardNegativeGroups(samples, 2, 1)(0) for row in unit]
    for rows in arranged:
        share = [
            np.mean([samples[row].instruction == "seldom" for row in rows[at : at + 24]]) for at in range(0, 120, 24)
        ]
        assert min(share) > 0.2
        assert max(share) < 0.46
    pairs = [{frozenset(arranged[e][at : at + 2]) for at in range(0, 120, 2)} for e in (0, 1)]
    assert len(pairs[0] & pairs[1]) < 10  # other partners


def test_groups_larger_than_their_size_are_refused() -> None:
    samples = [Sample(str(i), "do", str(i), group="mine") for i in range(3)]
    with pytest.raises(ValueError, match=r"data\.group_size: found 2, but the group 'mine' .* holds 3"):
        HardNegativeGroups(samples, 2, 0)


def grouped(datamodule: Any, groups: dict[str, str]) -> Any:
    """The rows of a ready datamodule, some of them with a group of their own."""
    rows = datamodule.rows["train"]
    samples = [replace(s, group=groups.get(s.id, "")) for s in rows.samples]
    datamodule.rows["train"] = EncodedSamples(samples, rows.encoded)
    return datamodule


@pytest.mark.parametrize("given_groups", [False, True])
def test_a_group_is_asked_in_one_phrasing(given_groups: bool, llama: str, bank_file: str) -> None:
    datamodule = made(ContrastiveDataModule, llama, bank_file, variants=2)
    if given_groups:
        grouped(datamodule, {"row-0": "g", "row-2": "g"})  # of two tasks
    own = {sample.id: sample.instruction for sample in datamodule.rows["train"].samples}
    loader = datamodule.train_dataloader()
    for epoch in (0, 1):
        batches = epoch_of(loader, epoch)
        leaders = loader.dataset.leaders(epoch)
        led: dict[int, set[tuple[str, ...]]] = {}
        for batch in batches:
            texts = Asked(datamodule.backbone.tokenizer, batch)
            for at, key in enumerate(batch.ids):
                row = int(key[4:])
                if given_groups and key in ("row-0", "row-2"):
                    assert texts.raw[at] == own[key]
                    continue
                if (row % 3 < 2) == (leaders[row] % 3 < 2):
                    led.setdefault(leaders[row], set()).add((texts.raw[at], *texts.variant[2 * at : 2 * at + 2]))
        assert all(len(found) == 1 for found in led.values())
        assert len({text for found in led.values() for text, *_ in found}) > 2


def test_file_order(llama: str, bank_file: str) -> None:
    datamodule = made(ContrastiveDataModule, llama, bank_file, shuffle=False)
    own = {sample.id: sample.instruction for sample in datamodule.rows["train"].samples}
    for epoch in (0, 1):
        batches = epoch_of(datamodule.train_dataloader(), epoch)
        assert [key for batch in batches for key in batch.ids] == [f"row-{i}" for i in range(18)]
        for batch in batches:
            assert Asked(datamodule.backbone.tokenizer, batch).raw == [own[key] for key in batch.ids]
    groups = {f"row-{i}": f"g{i // 3}" for i in range(18)}
    datamodule = grouped(made(ContrastiveDataModule, llama, bank_file, shuffle=False, group_size=4), groups)
    batches = epoch_of(datamodule.train_dataloader(), 0)
    assert [len(batch) for batch in batches] == [3] * 6  # groups of the rows stay whole here too
    assert [key for batch in batches for key in batch.ids] == [f"row-{i}" for i in range(18)]


# --- explicit negatives and keys -------------------------------------------------------------------------------


@pytest.mark.parametrize("negatives", [1, 3])
def test_explicit_negatives(negatives: int, llama: str, bank_file: str) -> None:
    datamodule = made(ContrastiveDataModule, llama, bank_file, negatives=negatives)
    rows = datamodule.rows["train"]
    samples = {sample.id: sample for sample in rows.samples}
    targets = {
        tuple(row.answer_ids): (sample.target, sample.dataset)
        for sample, row in zip(rows.samples, rows.encoded, strict=True)
    }
    loader = datamodule.train_dataloader()
    inputs = {}
    for epoch in (0, 1):
        for batch in epoch_of(loader, epoch):
            assert batch.negative is not None
            assert batch.keys is not None
            assert batch.negative_keys is not None
            texts = Asked(datamodule.backbone.tokenizer, batch)
            assert texts.negative == [raw for raw in texts.raw for _ in range(negatives)]
            contexts = [
                datamodule.backbone.tokenizer.decode(ids[on])
                for view in (batch.raw, batch.negative)
                for ids, on in zip(view.input_ids, view.context_mask, strict=True)
            ]
            for at, key in enumerate(batch.ids):
                own = contexts[at]
                mine = slice(at * negatives, (at + 1) * negatives)
                theirs = contexts[len(batch) :][mine]
                assert own not in theirs
                assert len(set(theirs)) == negatives  # there are enough of the same task
                assert answers(batch.raw)[at] not in answers(batch.negative)[mine]
                for row, number in zip(answers(batch.negative)[mine], batch.negative_keys[mine].tolist(), strict=True):
                    target, data = targets[tuple(row)]
                    assert data == samples[key].dataset
                    assert number == meaning(replace(samples[key], target=target))
                    assert number != int(batch.keys[at])
                inputs.setdefault(key, []).append(theirs)
    assert sum(a != b for a, b in inputs.values()) > 9  # other ones each epoch


def test_negatives_from_other_tasks_are_asked_as_the_sample_is(llama: str, tmp_path: Path) -> None:
    """A task with one target has no negatives of its own; those of another answer the sample's own question."""
    rows = [{**row, "label": "sports" if row["bank"] == "topic" else row["label"]} for row in rows_of()]
    datamodule = made(ContrastiveDataModule, llama, write_rows(tmp_path / "t.jsonl", rows), negatives=1)
    samples = datamodule.rows["train"].samples
    dataset = datamodule.train_dataloader().dataset
    batch = dataset[BatchKey(0, (2, 5))]  # both of the task with one target
    texts = Asked(datamodule.backbone.tokenizer, batch)
    assert texts.negative == texts.raw
    targets = {sample.target for sample in samples[:2] + samples[3:5] + samples[6:8]}
    wanted = {meaning(replace(samples[2], target=target)) for target in targets}
    assert set(batch.negative_keys.tolist()) <= wanted


def test_no_negative_anywhere(llama: str, tmp_path: Path) -> None:
    rows = [{**row, "label": "positive"} for row in rows_of() if row["bank"] == "sentiment"]
    source = Source(write_rows(tmp_path / "same.jsonl", rows), labels=["positive", "negative"])
    datamodule = made(ContrastiveDataModule, llama, [source], negatives=1)
    with pytest.raises(ValueError, match="no row can be a negative of row-"):
        next(iter(datamodule.train_dataloader()))


def test_keys_name_what_is_asked_and_answered() -> None:
    sample = Sample("a", "do it", "yes", Context(text="x"), bank="sentiment", dataset="mood")
    assert meaning(sample) == meaning(replace(sample, id="b", instruction="do that", context=Context(text="y")))
    for other in ({"target": "no"}, {"bank": "topic"}, {"dataset": "other"}, {"bank": ""}):
        assert meaning(sample) != meaning(replace(sample, **other))  # type: ignore[arg-type]
    assert 0 <= meaning(sample) < 2**63


def test_bad_settings(llama: str, bank_file: str) -> None:
    for cls, wrong, word in (
        (ContrastiveDataModule, {"group_size": 3}, r"data\.group_size: found 3; .*batch_size 4"),
        (ContrastiveDataModule, {"group_size": 0}, r"data\.group_size"),
        (ContrastiveDataModule, {"negatives": -1}, r"data\.negatives"),
        (ParaphraseDataModule, {"variants": 0}, r"data\.variants"),
        (InstructionDataModule, {"phrasing": "frsh"}, r"data\.phrasing: found 'frsh'; expected one of fixed, fresh"),
    ):
        with pytest.raises(ValueError, match=word):
            cls(train=bank_file, **({"batch_size": 4} | wrong))
    datamodule = made(ContrastiveDataModule, llama, bank_file)
    grouped(datamodule, dict.fromkeys(["row-1", "row-5", "row-7"], "three"))
    with pytest.raises(ValueError, match="'three'"):
        datamodule.train_dataloader()

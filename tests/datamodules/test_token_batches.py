"""Batches of a number of tokens: as many in every epoch, and the same work for each process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint

from robustlm.datamodules import ContrastiveDataModule, NoisyInstructionDataModule
from robustlm.datamodules.grouping import HardNegativeGroups
from robustlm.datamodules.sampling import BatchKey, StepSampler
from robustlm.datamodules.token_batches import TokenBatches
from robustlm.models.backbone import Loading
from robustlm.models.tuning import LoRA
from robustlm.modules import ContrastiveTuning, InstructionTuning
from robustlm.sample import Sample
from tests.tiny import Record, trainer, weights_of


def lengths(rows: int) -> list[int]:
    found: list[int] = np.random.default_rng(rows).integers(5, 60, rows).tolist()
    return found


def cost(batch: list[int], own: list[int], *, padded: bool) -> int:
    sizes = [own[row] for row in batch]
    return len(sizes) * max(sizes) if padded else sum(sizes)


def groups(rows: int, size: int) -> HardNegativeGroups:
    samples = [Sample(str(i), "ask", str(i % 3)) for i in range(rows)]
    return HardNegativeGroups(samples, size, 0)


def sampler(rows: int, world: int = 1, rank: int = 0, budget: int = 200, **more: Any) -> StepSampler:
    own = lengths(rows)
    order = TokenBatches(own, budget, **({"padded": False, "seed": 3, "world": world} | more))
    return StepSampler(own, [1] * rows, batch_size=1, seed=3, rank=rank, world=world, order=order)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 150),
    budget=st.integers(180, 700),
    world=st.integers(1, 4),
    padded=st.booleans(),
    by_length=st.booleans(),
    grouped=st.sampled_from([0, 1, 2, 3]),
)
def test_batches_fit_and_are_as_many_in_every_epoch(
    rows: int, budget: int, world: int, padded: bool, by_length: bool, grouped: int
) -> None:
    own = lengths(rows)
    units = groups(rows, grouped) if grouped else None
    order = TokenBatches(own, budget, padded=padded, seed=1, world=world, group_by_length=by_length, order=units)
    for epoch in range(4):
        batches = order(epoch)
        assert sorted(row for batch in batches for row in batch) == list(range(rows))
        assert len(batches) == len(order)
        assert all(0 < cost(batch, own, padded=padded) <= budget for batch in batches)
        if units is not None:
            where = {row: at for at, batch in enumerate(batches) for row in batch}
            assert all(len({where[row] for row in unit}) == 1 for unit in units(epoch))
    assert len(order) % world == 0 or (rows if units is None else len(units(0))) - len(order) < world


@pytest.mark.parametrize("padded", [False, True])
def test_batches_are_full_and_even(padded: bool) -> None:
    own = np.random.default_rng(0).integers(21, 600, 3000).tolist()
    order = TokenBatches(own, 8192, padded=padded, seed=0, world=4)
    for epoch in (0, 1, 5):
        sizes = np.array([cost(batch, own, padded=padded) for batch in order(epoch)])
        assert sizes.mean() > 0.93 * 8192
        assert np.quantile(sizes, 0.05) > 0.85 * 8192
        rounds = sizes.reshape(-1, 4)
        assert (rounds.mean(1) / rounds.max(1)).mean() > 0.95  # how busy the processes are


def test_epochs_differ_and_are_of_the_seed() -> None:
    own = lengths(100)
    order, same, other = (TokenBatches(own, 300, padded=False, seed=seed) for seed in (0, 0, 1))
    assert order(3) == same(3) == order(3)
    assert order(0) != order(1)
    assert order(0) != other(0)


def test_ranks_are_in_step_and_share_no_row() -> None:
    for epoch in range(3):
        keys: list[list[BatchKey]] = []
        for rank in range(3):
            one = sampler(100, 3, rank)
            one.set_epoch(epoch)
            keys.append(list(one))
            assert len(keys[-1]) == len(one)
        assert len({len(own) for own in keys}) == 1
        assert sorted(i for own in keys for key in own for i in key.indices) == list(range(100))


def test_a_batch_that_fits_no_row_is_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.batch_tokens: found 40, but the longest row has 59 tokens; expected"):
        TokenBatches([3, 59], 40, padded=False, seed=0)
    with pytest.raises(ValueError, match=r"found 100, but a group of 2 rows has up to 118 tokens; expected"):
        TokenBatches([3, 59, 7], 100, padded=False, seed=0, order=groups(3, 2))


def test_an_interrupted_epoch_goes_on_where_it_stood() -> None:
    whole = list(sampler(100, 2))
    state = sampler(100, 2).position(4)
    again = sampler(100, 2)
    assert again.go_on(state) == 4
    assert list(again) == whole[4:]
    for other in (sampler(100, 1), sampler(100, 2, budget=210), sampler(100, 2, padded=True)):
        with pytest.raises(ValueError, match=r"in an order of rows with batch_\w+ \d+; found batch_\w+ \d+; expected"):
            other.go_on(state)
    rows = StepSampler(lengths(100), [1] * 100, batch_size=4, seed=3)
    with pytest.raises(ValueError, match=r"with batch_tokens 200; found batch_tokens 0"):
        rows.go_on(state)
    with pytest.raises(ValueError, match=r"with (unit 1; found|batch_tokens 0; found)"):
        sampler(100, 2).go_on(rows.position(4))


def test_other_processes_go_on_between_epochs() -> None:
    ended = sampler(100, 2).position(len(sampler(100, 2)))
    for other in (
        sampler(100, 1),
        sampler(100, 2, budget=300),
        StepSampler(lengths(100), [1] * 100, batch_size=4, seed=3),
    ):
        other.go_on(ended)
        assert not list(other)
        other.set_epoch(1)
        assert sorted(i for key in other for i in key.indices) == list(range(100)) or other._world > 1


@pytest.mark.parametrize("free", [False, True])
def test_a_run_that_is_resumed_within_an_epoch_ends_with_the_same_weights(
    free: bool, llama: str, train_file: str, tmp_path: Path
) -> None:
    def module() -> InstructionTuning:
        return InstructionTuning(llama, tuning=LoRA(r=2), loading=Loading(padding_free=free))

    def data() -> NoisyInstructionDataModule:
        return NoisyInstructionDataModule(train=train_file, batch_tokens=350, seed=1)

    record, whole = Record(), module()
    saved = ModelCheckpoint(tmp_path, every_n_train_steps=2, save_top_k=-1)
    fitter = trainer(tmp_path, max_epochs=2, callbacks=[record, saved], log_every_n_steps=1, enable_checkpointing=True)
    fitter.fit(whole, data())
    assert fitter.global_step > 4
    padding = [step["train/padding"] for step in record.steps]
    assert max(padding) == 0 if free else 0.02 < max(padding) < 0.9
    again = module()
    trainer(tmp_path, max_epochs=2).fit(again, data(), ckpt_path=str(next(tmp_path.glob("*step=2.ckpt"))))
    assert all(torch.equal(value, weights_of(again)[name]) for name, value in weights_of(whole).items())


def test_groups_of_a_contrast_stay_whole(llama: str, train_file: str, tmp_path: Path) -> None:
    record = Record()
    module = ContrastiveTuning(llama, tuning=LoRA(r=2), loading=Loading(padding_free=True))
    datamodule = ContrastiveDataModule(train=train_file, batch_tokens=900, group_size=2, bank="sentiment")
    trainer(tmp_path, callbacks=[record], log_every_n_steps=1).fit(module, datamodule)
    assert len({step["contrast/candidates"] for step in record.steps}) > 1

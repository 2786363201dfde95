"""Which rows make a batch, on any number of ranks and accumulated micro-batches."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustlm.datamodules.sampling import BatchKey, EvaluationSampler, ResumableLoader, StepSampler

SETTINGS = {
    "rows": st.integers(1, 70),
    "size": st.integers(1, 6),
    "world": st.integers(1, 4),
    "group": st.booleans(),
    "epoch": st.integers(0, 3),
}


def lengths(rows: int) -> tuple[list[int], list[int]]:
    random = np.random.default_rng(rows)
    return random.integers(5, 60, rows).tolist(), random.integers(1, 9, rows).tolist()


def sampler(rows: int, size: int, group: bool = True, **more: Any) -> StepSampler:
    return StepSampler(*lengths(rows), batch_size=size, seed=3, group_by_length=group, **more)


def epoch_of(sampler: StepSampler, epoch: int) -> list[BatchKey]:
    sampler.set_epoch(epoch)
    return list(sampler)


def ranks(rows: int, size: int, world: int, epoch: int, **more: Any) -> list[list[BatchKey]]:
    return [epoch_of(sampler(rows, size, world=world, rank=rank, **more), epoch) for rank in range(world)]


@settings(max_examples=60, deadline=None)
@given(**SETTINGS)
def test_every_row_once_but_for_a_rest_too_small_to_split(
    rows: int, size: int, world: int, group: bool, epoch: int
) -> None:
    found = ranks(rows, size, world, epoch, group=group)
    served = [i for keys in found for key in keys for i in key.indices]
    assert len(served) == len(set(served))
    assert len(served) > rows - world
    for rank, keys in enumerate(found):
        assert len(keys) == len(sampler(rows, size, world=world, rank=rank))
        assert all(0 < len(key.indices) <= size for key in keys)
        assert all(key.epoch == epoch for key in keys)


@settings(max_examples=100, deadline=None)
@given(**SETTINGS, accumulate=st.integers(1, 4))
def test_ranks_times_accumulation_is_one_rank_that_accumulates_as_much(
    rows: int, size: int, world: int, group: bool, epoch: int, accumulate: int
) -> None:
    many = ranks(rows, size, world, epoch, group=group, accumulate=lambda: accumulate)
    (one,) = ranks(rows, size, 1, epoch, group=group, accumulate=lambda: accumulate * world)
    steps = [
        sorted(i for keys in many for key in keys[at : at + accumulate] for i in key.indices)
        for at in range(0, len(many[0]), accumulate)
    ]
    window = accumulate * world
    wanted = [sorted(i for key in one[at : at + window] for i in key.indices) for at in range(0, len(one), window)]
    left_out = rows - sum(map(len, steps))
    if left_out:
        assert left_out < world
        *wanted, last = wanted
        *steps, own = [*steps, []] if len(steps) == len(wanted) else steps
        assert set(own) < set(last)
    assert steps == wanted


@settings(max_examples=80, deadline=None)
@given(**SETTINGS, accumulate=st.integers(1, 4), limit=st.integers(1, 20))
def test_losses_add_up_to_the_mean_over_the_step(
    rows: int, size: int, world: int, group: bool, epoch: int, accumulate: int, limit: int
) -> None:
    """What Lightning does: each loss divided by the accumulation, gradients averaged over ranks, then summed up."""
    found = ranks(
        rows, size, world, epoch, group=group, accumulate=lambda: accumulate, limit=lambda count: min(count, limit)
    )
    tokens = np.array(lengths(rows)[1])
    losses = np.random.default_rng(0).random(rows)  # of each row, summed over its answer tokens
    assert all(len(keys) <= limit for keys in found)
    for at in range(0, len(found[0]), accumulate):
        window = [key for keys in found for key in keys[at : at + accumulate]]
        step = sum(
            losses[list(key.indices)].sum() / key.step_tokens / accumulate / world for key in window if key.step_tokens
        )
        every = [i for key in window for i in key.indices]
        assert step == pytest.approx(losses[every].sum() / tokens[every].sum())


@settings(max_examples=40, deadline=None)
@given(**SETTINGS, replays=st.integers(1, 3), offset=st.integers(0, 20))
def test_replays_and_offset(
    rows: int, size: int, world: int, group: bool, epoch: int, replays: int, offset: int
) -> None:
    once = epoch_of(sampler(rows, size, group, world=world), epoch)
    chosen = sampler(rows, size, group, world=world, replays=replays)
    every = epoch_of(chosen, epoch)
    assert [key.indices for key in every] == [key.indices for key in once for _ in range(replays)]
    assert len(chosen) == len(every)
    chosen.offset = offset
    assert list(chosen) == every[offset:]
    chosen.set_epoch(epoch)
    assert chosen.offset == offset  # the epoch that is resumed
    chosen.set_epoch(epoch + 1)
    assert chosen.offset == 0


def test_order_is_of_seed_and_epoch() -> None:
    a, b = sampler(40, 4), sampler(40, 4)
    assert epoch_of(a, 0) == epoch_of(b, 0)
    assert epoch_of(a, 1) == epoch_of(b, 1) != epoch_of(b, 0)
    other = StepSampler(*lengths(40), batch_size=4, seed=4)
    assert epoch_of(other, 0) != epoch_of(a, 0)
    still = sampler(40, 4, reshuffle=False)
    assert [key.indices for key in epoch_of(still, 0)] == [key.indices for key in epoch_of(still, 5)]


def padding(keys: list[BatchKey], sizes: list[int]) -> int:
    return sum(max(sizes[i] for i in key.indices) - sizes[j] for key in keys for j in key.indices)


def test_grouping_saves_padding_and_does_not_order_batches_by_length() -> None:
    sizes = lengths(400)[0]
    grouped, mixed = (epoch_of(sampler(400, 8, group), 0) for group in (True, False))
    assert padding(grouped, sizes) < 0.2 * padding(mixed, sizes)
    means = [float(np.mean([sizes[i] for i in key.indices])) for key in grouped]
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.5


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 40), size=st.integers(1, 7), world=st.integers(1, 5))
def test_evaluation_sees_every_row_once(rows: int, size: int, world: int) -> None:
    sizes = lengths(rows)[0]
    if rows < world:
        with pytest.raises(ValueError, match="fewer than the"):
            EvaluationSampler(sizes, batch_size=size, world=world)
        return
    shares = [EvaluationSampler(sizes, batch_size=size, rank=rank, world=world) for rank in range(world)]
    served = [i for share in shares for key in share for i in key.indices]
    assert sorted(served) == list(range(rows))
    assert all(len(list(share)) == len(share) > 0 for share in shares)
    assert all(len(key.indices) <= size for share in shares for key in share)
    first = next(iter(shares[0]))
    assert sizes[first.indices[0]] == max(sizes)


@settings(max_examples=150, deadline=None)
@given(
    rows=st.integers(8, 70),
    group=st.booleans(),
    epoch=st.integers(0, 2),
    shapes=st.lists(
        st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 3), st.integers(0, 5)), min_size=2, max_size=5
    ),
)
def test_going_on_with_other_processes_skips_and_repeats_no_row(
    rows: int, group: bool, epoch: int, shapes: list[tuple[int, int, int, int]]
) -> None:
    """Each start has W processes, a batch size and A micro-batches to a step, and ends after some steps."""
    served: list[int] = []
    state: dict[str, int] | None = None
    for at, (world, size, accumulate, steps) in enumerate(shapes):
        own = [
            sampler(rows, size, group, world=world, rank=rank, accumulate=lambda accumulate=accumulate: accumulate)
            for rank in range(world)
        ]
        before = 0
        for one in own:
            one.set_epoch(epoch)
            before = one.go_on(state) if state else 0
        keys = [list(one) for one in own]
        assert {len(found) for found in keys} == {len(own[0]) - before}
        # whole steps, as Lightning counts them: by the number of the batch in the epoch
        end = min(before - before % accumulate + steps * accumulate, len(own[0]))
        end = len(own[0]) if at == len(shapes) - 1 else max(end, before)
        for found in keys:
            served += [i for key in found[: end - before] for i in key.indices]
        tokens = np.array(lengths(rows)[1])
        for start in range(before - before % accumulate, len(own[0]), accumulate):
            window = [
                key for found in keys for key in found[max(start - before, 0) : max(start - before + accumulate, 0)]
            ]
            wanted = sum(tokens[list(key.indices)].sum() for key in window) / accumulate / world
            assert all(key.step_tokens == pytest.approx(wanted) for key in window)
        state = own[0].position(end)
        assert all(one.position(end) == state for one in own)
        assert json.loads(json.dumps(state)) == state
    assert len(served) == len(set(served))
    assert len(served) > rows - max(world for world, *_ in shapes) * len(shapes)
    if all(world == 1 for world, *_ in shapes):
        assert sorted(served) == list(range(rows))


class Ids:
    """Rows of a loader; a batch of them is their ids."""

    def prepare(self, epoch: int) -> None:
        pass

    def __getitem__(self, key: BatchKey) -> tuple[int, list[str]]:
        return key.epoch, [f"row-{i}" for i in key.indices]


@pytest.mark.parametrize("group", [True, False])
@pytest.mark.parametrize("starts", [((1, 3), (2, 6), (1, None)), ((1, 12), (2, 1), (1, None)), ((2, 7), (1, None))])
def test_one_two_and_one_process_see_every_row_once_in_every_epoch(
    starts: tuple[tuple[int, int | None], ...], group: bool
) -> None:
    """Through loaders and checkpoints; `benchmarks/resume.py --processes 1 2` kills real processes."""
    rows, epochs = 42, 3
    served = [Counter[str]() for _ in range(epochs)]
    states: list[str] = []
    for world, batches in starts:
        written = []
        for rank in range(world):
            own = sampler(rows, 4, group, world=world, rank=rank, accumulate=lambda world=world: 2 // world)
            loader = ResumableLoader(Ids(), sampler=own, batch_size=None)  # type: ignore[arg-type]
            if states:
                loader.load_state_dict(json.loads(states[0]))
            left, epoch = batches, own.epoch
            while epoch < epochs and left != 0:
                own.set_epoch(epoch)
                for found, ids in loader:
                    assert found == epoch
                    served[epoch].update(ids)
                    left = None if left is None else left - 1
                    if left == 0:
                        break
                else:
                    epoch += 1
            written.append(json.dumps(loader.state_dict()))
        assert len(set(written)) == 1
        states = written
    assert served == [Counter(f"row-{i}" for i in range(rows))] * epochs


def test_other_rows_are_no_place_to_go_on() -> None:
    state = sampler(40, 4).position(3)
    with pytest.raises(ValueError, match=r"after 12 units of epoch 0.* rows 40; found rows 41"):
        sampler(41, 4).go_on(state)
    with pytest.raises(ValueError, match="by_length 1; found by_length 0"):
        sampler(40, 4, group=False).go_on(state)
    with pytest.raises(ValueError, match="earlier version"):
        sampler(40, 4).go_on({"epoch": 0, "batches": 3})
    limited = sampler(40, 4, world=2, limit=lambda count: min(count, 3))
    with pytest.raises(ValueError, match="limit_train_batches with world 1 → 2"):
        limited.go_on(state)
    replayed = sampler(40, 4, replays=2).position(3)
    with pytest.raises(ValueError, match=r"in the middle of data\.replays with world 1 → 2"):
        sampler(40, 4, replays=2, world=2).go_on(replayed)
    assert sampler(40, 4, group=False).go_on(sampler(40, 4).position(10)) == 10  # an epoch that has ended

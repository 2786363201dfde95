"""Which rows make a batch: the same optimiser steps on any number of ranks and accumulated micro-batches."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from torch.utils.data import DataLoader, DistributedSampler, SequentialSampler

log = logging.getLogger(__name__)

GROUPED_BATCHES = 50
"""Rows are sorted by length within this many shuffled batches: little padding, much randomness."""


@dataclass(frozen=True, slots=True)
class BatchKey:
    """Everything a batch is a function of."""

    epoch: int
    indices: tuple[int, ...]
    step_tokens: float | None = None
    """See `InstructionBatch.step_tokens`."""


class _Kept(DistributedSampler[Any], SequentialSampler):
    """A sampler that Lightning leaves in place: it replaces others under DDP, and others under `overfit_batches`."""


class Order(Protocol):
    """Arranges the rows of an epoch."""

    unit: int
    """Most rows of a unit. A unit is never split over micro-batches."""

    def __call__(self, epoch: int) -> list[list[int]]:
        """All rows in units, in the order they are trained on; as many units in every epoch."""


class StepSampler(_Kept):
    """Training batches, dealt to ranks round by round.

    The epoch's micro-batches form one sequence that depends on neither ranks nor accumulation; rank r of W takes every
    W-th, and what does not fill a last round is split among the ranks. So W ranks that accumulate A micro-batches see,
    optimiser step for optimiser step, the rows of one rank that accumulates A·W, but for at most W − 1 rows of the
    epoch that a last round too small to split leaves out.

    Args:
        lengths: Row lengths in tokens, to group by.
        answer_tokens: Answer tokens of each row.
        batch_size: Rows of a micro-batch.
        seed: Seed of the order.
        rank: This process.
        world: Number of processes.
        accumulate: Gives the micro-batches of an optimiser step on one rank, asked when an epoch begins.
        group_by_length: Whether batches hold rows of like length.
        replays: How many times each batch is served in a row (`FreeAT`).
        limit: Gives the number of batches of an epoch on one rank that training uses, of as many as there are.
        reshuffle: False gives every epoch the order of the first.
        order: Arranges the rows, in place of shuffling and grouping by length; its unit divides `batch_size`.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        answer_tokens: Sequence[int],
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        accumulate: Callable[[], int] = lambda: 1,
        group_by_length: bool = True,
        replays: int = 1,
        limit: Callable[[int], int] = lambda count: count,
        reshuffle: bool = True,
        order: Order | None = None,
    ) -> None:
        self._order = order
        self._unit = 1 if order is None else order.unit
        self._lengths = np.asarray(lengths)
        self._tokens = np.asarray(answer_tokens)
        self._batch_size = batch_size
        self._seed = seed
        self._rank = rank
        self._world = world
        self._accumulate = accumulate
        self._group = group_by_length
        self._replays = replays
        self._limit = limit
        self._reshuffle = reshuffle
        self.epoch = 0
        self.offset = 0
        """Batches of this epoch to leave out, because an interrupted run had them."""
        self.begun = 0
        """Units of this epoch that were trained on under another number of processes, batch size or accumulation."""
        self._begun_size = batch_size

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; a new one starts at its first batch."""
        if epoch != self.epoch:
            self.offset = self.begun = 0
        self.epoch = epoch

    def __len__(self) -> int:
        return self._count(self.units)

    @property
    def units(self) -> int:
        """How many units (single rows where there are no groups) an epoch has."""
        return len(self._lengths) if self._order is None else len(self._order(self.epoch))

    def _count(self, units: int) -> int:
        """Batches of one rank that some units make."""
        full, rest = divmod(units, self._batch_size // self._unit * self._world)
        return (full + (rest >= self._world)) * self._replays

    @property
    def _before(self) -> int:
        """Batches that the units begun with count for: as many as are missing to a whole epoch."""
        return len(self) - self._count(self.units - self.begun) if self.begun else 0

    def rounds(self, epoch: int) -> list[list[list[int]]]:
        """The epoch's micro-batches, W at a time. At most W − 1 rows (or units) are left out, others each epoch.

        In an epoch that was begun in another way, those of the rest.
        """
        world, per = self._world, self._batch_size // self._unit
        begun = self.begun if epoch == self.epoch else 0
        units = self._arranged(epoch if self._reshuffle else 0, self._begun_size if begun else self._batch_size)[begun:]
        full = len(units) // (per * world) * world
        batches = [_joined(units[at * per : (at + 1) * per]) for at in range(full)]
        found = [batches[at : at + world] for at in range(0, full, world)]
        rest = units[full * per :]
        if len(rest) >= world:
            shares = np.array_split(np.arange(len(rest)), world)
            found.append([_joined([rest[at] for at in share]) for share in shares])
        return [batches for batches in found for _ in range(self._replays)]

    def _arranged(self, epoch: int, size: int) -> list[list[int]]:
        if self._order is not None:
            return self._order(epoch)
        random = np.random.default_rng((self._seed, epoch, 0x5EED))
        order = random.permutation(len(self._lengths))
        if self._group:
            span = size * GROUPED_BATCHES
            chunks = [order[at : at + span] for at in range(0, len(order), span)]
            order = np.concatenate([chunk[np.argsort(-self._lengths[chunk], kind="stable")] for chunk in chunks])
        if self._group:  # in random order again, which must not know how many ranks there are
            whole = len(order) // size
            batches = order[: whole * size].reshape(whole, size)
            order = np.concatenate([batches[random.permutation(whole)].reshape(-1), order[whole * size :]])
        return [[row] for row in order.tolist()]

    def __iter__(self) -> Iterator[Any]:  # of BatchKey, though SequentialSampler promises int
        rounds = self.rounds(self.epoch)
        before = self._before
        rounds = rounds[: self._limit(before + len(rounds)) - before]
        window = self._accumulate()
        for at in range(max(self.offset, before), before + len(rounds)):
            start = at - at % window
            step = rounds[max(start - before, 0) : start - before + window]
            rows = [row for batches in step for batch in batches for row in batch]
            tokens = float(self._tokens[rows].sum()) / (window * self._world)
            yield BatchKey(self.epoch, tuple(rounds[at - before][self._rank]), tokens)

    # --- going on ----------------------------------------------------------------------------------------------

    def position(self, batches: int) -> dict[str, int]:
        """Where training is after some batches of this epoch, in units of its order, which knows nothing of ranks.

        Returns:
            Plain numbers for a checkpoint: what `go_on` needs, on any number of processes.
        """
        per_round = self._batch_size // self._unit * self._world
        whole, replay = divmod(max(batches - self._before, 0), self._replays)
        units = self.units if batches >= len(self) else min(self.begun + whole * per_round, self.units)
        return {
            "epoch": self.epoch,
            "batches": batches,
            "units": units,
            "replay": 0 if batches >= len(self) else replay,
            "begun": self.begun,
            "order_size": self._begun_size if self.begun else self._batch_size,
            **self._order_of(),
            **self._shape(),
        }

    def _order_of(self) -> dict[str, int]:
        """What the order of rows depends on, besides the batch size, which is kept until the epoch ends."""
        return {
            "rows": len(self._lengths),
            "unit": self._unit,
            "seed": self._seed,
            "tokens": int(self._lengths.sum()),
            "by_length": int(self._group),
            "reshuffle": int(self._reshuffle),
        }

    def _shape(self) -> dict[str, int]:
        """How the order is cut into steps."""
        return {
            "world": self._world,
            "batch_size": self._batch_size,
            "accumulate": self._accumulate(),
            "replays": self._replays,
        }

    def go_on(self, state: Mapping[str, int]) -> int:
        """Go on at a `position`, and return how many batches of the epoch, as they are cut now, lie before it.

        Raises:
            ValueError: The rows are others or in another order, or the place is in the middle of replays or of limited
                batches, which other processes would cut in another way.
        """
        if "units" not in state:
            raise ValueError("this checkpoint was written by an earlier version, which kept no place among the rows")
        self.epoch = state["epoch"]
        ended = state["units"] >= state["rows"] // state["unit"] and state["units"] >= self.units
        for name, value in self._order_of().items():
            if state[name] != value and not ended:
                raise ValueError(
                    f"data: the checkpoint stands after {state['units']} units of epoch {state['epoch']}, in an order "
                    f"of rows with {name} {state[name]}; found {name} {value}; expected the same rows and settings"
                )
        self._begun_size = state["order_size"]
        cut = {name: (state[name], value) for name, value in self._shape().items() if state[name] != value}
        if not cut and not state["begun"]:
            self.offset, self.begun = state["batches"], 0
            return self.offset
        if cut and not ended and (state["replay"] or self._limit(len(self)) < len(self)):
            why = "in the middle of data.replays" if state["replay"] else "in an epoch under limit_train_batches"
            changed = ", ".join(f"{name} {old} → {new}" for name, (old, new) in cut.items())
            raise ValueError(f"data: cannot go on {why} with {changed}; expected the settings it was saved with")
        self.begun = state["units"]
        self.offset = self._before
        if cut:
            changed = ", ".join(f"{name} {old} → {new}" for name, (old, new) in cut.items())
            old, new = (
                math.prod(pair[at] for pair in (cut.get(name, (value, value)) for name, value in self._shape().items()))
                for at in (0, 1)
            )
            log.warning(
                "going on after %d of %d units of epoch %d with %s; no row is skipped or repeated%s",
                self.begun, self.units, self.epoch, changed,
                "" if old == new else f"; an optimiser step had up to {old} rows and now has {new}, so the number of "
                "steps and the schedule change",
            )  # fmt: skip
        return self.offset


def _joined(units: Sequence[list[int]]) -> list[int]:
    return [row for unit in units for row in unit]


class EvaluationSampler(_Kept):
    """Every row exactly once over all ranks, dataset by dataset, each with its longest rows first.

    Rows of a dataset share instructions, which are then run once for a batch, and have answers of like length. Datasets
    follow each other by their longest rows, so that memory problems show at once.

    Batches are smaller where there would be too few for every rank to have one: Lightning leaves a rank without batches
    out of the loop, and the others would wait for it.

    Args:
        lengths: Row lengths in tokens.
        batch_size: Rows of a batch, at most.
        rank: This process.
        world: Number of processes.
        groups: The dataset of each row; one for all where not given.
        done: Rows that an interrupted evaluation has answered. A batch is left out if all of its rows are done: what is
            run again is run in the very batches of the first time, and so with the very same result.
        again: Run a batch on each rank even if all rows are done.
        pending: The rows to serve are not known yet, but are these under other texts. Until `settle` is called, the
            sampler promises as many batches as there can be, and serves none.

    Raises:
        ValueError: There are fewer rows than ranks.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        *,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        groups: Sequence[str] = (),
        done: Collection[int] = (),
        again: bool = False,
        pending: bool = False,
    ) -> None:
        if len(lengths) < world:
            raise ValueError(f"{len(lengths)} rows to evaluate are fewer than the {world} processes; use fewer devices")
        self._batch_size = min(batch_size, max(1, len(lengths) // world))
        self._rank = rank
        self._world = world
        self._arrange(lengths, groups, () if pending else done, again)
        self._promised = len(self)
        self._pending = pending

    def settle(
        self,
        lengths: Sequence[int],
        *,
        groups: Sequence[str] = (),
        done: Collection[int] = (),
        again: bool = False,
    ) -> None:
        """Serve these rows, which are not more than those that were promised; arguments as above."""
        self._arrange(lengths, groups, done, again)
        if len(self) > self._promised:  # Lightning would leave out the rest without a word
            raise RuntimeError(f"found {len(self)} batches of rows; expected at most {self._promised}, as promised")
        self._pending = False

    def _arrange(self, lengths: Sequence[int], groups: Sequence[str], done: Collection[int], again: bool) -> None:
        size, world = self._batch_size, self._world
        names = groups or [""] * len(lengths)
        longest: dict[str, int] = {}
        for name, length in zip(names, lengths, strict=True):
            longest[name] = max(length, longest.get(name, 0))
        order = sorted(range(len(lengths)), key=lambda i: (-longest[names[i]], names[i], -lengths[i], i))
        batches = [order[at : at + size] for at in range(0, len(order), size)]
        left = [batch for batch in batches if not done or not all(row in done for row in batch)]
        if (left or again) and len(left) < world:  # every rank needs one
            left += [batch for batch in batches if batch not in left][: world - len(left)]
        kept = {row for batch in left for row in batch}
        self.skipped = [row for row in order if row not in kept]
        """Rows that no rank runs again."""
        self._own = left[self._rank :: world]
        self.batch_rows = [len(batch) for batch in self._own]
        """How many rows each batch of this rank has."""
        self.batch_tokens = [sum(lengths[i] for i in batch) for batch in self._own]
        """And how many tokens, without padding."""

    def set_epoch(self, epoch: int) -> None:
        """Nothing depends on the epoch."""

    def __len__(self) -> int:
        return len(self._own)

    def __iter__(self) -> Iterator[Any]:
        if self._pending:
            raise RuntimeError(
                "attacks are searched for on the model under test before its first batch; use these loaders in the "
                "test or predict of a Trainer, with an InstructionTuning"
            )
        return (BatchKey(0, tuple(batch)) for batch in self._own)


class LateLoader(DataLoader[Any]):
    """A loader that begins when its first batch is asked for, and starts its worker processes then.

    Lightning makes the iterator of a test's first loader before the hooks in which attacks are searched for.
    """

    def __iter__(self) -> Any:
        yield from super().__iter__()


class ResumableLoader(DataLoader[Any]):
    """A loader that goes on where a checkpoint left it, in the middle of an epoch."""

    _served = 0

    def __iter__(self) -> Any:
        sampler = self.sampler
        assert isinstance(sampler, StepSampler)
        self._served = sampler.offset
        self.dataset.prepare(sampler.epoch)  # type: ignore[attr-defined]
        for batch in super().__iter__():
            self._served += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """The place among the rows of an epoch: see `StepSampler.position`."""
        sampler = self.sampler
        assert isinstance(sampler, StepSampler)
        return sampler.position(self._served)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on at that place."""
        sampler = self.sampler
        assert isinstance(sampler, StepSampler)
        self._served = sampler.go_on(state)

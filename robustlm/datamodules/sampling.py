"""Samplers: which rows make a batch. Optimiser steps do not depend on the number of ranks or on accumulation."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any, Protocol, overload

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DataLoader, DistributedSampler, SequentialSampler

log = logging.getLogger(__name__)

GROUPED_BATCHES = 50
"""Rows are sorted by length within this many shuffled batches, which keeps padding low and the order random."""


@dataclass(frozen=True, slots=True)
class BatchKey:
    """Everything that a batch depends on."""

    epoch: int
    indices: tuple[int, ...]
    step_tokens: float | None = None
    """See `InstructionBatch.step_tokens`."""
    step_rows: float | None = None
    """Rows in the whole optimiser step, divided by the number of micro-batches in it; null: those of this batch."""


NO_BUDGET = {"batch_tokens": 0, "batch_padding": 0, "batch_ranks": 0, "batch_groups": 0}
"""`Order.settings` of orders without a number of tokens for each batch; see `TokenBatches.settings`."""


class _Kept(DistributedSampler[Any], SequentialSampler):
    """A sampler that Lightning does not replace, neither under DDP nor under `overfit_batches`."""


class Order(Protocol):
    """Arranges the rows of an epoch."""

    unit: int
    """Maximum number of rows in a unit. A unit is never split over micro-batches."""

    def __call__(self, epoch: int) -> list[list[int]]:
        """All rows in units, in training order. The number of units is the same in every epoch."""

    @property
    def settings(self) -> Mapping[str, int]:
        """Numbers on which the units depend, besides rows and seed; training resumes within an epoch if they agree."""
        return {}


Ints = NDArray[np.int64]


class Rounds(Sequence[list[list[int]]]):
    """Rounds of W micro-batches, each a list of row numbers that is made when it is asked for.

    Args:
        rows: Rows in training order.
        starts: Where each unit begins among them, and where the last unit ends.
        per: Units in a micro-batch.
        world: W.
        replays: Number of times that each round occurs, one after another.
    """

    def __init__(self, rows: Ints, starts: Ints, per: int, world: int, replays: int) -> None:
        self._rows, self._starts, self._per, self._world, self._replays = rows, starts, per, world, replays
        self._full, self._rest = divmod(len(starts) - 1, per * world)

    def __len__(self) -> int:
        return (self._full + (self._rest >= self._world)) * self._replays

    @overload
    def __getitem__(self, at: int) -> list[list[int]]: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[list[list[int]]]: ...
    def __getitem__(self, at: int | slice) -> list[list[int]] | Sequence[list[list[int]]]:
        """The micro-batches of a round, or of several rounds."""
        if isinstance(at, slice):
            return [self[i] for i in range(*at.indices(len(self)))]
        if not 0 <= at < len(self):
            raise IndexError(f"round {at} of {len(self)}")
        first = at // self._replays * self._per * self._world
        if at // self._replays < self._full:
            edges = [first + self._per * rank for rank in range(self._world + 1)]
        else:  # the rest is split as evenly as possible, larger parts first
            size, more = divmod(self._rest, self._world)
            edges = [first + size * rank + min(rank, more) for rank in range(self._world + 1)]
        return [self._rows[self._starts[a] : self._starts[b]].tolist() for a, b in pairwise(edges)]


class StepSampler(_Kept):
    """Training batches, dealt to ranks round by round.

    The micro-batches of an epoch form one sequence that does not depend on the number of ranks or on accumulation. Rank
    r of W takes every W-th micro-batch, starting at number r. Rows that do not fill a last round are split among the
    ranks. If there are fewer such rows than ranks, they are left out: at most W − 1 rows of the epoch. Apart from
    these, W ranks that accumulate A micro-batches use the same rows in each optimiser step as one rank that accumulates
    A·W.

    Args:
        lengths: Row lengths in tokens, to group by.
        answer_tokens: Answer tokens of each row.
        batch_size: Rows in a micro-batch.
        seed: Seed of the order.
        rank: Rank of this process.
        world: Number of processes.
        accumulate: Returns the number of micro-batches in an optimiser step on one rank; called when an epoch begins.
        group_by_length: Whether batches hold rows of similar length.
        replays: Number of times that each batch is served, one after another (`FreeAT`).
        limit: Takes the number of batches in an epoch on one rank and returns how many of them training uses.
        reshuffle: False gives every epoch the order of the first.
        order: Arranges the rows; replaces shuffling and grouping by length. Its unit divides `batch_size`.
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
        """Number of batches to skip in this epoch, because the interrupted run has trained on them."""
        self.begun = 0
        """Number of units of this epoch that were trained on before the number of processes, the batch size or the
        accumulation changed."""
        self._begun_size = batch_size

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch. A new epoch starts at its first batch."""
        if epoch != self.epoch:
            self.offset = self.begun = 0
        self.epoch = epoch

    def __len__(self) -> int:
        return self._count(self.units)

    @property
    def units(self) -> int:
        """Number of units in an epoch; without an `order`, a unit is a single row."""
        return len(self._lengths) if self._order is None else len(self._order(self.epoch))

    def _count(self, units: int) -> int:
        """Number of batches on one rank that this many units make."""
        full, rest = divmod(units, self._batch_size // self._unit * self._world)
        return (full + (rest >= self._world)) * self._replays

    @property
    def _before(self) -> int:
        """Number of batches that the `begun` units count as: those of a whole epoch less those of the other units."""
        return len(self) - self._count(self.units - self.begun) if self.begun else 0

    def rounds(self, epoch: int) -> Rounds:
        """The micro-batches of an epoch in rounds of W. At most W − 1 units are left out, different ones each epoch.

        If the epoch was begun with other settings (`begun`), only the micro-batches of the remaining units.
        """
        begun = self.begun if epoch == self.epoch else 0
        rows, starts = self._arranged(epoch if self._reshuffle else 0, self._begun_size if begun else self._batch_size)
        return Rounds(rows, starts[begun:], self._batch_size // self._unit, self._world, self._replays)

    def _arranged(self, epoch: int, size: int) -> tuple[Ints, Ints]:
        """All rows in training order, and where each unit begins among them, with the end of the last unit."""
        if self._order is not None:
            units = self._order(epoch)
            ends = np.fromiter((len(unit) for unit in units), np.int64, len(units)).cumsum()
            starts = np.concatenate([np.zeros(1, np.int64), ends])
            return np.fromiter(chain.from_iterable(units), np.int64, int(starts[-1])), starts
        random = np.random.default_rng((self._seed, epoch, 0x5EED))
        order = random.permutation(len(self._lengths))
        if self._group:
            span = size * GROUPED_BATCHES
            chunks = [order[at : at + span] for at in range(0, len(order), span)]
            order = np.concatenate([chunk[np.argsort(-self._lengths[chunk], kind="stable")] for chunk in chunks])
        if self._group:  # shuffle the batches again; the result must not depend on the number of ranks
            whole = len(order) // size
            batches = order[: whole * size].reshape(whole, size)
            order = np.concatenate([batches[random.permutation(whole)].reshape(-1), order[whole * size :]])
        return order, np.arange(len(order) + 1)

    def __iter__(self) -> Iterator[Any]:  # of BatchKey, though SequentialSampler promises int
        rounds = self.rounds(self.epoch)
        before = self._before
        count = min(len(rounds), max(self._limit(before + len(rounds)) - before, 0))
        window = self._accumulate()
        for at in range(max(self.offset, before), before + count):
            start = at - at % window
            step = range(max(start - before, 0), min(start - before + window, count))
            rows = [row for number in step for batch in rounds[number] for row in batch]
            parts = window * self._world
            tokens = float(self._tokens[rows].sum()) / parts
            yield BatchKey(self.epoch, tuple(rounds[at - before][self._rank]), tokens, len(rows) / parts)

    # --- resuming ----------------------------------------------------------------------------------------------

    def position(self, batches: int) -> dict[str, int]:
        """Position of training after this many batches of the epoch.

        The position is counted in units of the order, which does not depend on the number of ranks.

        Returns:
            Plain numbers for a checkpoint, which `go_on` can use on any number of processes.
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
            "ended": int(batches >= len(self)),
            "order_size": self._begun_size if self.begun else self._batch_size,
            **self._order_of(),
            **self._shape(),
        }

    def _order_of(self) -> dict[str, int]:
        """What the order of rows depends on, except the batch size: its old value stays in use until the epoch ends."""
        return {
            "rows": len(self._lengths),
            "unit": self._unit,
            "seed": self._seed,
            "tokens": int(self._lengths.sum()),
            "by_length": int(self._group),
            "reshuffle": int(self._reshuffle),
            **NO_BUDGET,
            **({} if self._order is None else self._order.settings),
        }

    def _shape(self) -> dict[str, int]:
        """Settings that decide how the order is cut into optimiser steps."""
        return {
            "world": self._world,
            "batch_size": self._batch_size,
            "accumulate": self._accumulate(),
            "replays": self._replays,
        }

    def go_on(self, state: Mapping[str, int]) -> int:
        """Continue at a `position` and return how many batches of the epoch lie before it under the current settings.

        Raises:
            ValueError: The rows or their order differ from those of the checkpoint. Or the number of processes, the
                batch size, the accumulation or the replays changed, and the position is between replays of a batch or
                in an epoch under `limit_train_batches`.
        """
        if "units" not in state:
            raise ValueError("an earlier version wrote this checkpoint without its position among the rows")
        self.epoch = state["epoch"]
        state = {**NO_BUDGET, **state}
        ended = state["units"] >= state["rows"] // state["unit"] and state["units"] >= self.units
        if state["batch_tokens"]:  # the number of units follows from the settings
            ended = bool(state["ended"])
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
            raise ValueError(
                f"data: training cannot continue {why} with {changed}; expected the settings of the checkpoint"
            )
        self.begun = self.units if ended else state["units"]
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


class EvaluationSampler(_Kept):
    """Serves every row exactly once over all ranks, dataset by dataset, the longest rows of each dataset first.

    Rows of a dataset share instructions, so a shared instruction runs once for a batch, and their answers have similar
    lengths. Datasets are ordered by the length of their longest row, so that a lack of memory shows at the start.

    Batches are made smaller if there are too few for every rank to have one. Lightning skips the loop on a rank without
    batches, and the other ranks would wait for it.

    Args:
        lengths: Row lengths in tokens.
        batch_size: Maximum number of rows in a batch.
        rank: Rank of this process.
        world: Number of processes.
        groups: The dataset of each row; if empty, all rows are of one dataset.
        done: Rows that an interrupted evaluation has answered. A batch is left out only if all of its rows are done.
            So rows that run again are in the same batches as the first time and give the same results.
        again: Run a batch on each rank even if all rows are done.
        pending: The final texts of the rows are not known yet. Until `settle` is called, the length of the sampler is
            the largest possible number of batches, and iteration raises an error.

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
        """Set the final rows, which must not make more batches than the first ones; arguments as in the class."""
        self._arrange(lengths, groups, done, again)
        if len(self) > self._promised:  # Lightning would leave out the additional batches without a message
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
        """Rows that no rank runs, since they are done."""
        self._own = left[self._rank :: world]
        self.batch_rows = [len(batch) for batch in self._own]
        """Number of rows in each batch of this rank."""
        self.batch_tokens = [sum(lengths[i] for i in batch) for batch in self._own]
        """Number of tokens in each batch of this rank, without padding."""

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: the batches do not depend on the epoch."""

    def __len__(self) -> int:
        return len(self._own)

    def __iter__(self) -> Iterator[Any]:
        if self._pending:
            raise RuntimeError(
                "the search for attacks needs the model under test before the first batch; use these loaders in the "
                "test or predict of a Trainer, with an InstructionTuning"
            )
        return (BatchKey(0, tuple(batch)) for batch in self._own)


class LateLoader(DataLoader[Any]):
    """A loader that starts iteration and its worker processes only when its first batch is requested.

    Lightning creates the iterator of the first test loader before it calls the hooks that search for attacks.
    """

    def __iter__(self) -> Any:
        yield from super().__iter__()


class ResumableLoader(DataLoader[Any]):
    """A loader that can continue from a checkpoint in the middle of an epoch."""

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
        """The position within the epoch: see `StepSampler.position`."""
        sampler = self.sampler
        assert isinstance(sampler, StepSampler)
        return sampler.position(self._served)

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue at the position in `state`."""
        sampler = self.sampler
        assert isinstance(sampler, StepSampler)
        self._served = sampler.go_on(state)

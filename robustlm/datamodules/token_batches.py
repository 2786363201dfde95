"""Batches of as many rows as fit a number of tokens."""

from __future__ import annotations

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

import numpy as np
from numpy.typing import NDArray

from robustlm.datamodules.sampling import GROUPED_BATCHES, Order

_TRIES = 8
"""How many orders of an epoch are tried before the batches of the first epoch are used again."""
_HALVINGS = 6
"""Steps of the search for the smallest size that all batches fit."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class _Units:
    """The rows of an epoch in u units that stay together, in training order."""

    rows: Ints
    """`[n]`: the rows."""
    bounds: Ints
    """`[u + 1]`: where units start in `rows`; the last one is n."""
    counts: Ints
    """`[u]`: rows of each unit."""
    tokens: Ints
    """`[u]`: tokens of each unit."""
    longest: Ints
    """`[u]`: tokens of the longest row of each unit."""

    @classmethod
    def of(cls, rows: Ints, counts: Ints, lengths: Ints) -> _Units:
        bounds = np.concatenate([[0], np.cumsum(counts)])
        own, starts = lengths[rows], bounds[:-1]
        return cls(rows, bounds, counts, np.add.reduceat(own, starts), np.maximum.reduceat(own, starts))

    def __len__(self) -> int:
        return len(self.counts)


class TokenBatches:
    """An order whose units are whole batches, each of at most `budget` tokens.

    The number of batches is the same in every epoch, since Lightning asks for it once. It is a multiple of the number
    of processes, so that these stay in step. The batches of an epoch are made as small as their number allows. So they
    have nearly the same size, and processes have nearly the same work.

    Args:
        lengths: Row lengths in tokens.
        budget: Most tokens of a batch.
        padded: Whether padding counts: a batch then has rows · length of the longest row tokens.
        seed: Seed of the order.
        world: Number of processes.
        group_by_length: Whether batches hold rows of similar length.
        order: Arranges the rows in units that stay together; replaces shuffling and grouping by length.

    Raises:
        ValueError: A unit of the longest rows has more tokens than the budget.
    """

    unit = 1

    def __init__(
        self,
        lengths: Sequence[int],
        budget: int,
        *,
        padded: bool,
        seed: int,
        world: int = 1,
        group_by_length: bool = True,
        order: Order | None = None,
    ) -> None:
        self._lengths = np.asarray(lengths, dtype=np.int64)
        self._budget = budget
        self._padded = padded
        self._seed = seed
        self._world = world
        self._group = group_by_length
        self._order = order
        together, longest = 1 if order is None else order.unit, int(self._lengths.max())
        if budget < together * longest:
            rows = "the longest row has" if together == 1 else f"a group of {together} rows has up to"
            raise ValueError(
                f"data.batch_tokens: found {budget}, but {rows} {together * longest} tokens; expected at least that"
            )
        self._count = self._counted(together * longest, longest)

    def __len__(self) -> int:
        """Number of batches in an epoch."""
        return self._count

    @property
    def settings(self) -> Mapping[str, int]:
        """See `Order.settings`."""
        return {
            "batch_tokens": self._budget,
            "batch_padding": int(self._padded),
            "batch_ranks": self._world,
            "batch_groups": 0 if self._order is None else self._order.unit,
        }

    def __call__(self, epoch: int) -> list[list[int]]:
        """The batches of an epoch. They depend on the epoch and the arguments of the constructor alone."""
        tries = ((epoch, attempt) for attempt in range(_TRIES if self._order is None else 1))
        for number, attempt in chain(tries, [(0, 0)]):  # those of the first epoch are never too many
            units = self._arranged(number, attempt)
            cuts = self._even(units)
            if cuts is not None:
                break
        assert cuts is not None
        rows = units.rows.tolist()
        batches = [rows[start:stop] for start, stop in pairwise(units.bounds[cuts].tolist())]
        if self._order is not None:
            return batches
        random = np.random.default_rng((self._seed, epoch, 0xBA7C))
        return [batches[at] for at in random.permutation(len(batches)).tolist()]

    def _arranged(self, epoch: int, attempt: int) -> _Units:
        if self._order is not None:
            units = self._order(epoch)
            rows = np.fromiter(chain.from_iterable(units), dtype=np.int64)
            return _Units.of(rows, np.array([len(unit) for unit in units]), self._lengths)
        rows = np.random.default_rng((self._seed, epoch, attempt, 0x70C3)).permutation(len(self._lengths))
        if self._group:
            span = max(1, GROUPED_BATCHES * self._budget * len(rows) // int(self._lengths.sum()))
            parts = [rows[at : at + span] for at in range(0, len(rows), span)]
            # every second part ascends, so that neighbours of two parts have similar lengths
            signs = (1 if at % 2 else -1 for at in range(len(parts)))
            rows = np.concatenate(
                [
                    part[np.argsort(sign * self._lengths[part], kind="stable")]
                    for part, sign in zip(parts, signs, strict=True)
                ]
            )
        return _Units.of(rows, np.ones_like(rows), self._lengths)

    def _counted(self, unit: int, longest: int) -> int:
        """The number of batches in every epoch.

        Without an order, it is that of the first epoch. Units of an order differ by epoch, so it is the largest number
        that any units can make: a batch that takes no further unit has more than the budget less one unit.

        Args:
            unit: Most tokens of a unit.
            longest: Tokens of the longest row.
        """
        units = self._arranged(0, 0)
        if self._order is None:
            cuts = self._cut(units, self._budget)
            assert cuts is not None
            count = len(cuts) - 1
        elif self._padded:
            least = (self._budget - unit) // longest + 1  # rows of a full batch
            count = min(len(units.rows) // least + 1, len(units))
        else:
            count = min(int(units.tokens.sum()) // (self._budget - unit + 1) + 1, len(units))
        whole = -(-count // self._world) * self._world
        return whole if whole <= len(units) else count

    def _even(self, units: _Units) -> list[int] | None:
        """Where batches start and the last one ends, with the smallest size that makes few enough; null: none does."""
        found = self._cut(units, self._budget)
        if found is None:
            return None
        low, high = -(-int(units.tokens.sum()) // self._count), self._budget
        for _ in range(_HALVINGS):
            middle = (low + high) // 2
            cuts = self._cut(units, middle) if middle < high else None
            if cuts is None:
                low = middle + 1
            else:
                found, high = cuts, middle
        return self._divided(found)

    def _cut(self, units: _Units, size: int) -> list[int] | None:
        """Fill batches of at most `size` tokens one after another; null: a unit is larger, or there are too many."""
        most = getattr(self, "_count", len(units))
        before = np.concatenate([[0], np.cumsum(units.tokens)])
        cuts = [0]
        while cuts[-1] < len(units):
            at = cuts[-1]
            if self._padded:
                near = slice(at, at + size // int(units.longest[at]) + 1)
                sizes = np.cumsum(units.counts[near]) * np.maximum.accumulate(units.longest[near])
                stop = at + int(np.searchsorted(sizes, size, side="right"))
            else:
                stop = int(np.searchsorted(before, before[at] + size, side="right")) - 1
            if stop == at or len(cuts) > most:
                return None
            cuts.append(stop)
        return cuts

    def _divided(self, cuts: list[int]) -> list[int]:
        """Halve batches with most units until there are as many as in every epoch."""
        heap = [(start - stop, start, stop) for start, stop in pairwise(cuts)]
        heapq.heapify(heap)
        while len(heap) < self._count:
            _, start, stop = heapq.heappop(heap)
            middle = (start + stop) // 2
            for one in ((start, middle), (middle, stop)):
                heapq.heappush(heap, (one[0] - one[1], *one))
        return [*sorted(start for _, start, _ in heap), cuts[-1]]

"""Orders of training rows: groups with hard negatives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby, islice

import numpy as np

from robustlm.sample import Sample

_TRIES = 64
"""Most rows that are tried when a row of a group is exchanged."""


class HardNegativeGroups:
    """Groups of rows that are asked the same thing about different inputs, with two targets or more.

    Every row of a group is an anchor, and the rows of another target than its own are its hard negatives ([CoIN], sec.
    3.2). Two rows of a group may have the same target: tasks of two labels could fill no larger groups otherwise.
    Each epoch forms new groups and deals them evenly over tasks: tasks with equally many groups take turns. What a task
    has left over makes a smaller group; smaller groups are packed together. Rows that bring groups (`Sample.group`)
    keep them.

    Args:
        samples: The rows.
        size: Rows of a group.
        seed: Of the draws.
    """

    def __init__(self, samples: Sequence[Sample], size: int, seed: int) -> None:
        self.unit = size
        self._seed = seed
        self._inputs = [sample.applied_to for sample in samples]
        self._targets = [sample.target for sample in samples]
        self._tasks: dict[str, list[int]] = defaultdict(list)
        self._given: dict[str, list[int]] = defaultdict(list)
        for i, sample in enumerate(samples):
            if sample.group:
                self._given[sample.group].append(i)
            else:
                self._tasks[task_of(sample)].append(i)
        large = next((name for name, rows in self._given.items() if len(rows) > size), None)
        if large is not None:
            raise ValueError(
                f"data.group_size: found {size}, but the group {large!r} of the rows holds {len(self._given[large])}; "
                "expected at least that"
            )
        self._epoch: tuple[int, list[list[int]], list[int]] | None = None

    def __call__(self, epoch: int) -> list[list[int]]:
        """All rows, group by group."""
        return self._arranged(epoch)[0]

    def leaders(self, epoch: int) -> list[int]:
        """For each row, the first of its group."""
        return self._arranged(epoch)[1]

    def _arranged(self, epoch: int) -> tuple[list[list[int]], list[int]]:
        if self._epoch is None or self._epoch[0] != epoch:
            random = np.random.default_rng((self._seed, epoch, 0xC01))
            placed: list[tuple[float, list[int]]] = []
            left: list[list[int]] = []
            for task in sorted(self._tasks):
                groups = self._formed(random.permutation(self._tasks[task]).tolist(), random)
                placed += self._spread([group for group in groups if len(group) == self.unit], random)
                left += [group for group in groups if len(group) < self.unit]
            whole = [rows for rows in self._given.values() if len(rows) == self.unit]
            packed = packed_units([rows for rows in self._given.values() if len(rows) < self.unit], self.unit)
            packed += packed_units([left[at] for at in random.permutation(len(left)).tolist()], self.unit)
            placed += self._spread(whole + packed, random)
            groups = [rows for _, rows in sorted(placed)]
            leaders = list(range(len(self._targets)))
            for rows in groups:
                for row in rows:
                    leaders[row] = rows[0]
            self._epoch = epoch, groups, leaders
        return self._epoch[1], self._epoch[2]

    def _spread(self, groups: list[list[int]], random: np.random.Generator) -> list[tuple[float, list[int]]]:
        """Give groups places in [0, 1) at equal distances, so that every task appears throughout the epoch."""
        start = random.random()
        order = random.permutation(len(groups)).tolist()
        return [((at + start) / len(groups), groups[which]) for at, which in enumerate(order)]

    def _formed(self, rows: list[int], random: np.random.Generator) -> list[list[int]]:
        """Rows of one task in groups of `size`, and those left over in a smaller one.

        Rows are dealt out target by target. So a target comes twice in a group only where it has more rows than there
        are groups, and no group holds one target alone as long as the other targets have a row for each group.
        """
        of: dict[str, list[int]] = defaultdict(list)
        for row in rows:
            of[self._targets[row]].append(row)
        names = list(of)
        most = max(names, key=lambda name: len(of[name]))
        others = [names[at] for at in random.permutation(len(names)).tolist() if names[at] != most]
        groups = _dealt([row for name in (most, *others) for row in of[name]], self.unit)
        self._part_inputs(groups, of, random)
        return groups

    def _part_inputs(self, groups: list[list[int]], of: dict[str, list[int]], random: np.random.Generator) -> None:
        """Exchange rows that share their input with another of their group for rows of the same target, in place."""
        home = {row: (group, at) for group in groups for at, row in enumerate(group)}

        def fits(row: int, group: list[int], at: int) -> bool:
            return all(self._inputs[row] != self._inputs[other] for i, other in enumerate(group) if i != at)

        for group in groups:
            for at, row in enumerate(group):
                if fits(row, group, at):
                    continue
                for other in islice(shuffled(of[self._targets[row]], random), _TRIES):
                    theirs, there = home[other]
                    if theirs is not group and fits(other, group, at) and fits(row, theirs, there):
                        group[at], theirs[there] = other, row
                        home[row], home[other] = (theirs, there), (group, at)
                        break


class FileOrder:
    """Keeps rows in the order of the file; rows of a group that follow each other stay together."""

    def __init__(self, samples: Sequence[Sample], unit: int) -> None:
        self.unit = unit
        self._units: list[list[int]] = [[]]
        start = 0
        for name, run in groupby(samples, key=lambda sample: sample.group):
            stop = start + len(list(run))
            if name and len(self._units[-1]) + stop - start > unit:
                self._units.append([])
            for row in range(start, stop):
                if len(self._units[-1]) == unit:
                    self._units.append([])
                self._units[-1].append(row)
            start = stop
        self._units = [rows for rows in self._units if rows]
        self._rows = range(len(samples))

    def __call__(self, epoch: int) -> list[list[int]]:
        """The units of any epoch."""
        return self._units

    def leaders(self, epoch: int) -> Sequence[int]:
        """Each row is asked in its own phrasing."""
        return self._rows


def task_of(sample: Sample) -> str:
    """Dataset and bank (or instruction) of a sample; its hard negatives share them."""
    return f"{sample.dataset}\t{sample.bank or sample.instruction}"


def packed_units(parts: list[list[int]], size: int) -> list[list[int]]:
    """Join small groups into full ones without splitting any."""
    packs: list[list[int]] = []
    for part in sorted(parts, key=len, reverse=True):
        home = next((pack for pack in packs[-64:] if len(pack) + len(part) <= size), None)
        if home is None:
            packs.append(list(part))
        else:
            home.extend(part)
    return packs


def _dealt(rows: Sequence[int], size: int) -> list[list[int]]:
    """Rows dealt out in turns to groups of `size`, the rest in a smaller group that is last.

    Rows at a distance of less than the number of full groups never meet in one of those. The smaller group takes part
    in turns that are spread evenly.
    """
    full, rest = divmod(len(rows), size)
    groups: list[list[int]] = [[] for _ in range(full + (rest > 0))]
    joins = {turn * (size - 1) // max(rest - 1, 1) for turn in range(rest)}
    dealt = iter(rows)
    for turn in range(size):
        for group in [*groups[full:], *groups[:full]] if turn in joins else groups[:full]:
            group.append(next(dealt))
    return groups


def shuffled(pool: Sequence[int], random: np.random.Generator) -> Iterable[int]:
    """A pool in random order. The first 32 draws come before the whole pool is permuted, so they are fast."""
    yield from (pool[at] for at in random.integers(len(pool), size=32))
    yield from (pool[at] for at in random.permutation(len(pool)))

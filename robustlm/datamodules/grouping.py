"""Orders of training rows: groups with hard negatives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any

import numpy as np

from robustlm.sample import Sample

_TRIES = 64
"""Maximum number of rows that are tried to exchange one row of a group."""


@dataclass(frozen=True)
class Traits:
    """What rows are grouped by: a value for each row. Values are compared, tasks are also sorted."""

    inputs: Sequence[Hashable]
    targets: Sequence[Hashable]
    tasks: Sequence[Any]
    """Values of one type, in the order of `task_of`."""
    groups: Sequence[str]
    """`Sample.group`."""

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Traits:
        """The traits of samples."""
        return cls(
            [sample.applied_to for sample in samples],
            [sample.target for sample in samples],
            [task_of(sample) for sample in samples],
            [sample.group for sample in samples],
        )


class HardNegativeGroups:
    """Groups of rows of the same task with different inputs and two or more targets.

    Every row of a group is an anchor. Rows of the group with another target are its hard negatives ([CoIN], sec. 3.2).
    Rows of a group may share a target; otherwise a task with two labels could not fill groups larger than two.
    Each epoch forms new groups and spreads them evenly: tasks with equally many groups take turns. The remaining rows
    of a task make a smaller group; smaller groups are packed together. Rows that bring groups (`Sample.group`) keep
    them.

    Args:
        samples: The rows, or their traits.
        size: Rows in a group.
        seed: Seed of the draws.
    """

    def __init__(self, samples: Sequence[Sample] | Traits, size: int, seed: int) -> None:
        traits = samples if isinstance(samples, Traits) else Traits.of(samples)
        self.unit = size
        self._seed = seed
        self._inputs = traits.inputs
        self._targets = traits.targets
        self._tasks: dict[Any, list[int]] = defaultdict(list)
        self._given: dict[str, list[int]] = defaultdict(list)
        for i, (group, task) in enumerate(zip(traits.groups, traits.tasks, strict=True)):
            if group:
                self._given[group].append(i)
            else:
                self._tasks[task].append(i)
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

    @property
    def settings(self) -> Mapping[str, int]:
        """See `Order.settings`; the unit is compared with those of all orders."""
        return {}

    def leaders(self, epoch: int) -> list[int]:
        """For each row, the first row of its group."""
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
        """Give groups positions in [0, 1) at equal distances, so that every task appears throughout the epoch."""
        start = random.random()
        order = random.permutation(len(groups)).tolist()
        return [((at + start) / len(groups), groups[which]) for at, which in enumerate(order)]

    def _formed(self, rows: list[int], random: np.random.Generator) -> list[list[int]]:
        """Divide the rows of one task into groups of `size`; the remaining rows make a smaller group.

        Rows are dealt out target by target. So a target occurs twice in a group only if it has more rows than there are
        groups. A group has at least two targets if the rows of the less frequent targets are at least as many as the
        groups.
        """
        of: dict[Hashable, list[int]] = defaultdict(list)
        for row in rows:
            of[self._targets[row]].append(row)
        names = list(of)
        most = max(names, key=lambda name: len(of[name]))
        others = [names[at] for at in random.permutation(len(names)).tolist() if names[at] != most]
        groups = _dealt([row for name in (most, *others) for row in of[name]], self.unit)
        self._part_inputs(groups, of, random)
        return groups

    def _part_inputs(self, groups: list[list[int]], of: dict[Hashable, list[int]], random: np.random.Generator) -> None:
        """Exchange rows whose input occurs twice in their group with rows of other groups and the same target."""
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
    """Keeps rows in the order of the file. Adjacent rows of the same group stay together."""

    def __init__(self, samples: Sequence[Sample] | Traits, unit: int) -> None:
        self.unit = unit
        self._units: list[list[int]] = [[]]
        start = 0
        names = samples.groups if isinstance(samples, Traits) else [sample.group for sample in samples]
        for name, run in groupby(names):
            stop = start + len(list(run))
            if name and len(self._units[-1]) + stop - start > unit:
                self._units.append([])
            for row in range(start, stop):
                if len(self._units[-1]) == unit:
                    self._units.append([])
                self._units[-1].append(row)
            start = stop
        self._units = [rows for rows in self._units if rows]
        self._rows = range(len(names))

    def __call__(self, epoch: int) -> list[list[int]]:
        """The units of any epoch."""
        return self._units

    @property
    def settings(self) -> Mapping[str, int]:
        """See `Order.settings`."""
        return {}

    def leaders(self, epoch: int) -> Sequence[int]:
        """For each row, the row itself: phrasings are drawn row by row."""
        return self._rows


def task_of(sample: Sample) -> str:
    """Dataset and bank (or instruction) of a sample; its hard negatives have the same ones."""
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
    """Deal rows in turns to groups of `size`; the remaining rows make a smaller group, which is the last one.

    Two rows whose distance in `rows` is less than the number of full groups are never in the same full group. The
    smaller group receives rows in some of the turns, spread evenly.
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
    """Draw from a pool: first 32 independent draws, which are fast, then the whole pool in random order."""
    yield from (pool[at] for at in random.integers(len(pool), size=32))
    yield from (pool[at] for at in random.permutation(len(pool)))

"""Rows with another phrasing and hard negatives: the data side of [CoIN]."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import groupby, islice
from typing import Any, ClassVar

import numpy as np
import torch

from robustlm.batch import InstructionBatch
from robustlm.data.samples import Sample
from robustlm.datamodules.base import Rows, TrainRows
from robustlm.datamodules.paraphrase import ParaphraseDataModule, ParaphrasedRows
from robustlm.datamodules.phrasing import meaning
from robustlm.datamodules.sampling import BatchKey, Order

_TRIES = 64
"""How many rows are looked at for one that takes another's place in a group."""


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
            packed = _packed([rows for rows in self._given.values() if len(rows) < self.unit], self.unit)
            packed += _packed([left[at] for at in random.permutation(len(left)).tolist()], self.unit)
            placed += self._spread(whole + packed, random)
            groups = [rows for _, rows in sorted(placed)]
            leaders = list(range(len(self._targets)))
            for rows in groups:
                for row in rows:
                    leaders[row] = rows[0]
            self._epoch = epoch, groups, leaders
        return self._epoch[1], self._epoch[2]

    def _spread(self, groups: list[list[int]], random: np.random.Generator) -> list[tuple[float, list[int]]]:
        """Places in [0, 1) at equal distances, so that every task is met throughout the epoch."""
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
                for other in islice(_shuffled(of[self._targets[row]], random), _TRIES):
                    theirs, there = home[other]
                    if theirs is not group and fits(other, group, at) and fits(row, theirs, there):
                        group[at], theirs[there] = other, row
                        home[row], home[other] = (theirs, there), (group, at)
                        break


class _FileOrder:
    """Rows in the order they are read; those of a group that follow each other stay together."""

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
        return self._units

    def leaders(self, epoch: int) -> Sequence[int]:
        """Each row is asked in its own phrasing."""
        return self._rows


class ContrastiveRows(ParaphrasedRows):
    """Training batches of groups, and explicit negatives if asked for.

    Args:
        order: Arranges rows into groups.
        negatives: Explicit negatives of each row.
        args: See `ParaphrasedRows`.
        kwargs: See `ParaphrasedRows`.
    """

    def __init__(self, *args: Any, order: HardNegativeGroups | _FileOrder, negatives: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.order = order
        self._negatives = negatives
        self._alike: dict[str, list[int]] = defaultdict(list)
        for i, sample in enumerate(self.rows.samples):
            self._alike[task_of(sample)].append(i)

    def leaders(self, epoch: int) -> Sequence[int]:
        """The first row of each group: all of its rows are asked alike."""
        return self.order.leaders(epoch)

    def facts(self, epoch: int) -> list[str]:
        """How many rows have hard negatives: in their group, and explicit ones."""
        return [*super().facts(epoch), self._grouped(epoch), *([self._explicit()] if self._negatives else [])]

    def _grouped(self, epoch: int) -> str:
        samples, asked, count = self.rows.samples, self.asked(epoch), len(self)
        name = f"data.group_size {self.order.unit}: "
        if not any(sample.applied_to for sample in samples):
            return name + (
                "instruction and input of each row are one text, so which rows are hard negatives is not known; "
                "rows of a group follow each other in the file"
            )
        met = [_met([samples[i] for i in unit], [asked[i] for i in unit]) for unit in self.order(epoch)]
        hard = [number for unit in met for number, _ in unit]
        false = sum(number > 0 for unit in met for _, number in unit)
        line = (
            f"{name}{_share(sum(number > 0 for number in hard), count)} have a hard negative in their group (asked the "
            f"same about another input, with another target), {sum(hard) / count:.1f} in the mean"
        )
        if false:
            line += (
                f"; {_share(false, count)} meet rows there that are asked and answered alike, which "
                "contrast.mask_false_negatives leaves out"
            )
        return line

    def _explicit(self) -> str:
        samples, count = self.rows.samples, len(self)
        met = [_met([samples[i] for i in rows], [""] * len(rows)) for rows in self._alike.values()]
        have = sum(number >= self._negatives for task in met for number, _ in task)
        line = f"data.negatives {self._negatives}: {_share(have, count)} find as many hard negatives in their task"
        return line if have == count else line + "; the others are given rows of other tasks, or the same ones again"

    def __getitem__(self, key: BatchKey) -> InstructionBatch:
        batch = super().__getitem__(key)
        if self._negatives:
            asked = self.asked(key.epoch)
            drawn = [(i, self._drawn(i, key.epoch)) for i in key.indices]
            pairs = [(other, asked[i]) for i, others in drawn for other in others]
            batch.negative = self.view([row for row, _ in self.encoded(*zip(*pairs, strict=True))])
            batch.negative_keys = torch.tensor(
                [self._meaning(i, other) for i, others in drawn for other in others], dtype=torch.long
            )
        return batch

    def _meaning(self, asked: int, answered: int) -> int:
        """Of a negative: one row's question with another's target, which may be of another task."""
        samples = self.rows.samples
        return meaning(replace(samples[asked], target=samples[answered].target))

    def _drawn(self, index: int, epoch: int) -> list[int]:
        """Rows of the same task with another input and target; where it has none, rows of any other kind."""
        sample = self.rows.samples[index]
        random = np.random.default_rng((self._seed, epoch, index, 0x4E6))
        found: list[int] = []
        for pool in (self._alike[task_of(sample)], range(len(self.rows))):
            tries = _shuffled(pool, random)
            for other in tries:
                if len(found) == self._negatives:
                    return found
                if other not in found and _differs(sample, self.rows.samples[other]):
                    found.append(other)
        if not found:
            raise ValueError(
                f"data.train: no row can be a negative of {sample.id}; expected rows with other inputs and targets"
            )
        return [found[k % len(found)] for k in range(self._negatives)]


class ContrastiveDataModule(ParaphraseDataModule):
    """Batches in which a sample meets itself under another phrasing, and rows that are easily confused with it.

    Emits the views `raw` and `variant`, and `negative` where `negatives` > 0. A batch is made of groups: a sample and
    its hard negatives, asked the same thing in the same phrasing about other inputs and with other targets. A group
    stays together on one rank; groups are shuffled and dealt evenly over tasks.

    Args:
        group_size: Rows of a group, a sample and its hard negatives; 1 for none. It divides `batch_size`.
        negatives: Explicit negatives of each sample, in a view (and a forward pass) of their own: the same instruction,
            another input and target.
        shuffle: False keeps the rows in the order they are read, every epoch.
        kwargs: Arguments of `ParaphraseDataModule`.
    """

    views: ClassVar[tuple[str, ...]] = ("raw", "variant")

    def __init__(
        self, *args: Any, group_size: int = 2, negatives: int = 0, shuffle: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if group_size < 1 or self.batch_size % group_size:
            raise ValueError(
                f"data.group_size: found {group_size}; expected a divisor of data.batch_size {self.batch_size}, since "
                "a group stays in one batch"
            )
        if negatives < 0:
            raise ValueError(f"data.negatives: {negatives} is negative; expected ≥ 0")
        self.group_size = group_size
        self.negatives = negatives
        self.shuffle = shuffle

    def train_dataset(self, rows: Rows) -> TrainRows:
        """Rows in groups."""
        phrasings = self.paraphrasings(rows)
        free = not all(sample.group for sample in rows.samples)
        order = (
            HardNegativeGroups(rows.samples, self.group_size, self.seed)
            if self.shuffle
            else _FileOrder(rows.samples, self.group_size)
        )
        drawn = phrasings if self.phrasing == "fresh" else None
        if drawn is None and self.shuffle and self.group_size > 1 and free:
            drawn = phrasings.keeping(i for i, sample in enumerate(rows.samples) if sample.group)
        return ContrastiveRows(
            rows,
            self._encoder(),
            drawn,
            others=phrasings,
            order=order,
            negatives=self.negatives,
            **self.variation(),
        )

    def train_order(self, dataset: TrainRows) -> Order | None:
        """Group by group, or as read."""
        assert isinstance(dataset, ContrastiveRows)
        return dataset.order


def task_of(sample: Sample) -> str:
    """What a hard negative has in common with a sample: its data set and the instruction that is meant."""
    return f"{sample.dataset}\t{sample.bank or sample.instruction}"


def _met(samples: Sequence[Sample], asked: Sequence[str]) -> list[tuple[int, int]]:
    """Of each of some samples, how many others are hard negatives, and how many are asked and answered alike."""
    keys = list(zip(asked, (s.target for s in samples), (s.applied_to for s in samples), strict=True))
    texts = Counter(text for text, _, _ in keys)
    targets = Counter((text, target) for text, target, _ in keys)
    inputs = Counter((text, given) for text, _, given in keys)
    both = Counter(keys)
    return [(texts[t] - targets[t, y] - inputs[t, x] + both[t, y, x], targets[t, y] - 1) for t, y, x in keys]


def _share(some: int, count: int) -> str:
    return f"{some:,} of {count:,} rows ({some / count:.1%})"


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


def _differs(sample: Sample, other: Sample) -> bool:
    return sample.target != other.target and sample.applied_to != other.applied_to


def _shuffled(pool: Sequence[int], random: np.random.Generator) -> Iterable[int]:
    """A pool in random order; its first few without ordering the whole."""
    yield from (pool[at] for at in random.integers(len(pool), size=32))
    yield from (pool[at] for at in random.permutation(len(pool)))


def _packed(parts: list[list[int]], size: int) -> list[list[int]]:
    """Small groups put together into full ones, none split."""
    packs: list[list[int]] = []
    for part in sorted(parts, key=len, reverse=True):
        home = next((pack for pack in packs[-64:] if len(pack) + len(part) <= size), None)
        if home is None:
            packs.append(list(part))
        else:
            home.extend(part)
    return packs

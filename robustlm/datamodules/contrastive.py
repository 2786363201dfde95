"""Rows with another phrasing and with hard negatives: the data of [CoIN]."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch

from robustlm.batch import InstructionBatch
from robustlm.datamodules.batches import EncodedSamples, TrainDataset
from robustlm.datamodules.grouping import FileOrder, HardNegativeGroups, Traits, shuffled, task_of
from robustlm.datamodules.noisy import SharedEpoch, Variation, check_prepared
from robustlm.datamodules.paraphrase import ParaphraseDataModule, ParaphrasedDataset
from robustlm.datamodules.sampling import BatchKey, Order
from robustlm.datamodules.stored import StoredRows
from robustlm.instructions.phrasings import Phrasings, meaning
from robustlm.prompts.encoding import Encoder
from robustlm.sample import Sample

_LOOKED = 10_000
"""Rows of a file that facts are told about."""


class Alike:
    """Rows by task.

    Args:
        tasks: The task of each row: values that can be sorted.
    """

    def __init__(self, tasks: Sequence[Any]) -> None:
        _, numbers = np.unique(np.asarray(tasks), return_inverse=True)
        self._numbers = numbers
        self._rows = np.argsort(numbers, kind="stable")
        self._starts = np.searchsorted(numbers[self._rows], np.arange(int(numbers.max(initial=-1)) + 2))

    def of(self, row: int) -> Sequence[int]:
        """The rows of a row's task, in order; an array."""
        number = self._numbers[row]
        found: Sequence[int] = self._rows[self._starts[number] : self._starts[number + 1]]  # type: ignore[assignment]
        return found

    def tasks(self) -> Iterator[Sequence[int]]:
        """The rows of each task."""
        return (self.of(int(self._rows[start])) for start in self._starts[:-1])


class ContrastiveDataset(ParaphrasedDataset):
    """Training batches of groups, with explicit negatives if `negatives` is above 0.

    Args:
        rows: See `TrainDataset`.
        encoder: See `TrainDataset`.
        phrasings: See `TrainDataset`.
        variation: See `ParaphrasedDataset`.
        others: See `ParaphrasedDataset`.
        order: Arranges rows into groups.
        negatives: Number of explicit negatives of each row.
        rephrase: See `ParaphrasedDataset`.
    """

    def __init__(
        self,
        rows: EncodedSamples,
        encoder: Encoder,
        phrasings: Phrasings | None = None,
        *,
        variation: Variation,
        others: Phrasings,
        order: HardNegativeGroups | FileOrder,
        negatives: int,
        rephrase: Callable[[Sequence[Sample]], Phrasings] | None = None,
    ) -> None:
        super().__init__(rows, encoder, phrasings, variation=variation, others=others, rephrase=rephrase)
        self.order = order
        self._negatives = negatives
        self._alike = Alike(rows.traits().tasks if isinstance(rows, StoredRows) else list(map(task_of, rows.samples)))
        self._leaders = SharedEpoch(1, len(rows), torch.int64) if rows.stored else None

    def leaders(self, epoch: int) -> Sequence[int]:
        """For each row, the first row of its group: all rows of a group are asked in the same phrasing."""
        if self._leaders is None:
            return self.order.leaders(epoch)
        if self._leaders.number != epoch:
            check_prepared(epoch, self._leaders.number)
            self._leaders.set(epoch, np.asarray([self.order.leaders(epoch)]))
        found: Sequence[int] = self._leaders.values[0]
        return found

    def prepare(self, epoch: int) -> None:
        """See `VariedDataset.prepare`; also forms the groups."""
        self.leaders(epoch)
        super().prepare(epoch)

    def facts(self, epoch: int) -> list[str]:
        """Lines with the number of rows that have hard negatives, in their group and as explicit negatives."""
        return [*super().facts(epoch), self._grouped(epoch), *([self._explicit()] if self._negatives else [])]

    def _grouped(self, epoch: int) -> str:
        samples, asked, count = self.rows.samples, self.asked(epoch), len(self)
        name = f"data.group_size {self.order.unit}: "
        units = self.order(epoch)
        if self.rows.stored:  # a look at all rows would take minutes
            units = units[: -(-_LOOKED // self.order.unit)]
            count = sum(map(len, units))
            name += f"of the {count:,} rows that come first, "
        if not any(samples[i].applied_to for unit in units for i in unit):
            return name + (
                "instruction and input of each row are one text, so it is not known which rows are hard negatives; "
                "rows of a group follow each other in the file"
            )
        met = [_met([samples[i] for i in unit], [asked[i] for i in unit]) for unit in units]
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
        if self.rows.stored:
            return f"data.negatives {self._negatives}: rows are too many to count those that find hard negatives"
        met = [_met([samples[i] for i in rows], [""] * len(rows)) for rows in self._alike.tasks()]
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
        """The key of a negative: the question of row `asked` with the target of row `answered`, of any task."""
        samples = self.rows.samples
        return meaning(replace(samples[asked], target=samples[answered].target))

    def _drawn(self, index: int, epoch: int) -> list[int]:
        """Negatives of a row: rows of its task with another input and target; if too few, rows of any task."""
        sample = self.rows.samples[index]
        random = np.random.default_rng((self._seed, epoch, index, 0x4E6))
        found: list[int] = []
        for pool in (self._alike.of(index), range(len(self.rows))):
            tries = shuffled(pool, random)
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
    """Batches that hold each sample under two phrasings, together with its hard negatives.

    Emits the views `raw` and `variant`, and `negative` if `negatives` > 0. A batch consists of groups. A group holds a
    sample and its hard negatives: the same instruction in the same phrasing, with other inputs and other targets. A
    group stays together on one rank; groups are shuffled and spread evenly over tasks.

    Args:
        group_size: Rows in a group, a sample and its hard negatives; 1 for no hard negatives. It divides `batch_size`.
        negatives: Number of explicit negatives of each sample: the same instruction with another input and target, in
            a separate view (and forward pass).
        shuffle: False keeps the rows in the order they are read, in every epoch.
        kwargs: Arguments of `ParaphraseDataModule`.
    """

    views: ClassVar[tuple[str, ...]] = ("raw", "variant")
    takes_unlabelled: ClassVar[bool] = False

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
            raise ValueError(f"data.negatives: found {negatives}; expected ≥ 0")
        self.group_size = group_size
        self.negatives = negatives
        self.shuffle = shuffle

    def train_dataset(self, rows: EncodedSamples) -> TrainDataset:
        """Rows in groups."""
        phrasings = self.paraphrasings(rows)
        traits = rows.traits() if isinstance(rows, StoredRows) else Traits.of(rows.samples)
        free = not all(traits.groups)
        order = (
            HardNegativeGroups(traits, self.group_size, self.seed)
            if self.shuffle
            else FileOrder(traits, self.group_size)
        )
        drawn = phrasings if self.phrasing == "fresh" else None
        if drawn is None and self.shuffle and self.group_size > 1 and free:
            drawn = phrasings.keeping(i for i, group in enumerate(traits.groups) if group)
        return ContrastiveDataset(
            rows,
            self.encoder,
            drawn,
            others=phrasings,
            order=order,
            negatives=self.negatives,
            variation=self.variation(),
            rephrase=self.phraser.phrasings,
        )

    def in_windows(self) -> list[str]:
        """See `InstructionDataModule.in_windows`."""
        groups = ["groups with hard negatives"] if self.group_size > 1 else []
        return [*super().in_windows(), *groups, *(["explicit negatives"] if self.negatives else [])]

    def train_order(self, dataset: TrainDataset) -> Order | None:
        """Shuffled groups, or the order of the file if `shuffle` is false."""
        assert isinstance(dataset, ContrastiveDataset)
        return dataset.order


def _met(samples: Sequence[Sample], asked: Sequence[str]) -> list[tuple[int, int]]:
    """For each sample, how many of the other samples are hard negatives, and how many have its question and answer."""
    keys = list(zip(asked, (s.target for s in samples), (s.applied_to for s in samples), strict=True))
    texts = Counter(text for text, _, _ in keys)
    targets = Counter((text, target) for text, target, _ in keys)
    inputs = Counter((text, given) for text, _, given in keys)
    both = Counter(keys)
    return [(texts[t] - targets[t, y] - inputs[t, x] + both[t, y, x], targets[t, y] - 1) for t, y, x in keys]


def _share(some: int, count: int) -> str:
    return f"{some:,} of {count:,} rows ({some / count:.1%})"


def _differs(sample: Sample, other: Sample) -> bool:
    return sample.target != other.target and sample.applied_to != other.applied_to

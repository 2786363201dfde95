"""Groups of a sample and its hard negatives ([CoIN], sec. 3.2), formed from a few numbers for each sample."""

from __future__ import annotations

import heapq
import sys
from array import array
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from robustlm.sample import Sample
from robustlm.utils.random import drawn, number_of

_Entry = tuple[int, int, int]
"""Minus the number of samples left of a target, a number that orders targets, and the target's number."""


class HardNegatives:
    """Groups of one sample and its hard negatives, as places of the samples.

    A hard negative has the same data set and the same instruction as the sample, another input and another target.
    Samples of one bank count as having the same instruction. Every sample is in exactly one group. Groups of different
    data sets alternate. Instructions, inputs and targets are compared as numbers of 64 bits, so memory takes less than
    0.5 kB a sample.

    Args:
        samples: Samples with their instructions; read once.
        negatives: Hard negatives of each group; a group has fewer, or none, if there are not enough.
        seed: Seed of the order.

    Raises:
        ValueError: `negatives` is below 1.
    """

    def __init__(self, samples: Iterable[Sample], negatives: int, seed: int) -> None:
        check_negatives(negatives)
        self._negatives = negatives
        order, self._keys, buckets = array("Q"), array("Q"), array("q")
        self._targets, self._inputs = array("Q"), array("Q")
        known: dict[int, int] = {}
        datasets: list[str] = []
        for sample in samples:
            dataset = dataset_of(sample)
            bucket = number_of((dataset, sample.task, sample.bank, "" if sample.bank else sample.instruction))
            if bucket not in known:
                known[bucket] = len(known)
                datasets.append(sys.intern(dataset))
            buckets.append(known[bucket])
            order.append(drawn(seed, "order", sample.id))
            self._keys.append(drawn(seed, "group", sample.id))
            self._targets.append(number_of(sample.target))
            self._inputs.append(number_of(sample.applied_to))
        self._rows, self._starts = array("q"), array("q", [0])
        self._order = np.empty(0, np.int64)
        self._arrange(np.frombuffer(order, np.uint64), np.frombuffer(buckets, np.int64), datasets)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __iter__(self) -> Iterator[Sequence[int]]:
        """Each group as the places of its samples, the sample before its negatives."""
        return (self._group(int(number)) for number in self._order)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Number of samples of each group, in no order."""
        starts = np.frombuffer(self._starts, np.int64)
        found: NDArray[np.int64] = starts[1:] - starts[:-1]
        return found

    def largest_first(self) -> None:
        """Put larger groups before smaller ones; groups of one size keep their order."""
        self._order = self._order[np.argsort(-self.sizes[self._order], kind="stable")]

    def _group(self, number: int) -> Sequence[int]:
        return self._rows[self._starts[number] : self._starts[number + 1]]

    def _arrange(self, order: NDArray[np.uint64], buckets: NDArray[np.int64], datasets: Sequence[str]) -> None:
        """Form the groups of each bucket, and let the data sets take turns."""
        shuffled = np.argsort(order, kind="stable")
        by_bucket = shuffled[np.argsort(buckets[shuffled], kind="stable")]
        ends = np.cumsum(np.bincount(buckets, minlength=len(datasets)))
        names = array("q")
        ranks = {name: rank for rank, name in enumerate(sorted(set(datasets)))}
        for bucket, name in enumerate(datasets):
            rows = by_bucket[int(ends[bucket - 1]) if bucket else 0 : int(ends[bucket])]
            for group in self._groups(rows.tolist()):
                self._rows.extend(group)
                self._starts.append(len(self._rows))
                names.append(ranks[name])
        firsts = np.frombuffer(self._rows, np.int64)[np.frombuffer(self._starts, np.int64)[:-1]]
        drawn_order = np.argsort(np.frombuffer(self._keys, np.uint64)[firsts], kind="stable")
        of_dataset = np.frombuffer(names, np.int64)[drawn_order]
        turns = np.empty(len(drawn_order), np.int64)
        for rank in range(len(ranks)):
            own = np.flatnonzero(of_dataset == rank)
            turns[own] = np.arange(len(own))
        self._order = drawn_order[np.lexsort((of_dataset, turns))]

    def _groups(self, rows: Sequence[int]) -> Iterator[list[int]]:
        """Make groups from samples that have the same instruction.

        Negatives come from the targets with the most samples left, and the sample itself from the target with the
        second most. So all targets run out at about the same time, and few samples are left without a negative.
        """
        left: dict[int, deque[int]] = defaultdict(deque)
        for row in rows:
            left[self._targets[row]].append(row)
        heap = [(-len(queue), number, target) for number, (target, queue) in enumerate(left.items())]
        heapq.heapify(heap)
        while heap:
            most = heapq.heappop(heap)
            own = heapq.heappop(heap) if heap else most
            if own is not most:
                heapq.heappush(heap, most)
            group = [left[own[2]].popleft()]
            group += self._negatives_of(group[0], heap, left)
            _put_back(heap, own, left)
            yield group

    def _negatives_of(self, row: int, heap: list[_Entry], left: Mapping[int, deque[int]]) -> Iterator[int]:
        """Take negatives with distinct inputs from the targets in the heap, which does not hold the row's target."""
        inputs = {self._inputs[row]}
        passed: list[_Entry] = []
        wanted = self._negatives
        while heap and wanted:
            entry = heapq.heappop(heap)
            queue = left[entry[2]]
            at = next((at for at, other in enumerate(queue) if self._inputs[other] not in inputs), None)
            if at is None:
                passed.append(entry)
                continue
            other = queue[at]
            del queue[at]
            inputs.add(self._inputs[other])
            wanted -= 1
            _put_back(heap, entry, left)
            yield other
        for entry in passed:
            heapq.heappush(heap, entry)


def contrasted(samples: Sequence[Sample], negatives: int, seed: int) -> list[list[Sample]]:
    """Divide samples in memory into groups, as `HardNegatives` does; a group has the phrasings of its first sample."""
    return [asked_alike([samples[row] for row in group]) for group in HardNegatives(samples, negatives, seed)]


def asked_alike(group: list[Sample]) -> list[Sample]:
    """The samples of a group; those of a bank with the phrasings of the first one."""
    first = group[0]
    if not first.bank:
        return group
    return [
        replace(sample, instruction=first.instruction, instruction_id=first.instruction_id, variant=first.variant)
        for sample in group
    ]


def check_negatives(negatives: int) -> None:
    """Raise `ValueError` for less than one negative."""
    if negatives < 1:
        raise ValueError(f"negatives: found {negatives}; expected at least 1")


def dataset_of(sample: Sample) -> str:
    """The data set of a sample, or its task."""
    return sample.dataset or sample.task


def _put_back(heap: list[_Entry], entry: _Entry, left: Mapping[int, deque[int]]) -> None:
    _, number, target = entry
    if left[target]:
        heapq.heappush(heap, (-len(left[target]), number, target))

"""Choose the phrasing of each sample by a hash, so that workers, ranks and restarts agree."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence

from robustlm.sample import Sample
from robustlm.utils.random import drawn

_KNOWN = 10_000
"""Number of tuples of phrasings that are kept, so that rows share them."""


class Phrasings:
    """All phrasings that each sample may have during training.

    A sample with a bank has the bank's phrasings. Other samples have their own instruction and the variant that came
    with the row. Paraphrases of all these are added.

    Args:
        samples: The samples, with their own phrasings.
        banked: For each sample, the phrasings of its bank; empty for a sample without a bank.
        paraphrases: Paraphrases by instruction.
        seed: Seed of all draws.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        banked: Sequence[tuple[str, ...]],
        paraphrases: Mapping[str, tuple[str, ...]],
        seed: int,
    ) -> None:
        self._seed = seed
        self._samples = samples
        self._banked = banked
        self._paraphrases = paraphrases
        self._kept: dict[int, tuple[str, ...]] = {}
        """The only phrasing of samples that are always asked in one phrasing."""
        self._known: dict[tuple[str, ...], tuple[str, ...]] = {}

    def keeping(self, indices: Iterable[int]) -> Phrasings:
        """A copy in which some samples always get their own phrasing."""
        found = copy.copy(self)
        found._kept = self._kept | {i: (self._samples[i].instruction,) for i in indices}
        return found

    def of(self, index: int) -> tuple[str, ...]:
        """All phrasings of a sample, its own among them."""
        if index in self._kept:
            return self._kept[index]
        sample = self._samples[index]
        return self._unique(self._banked[index] or tuple(text for text in (sample.instruction, sample.variant) if text))

    def _unique(self, own: tuple[str, ...]) -> tuple[str, ...]:
        found = self._known.get(own)
        if found is None:
            others = [other for text in own for other in self._paraphrases.get(text.strip(), ())]
            found = tuple(dict.fromkeys([*own, *others]))
            if len(self._known) == _KNOWN:
                self._known.clear()
            self._known[own] = found
        return found

    def _asks(self, index: int) -> str:
        """The sample's bank or its instruction: equal for samples that ask the same thing."""
        if index in self._kept:
            return f"row {index}"
        sample = self._samples[index]
        return "bank " + sample.bank if self._banked[index] else "text " + sample.instruction

    def alone(self) -> list[Sample]:
        """Samples with one phrasing only."""
        return [sample for i, sample in enumerate(self._samples) if len(self.of(i)) < 2]

    def drawn(self, index: int, epoch: int, leader: int | None = None) -> str:
        """Draw the phrasing of a sample in an epoch; all its phrasings are equally likely.

        Args:
            index: Index of the sample.
            epoch: Number of the epoch.
            leader: Index of a sample whose draw is used instead, if both ask the same thing.
        """
        lead = self._lead(index, leader)
        found = self.of(lead)
        return found[drawn(self._seed, epoch, "raw", self._samples[lead].id) % len(found)]

    def others(self, index: int, epoch: int, count: int, asked: str, leader: int | None = None) -> list[str]:
        """Draw `count` phrasings other than `asked`, distinct if there are enough of them."""
        lead = self._lead(index, leader)
        found = [text for text in self.of(lead) if text != asked] or [text for text in self.of(index) if text != asked]
        if not found:
            return [asked] * count
        key = self._samples[lead].id
        ranked = sorted(range(len(found)), key=lambda at: drawn(self._seed, epoch, f"other {at}", key))
        return [found[ranked[k % len(ranked)]] for k in range(count)]

    def _lead(self, index: int, leader: int | None) -> int:
        return index if leader is None or leader == index or self._asks(leader) != self._asks(index) else leader


def meaning(sample: Sample) -> int:
    """A number (int64) that is equal for samples that ask the same thing and have the same target.

    Two samples ask the same thing if they have the same data set and bank (or, without a bank, the same instruction)
    and the same other turns and tools of a chat.
    """
    asked = (sample.dataset + "\t" + sample.bank) if sample.bank else sample.instruction
    asked += "".join(f"\n{': '.join(turn)}" for turn in sample.turns)
    if sample.since or sample.tools:
        asked += "".join(f"\n{': '.join(turn)}" for turn in (("", sample.tools), *sample.since))
    return drawn(0, 0, "meaning", asked + "\n" + sample.target) >> 1

"""Choose the phrasing of each sample by a hash, so that workers, ranks and restarts agree."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence

from robustlm.sample import Sample
from robustlm.utils.random import drawn


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
        found: dict[tuple[str, ...], tuple[str, ...]] = {}
        self._of: list[tuple[str, ...]] = []
        self._asks: list[str] = []
        """For each sample, its bank or its instruction: equal for samples that ask the same thing."""
        for sample, seen in zip(samples, banked, strict=True):
            own = seen or tuple(text for text in (sample.instruction, sample.variant) if text)
            if own not in found:
                others = [other for text in own for other in paraphrases.get(text.strip(), ())]
                found[own] = tuple(dict.fromkeys([*own, *others]))
            self._of.append(found[own])
            self._asks.append("bank " + sample.bank if seen else "text " + sample.instruction)

    def keeping(self, indices: Iterable[int]) -> Phrasings:
        """A copy in which some samples always get their own phrasing."""
        found = copy.copy(self)
        found._of, found._asks = list(self._of), list(self._asks)
        for i in indices:
            found._of[i], found._asks[i] = (self._samples[i].instruction,), f"row {i}"
        return found

    def of(self, index: int) -> tuple[str, ...]:
        """All phrasings of a sample, its own among them."""
        return self._of[index]

    def alone(self) -> list[Sample]:
        """Samples with one phrasing only."""
        return [sample for sample, found in zip(self._samples, self._of, strict=True) if len(found) < 2]

    def drawn(self, index: int, epoch: int, leader: int | None = None) -> str:
        """Draw the phrasing of a sample in an epoch; all its phrasings are equally likely.

        Args:
            index: Index of the sample.
            epoch: Number of the epoch.
            leader: Index of a sample whose draw is used instead, if both ask the same thing.
        """
        lead = self._lead(index, leader)
        found = self._of[lead]
        return found[drawn(self._seed, epoch, "raw", self._samples[lead].id) % len(found)]

    def others(self, index: int, epoch: int, count: int, asked: str, leader: int | None = None) -> list[str]:
        """Draw `count` phrasings other than `asked`, distinct if there are enough of them."""
        lead = self._lead(index, leader)
        found = [text for text in self._of[lead] if text != asked] or [
            text for text in self._of[index] if text != asked
        ]
        if not found:
            return [asked] * count
        key = self._samples[lead].id
        ranked = sorted(range(len(found)), key=lambda at: drawn(self._seed, epoch, f"other {at}", key))
        return [found[ranked[k % len(ranked)]] for k in range(count)]

    def _lead(self, index: int, leader: int | None) -> int:
        return index if leader is None or self._asks[leader] != self._asks[index] else leader


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

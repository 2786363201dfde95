"""Which of its phrasings a sample is asked with: drawn by hash, so that workers, ranks and restarts agree."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence

from robustlm.sample import Sample
from robustlm.utils.random import drawn


class Phrasings:
    """Every way that each of some samples may be asked in training.

    Those are the phrasings of its bank or, of a sample that brings its own instruction, that and the variant that came
    with it; and the paraphrases of all these.

    Args:
        samples: Under their own phrasings.
        banked: The phrasings of each sample's bank; none for a sample that has no bank.
        paraphrases: By instruction.
        seed: Of all draws.
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
        """What each sample is asked in whatever phrasing: its bank, or its instruction."""
        for sample, seen in zip(samples, banked, strict=True):
            own = seen or tuple(text for text in (sample.instruction, sample.variant) if text)
            if own not in found:
                others = [other for text in own for other in paraphrases.get(text.strip(), ())]
                found[own] = tuple(dict.fromkeys([*own, *others]))
            self._of.append(found[own])
            self._asks.append("bank " + sample.bank if seen else "text " + sample.instruction)

    def keeping(self, indices: Iterable[int]) -> Phrasings:
        """The same, but some samples are always drawn their own phrasing."""
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
        """The phrasing of a sample in an epoch, each with the same chance.

        Args:
            index: Of the sample.
            epoch: Whose.
            leader: A sample whose draw this one follows, where both are asked the same thing.
        """
        lead = self._lead(index, leader)
        found = self._of[lead]
        return found[drawn(self._seed, epoch, "raw", self._samples[lead].id) % len(found)]

    def others(self, index: int, epoch: int, count: int, asked: str, leader: int | None = None) -> list[str]:
        """`count` other phrasings than `asked`, distinct as long as there are enough of them."""
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
    """A number equal for samples that are asked the same thing and have the same target (int64).

    What is asked is named by the bank, whatever the phrasing, or else by the instruction; in a chat, by what was said
    before too.
    """
    asked = (sample.dataset + "\t" + sample.bank) if sample.bank else sample.instruction
    asked += "".join(f"\n{role}: {text}" for role, text in sample.turns)
    return drawn(0, 0, "meaning", asked + "\n" + sample.target) >> 1

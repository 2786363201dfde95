"""Which of its phrasings a sample is asked with: drawn by hash, so that workers, ranks and restarts agree."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

from robustlm.data.samples import Sample


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
        for sample, seen in zip(samples, banked, strict=True):
            own = seen or tuple(text for text in (sample.instruction, sample.variant) if text)
            if own not in found:
                others = [other for text in own for other in paraphrases.get(text.strip(), ())]
                found[own] = tuple(dict.fromkeys([*own, *others]))
            self._of.append(found[own])

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
            leader: A sample whose draw this one follows, where both have the same phrasings.
        """
        found = self._of[index]
        return found[_hashed(self._seed, epoch, "raw", self._key(index, leader)) % len(found)]

    def others(self, index: int, epoch: int, count: int, asked: str, leader: int | None = None) -> list[str]:
        """`count` other phrasings than `asked`, distinct as long as there are enough of them."""
        found = [text for text in self._of[index] if text != asked]
        if not found:
            return [asked] * count
        key = self._key(index, leader)
        ranked = sorted(range(len(found)), key=lambda at: _hashed(self._seed, epoch, f"other {at}", key))
        return [found[ranked[k % len(ranked)]] for k in range(count)]

    def _key(self, index: int, leader: int | None) -> str:
        return self._samples[index if leader is None or self._of[leader] != self._of[index] else leader].id


def meaning(sample: Sample) -> int:
    """A number equal for samples that are asked the same thing and have the same target (int64).

    What is asked is named by the bank, whatever the phrasing, or else by the instruction.
    """
    asked = (sample.dataset + "\t" + sample.bank) if sample.bank else sample.instruction
    return _hashed(0, 0, "meaning", asked + "\n" + sample.target) >> 1


def _hashed(seed: int, epoch: int, what: str, key: str) -> int:
    data = f"{seed} {epoch} {what} {key}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")

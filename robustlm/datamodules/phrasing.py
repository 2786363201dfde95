"""Which of its phrasings a sample is asked with: drawn by hash, so that workers, ranks and restarts agree."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping, Sequence

from robustlm.data.instructions import InstructionBank, Version
from robustlm.data.samples import Sample


class Phrasings:
    """Every way that each of some samples may be asked in training.

    A sample's phrasings are the `seen` ones of its bank; those of a sample that brings its own instruction are that,
    its paraphrases in a file, and the variant that came with the row.

    Args:
        samples: Under their own phrasings.
        banks: By name.
        version: Of the banks' phrasings.
        bank: Name of the bank that replaces all the rows' own.
        paraphrases: By instruction.
        seed: Of all draws.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        banks: Mapping[str, InstructionBank],
        version: Version,
        bank: str | None,
        paraphrases: Mapping[str, tuple[str, ...]],
        seed: int,
    ) -> None:
        self._seed = seed
        self._samples = samples
        seen = {name: tuple(found.text for found in one.phrasings(version, "seen")) for name, one in banks.items()}
        self._of: list[tuple[str, ...]] = []
        self._asks: list[str] = []
        """What each sample is asked in whatever phrasing: its bank, or its instruction."""
        own: dict[tuple[str, str | None], tuple[str, ...]] = {}
        for sample in samples:
            name = bank or sample.bank
            if name and (sample.instruction_id or bank):
                self._of.append(seen[name])
                self._asks.append("bank " + name)
                continue
            key = (sample.instruction, sample.variant)
            if key not in own:
                given = paraphrases.get(sample.instruction.strip(), ())
                own[key] = tuple(
                    dict.fromkeys((sample.instruction, *given, *([sample.variant] if sample.variant else [])))
                )
            self._of.append(own[key])
            self._asks.append("text " + sample.instruction)

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
        return found[_hashed(self._seed, epoch, "raw", self._samples[lead].id) % len(found)]

    def others(self, index: int, epoch: int, count: int, asked: str, leader: int | None = None) -> list[str]:
        """`count` other phrasings than `asked`, distinct as long as there are enough of them."""
        lead = self._lead(index, leader)
        found = [text for text in self._of[lead] if text != asked] or [
            text for text in self._of[index] if text != asked
        ]
        if not found:
            return [asked] * count
        key = self._samples[lead].id
        ranked = sorted(range(len(found)), key=lambda at: _hashed(self._seed, epoch, f"other {at}", key))
        return [found[ranked[k % len(ranked)]] for k in range(count)]

    def _lead(self, index: int, leader: int | None) -> int:
        return index if leader is None or self._asks[leader] != self._asks[index] else leader


def meaning(sample: Sample) -> int:
    """A number equal for samples that are asked the same thing and have the same target (int64).

    What is asked is named by the bank, whatever the phrasing, or else by the instruction.
    """
    asked = (sample.dataset + "\t" + sample.bank) if sample.bank else sample.instruction
    return _hashed(0, 0, "meaning", asked + "\n" + sample.target) >> 1


def _hashed(seed: int, epoch: int, what: str, key: str) -> int:
    data = f"{seed} {epoch} {what} {key}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")

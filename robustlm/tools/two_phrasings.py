"""Two phrasings of what a sample is asked: its instruction and a variant that asks for the same."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from robustlm.instructions.banks import Instruction, Version, assigned, fits, load_bank
from robustlm.rows.base import SourceError
from robustlm.sample import Sample
from robustlm.utils.random import drawn

log = logging.getLogger(__name__)

Paraphrases = Mapping[str, Sequence[str]]
"""Other phrasings of each instruction."""

_LISTED = 20


class TwoPhrasings:
    """Gives samples an instruction, if they have none, and another phrasing of it as their variant.

    The variant is the first of these that exists: a paraphrase of the instruction, a seen phrasing of the sample's
    bank, the variant that came with the row. Both choices depend on the seed and the sample's id alone.

    Args:
        version: Length of the bank phrasings that are used.
        paraphrases: Other phrasings of instructions.
        seed: Seed of the choices.
        unseen_share: See `InstructionBank.load`.
    """

    def __init__(
        self, version: Version, paraphrases: Paraphrases, seed: int, unseen_share: float | None = None
    ) -> None:
        self._version: Version = version
        self._paraphrases = paraphrases
        self._seed = seed
        self._unseen_share = unseen_share
        self._bank = partial(load_bank, unseen_share=unseen_share)

    def of(self, sample: Sample) -> Sample | None:
        """The sample with two phrasings; null if it has one only."""
        asked = sample
        if not sample.instruction:
            asked = assigned(sample, self._usable(sample), self._seed)
        texts = list(self._paraphrases.get(asked.instruction, ()))
        if not texts and sample.bank:
            words = tuple(word for word, _ in asked.answer_words)
            texts = [other.text for other in self._usable(sample) if other.answers == words]
        if not texts and sample.variant is not None:
            texts = [sample.variant]
        texts = [text for text in texts if text != asked.instruction]
        if not texts:
            return None
        return replace(asked, variant=texts[drawn(self._seed, "variant", sample.id) % len(texts)])

    def each(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """All samples with two phrasings, one after another; memory holds one of them.

        Raises:
            SourceError: After the last one, if samples have one phrasing only; the message names some of them.
        """
        listed: list[str] = []
        count = single = 0
        banks: set[str] = set()
        for sample in samples:
            count += 1
            if sample.bank not in banks:
                banks.add(sample.bank)
                self._say_division(sample.bank)
            found = self.of(sample)
            if found is not None:
                yield found
                continue
            single += 1
            if single <= _LISTED:
                listed.append(sample.id)
        if single:
            names = ", ".join(listed) + (", …" if single > _LISTED else "")
            raise SourceError(
                f"{single} of {count} rows have no second phrasing of their instruction ({names}); expected a "
                "bank with two seen phrasings or more (--bank), paraphrases of it (--paraphrases), or a field `variant`"
            )

    def _usable(self, sample: Sample) -> list[Instruction]:
        """The seen phrasings of a sample's bank that it has the texts and labels for."""
        own = self._bank(sample.bank)
        return [one for one in own.phrasings(self._version, "seen") if fits(one, sample, own.slots)]

    def _say_division(self, name: str) -> None:
        if name and (division := self._bank(name).division):
            log.info("%s (unseen_share: %s); only seen ones are used", division, self._unseen_share)


def phrased(
    samples: Iterable[Sample],
    version: Version,
    paraphrases: Paraphrases,
    seed: int,
    unseen_share: float | None = None,
) -> list[Sample]:
    """Samples in memory with two phrasings each, as `TwoPhrasings` chooses them.

    Raises:
        SourceError: Samples have one phrasing only; the message names them.
    """
    return list(TwoPhrasings(version, paraphrases, seed, unseen_share).each(samples))

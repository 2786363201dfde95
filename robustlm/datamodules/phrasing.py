"""Chooses the instruction of each sample, in training and under each condition of a test."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from robustlm.conditions.condition import Condition
from robustlm.conditions.misleading import misled, phrasings_under
from robustlm.instructions.banks import (
    Instruction,
    InstructionBank,
    LackingError,
    Split,
    Version,
    assigned,
    fits,
    load_bank,
)
from robustlm.instructions.paraphrases import load_paraphrases
from robustlm.instructions.phrasings import Phrasings
from robustlm.instructions.slots import slots
from robustlm.noise.base import CHANGES_MEANING, spared
from robustlm.noise.pools import noise_pools
from robustlm.sample import Sample, is_request
from robustlm.sources.source import Role
from robustlm.utils.computed import Computed

log = logging.getLogger(__name__)


class Phraser:
    """Gives samples their instructions: phrasings of a bank, or the instruction that a row brings.

    Args:
        version: Which phrasings are used by length: `concise`, `detailed` or `both`.
        bank: Bank of samples whose source names none; null: those keep their own instruction.
        unseen_share: Share of a plain list of templates that is held back, see `InstructionBank.load`.
        paraphrases: Paraphrase file for training; null: none.
        seed: Seed of all choices.
    """

    def __init__(
        self, version: Version, bank: str | None, unseen_share: float | None, paraphrases: str | None, seed: int
    ) -> None:
        self._version: Version = version
        self._bank = bank
        self._unseen_share = unseen_share
        self._paraphrases = paraphrases
        self._seed = seed

    def bank_named(self, name: str) -> InstructionBank:
        """A bank, divided by `unseen_share`."""
        return load_bank(name, self._unseen_share)

    def bank_of(self, sample: Sample) -> str | None:
        """The bank of a sample's phrasings; null if the sample is asked with an instruction of its own."""
        own = sample.instruction and not sample.instruction_id and not self._bank
        return None if own else sample.bank or self._bank

    def say_divisions(self, samples: Sequence[Sample], role: Role) -> None:
        """Log how banks that are plain lists were divided into seen and unseen phrasings."""
        names = sorted({name for name in map(self.bank_of, samples) if name})
        divisions = [division for name in names if (division := self.bank_named(name).division)]
        share = "null, a quarter" if self._unseen_share is None else self._unseen_share
        for division in divisions:
            log.info("data.%s: %s (data.unseen_share: %s)", role, division, share)
        if self._unseen_share is not None and not divisions:
            log.info("data.unseen_share: %s has no effect on data.%s, because no bank is a plain list", share, role)

    def asked(self, sample: Sample, role: Role) -> Sample:
        """A sample under one phrasing of its bank, the same in every run with this seed.

        A sample without a bank is returned unchanged. The phrasing is a seen one; for a test whose bank has only unseen
        phrasings, it is an unseen one. The conditions of a test later replace it.
        """
        name = self.bank_of(sample)
        if not name:
            return sample
        bank = self.bank_named(name)
        split: Split = "seen" if role != "test" or bank.has("seen") else "unseen"
        if role == "test" and not bank.has("all"):  # a bank of named lists, which conditions ask with
            found = [one for listed in bank.lists.values() for one in listed]
        else:
            found = bank.phrasings(self._version, split)
        return replace(assigned(sample, _fitting(found, [sample], bank), self._seed), bank=name)

    def phrasings(self, samples: Sequence[Sample], *, variants: bool = False) -> Phrasings:
        """All phrasings that training samples may be asked with.

        With `variants`, also the variants that rows bring; they may be noisy, so the default leaves them out.
        """
        given = load_paraphrases(self._paraphrases) if self._paraphrases else {}
        banked = _Banked(self, samples)
        if isinstance(samples, list):
            samples = samples if variants else [replace(sample, variant=None) for sample in samples]
            return Phrasings(samples, [banked.of(sample) for sample in samples], given, self._seed)
        rows = samples if variants else Computed(len(samples), partial(_without_variant, samples))
        return Phrasings(rows, Computed(len(samples), banked.at), given, self._seed)

    def seen(self, name: str) -> list[Instruction]:
        """The phrasings of a bank that training may use."""
        return self.bank_named(name).phrasings(self._version, "seen")

    # --- conditions --------------------------------------------------------------------------------------------

    def banked(self, condition: Condition, samples: Sequence[Sample]) -> dict[str, list[Instruction]]:
        """The phrasings that a condition asks samples with, by bank."""
        banks = {name: self.bank_named(name) for name in map(self.bank_of, samples) if name}
        asked: dict[str, list[Sample]] = {}
        kinds = set()
        for sample in samples:
            kind = (self.bank_of(sample), tuple(name for name, _ in sample.fields), len(sample.choices))
            if kind[0] and kind not in kinds:
                kinds.add(kind)
                asked.setdefault(kind[0], []).append(sample)
        return {
            name: _fitting(
                phrasings_under(condition, name, banks, self._version, self._seed), asked.get(name, []), banks[name]
            )
            for name in banks
        }

    def asked_alone(self, sample: Sample, condition: Condition) -> Sample:
        """Change a sample's own instruction as a condition says; a sample with a bank is returned unchanged."""
        if self.bank_of(sample):
            return sample
        return replace(sample, instruction=misled(sample.instruction, condition, sample.id, self._seed))

    def asked_under(self, condition: Condition, samples: Sequence[Sample]) -> list[Sample]:
        """Give each sample one instruction under a condition."""
        banked = self.banked(condition, samples)
        found = [self.asked_alone(sample, condition) for sample in samples]
        found = [
            replace(assigned(sample, banked[name], self._seed), bank=name) if (name := self.bank_of(sample)) else sample
            for sample in found
        ]
        if condition.noise is None:
            return found
        say_spared(condition, found)
        noisy = condition.noise.apply(
            [sample.instruction for sample in found],
            [sample.id for sample in found],
            seed=self._seed,
            **noise_pools(samples, protect=condition.noise.protect),
        )
        return [sample.reworded(text) for sample, text in zip(found, noisy.texts, strict=True)]


class _Banked:
    """The seen phrasings that each sample's bank has for it."""

    def __init__(self, phraser: Phraser, samples: Sequence[Sample]) -> None:
        self._phraser = phraser
        self._samples = samples
        self._known: dict[tuple[object, ...], tuple[str, ...]] = {}

    def at(self, index: int) -> tuple[str, ...]:
        return self.of(self._samples[index])

    def of(self, sample: Sample) -> tuple[str, ...]:
        name = self._phraser.bank_of(sample)
        if not name:
            return ()
        # only phrasings that ask for the same answer words as the sample's own, which its target is
        words = tuple(word for word, _ in sample.answer_words)
        key = (name, tuple(field for field, _ in sample.fields), words, len(sample.choices))
        if key not in self._known:
            found = _fitting(self._phraser.seen(name), [sample], self._phraser.bank_named(name))
            self._known[key] = tuple(one.text for one in found if one.answers == words)
        return self._known[key]


def _without_variant(samples: Sequence[Sample], row: int) -> Sample:
    return replace(samples[row], variant=None)


def _fitting(found: Sequence[Instruction], samples: Sequence[Sample], bank: InstructionBank) -> list[Instruction]:
    """The phrasings that all these samples can be asked with: they have a text for each placeholder.

    Raises:
        LackingError: There are none.
    """
    names = bank.slots
    if not names and not bank.has_answers:
        return list(found)
    # a row that names a packaged bank, and has no field for it, reads braces as text
    fitting = [one for one in found if all(fits(one, sample, names) for sample in samples)]
    if not fitting:
        reason = f"instruction bank {bank.name!r}: no phrasing that {samples[0].id} can be asked with"
        needed = ", ".join(f"{{{name}}}" for name in slots(found[0].text)) or "none"
        answers = f" and {len(found[0].answers)} labels" if found[0].answers else ""
        raise LackingError(
            f"{reason}; the first one needs texts for the placeholders {needed}{answers}, and the row has "
            f"{', '.join(name for name, _ in samples[0].fields) or 'none'} and {len(samples[0].choices)} labels",
            reason,
        )
    return fitting


def say_spared(condition: Condition, samples: Sequence[Sample]) -> None:
    """Log where a condition's noise differs for rows whose instruction is the request itself."""
    if condition.noise is None:
        return
    requests = sum(map(is_request, samples))
    if line := spared(condition.noise, requests, len(samples)):
        log.info("data.conditions: %s: %s", condition.name, line)
    if condition.noise.kind in CHANGES_MEANING and requests:
        log.warning(
            "data.conditions: %s changes the meaning of the request in %d of %d rows, because their instruction is "
            "the request itself; their targets are no longer the right answers",
            condition.name, requests, len(samples),
        )  # fmt: skip

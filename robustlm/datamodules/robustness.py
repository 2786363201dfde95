"""The same samples under several phrasings of every condition: what a robustness evaluation asks."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from robustlm.data.conditions import Condition
from robustlm.data.instructions import Instruction
from robustlm.data.noise import Noise
from robustlm.data.protection import protected_phrases
from robustlm.data.samples import Sample
from robustlm.data.sources import Role
from robustlm.datamodules.base import InstructionDataModule, noise_pools

log = logging.getLogger(__name__)

OWN = "own"
"""Instruction id of rows that bring an instruction of their own."""


class RobustnessDataModule(InstructionDataModule):
    """Tests the same samples of each dataset under the same few instructions, in every condition.

    A condition's instructions are phrasings of the dataset's bank (`clean`: seen ones, `unseen`: those held back);
    noise changes an instruction once, for all samples, so that every cell of samples × instructions × conditions is
    filled by one answer. Rows with an instruction of their own are asked with that alone.

    Args:
        prompts: Instructions of each dataset and condition, the first ones of the bank; null takes all.
        samples: Samples of each dataset, drawn with the seed; null takes all.
        kwargs: Arguments of `InstructionDataModule`.
    """

    def __init__(self, *args: Any, prompts: int | None = 6, samples: int | None = 100, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for name, value in (("prompts", prompts), ("samples", samples)):
            if value is not None and value < 1:
                raise ValueError(f"data.{name}: found {value}; expected ≥ 1, or null for all")
        self.prompts = prompts
        self.samples = samples

    def selected(self, samples: list[Sample], role: Role) -> list[Sample]:
        """As many samples of each dataset as asked for, the same in every run with this seed."""
        if role != "test" or self.samples is None:
            return samples
        by_dataset: dict[str, list[Sample]] = defaultdict(list)
        for sample in samples:
            by_dataset[sample.dataset or sample.task].append(sample)
        kept = {
            sample.id
            for found in by_dataset.values()
            for sample in sorted(found, key=lambda sample: _rank(self.seed, sample.id))[: self.samples]
        }
        return [sample for sample in samples if sample.id in kept]

    def asked_under(self, condition: Condition, samples: Sequence[Sample]) -> list[Sample]:
        """Every sample under every instruction of the condition."""
        found: list[Sample] = []
        banks: dict[str, list[Instruction]] = {}
        for sample in samples:
            name = self.bank_of(sample)
            if not name:
                found.append(replace(sample, instruction_id=OWN))
                continue
            if name not in banks:
                banks[name] = self._instructions(name, condition)
            found += [replace(sample, instruction=i.text, instruction_id=i.id, bank=name) for i in banks[name]]
        return found if condition.noise is None else _noisy(found, condition.noise, self.seed, samples)

    def _instructions(self, name: str, condition: Condition) -> list[Instruction]:
        found = self.bank_named(name).phrasings(self.instructions, condition.split)
        if self.prompts is not None and len(found) < self.prompts:
            log.warning(
                "data.prompts: the bank %s has %d %s phrasings, which are fewer than %d; all are asked",
                name, len(found), condition.split, self.prompts,
            )  # fmt: skip
        return found[: self.prompts]


def _noisy(asked: list[Sample], noise: Noise, seed: int, samples: Sequence[Sample]) -> list[Sample]:
    """Samples whose instructions are noisy: alike for all samples of a dataset that share one.

    Words are protected that are so for every one of these samples, such as the labels of a classification.
    """
    sharing: dict[tuple[str, ...], list[Sample]] = defaultdict(list)
    for sample in asked:
        own = (sample.id,) if sample.instruction_id == OWN else (sample.dataset, sample.instruction_id)
        sharing[own].append(sample)
    first = [found[0] for found in sharing.values()]
    pools = noise_pools(first)
    if noise.protect:
        everyones = [[set(protected_phrases(sample)) for sample in found] for found in sharing.values()]
        pools["protected"] = [sorted(set.intersection(*phrases)) for phrases in everyones]
    pools |= {name: noise_pools(samples)[name] for name in ("vocabulary", "contexts")} | {"own": None}
    ids = [own[-1] for own in sharing]
    noisy = noise.apply([sample.instruction for sample in first], ids, seed=seed, **pools)
    texts = dict(zip(sharing, noisy.texts, strict=True))
    keyed = {id(sample): own for own, found in sharing.items() for sample in found}
    return [replace(sample, instruction=texts[keyed[id(sample)]]) for sample in asked]


def _rank(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed} sample {name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()

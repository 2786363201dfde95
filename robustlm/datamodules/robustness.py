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
from robustlm.data.shots import Examples, choose, input_of, pool_of
from robustlm.data.sources import Role, Source, load_all
from robustlm.datamodules.base import InstructionDataModule, Sources, asked_by, listed, noise_pools

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
        shots: Solved examples before each row, the same for all rows of a dataset (and topic, if its source names one).
        examples: Rows they are taken from, as in `test`; of a folder, the `train` split where none is named. A source
            without bank, fields or topic has those of the test source at the same path.
        kwargs: Arguments of `InstructionDataModule`.
    """

    def __init__(
        self,
        *args: Any,
        prompts: int | None = 6,
        samples: int | None = 100,
        shots: int = 0,
        examples: Sources = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if shots < 0:
            raise ValueError(f"data.shots: found {shots}; expected ≥ 0")
        if bool(shots) != bool(examples):
            raise ValueError(
                f"data.examples: found none to take {shots} examples from; expected a source, such as a train split"
                if shots
                else "data.shots: found 0 with data.examples; expected how many of them are shown, such as 4"
            )
        for name, value in (("prompts", prompts), ("samples", samples)):
            if value is not None and value < 1:
                raise ValueError(f"data.{name}: found {value}; expected ≥ 1, or null for all")
        self.prompts = prompts
        self.samples = samples
        self.shots = shots
        self.examples = [self._completed(source) for source in listed(examples)]
        self._chosen: Examples | None = None

    def setup(self, stage: str) -> None:
        """See `InstructionDataModule.setup`; says how many examples did not fit."""
        super().setup(stage)
        found = [sample for rows in self.conditioned.values() for sample in rows.samples]
        if fewer := sum(len(sample.examples) < self.shots for sample in found):
            log.warning(
                "data.max_length: %d of %d prompts are too long for %d examples; the first ones of them are left out",
                fewer, len(found), self.shots,
            )  # fmt: skip

    def _completed(self, source: str | Source) -> Source:
        """A source of examples that reads its rows as the test source at the same path does."""
        wanted = Source(source) if isinstance(source, str) else source
        tested = [asked_by(other, self.bank) for other in self.sources["test"]]
        like = next((other for other in tested if other.path == wanted.path), None)
        if like is not None:
            topic, name = wanted.topic or like.topic, wanted.name or like.name
            wanted = replace(wanted, topic=topic, name=name, format=wanted.format or like.format)
            if not wanted.bank:
                wanted = replace(wanted, bank=like.bank, fields=like.fields)
        return asked_by(wanted, self.bank)

    def solved(self, samples: Sequence[Sample]) -> list[Sample]:
        """Samples with the examples that are shown before them.

        Raises:
            ValueError: Examples lack fields that the samples' instructions show.
        """
        if self._chosen is None:
            return list(samples)
        return [replace(sample, examples=self._shown(sample, self._chosen)) for sample in samples]

    def _shown(self, sample: Sample, chosen: Examples) -> tuple[Sample, ...]:
        own = not self.bank_of(sample)
        found = []
        for example in chosen.of(sample):
            if lacking := set(dict(sample.fields)) - set(dict(example.fields)):
                raise ValueError(
                    f"data.examples: {example.id} has no text for {{{min(lacking)}}}, which instructions of "
                    f"{sample.id} show; expected the same bank and fields as of the source in data.test"
                )
            alike = not own or example.instruction == sample.instruction
            found.append(replace(example, instruction="") if alike else example)
        return tuple(found)

    def selected(self, samples: list[Sample], role: Role) -> list[Sample]:
        """As many samples of each dataset as asked for, the same in every run with this seed."""
        if role != "test":
            return samples
        if self.shots:
            # also samples that are not asked must not be shown, so that other `samples` meet the same examples
            given = load_all(self.examples, "examples", on_bad_row=self.on_bad_row, rejected=self.rejected)
            tested = {input_of(sample) for sample in samples}
            self._chosen = choose(given, map(pool_of, samples), tested, self.shots, self.seed)
        if self.samples is None:
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
        samples = self.solved(samples)
        found: list[Sample] = []
        banks = {name: self._first(all_, name, condition) for name, all_ in self.banked(condition, samples).items()}
        for sample in samples:
            name = self.bank_of(sample)
            if not name:
                found.append(replace(self.asked_alone(sample, condition), instruction_id=OWN))
                continue
            found += [replace(sample, instruction=i.text, instruction_id=i.id, bank=name) for i in banks[name]]
        return found if condition.noise is None else _noisy(found, condition.noise, self.seed, samples)

    def _first(self, found: list[Instruction], name: str, condition: Condition) -> list[Instruction]:
        if self.prompts is not None and len(found) < self.prompts:
            log.warning(
                "data.prompts: the bank %s has %d %s phrasings, which are fewer than %d; all are asked",
                name, len(found), condition.listed or condition.made or condition.split, self.prompts,
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

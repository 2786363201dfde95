"""The same samples under several phrasings of every condition: what a robustness evaluation asks."""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from robustlm.backbone import weights_digest
from robustlm.batch import InstructionBatch
from robustlm.data.conditions import Condition
from robustlm.data.instructions import Instruction
from robustlm.data.noise import Noise
from robustlm.data.protection import protected_phrases
from robustlm.data.samples import Sample
from robustlm.data.sources import Role
from robustlm.datamodules.attacking import Asked, Attacker, Attacks
from robustlm.datamodules.base import InstructionDataModule, Rows, noise_pools
from robustlm.evaluation.attack import Objective
from robustlm.evaluation.manifest import ATTACKS, AttackKey, Manifest, read_attacks
from robustlm.hosted import HostedBackbone

log = logging.getLogger(__name__)

OWN = "own"
"""Instruction id of rows that bring an instruction of their own."""


class RobustnessDataModule(InstructionDataModule):
    """Tests the same samples of each dataset under the same few instructions, in every condition.

    A condition's instructions are phrasings of the dataset's bank (`clean`: seen ones, `unseen`: those held back);
    noise changes an instruction once, for all samples, so that every cell of samples × instructions × conditions is
    filled by one answer. Rows with an instruction of their own are asked with that alone.

    Attacks are searched for when a test's loaders are made, on the model as it is then: loaded, restored, on its
    device. An instruction is attacked once for all samples of a dataset, too; one that a row brings, for that row.

    Args:
        prompts: Instructions of each dataset and condition, the first ones of the bank; null takes all.
        samples: Samples of each dataset, drawn with the seed; null takes all.
        attack: How conditions `attack:<recipe>@<ω>` search.
        kwargs: Arguments of `InstructionDataModule`.
    """

    attackable = True

    def __init__(
        self,
        *args: Any,
        prompts: int | None = 6,
        samples: int | None = 100,
        attack: Attacks = Attacks(),  # noqa: B008 - read only
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        for name, value in (("prompts", prompts), ("samples", samples)):
            if value is not None and value < 1:
                raise ValueError(f"data.{name}: found {value}; expected ≥ 1, or null for all")
        self.prompts = prompts
        self.samples = samples
        self.attack = attack
        self._unattacked: dict[str, Rows] = {}

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

    # --- attacks -----------------------------------------------------------------------------------------------

    def under(self, condition: Condition, rows: Rows) -> Rows:
        """The same rows, asked as a condition says; before an attack where it is one."""
        found = super().under(condition, rows)
        if condition.attack is not None:
            self._unattacked[condition.name] = found
        return found

    def test_dataloader(self) -> Any:
        """One loader for each condition; searches for attacks first."""
        wanted = [condition for condition in self.conditions if condition.attack is not None]
        if wanted:
            attacker = self._attacker()
            for condition in wanted:
                self.conditioned[condition.name] = self._attacked(condition, attacker)
            if attacker.searched and self.trainer.is_global_zero:  # type: ignore[union-attr]
                print(f"{attacker.searched} instructions attacked, {attacker.queries} queries, {attacker.rows} rows")
        return super().test_dataloader()

    def _attacked(self, condition: Condition, attacker: Attacker) -> Rows:
        assert condition.attack is not None
        asked = self._unattacked[condition.name].samples
        texts = {}
        for key, found in _sharing(asked).items():
            first = sorted(found, key=lambda sample: _rank(self.seed, sample.id))
            named: AttackKey = (condition.name, *key)
            texts[key] = attacker.text(named, condition.attack, first, _common_phrases(found))
        return self.ready([replace(s, instruction=texts[_group(s)]) for s in asked], condition)

    def _attacker(self) -> Attacker:
        trainer = self.trainer
        if trainer is None:
            raise RuntimeError("attacks need a model to attack: make the loaders in a Trainer's test or predict")
        module: Any = trainer.lightning_module
        hosted = isinstance(module.backbone, HostedBackbone)
        objective: Objective = "accuracy" if hosted else self.attack.objective
        path = None if self.folder is None else self.folder / ATTACKS
        if path is not None and self.attack.reuse and path.resolve() == Path(self.attack.reuse).resolve():
            raise ValueError(f"data.attack.reuse: {path} is what this run writes; expected the file of another run")

        def judge(batch: InstructionBatch, objective: Objective) -> list[float]:
            with trainer.precision_plugin.test_step_context():
                found: list[float] = module.judge(batch.to(module.device), objective)
            return found

        def asked(samples: Sequence[Sample]) -> Asked:
            return Asked(
                samples,
                self._encoder(),
                judge,
                batch_size=self.eval_batch_size,
                options=self.scoring == "options",
                rank=trainer.global_rank,
                world=trainer.world_size,
            )

        known = read_attacks(path) if path is not None and self.resumed and path.exists() else {}
        trainer.strategy.barrier("attacks read")
        return Attacker(
            self.attack,
            asked,
            objective=objective,
            seed=self.seed,
            made=(
                module.backbone.name if hosted else weights_digest(module.backbone),
                module.max_new_tokens,
                self.scoring,
            ),
            known=known,
            manifest=Manifest(path, keep=self.resumed) if path is not None and trainer.is_global_zero else None,
            folder=path,
        )

    # --- instructions ------------------------------------------------------------------------------------------

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


_Group = tuple[str, str, str | None]
"""Dataset, instruction and, for a row with an instruction of its own, sample."""


def _group(sample: Sample) -> _Group:
    return sample.dataset or sample.task, sample.instruction_id, sample.id if sample.instruction_id == OWN else None


def _sharing(asked: Sequence[Sample]) -> Mapping[_Group, list[Sample]]:
    """Samples that are asked with the same instruction."""
    found: dict[_Group, list[Sample]] = defaultdict(list)
    for sample in asked:
        found[_group(sample)].append(sample)
    return found


def _common_phrases(samples: Sequence[Sample]) -> list[str]:
    """Words that are protected for every one of these samples, such as the labels of a classification."""
    return sorted(set.intersection(*(set(protected_phrases(sample)) for sample in samples)))


def _noisy(asked: list[Sample], noise: Noise, seed: int, samples: Sequence[Sample]) -> list[Sample]:
    """Samples whose instructions are noisy: alike for all samples of a dataset that share one."""
    sharing = _sharing(asked)
    first = [found[0] for found in sharing.values()]
    pools = noise_pools(first)
    if noise.protect:
        pools["protected"] = [_common_phrases(found) for found in sharing.values()]
    pools |= {name: noise_pools(samples)[name] for name in ("vocabulary", "contexts")} | {"own": None}
    ids = [sample or instruction for _, instruction, sample in sharing]
    noisy = noise.apply([sample.instruction for sample in first], ids, seed=seed, **pools)
    texts = dict(zip(sharing, noisy.texts, strict=True))
    return [replace(sample, instruction=texts[_group(sample)]) for sample in asked]


def _rank(seed: int, name: str) -> bytes:
    return hashlib.blake2b(f"{seed} sample {name}".encode("utf-8", "surrogatepass"), digest_size=8).digest()

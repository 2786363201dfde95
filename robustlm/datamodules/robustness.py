"""The rows of a robustness evaluation: the same samples under several phrasings of every condition."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from robustlm.batch import InstructionBatch
from robustlm.checks.numbers import check_number
from robustlm.conditions.condition import PARAPHRASED, Condition
from robustlm.conditions.manifest import AttackKey, Manifest, read_attacks
from robustlm.conditions.model import AttackedModel
from robustlm.conditions.search import Objective
from robustlm.datamodules.attacking import Asked, Attacker, Attacks, SearchBar
from robustlm.datamodules.base import InstructionDataModule
from robustlm.datamodules.batches import EncodedSamples
from robustlm.datamodules.budget import balanced_cells
from robustlm.datamodules.phrasing import say_spared
from robustlm.evaluation.record import OWN
from robustlm.instructions.banks import Instruction, LackingError, asked_with
from robustlm.instructions.paraphrases import load_paraphrases
from robustlm.noise.base import Noise
from robustlm.noise.pools import noise_pools
from robustlm.noise.protection import protected_phrases
from robustlm.prompts.few_shot import Examples, choose, input_of, pool_of
from robustlm.sample import Sample
from robustlm.sources.source import Role, Source, Sources, asked_by, formatted_by, listed, named_by_path
from robustlm.utils.random import drawn

log = logging.getLogger(__name__)


class RobustnessDataModule(InstructionDataModule):
    """Tests the same samples of each dataset under the same few instructions, in every condition.

    The instructions of a condition are phrasings of the dataset's bank (`clean`: seen ones, `unseen`: those held back).
    Noise changes each instruction once, for all samples, so every cell of samples × instructions × conditions holds
    one answer. Rows with an instruction of their own are asked with that instruction only.

    `search_attacks` searches for attacks. The module calls it after its model is loaded, restored and on its device,
    and before the first batch is served. Like noise, an attack changes each instruction once for all samples of a
    dataset; an instruction that a row brings is attacked for that row.

    Args:
        prompts: Number of instructions for each dataset and condition, the first ones of the bank; null takes all.
        samples: Number of samples of each dataset, drawn with the seed; null takes all.
        budget: Share of the cells of samples × instructions that are asked, in (0, 1], in a balanced design, the same
            under all conditions with the same instructions; null asks all. Rows with an instruction of their own are
            always asked.
        shots: Number of solved examples before each row, the same examples for all rows of a dataset (and topic, if its
            source names one).
        examples: Sources of the examples, written as in `test`. A folder without a named split gives its `train` split.
            A source without bank, fields or topic takes those of the test source at the same path.
        attack: How conditions `attack:<recipe>@<ω>` search.
        kwargs: Arguments of `InstructionDataModule`.
    """

    asks_all = True

    def __init__(
        self,
        *args: Any,
        prompts: int | None = 6,
        samples: int | None = 100,
        budget: float | None = None,
        shots: int = 0,
        examples: Sources = None,
        attack: Attacks = Attacks(),  # noqa: B008 - read only
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        if shots < 0:
            raise ValueError(f"data.shots: found {shots}; expected ≥ 0")
        if bool(shots) != bool(examples):
            raise ValueError(
                f"data.examples: found no source for {shots} examples; expected one, such as a train split"
                if shots
                else "data.shots: found 0 with data.examples; expected how many of them are shown, such as 4"
            )
        for name, value in (("prompts", prompts), ("samples", samples)):
            if value is not None and value < 1:
                raise ValueError(f"data.{name}: found {value}; expected ≥ 1, or null for all")
        check_number("data.budget", budget, above=0, most=1, or_null="all cells")
        self.prompts = prompts
        self.budget = budget
        self.samples = samples
        self.shots = shots
        self.examples = [self._completed(source) for source in listed(examples)]
        self._chosen: Examples | None = None
        for condition in self.conditions:
            if condition.paraphrased and not self.paraphrases:
                raise ValueError(
                    f"data.conditions: {condition.name!r} asks with paraphrases; expected data.paraphrases"
                )
        self._given: dict[str, tuple[str, ...]] | None = None
        self.attack = attack
        self._unattacked: dict[str, EncodedSamples] = {}

    def setup(self, stage: str) -> None:
        """See `InstructionDataModule.setup`; also warns if prompts do not have room for all examples."""
        super().setup(stage)
        found = [sample for rows in self.conditioned.values() for sample in rows.samples]
        if fewer := sum(len(sample.examples) < self.shots for sample in found):
            log.warning(
                "data.max_length: %d of %d prompts are too long for %d examples; the first ones of them are left out",
                fewer, len(found), self.shots,
            )  # fmt: skip

    def _completed(self, source: str | Source) -> Source:
        """A source of examples; settings that it lacks come from the test source at the same path."""
        wanted = Source(source) if isinstance(source, str) else source
        tested = [asked_by(other, self.bank) for other in self.sources["test"]]
        like = next((other for other in tested if other.path == wanted.path), None)
        if like is None and len(tested) == 1 and not wanted.name:
            # with one test source, all examples belong to it, whatever their files are named
            like = tested[0] if tested[0].name else replace(tested[0], name=named_by_path(tested[0], "test"))
            log.info("data.examples: rows of %s are examples for the dataset %s", wanted.path, like.name)
        if like is not None:
            topic, name = wanted.topic or like.topic, wanted.name or like.name
            labels = like.labels if wanted.labels is None else wanted.labels
            wanted = replace(wanted, topic=topic, name=name, labels=labels, format=wanted.format or like.format)
            wanted = replace(wanted, round_to=wanted.round_to or like.round_to)
            if not wanted.bank:
                wanted = replace(wanted, bank=like.bank, fields=like.fields)
        return formatted_by(asked_by(wanted, self.bank), self.format)

    def solved(self, samples: Sequence[Sample]) -> list[Sample]:
        """Add to each sample the examples that are shown before it.

        Raises:
            ValueError: Examples lack fields that the samples' instructions show.
        """
        if self._chosen is None:
            return list(samples)
        return [replace(sample, examples=self._shown(sample, self._chosen)) for sample in samples]

    def _shown(self, sample: Sample, chosen: Examples) -> tuple[Sample, ...]:
        own = not self.phraser.bank_of(sample)
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

    def all_sources(self) -> dict[Role, list[str | Source]]:
        """See `InstructionDataModule.all_sources`."""
        return {**super().all_sources(), "examples": list(self.examples)}

    def selected(self, samples: list[Sample], role: Role) -> list[Sample]:
        """Draw `samples` test samples of each dataset, the same in every run with this seed; other roles keep all."""
        if role != "test":
            return samples
        if self.shots:
            # no test sample may be an example, not even one that is not asked: so the examples do not depend on
            # the setting `samples`
            given = self.loaded(self.examples, "examples")
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
            for sample in sorted(found, key=lambda sample: drawn(self.seed, "sample", sample.id))[: self.samples]
        }
        return [sample for sample in samples if sample.id in kept]

    # --- attacks -----------------------------------------------------------------------------------------------

    def under(self, condition: Condition, rows: EncodedSamples) -> EncodedSamples:
        """The rows with their instructions as a condition puts them; for an attack, the rows before the attack."""
        found = super().under(condition, rows)
        if condition.attack is not None:
            self._unattacked[condition.name] = found
        return found

    def test_dataloader(self) -> list[DataLoader[InstructionBatch]]:
        """One loader for each condition; the loaders of attacks serve the instructions that `search_attacks` finds."""
        for name in self.conditioned.keys() & self._unattacked.keys():
            self.conditioned[name] = self._unattacked[name]
        return super().test_dataloader()

    def is_pending(self, condition: str) -> bool:
        """See `InstructionDataModule.is_pending`."""
        return condition in self._unattacked

    def search_attacks(self, model: AttackedModel) -> None:
        """Search for attacks for all `attack:` conditions; from then on, their loaders serve the attacked rows."""
        wanted = [condition for condition in self.conditions if condition.attack is not None]
        if not wanted:
            return
        bar = self._search_bar(wanted)
        attacker = self._attacker(model, bar)
        try:
            found = {condition.name: self._attacked(condition, attacker) for condition in wanted}
        finally:
            bar.close()
        self.conditioned |= found
        self.settle(found)
        if attacker.searched and self._trainer().is_global_zero:
            print(f"{attacker.searched} instructions attacked, {attacker.queries} queries, {attacker.rows} rows")
            print("\n".join(attacker.summary()))
        if self.attack.transfer and attacker.searched and not attacker.transferred:
            log.warning(
                "data.attack.transfer: %s holds no attack by these recipes on any of the %d instructions that were "
                "searched; it changed nothing",
                self.attack.transfer, attacker.searched,
            )  # fmt: skip
        if attacker.never_right:
            log.warning(
                "data.attack: with %d of %d instructions the model answers no sample of the search correctly; "
                "these instructions are not changed",
                attacker.never_right, attacker.searched,
            )  # fmt: skip

    def _trainer(self) -> Trainer:
        assert self.trainer is not None, "a Trainer calls this"
        return self.trainer

    def _attacked(self, condition: Condition, attacker: Attacker) -> EncodedSamples:
        assert condition.attack is not None
        asked = self._unattacked[condition.name].samples
        texts = {}
        for key, found in _sharing(asked).items():
            first = sorted(found, key=lambda sample: drawn(self.seed, "sample", sample.id))
            named: AttackKey = (condition.name, *key)
            texts[key] = attacker.text(named, condition.attack, first, _common_phrases(found))
        return self.preparation.ready([s.reworded(texts[_group(s)]) for s in asked], condition)

    def _search_bar(self, wanted: Sequence[Condition]) -> SearchBar:
        """A bar over all instructions that are searched; hidden if the trainer shows no bars."""
        trainer = self._trainer()
        progress = trainer.progress_bar_callback
        shown = trainer.is_global_zero and getattr(progress, "is_enabled", progress is not None)
        known = self._known_attacks()
        keys = {(c.name, *key) for c in wanted for key in _sharing(self._unattacked[c.name].samples)}
        return SearchBar(0 if self.attack.reuse else len(keys - known.keys()), self.attack.budget, shown=shown)

    def _known_attacks(self) -> dict[AttackKey, dict[str, object]]:
        """Attacks that the interrupted evaluation has found; empty if none is resumed."""
        path = self.session.attacks
        return read_attacks(path) if path is not None and self.session.resumed and path.exists() else {}

    def _attacker(self, model: AttackedModel, bar: SearchBar) -> Attacker:
        trainer = self._trainer()
        objective: Objective = self.attack.objective if model.likelihoods else "accuracy"
        path = self.session.attacks
        for name, file in self.attack.files.items():
            if path is not None and path.resolve() == Path(file).resolve():
                raise ValueError(
                    f"data.attack.{name}: {path} is the file that this run writes; expected the file of another run"
                )

        def asked(samples: Sequence[Sample]) -> Asked:
            return Asked(
                samples,
                self.encoder,
                model.judge,
                batch_size=self.eval_batch_size,
                scoring=self.scoring,
                rank=trainer.global_rank,
                world=trainer.world_size,
            )

        known = self._known_attacks()
        trainer.strategy.barrier("attacks read")
        return Attacker(
            self.attack,
            asked,
            objective=objective,
            seed=self.seed,
            made=(*model.identity(), self.scoring),
            known=known,
            manifest=Manifest(path, keep=self.session.resumed) if path is not None and trainer.is_global_zero else None,
            folder=path,
            bar=bar,
        )

    # --- instructions ------------------------------------------------------------------------------------------

    def asked_under(self, condition: Condition, samples: Sequence[Sample]) -> list[Sample]:
        """Every sample under every instruction of the condition."""
        samples = self.solved(samples)
        found: list[Sample] = []
        banks = self.phraser.banked(condition, samples)
        if condition.paraphrased:
            banks = {name: self._reworded(all_, f"the bank {name}") for name, all_ in banks.items()}
        banks = {name: self._first(all_, name, condition) for name, all_ in banks.items()}
        for sample in samples:
            name = self.phraser.bank_of(sample)
            asked = banks[name] if name else self._own(sample, condition)
            bank = name or sample.bank
            found += [_asked_with(replace(sample, bank=bank), instruction) for instruction in asked]
        say_spared(condition, found)
        # cells are left out at the end, so noise is the same with every budget
        return self._afforded(found if condition.noise is None else _noisy(found, condition.noise, self.seed, samples))

    def _afforded(self, asked: list[Sample]) -> list[Sample]:
        """The cells within the budget, dataset by dataset."""
        if self.budget is None:
            return asked
        cells: dict[str, list[Sample]] = defaultdict(list)
        for sample in asked:
            if _group(sample)[2] is None:
                cells[sample.dataset or sample.task].append(sample)
        kept = {
            name: balanced_cells(
                list(dict.fromkeys(s.id for s in own)),
                list(dict.fromkeys(s.instruction_id for s in own)),
                self.budget,
                self.seed,
            )
            for name, own in cells.items()
        }
        return [
            sample
            for sample in asked
            if _group(sample)[2] is not None
            or (sample.id, sample.instruction_id) in kept[sample.dataset or sample.task]
        ]

    def _own(self, sample: Sample, condition: Condition) -> list[Instruction]:
        """The instructions for a sample that brings its own: that one, or its paraphrases."""
        asked = [Instruction(OWN, self.phraser.asked_alone(sample, condition).instruction)]
        return self._reworded(asked, sample.id)[: self.prompts] if condition.paraphrased else asked

    def _reworded(self, asked: list[Instruction], whose: str) -> list[Instruction]:
        """Paraphrases of instructions: the first of each, then the second of each, and so on.

        Raises:
            LackingError: The file has no paraphrases for any of them.
        """
        assert self.paraphrases is not None
        if self._given is None:
            self._given = load_paraphrases(self.paraphrases)
        own = [
            [replace(one, id=f"{one.id}/paraphrase/{k}", text=t) for k, t in enumerate(self._given.get(one.text, ()))]
            for one in asked
        ]
        found = [one for turn in zip_longest(*own) for one in turn if one is not None]
        if not found:
            reason = f"data.paraphrases: {self.paraphrases} has no paraphrases for {whose}"
            raise LackingError(
                f"{reason}, which is asked with {asked[0].text!r}; expected some for each instruction "
                "(`robustlm paraphrase` finds them)",
                reason,
            )
        return found

    def _first(self, found: list[Instruction], name: str, condition: Condition) -> list[Instruction]:
        if self.prompts is not None and len(found) < self.prompts:
            kind = PARAPHRASED if condition.paraphrased else condition.listed or condition.made or condition.split
            log.warning(
                "data.prompts: the bank %s has %d %s phrasings, which are fewer than %d; all are asked",
                name, len(found), kind, self.prompts,
            )  # fmt: skip
        return found[: self.prompts]


def _asked_with(sample: Sample, instruction: Instruction) -> Sample:
    """A sample under an instruction, and its examples with the answers that the instruction asks for."""
    asked = asked_with(sample, instruction)
    if not instruction.answers or not sample.examples:
        return asked
    shown = [
        replace(asked_with(one, instruction), instruction="", instruction_id="") if not one.instruction else one
        for one in sample.examples
    ]
    return replace(asked, examples=tuple(shown))


_Group = tuple[str, str, str | None]
"""Dataset, instruction and sample; the sample is set only for a row with an instruction of its own."""


def _group(sample: Sample) -> _Group:
    alone = sample.instruction_id == OWN or sample.instruction_id.startswith(f"{OWN}/paraphrase/")
    return sample.dataset or sample.task, sample.instruction_id, sample.id if alone else None


def _sharing(asked: Sequence[Sample]) -> Mapping[_Group, list[Sample]]:
    """Samples grouped by the instruction that they share."""
    found: dict[_Group, list[Sample]] = defaultdict(list)
    for sample in asked:
        found[_group(sample)].append(sample)
    return found


def _common_phrases(samples: Sequence[Sample]) -> list[str]:
    """Phrases that are protected for every one of these samples, such as the labels of a classification."""
    return sorted(set.intersection(*(set(protected_phrases(sample)) for sample in samples)))


def _noisy(asked: list[Sample], noise: Noise, seed: int, samples: Sequence[Sample]) -> list[Sample]:
    """Samples with noisy instructions; samples of a dataset that share an instruction get the same noisy one."""
    sharing = _sharing(asked)
    first = [found[0] for found in sharing.values()]
    pools = noise_pools(first)
    if noise.protect:
        pools["protected"] = [_common_phrases(found) for found in sharing.values()]
    pools |= {name: noise_pools(samples)[name] for name in ("vocabulary", "contexts")} | {"own": None}
    ids = [sample or instruction for _, instruction, sample in sharing]
    noisy = noise.apply([sample.instruction for sample in first], ids, seed=seed, **pools)
    texts = dict(zip(sharing, noisy.texts, strict=True))
    return [sample.reworded(texts[_group(sample)]) for sample in asked]

"""What is drawn by hash stays what it was: orders, phrasings, groups, examples, noise, negatives, sides.

Runs that are repeated or resumed with a later version depend on each of these values. The digests below are of the
first version that hashed them in one place; none of them may change.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from robustlm.conditions.condition import parse_condition
from robustlm.conditions.misleading import nonsensical, phrasings_under
from robustlm.conditions.recipes import Attack
from robustlm.datamodules import (
    ContrastiveDataModule,
    NoisyInstructionDataModule,
    ParaphraseDataModule,
    RobustnessDataModule,
)
from robustlm.instructions.banks import InstructionBank
from robustlm.instructions.phrasings import Phrasings, meaning
from robustlm.noise.base import Noise
from robustlm.prompts.few_shot import choose, pool_of
from robustlm.sample import Context, Sample
from robustlm.sources.loading import load
from robustlm.sources.source import Source
from robustlm.tools.hard_negatives import contrasted
from robustlm.tools.two_phrasings import phrased
from robustlm.utils.random import Stream, drawn
from tests.tiny import load as load_model
from tests.tiny import write_rows


def digest(values: Iterable[object]) -> str:
    """Of values in their order, as JSON."""
    return hashlib.sha256(json.dumps(list(values), sort_keys=True, default=str).encode()).hexdigest()[:16]


BANKS = ("sentiment", "topic", "nli", "tc")
SAMPLES = [
    Sample(
        f"set/{n}é",
        "",
        ("label: good", "label: bad")[n % 2],
        Context(text=f"text {n // 3}"),
        task="tc",
        bank=BANKS[n % 3],
        dataset=f"d{n % 2}",
        choices=("label: good", "label: bad"),
    )
    for n in range(24)
]
OWN = [
    Sample(
        f"own:{n}",
        f"Find all the names in text number {n % 5}, please.",
        f"answer {n % 4}",
        Context(text=f"some text {n}"),
        variant="Look for names." if n % 2 else None,
        dataset="own",
    )
    for n in range(20)
]


def of_bank() -> Iterable[object]:
    bank = InstructionBank.load("sentiment")
    for seed in range(3):
        for sample in SAMPLES:
            yield bank.assign(sample, seed=seed).instruction_id


def of_phrasings() -> Iterable[object]:
    banked = [tuple(one.text for one in InstructionBank.load(s.bank).phrasings("both", "seen")) for s in SAMPLES]
    own = [()] * len(OWN)
    for samples, seen in ((SAMPLES, banked), (OWN, own)):
        phrasings = Phrasings(samples, seen, {"Look for names.": ("Search names.", "List names.")}, 7)
        for epoch in range(3):
            for i in range(len(samples)):
                asked = phrasings.drawn(i, epoch)
                yield asked, phrasings.others(i, epoch, 3, asked), phrasings.others(i, epoch, 2, asked, leader=i % 3)


def of_meanings() -> Iterable[object]:
    yield from (meaning(sample) for sample in (*SAMPLES, *OWN))


def of_noise() -> Iterable[object]:
    texts, ids = [sample.instruction for sample in OWN], [sample.id for sample in OWN]
    for kind in ("mixed", "random_typos", "synonyms", "textbugger", "random_shuffling"):
        for variant in range(2):
            noisy = Noise(kind=kind, omega=0.4, phi=0.8).apply(texts, ids, seed=3, epoch=1, variant=variant)
            yield noisy.texts, noisy.kinds


def of_streams() -> Iterable[object]:
    stream = Stream(b"a key")
    yield [stream.below(10) for _ in range(40)], stream.uniform(), stream.sample(9, 4)
    yield [f"{drawn(seed, what, f'id {n}'):016x}" for seed in range(2) for what in ("limit", "é") for n in range(5)]


def of_attacks() -> Iterable[object]:
    words = OWN[0].instruction.split()
    for recipe in ("deepwordbug", "textbugger", "textfooler"):
        yield [Attack(recipe).candidates(words, place, seed=2, most=9) for place in range(len(words))]


def of_misleading() -> Iterable[object]:
    yield [nonsensical("Find all names.", f"{seed} a/b/{n}") for seed in range(2) for n in range(4)]
    banks = {name: InstructionBank.load(name) for name in BANKS}
    for seed in range(4):
        for name in BANKS:
            found = phrasings_under(parse_condition("incorrect"), name, banks, "both", seed)
            yield [(one.id, one.text) for one in found]


def of_examples() -> Iterable[object]:
    for seed in range(3):
        found = choose(SAMPLES, map(pool_of, SAMPLES[:4]), set(), 3, seed)
        yield {str(pool): [sample.id for sample in rows] for pool, rows in found.by_pool.items()}


def of_pairs() -> Iterable[object]:
    for seed in range(3):
        asked = phrased([*SAMPLES, *(one for one in OWN if one.variant)], "both", {}, seed)
        yield [(one.id, one.instruction, one.variant) for one in asked]
        yield [[one.id for one in group] for group in contrasted(asked, 2, seed)]


def of_limits() -> Iterable[object]:
    for seed in range(3):
        source = Source("builtin:quickstart", limit=0.02, sampling="random", seed=seed)
        yield [(one.id, one.instruction, one.target) for one in load(source, "validation")]


DRAWN: dict[str, tuple[Callable[[], Iterable[object]], str]] = {
    "bank": (of_bank, "a167a0a3a1542218"),
    "phrasings": (of_phrasings, "ad876cf73b6e90f5"),
    "meanings": (of_meanings, "ed10ca861ac55305"),
    "noise": (of_noise, "5705c24d68518cc6"),
    "streams": (of_streams, "840e6705066bc24f"),
    "attacks": (of_attacks, "24dcafa637412610"),
    "misleading": (of_misleading, "928ec1eba2f9788a"),
    "examples": (of_examples, "cd9e36ea8162e162"),
    "pairs": (of_pairs, "f3beca500379f0a2"),
    "limits": (of_limits, "d80c688e8f4a0438"),
}


@pytest.mark.parametrize("name", DRAWN)
def test_a_draw_is_what_it_was(name: str) -> None:
    made, expected = DRAWN[name]
    assert digest(made()) == expected


def trained(data: Any) -> Iterable[object]:
    """All that is random about two epochs of batches."""
    loader = data.train_dataloader()
    tokenizer = loader.dataset.encoder.tokenizer
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        for batch in loader:
            yield batch.ids, batch.step_tokens
            for name in ("keys", "beta", "seeds", "negative_keys"):
                value = getattr(batch, name)
                yield None if value is None else [round(float(x), 6) if name == "beta" else int(x) for x in value]
            for name in ("raw", "variant", "negative"):
                view = getattr(batch, name)
                yield None if view is None else tokenizer.batch_decode(view.input_ids, skip_special_tokens=True)


def asked(data: Any) -> Iterable[object]:
    """What every row is asked in every condition, in the order of the batches."""
    for loader in data.test_dataloader():
        yield [key.indices for key in loader.sampler]
    for name, rows in data.conditioned.items():
        yield name, [(one.id, one.instruction_id, one.instruction) for one in rows.samples]
        for one, row in zip(rows.samples, rows.encoded, strict=True):
            yield [(shown.id, shown.instruction) for shown in one.examples], len(row.prompt_ids), len(row.answer_ids)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("rows")
    films = [{"id": f"f{i}", "sentence": f"film {i % 9}", "label": ("positive", "negative")[i % 2]} for i in range(24)]
    chats = [
        {
            "id": f"c{i}",
            "instruction": f"Say something about {i}.",
            "input": f"number {i // 2}",
            "output": f"good {i % 3}",
        }
        for i in range(14)
    ]
    return [write_rows(folder / "films.jsonl", films), write_rows(folder / "chats.jsonl", chats)]


def ready(data: Any, folder: str, stage: str = "fit") -> Any:
    data.connect(load_model(folder, None))
    data.setup(stage)
    return data


TRAINED: dict[str, tuple[Callable[[list[str]], Any], str]] = {
    "noisy": (
        lambda files: NoisyInstructionDataModule(files, batch_size=4, variants=2, noise=Noise(phi=0.7, omega=0.4)),
        "7812bb8d840896d0",
    ),
    "fresh, protected, by sample": (
        lambda files: NoisyInstructionDataModule(
            files, batch_size=4, phrasing="fresh", beta="sample", noise=Noise(omega=0.5, protect=True), seed=3
        ),
        "38d29eb82b74335c",
    ),
    "paraphrased": (
        lambda files: ParaphraseDataModule(files, batch_size=4, variants=2, group_by_length=False),
        "b42c8945c07f8e3d",
    ),
    "contrastive": (
        lambda files: ContrastiveDataModule(files, batch_size=6, group_size=3, negatives=2, noise=Noise()),
        "492c4e2aef7dc9d6",
    ),
    "contrastive, in the order of the file": (
        lambda files: ContrastiveDataModule(files, batch_size=4, shuffle=False, negatives=1),
        "c0cb06539ad0988e",
    ),
}


@pytest.mark.parametrize("name", TRAINED)
def test_training_batches_are_what_they_were(name: str, llama: str, files: list[str]) -> None:
    made, expected = TRAINED[name]
    assert digest(trained(ready(made(files), llama))) == expected


CONDITIONS = ["clean", "unseen", "mixed@0.4", "nonsensical", "negated+random_typos@0.2+protected"]
ASKED: dict[str, tuple[Callable[[list[str]], Any], str]] = {
    "one phrasing each": (
        lambda files: NoisyInstructionDataModule(test=files, conditions=CONDITIONS, system="Be short."),
        "53cd94110250aa67",
    ),
    "all phrasings": (
        lambda files: RobustnessDataModule(test=files, conditions=CONDITIONS, prompts=2, samples=5),
        "9cfe52e82ce0e692",
    ),
    "with examples": (
        lambda files: RobustnessDataModule(
            test=files[0],
            conditions=CONDITIONS,
            prompts=2,
            samples=4,
            shots=2,
            examples=files[0].replace("films", "more"),
        ),
        "872b2db740db0b50",
    ),
    "options": (
        lambda files: RobustnessDataModule(test=files, conditions=CONDITIONS[:3], prompts=2, scoring="options"),
        "f54826125cbdeca3",
    ),
}


@pytest.mark.parametrize("name", ASKED)
def test_a_test_asks_what_it_asked(name: str, llama: str, files: list[str]) -> None:
    more = [{"id": f"m{i}", "sentence": f"more {i}", "label": ("positive", "negative")[i % 2]} for i in range(9)]
    write_rows(Path(files[0].replace("films", "more")), more)
    made, expected = ASKED[name]
    assert digest(asked(ready(made(files), llama, "test"))) == expected

"""From rows to batches."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from robustlm.batch import IGNORE, InstructionBatch, View
from robustlm.datamodules import InstructionDataModule, NoisyInstructionDataModule
from robustlm.datamodules.sampling import BatchKey
from robustlm.models.hosted import HostedBackbone
from robustlm.models.tuning import FullTuning, LoRA
from robustlm.noise.base import Noise
from robustlm.noise.distortion import LME
from robustlm.noise.embedders import EmbeddingError, StateEmbedder, TokenEmbedder
from robustlm.prompts.encoding import TooLongError
from robustlm.sources.source import Source
from tests.tiny import load, make_rows, write_rows


def ready(datamodule: InstructionDataModule, folder: str, stage: str = "fit") -> Any:
    datamodule.connect(load(folder, LoRA(r=2)))
    datamodule.setup(stage)
    return datamodule


def epoch_of(loader: Any, epoch: int) -> list[InstructionBatch]:
    loader.sampler.set_epoch(epoch)
    return list(loader)


def tensors(batch: InstructionBatch) -> dict[str, torch.Tensor]:
    found = {"beta": batch.beta, "seeds": batch.seeds}
    for name in ("raw", "variant", "replay", "prompt"):
        view = getattr(batch, name)
        if view is not None:
            found |= {f"{name}.{key}": getattr(view, key) for key in View.__dataclass_fields__}
    return {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}


def prompts(batch: InstructionBatch) -> tuple[str, ...]:
    return batch.prompt.texts if batch.prompt is not None else ()


def same(a: list[InstructionBatch], b: list[InstructionBatch]) -> bool:
    return [x.ids for x in a] == [y.ids for y in b] and all(
        x.step_tokens == y.step_tokens
        and x.replay_tokens == y.replay_tokens
        and prompts(x) == prompts(y)
        and tensors(x).keys() == tensors(y).keys()
        and all(torch.equal(tensors(x)[key], tensors(y)[key]) for key in tensors(x))
        for x, y in zip(a, b, strict=True)
    )


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_worker_processes_change_nothing(kind: str, models: dict[str, str], train_file: str) -> None:
    settings: dict[str, Any] = {"train": train_file, "batch_size": 4, "variants": 2, "noise": Noise(phi=0.7)}
    loaders = [
        ready(NoisyInstructionDataModule(num_workers=n, **settings), models[kind]).train_dataloader() for n in (0, 2)
    ]
    epochs = [[epoch_of(loader, epoch) for epoch in (0, 1)] for loader in loaders]
    for ours, theirs in zip(*epochs, strict=True):
        assert same(ours, theirs)
    assert not same(*epochs[0])


def texts(datamodule: Any, batches: list[InstructionBatch], name: str = "variant") -> dict[str, list[str]]:
    """The instructions of each sample, as the model sees them."""
    found: dict[str, list[str]] = {}
    for batch in batches:
        view = getattr(batch, name)
        each = len(view) // len(batch)
        for row in range(len(view)):
            ids = view.input_ids[row][view.instruction_mask[row]]
            found.setdefault(batch.ids[row // each], []).append(datamodule.backbone.tokenizer.decode(ids).strip())
    return found


def test_noise_is_of_seed_epoch_and_sample(llama: str, train_file: str, tmp_path: Path) -> None:
    def noisy(epoch: int, **settings: Any) -> dict[str, list[str]]:
        wanted = {"train": train_file, "batch_size": 4, "noise": Noise(omega=0.4), "variants": 3} | settings
        datamodule = ready(NoisyInstructionDataModule(**wanted), llama)
        return texts(datamodule, epoch_of(datamodule.train_dataloader(), epoch))

    first = noisy(0)
    assert first == noisy(0, batch_size=7, group_by_length=False)
    fresh, other = noisy(1), noisy(0, seed=1)
    raw = {row["id"]: row["instruction"] for row in make_rows(26)}
    for found in (first, fresh, other):
        assert len(found) == 26
    changed = [sum(first[key] != found[key] for key in first) for found in (fresh, other)]
    assert min(changed) > 20
    assert all(text != raw[key] for key, rows in first.items() for text in rows)
    assert sum(len(set(rows)) == 3 for rows in first.values()) > 20  # variants differ


def test_variants_come_sample_by_sample_with_their_beta(llama: str, train_file: str) -> None:
    def batches(scope: Any, phi: float = 0.6) -> list[InstructionBatch]:
        made = NoisyInstructionDataModule(train=train_file, batch_size=5, variants=2, noise=Noise(phi=phi), beta=scope)
        return epoch_of(ready(made, llama).train_dataloader(), 0)

    own, shared = batches("sample"), batches("dataset")
    values = []
    for a, b in zip(own, shared, strict=True):
        assert a.variant is not None
        assert len(a.variant) == 2 * len(a.raw) == len(a.beta) == len(a.seeds)  # type: ignore[arg-type]
        for i in range(len(a.variant)):
            at = i // 2
            answer = a.raw.labels[at][a.raw.labels[at] != IGNORE]
            assert torch.equal(a.variant.labels[i][a.variant.labels[i] != IGNORE], answer)
            raw, variant = (v.input_ids[j][v.attention_mask[j] == 1] for v, j in ((a.raw, at), (a.variant, i)))
            clean = torch.equal(raw, variant)
            assert a.beta is not None
            assert b.beta is not None
            assert not clean or float(a.beta[i]) == float(b.beta[i]) == 0
            values.append((i % 2, clean, float(a.beta[i]), float(b.beta[i])))
    assert 0.3 < np.mean([not clean for _, clean, _, _ in values]) < 0.9
    for k in (0, 1):  # the mean over the noisy rows of one variant
        mine = [(own_, all_) for j, clean, own_, all_ in values if j == k and not clean]
        assert np.mean([a for a, _ in mine]) == pytest.approx(mine[0][1], abs=1e-6)
        assert len({b for _, b in mine}) == 1
    seeds = torch.cat([batch.seeds for batch in own if batch.seeds is not None])
    assert len(set(seeds.tolist())) == len(seeds)
    assert seeds.device.type == "cpu"


def test_variants_that_come_with_rows(llama: str, tmp_path: Path) -> None:
    rows = [
        {
            "instruction": "find the words",
            "adv_instruction": f"findd the {i} wrods",
            "question": "",
            "format": "",
            "option": "",
            "input": "hello",
            "output": "yes",
        }
        for i in range(4)
    ]
    file = write_rows(tmp_path / "train.jsonl", rows)
    for noise in (None, Noise()):
        made = ready(NoisyInstructionDataModule(train=file, batch_size=4, noise=noise, beta="sample"), llama)
        (batch,) = epoch_of(made.train_dataloader(), 0)
        found = texts(made, [batch])
        assert sorted(text for (text,) in found.values()) == sorted(row["adv_instruction"] for row in rows)
        assert {text for (text,) in texts(made, [batch], "raw").values()} == {"find the words"}
    plain = write_rows(tmp_path / "plain.jsonl", make_rows(4))
    (batch,) = epoch_of(
        ready(NoisyInstructionDataModule(train=plain, batch_size=4, noise=None), llama).train_dataloader(), 0
    )
    assert batch.variant is not None
    assert torch.equal(batch.variant.input_ids, batch.raw.input_ids)
    assert batch.beta is not None
    assert not batch.beta.any()


def test_a_variant_without_room_gives_way_to_the_raw_row_with_beta_zero(llama: str, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "train.jsonl", make_rows(20))
    made = NoisyInstructionDataModule(
        train=file, batch_size=20, noise=Noise("random_insertion", omega=1.0), max_length=60
    )
    (batch,) = epoch_of(ready(made, llama).train_dataloader(), 0)
    assert batch.variant is not None
    assert batch.beta is not None
    assert batch.variant.input_ids.shape[1] <= 60
    found, raw = texts(made, [batch]), texts(made, [batch], "raw")
    given = [found[key] == raw[key] for key in batch.ids]
    assert 0 < sum(given) < 20
    assert [beta == 0 for beta in batch.beta.tolist()] == given


def test_language_model_distortion_with_the_models_own_embeddings(llama: str, train_file: str) -> None:
    made = NoisyInstructionDataModule(train=train_file, batch_size=26, distortion=LME(TokenEmbedder()), beta="sample")
    (batch,) = epoch_of(ready(made, llama).train_dataloader(), 0)
    assert batch.beta is not None
    backbone, found, raw = made.backbone, texts(made, [batch]), texts(made, [batch], "raw")
    for i, key in enumerate(batch.ids):
        mean = [
            backbone.embed(torch.tensor(backbone.tokenizer(text)["input_ids"])).mean(0)
            for text in (*raw[key], *found[key])
        ]
        wanted = (1 - torch.cosine_similarity(*mean, dim=0)).clamp(0, 1)
        assert float(batch.beta[i]) == pytest.approx(float(wanted), abs=1e-4)


def test_language_model_distortion_with_the_models_own_states(
    llama: str, train_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(LME().embedder, StateEmbedder)

    def epoch() -> InstructionBatch:
        embedder = StateEmbedder(cache_dir=str(tmp_path), batch_size=7)
        made = ready(
            NoisyInstructionDataModule(train=train_file, batch_size=26, distortion=LME(embedder), beta="sample"), llama
        )
        (batch,) = epoch_of(made.train_dataloader(), 0)
        backbone, found, raw = made.backbone, texts(made, [batch]), texts(made, [batch], "raw")
        for i, key in enumerate(batch.ids):
            states = backbone.text_states([*raw[key], *found[key]])
            wanted = (1 - torch.cosine_similarity(*states, dim=0)).clamp(0, 1)
            assert batch.beta is not None
            assert float(batch.beta[i]) == pytest.approx(float(wanted), abs=1e-4)
            assert batch.beta[i] > 0
        return batch

    first = epoch()
    calls: list[int] = []
    compute = StateEmbedder.compute
    monkeypatch.setattr(StateEmbedder, "compute", lambda self, some: calls.append(1) or compute(self, some))  # type: ignore[func-returns-value]
    second = epoch()
    assert same([first], [second])
    assert not calls, "kept on disk, as the base model is the same"


def test_states_that_change_in_training_are_measured_anew_with_a_warning(
    llama: str, train_file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = NoisyInstructionDataModule(
        train=train_file, batch_size=26, distortion=LME(StateEmbedder(cache_dir=str(tmp_path)))
    )
    made.connect(load(llama, FullTuning()))
    made.setup("fit")
    loader = made.train_dataloader()
    (first,) = epoch_of(loader, 0)
    with torch.no_grad():
        for weight in made.backbone.trained:
            weight.mul_(1.5)
    epoch_of(loader, 1)
    (again,) = epoch_of(loader, 0)
    assert first.beta is not None
    assert again.beta is not None
    assert not torch.allclose(first.beta, again.beta, atol=1e-4)
    assert caplog.text.count("measured with the tuned weights") == 1
    assert not list(tmp_path.iterdir()), "nothing kept"


def test_a_model_without_states_cannot_measure_distortion(train_file: str) -> None:
    made = NoisyInstructionDataModule(train=train_file, distortion=LME())
    made.connect(HostedBackbone("openai:some-model"))
    with pytest.raises(EmbeddingError, match="no hidden states, which StateEmbedder needs; expected a local model"):
        made.variation()


def test_conditions_ask_the_same_rows(llama: str, test_file: str) -> None:
    names = ["clean", "random_typos@0.5", "random_shuffling"]
    made = ready(InstructionDataModule(test=test_file, conditions=names, eval_batch_size=3), llama, "test")
    asked = {}
    for name, loader in zip(names, made.test_dataloader(), strict=True):
        batches = list(loader)
        assert {batch.condition for batch in batches} == {name}
        rows = {
            key: (target, made.backbone.tokenizer.decode(view.input_ids[i][view.context_mask[i]]))
            for batch in batches
            for view in [batch.prompt]
            for i, (key, target) in enumerate(zip(batch.ids, batch.targets, strict=True))
        }
        asked[name] = (rows, texts(made, batches, "prompt"))
        for batch in batches:
            assert batch.prompt is not None
            assert (batch.prompt.labels == IGNORE).all()
            assert (batch.raw.labels != IGNORE).any(1).all()
    assert len(asked["clean"][0]) == 7
    for name in names[1:]:
        assert asked[name][0] == asked["clean"][0]
        assert all(asked[name][1][key] != asked["clean"][1][key] for key in asked["clean"][1])


def test_phrasings_of_a_bank(llama: str) -> None:
    source = Source("builtin:quickstart", limit=20)
    made = InstructionDataModule(test=[source], conditions=["clean", "unseen", "unseen+random_typos@0.2"])
    ready(made, llama, "test")
    rows = {name: [s.instruction for s in part.samples] for name, part in made.conditioned.items()}
    assert not set(rows["clean"]) & set(rows["unseen"])
    assert all(a != b for a, b in zip(rows["unseen"], rows["unseen+random_typos@0.2"], strict=True))


def test_protected_words_survive_a_condition(llama: str, tmp_path: Path) -> None:
    asked = "Say whether this is a good film or a bad film , and begin with label: please"
    rows = [
        {"id": str(i), "text": f"film {i}", "label": ("good", "bad")[i % 2], "instruction": asked} for i in range(12)
    ]
    write_rows(tmp_path / "test.jsonl", rows)
    names = ["clean", *(f"{kind}@1.0+protected" for kind in ("deepwordbug", "synonyms", "mixed"))]
    made = ready(InstructionDataModule(test=str(tmp_path / "test.jsonl"), conditions=names), llama, "test")
    for name, part in made.conditioned.items():
        for sample in part.samples:
            kept = [word for word in sample.instruction.split() if word in ("good", "bad", "label:")]
            assert kept == ["good", "bad", "label:"]
            assert (sample.instruction == asked) == (name == "clean")


TEMPLATES = [
    "{a}\nSo is it {b}?",
    "Given that {a}, we ask: {b}?\n{options_}",
    "Say whether {a} is {b}",
    "What of {b}, {a}",
]


@pytest.mark.parametrize("named_by", ["source", "data"])
def test_slotted_phrasings_of_a_bank(named_by: str, llama: str, tmp_path: Path) -> None:
    bank = tmp_path / "banks.json"
    bank.write_text(json.dumps({"mine": TEMPLATES}))
    rows = [
        {"text": f"left {i}", "a": f"left {i}", "b": f"right {i}", "label": "no" if i % 2 else "yes"} for i in range(9)
    ]
    path, spec = write_rows(tmp_path / "rows.jsonl", rows), f"{bank}#mine"
    source, given = (Source(path, bank=spec), None) if named_by == "source" else (Source(path), spec)
    conditions = ["clean", "unseen", "mixed@0.5", "unseen+random_shuffling@0.9", "unseen+random_typos@0.3"]
    made = NoisyInstructionDataModule(
        train=[source], test=[source], bank=given, conditions=conditions, noise=Noise(omega=0.5)
    )
    ready(made, llama, "test")
    for name, part in made.conditioned.items():
        for i, (sample, row) in enumerate(zip(part.samples, part.encoded, strict=True)):
            asked = sample.instruction
            assert (asked in TEMPLATES) == (name in ("clean", "unseen"))
            assert asked.count("{a}") == asked.count("{b}") == 1
            shown = made.backbone.tokenizer.decode(row.prompt_ids)
            assert f"left {i}" in shown
            assert f"right {i}" in shown
            assert "{" not in shown
            assert shown.count("OPTIONS:\n- label: no\n- label: yes") == asked.count("{options_}")
            assert shown.count(f"left {i}") == 1, "the context is not written again"
    ready(made, llama, "fit")
    for batch in epoch_of(made.train_dataloader(), 0):
        assert batch.variant is not None
        for at, id in enumerate(batch.ids):
            i = int(id.rpartition(":")[2]) - 1
            shown = made.backbone.tokenizer.decode(batch.variant.input_ids[at])
            assert shown.count(f"left {i}") == shown.count(f"right {i}") == 1


def test_rows_are_tokenised_anew_for_another_model(llama: str, t5: str, train_file: str) -> None:
    made = ready(InstructionDataModule(train=train_file, batch_size=4), llama)
    first = made.rows["train"]
    made.setup("fit")
    assert made.rows["train"] is first
    ready(made, t5)
    assert made.rows["train"] is not first
    assert made.encoder.encoder_decoder


def test_long_rows(llama: str, tmp_path: Path) -> None:
    rows = [*make_rows(3), {"instruction": "find " * 80, "target": "yes"}]
    file = write_rows(tmp_path / "train.jsonl", rows)
    with pytest.raises(TooLongError, match=r"1 of 4 rows.*(\n.*)*:4"):
        ready(InstructionDataModule(train=file, max_length=80), llama)
    rejected = tmp_path / "bad.jsonl"
    made = InstructionDataModule(train=file, max_length=80, on_bad_row="skip", rejected=str(rejected))
    assert len(ready(made, llama).rows["train"]) == 3
    assert ":4" in (tmp_path / "bad-train-too-long.jsonl").read_text()


def test_bad_settings(train_file: str, llama: str) -> None:
    for settings, word in (
        ({"batch_size": 0}, "batch_size"),
        ({"eval_batch_size": -1}, "eval_batch_size"),
        ({"replays": 0}, "replays"),
        ({"conditions": ["clean", "clean"]}, "twice"),
        ({"conditions": ["cleen"]}, "cleen"),
        ({"scoring": "option"}, "generation, options"),
    ):
        with pytest.raises(ValueError, match=word):
            InstructionDataModule(train=train_file, **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="variants"):
        NoisyInstructionDataModule(train=train_file, variants=0)
    with pytest.raises(ValueError, match=r"data\.train"):
        ready(InstructionDataModule(), llama)
    with pytest.raises(RuntimeError, match="connect"):
        InstructionDataModule(train=train_file).setup("fit")
    with pytest.raises(ValueError, match="unseen"):
        ready(InstructionDataModule(test=train_file, conditions=["unseen"]), llama, "test")


def test_perturbable_positions(llama: str, train_file: str) -> None:
    made = ready(NoisyInstructionDataModule(train=train_file, batch_size=26), llama)
    view = made.train_dataset(made.rows["train"])[BatchKey(0, tuple(range(26)))].variant
    special = torch.isin(view.input_ids, torch.tensor(made.backbone.tokenizer.all_special_ids))
    answer, pad = view.labels != IGNORE, view.attention_mask == 0
    assert pad.any()
    for scope in ("prompt", "instruction"):
        assert not (view.perturbable(scope) & (special | answer | pad)).any()
    assert view.perturbable("instruction").any(1).all()
    assert (view.perturbable("prompt") >= view.perturbable("instruction")).all()
    assert torch.equal(view.perturbable("all"), ~pad)


def test_a_format_of_all_sources_is_that_of_each(llama: str, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "set.jsonl", [{"sentence": "fine", "label": "a"}, {"sentence": "dull", "label": "b"}])
    found = []
    for train, format in (([Source(path, format="none")], None), (path, "none"), (path, None)):
        data = InstructionDataModule(train=train, format=format)  # type: ignore[arg-type]
        data.connect(load(llama, None))
        found.append(data.read("train").samples)
        assert data.prompt()["format"] == (format or (None if train is path else "none"))
    assert found[0] == found[1] != found[2]
    with pytest.raises(ValueError, match=r"data.format: found 'tc'; expected none or null"):
        InstructionDataModule(format="tc")  # type: ignore[arg-type]


def test_noise_is_measured_by_the_model_that_is_connected(models: dict[str, str], train_file: str) -> None:
    embedder = StateEmbedder(cache_dir=None)
    made = NoisyInstructionDataModule(train=train_file, distortion=LME(embedder))
    names = []
    for kind in ("llama", "gemma"):
        made.connect(load(models[kind], None))
        made.variation()
        names.append(embedder.key)
    assert models["llama"] in names[0]
    assert models["gemma"] in names[1]


def test_before_it_is_connected_a_datamodule_says_what_to_do(train_file: str) -> None:
    made = NoisyInstructionDataModule(train=train_file)
    for part in ("backbone", "encoder", "preparation"):
        with pytest.raises(RuntimeError, match=r"call `connect\(model\)` first"):
            getattr(made, part)


def test_validation_asks_rows_that_a_resumed_test_has_answered(llama: str, train_file: str) -> None:
    data: Any = InstructionDataModule(validation=train_file)
    data.connect(load(llama, LoRA(r=2)))
    rows = data.rows["validation"] = data.read("validation")
    data.session.answered = [
        SimpleNamespace(key=("clean", row.dataset or row.task, row.id, row.instruction_id, 0)) for row in rows.samples
    ]
    (loader,) = data.val_dataloader()
    assert sum(len(batch.ids) for batch in loader) == len(rows)

"""The same samples under the same instructions in every condition."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from robustlm.assets import config_file
from robustlm.conditions.misleading import negated
from robustlm.datamodules import InstructionDataModule, RobustnessDataModule
from robustlm.instructions.banks import InstructionBank
from robustlm.sample import Sample
from tests.tiny import load, write_rows

CONDITIONS = ["clean", "random_typos@0.4", "unseen", "unseen+mixed@0.4"]

BANKS = {"films": "sentiment", "news": "topic"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("rows")
    films = [{"id": f"f{i}", "sentence": f"film {i}", "label": ("positive", "negative")[i % 2]} for i in range(12)]
    news = [{"id": f"n{i}", "text": f"news {i}", "label": ("Sports", "World")[i % 2]} for i in range(5)]
    return [write_rows(folder / "films.jsonl", films), write_rows(folder / "news.jsonl", news)]


def ready(folder: str, files: list[str], **settings: Any) -> RobustnessDataModule:
    found = RobustnessDataModule(**({"test": files, "conditions": CONDITIONS, "prompts": 3, "samples": 6} | settings))
    found.connect(load(folder, None))
    found.setup("test")
    return found


def cells(data: RobustnessDataModule, condition: str) -> dict[tuple[str, str, str], Sample]:
    found = data.conditioned[condition].samples
    keyed = {(sample.dataset, sample.id, sample.instruction_id): sample for sample in found}
    assert len(keyed) == len(found)
    return keyed


def test_every_cell_is_filled_once(llama: str, files: list[str]) -> None:
    data = ready(llama, files)
    clean = cells(data, "clean")
    assert Counter(dataset for dataset, _, _ in clean) == {"films": 6 * 3, "news": 5 * 3}
    samples = {(dataset, name) for dataset, name, _ in clean}
    for condition in CONDITIONS:
        found = cells(data, condition)
        assert {(dataset, name) for dataset, name, _ in found} == samples
        split = "unseen" if "unseen" in condition else "seen"
        for dataset, bank in (("films", "sentiment"), ("news", "topic")):
            asked = [i.id for i in InstructionBank.load(bank).phrasings("both", split)[:3]]
            for name in {name for other, name in samples if other == dataset}:
                assert sorted(i for d, n, i in found if (d, n) == (dataset, name)) == sorted(asked)


def test_noise_changes_an_instruction_once_for_all_samples(llama: str, files: list[str]) -> None:
    data = ready(llama, files)
    for noisy, quiet in (("random_typos@0.4", "clean"), ("unseen+mixed@0.4", "unseen")):
        texts: dict[tuple[str, str], set[str]] = {}
        for (dataset, name, instruction), sample in cells(data, noisy).items():
            texts.setdefault((dataset, instruction), set()).add(sample.instruction)
            assert sample.instruction != cells(data, quiet)[dataset, name, instruction].instruction
        assert all(len(found) == 1 for found in texts.values())
        assert len(texts) == 6
    again = ready(llama, files)
    assert [s.instruction for s in again.conditioned[noisy].samples] == [
        s.instruction for s in data.conditioned[noisy].samples
    ]


def test_samples_are_drawn_with_the_seed(llama: str, files: list[str]) -> None:
    def names(**settings: Any) -> set[str]:
        return {sample.id for sample in ready(llama, files, conditions=["clean"], **settings).rows["test"].samples}

    assert names() == names()
    assert names() != names(seed=1)
    assert names(samples=3) < names(samples=6) < names(samples=None)
    assert len(names(samples=None)) == 17


def test_rows_with_their_own_instruction_are_asked_with_that(llama: str, tmp_path: Path) -> None:
    rows = [{"id": f"r{i}", "instruction": f"Say it {i} times.", "text": "a", "target": "b"} for i in range(3)]
    data = ready(llama, [write_rows(tmp_path / "own.jsonl", rows)], conditions=["clean", "random_typos@0.4"])
    clean, noisy = (cells(data, condition) for condition in ("clean", "random_typos@0.4"))
    assert [key[2] for key in clean] == ["own"] * 3
    assert all(noisy[key].instruction != sample.instruction for key, sample in clean.items())


@pytest.mark.parametrize(("settings", "said"), [({"prompts": 0}, "data.prompts"), ({"samples": 0}, "data.samples")])
def test_settings_that_cannot_be(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RobustnessDataModule(**settings)


def test_a_bank_with_few_phrasings_is_asked_with_all_and_says_so(
    llama: str, files: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    data = ready(llama, files, prompts=99, conditions=["clean"])
    assert "are fewer than 99; all are asked" in caplog.text
    count = len(InstructionBank.load("sentiment").phrasings("both", "seen"))
    assert Counter(key[0] for key in cells(data, "clean"))["films"] == 6 * count


def test_misleading_conditions_ask_every_cell(llama: str, files: list[str]) -> None:
    conditions = ["clean", "incorrect", "negated", "nonsensical", "incorrect+random_typos@0.4", "unseen+negated"]
    data = ready(llama, files, conditions=conditions)
    clean = cells(data, "clean")
    samples = {(dataset, name) for dataset, name, _ in clean}
    for condition in conditions:
        found = cells(data, condition)
        assert {(dataset, name) for dataset, name, _ in found} == samples
        assert len(found) == len(clean)
        assert all(sample.context == clean_sample.context for sample in found.values()
                   for clean_sample in clean.values() if clean_sample.id == sample.id)  # fmt: skip
    seen = {name: {i.text for i in InstructionBank.load(name).phrasings("both", "seen")} for name in BANKS.values()}
    for (dataset, _, _), sample in cells(data, "incorrect").items():
        assert sample.instruction in seen[BANKS["news" if dataset == "films" else "films"]]
    for key, sample in cells(data, "negated").items():
        assert sample.instruction == negated(clean[key].instruction)


def test_rows_with_their_own_instruction_are_misled_where_that_can_be(llama: str, tmp_path: Path) -> None:
    rows = [{"id": f"r{i}", "instruction": f"Say it {i} times.", "text": "a", "target": "b"} for i in range(3)]
    file = write_rows(tmp_path / "own.jsonl", rows)
    data = ready(llama, [file], conditions=["negated", "nonsensical"])
    assert {sample.instruction for sample in cells(data, "negated").values()} == {
        f"Do not say it {i} times." for i in range(3)
    }
    assert not any("times" in sample.instruction for sample in cells(data, "nonsensical").values())
    for condition in ("incorrect", "list:mine"):
        with pytest.raises(ValueError, match=f"'{condition}' needs phrasings of a bank, but the rows bring their own"):
            ready(llama, [file], conditions=[condition])


def test_conditions_are_asked_with_one_phrasing_elsewhere(llama: str, files: list[str]) -> None:
    data = InstructionDataModule(test=[*files], conditions=["clean", "negated", "unseen"])
    data.connect(load(llama, None))
    data.setup("test")
    clean, found, unseen = (data.conditioned[name].samples for name in ("clean", "negated", "unseen"))
    assert [one.instruction for one in found] == [negated(one.instruction) for one in clean]
    assert [one.instruction_id for one in found] == [one.instruction_id for one in clean]
    assert all("/unseen/" in one.instruction_id for one in unseen)


def paraphrases(folder: Path, given: dict[str, list[str]]) -> str:
    return write_rows(
        folder / "paraphrases.jsonl", [{"instruction": text, "paraphrases": own} for text, own in given.items()]
    )


def test_paraphrases_of_a_bank_come_in_turn(llama: str, files: list[str], tmp_path: Path) -> None:
    asked = {bank: InstructionBank.load(bank).phrasings("both", "seen") for bank in BANKS.values()}
    given = {one.text: [f"Way {k} of {one.id}." for k in range(2)] for own in asked.values() for one in own[:2]}
    conditions = ["clean", "paraphrased", "paraphrased+random_typos@0.4"]
    data = ready(llama, files, conditions=conditions, paraphrases=paraphrases(tmp_path, given))
    found = cells(data, "paraphrased")
    assert {(d, n) for d, n, _ in found} == {(d, n) for d, n, _ in cells(data, "clean")}
    for dataset, bank in BANKS.items():
        one, two = (instruction.id for instruction in asked[bank][:2])
        ids = [f"{one}/paraphrase/0", f"{two}/paraphrase/0", f"{one}/paraphrase/1"]
        assert {i for d, _, i in found if d == dataset} == set(ids)
        texts = {i: sample.instruction for (d, _, i), sample in found.items() if d == dataset}
        assert [texts[i] for i in ids] == [f"Way 0 of {one}.", f"Way 0 of {two}.", f"Way 1 of {one}."]
    noisy = cells(data, "paraphrased+random_typos@0.4")
    assert len({sample.instruction for sample in noisy.values()}) == 6


def test_paraphrases_of_rows_with_their_own_instructions(llama: str, tmp_path: Path) -> None:
    rows = [{"id": f"r{i}", "instruction": f"Say {i}.", "target": str(i)} for i in range(3)]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    given = {f"Say {i}.": [f"Tell {i}.", f"Speak {i}."] for i in range(3)}
    conditions = ["clean", "paraphrased", "paraphrased+random_typos@1"]
    data = ready(llama, [file], conditions=conditions, paraphrases=paraphrases(tmp_path, given))
    texts = {key[1:]: sample.instruction for key, sample in cells(data, "paraphrased").items()}
    assert texts == {
        (f"r{i}", f"own/paraphrase/{k}"): f"{word} {i}." for i in range(3) for k, word in enumerate(("Tell", "Speak"))
    }
    noisy = {key[1:]: sample.instruction for key, sample in cells(data, conditions[2]).items()}
    assert noisy.keys() == texts.keys()
    assert all(noisy[key] != text for key, text in texts.items())


def test_paraphrases_that_are_not_there(llama: str, files: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'paraphrased' asks with paraphrases; expected data.paraphrases"):
        RobustnessDataModule(test=files, conditions=["paraphrased"])
    file = paraphrases(tmp_path, {"Something else.": ["Another thing."]})
    with pytest.raises(ValueError, match=r"paraphrases.jsonl has no paraphrases for the bank \w+, which is asked with"):
        ready(llama, files, conditions=["paraphrased"], paraphrases=file)
    own = write_rows(tmp_path / "rows.jsonl", [{"id": "r0", "instruction": "Say it.", "target": "it"}])
    with pytest.raises(ValueError, match=r"has no paraphrases for .*r0, which is asked with 'Say it.'"):
        ready(llama, [own], conditions=["paraphrased"], paraphrases=file)
    with pytest.raises(ValueError, match="'paraphrased' needs all samples"):
        InstructionDataModule(test=files, conditions=["paraphrased"])
    with pytest.raises(ValueError, match="combines paraphrased and"):
        RobustnessDataModule(test=files, conditions=["negated+paraphrased"])


@pytest.mark.parametrize("second", ["correct", "clean+clean"])
def test_conditions_that_ask_the_same_are_refused(second: str) -> None:
    with pytest.raises(ValueError, match=rf"'{re.escape(second)}' asks the same as 'clean'; expected one of them"):
        RobustnessDataModule(test="rows.jsonl", conditions=["unseen", "clean", second])
    RobustnessDataModule(test="rows.jsonl", conditions=["mixed@0.2", "mixed@0.3", "mixed@0.2+protected"])


def test_six_prompts_of_ones_own_are_six(llama: str, tmp_path: Path, caplog: Any) -> None:
    """As `presets/levels` asks them; by default a quarter is kept as unseen, and that is said."""
    caplog.set_level("INFO", "robustlm")
    rows = [{"text": f"text {i}", "label": ("good", "bad")[i % 2], "labels": ["good", "bad"]} for i in range(3)]
    (tmp_path / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    (tmp_path / "mine.json").write_text(json.dumps({"mine": [f"Is it {i}?" for i in range(6)]}))
    file = config_file("presets/levels")
    assert file is not None
    levels = yaml.safe_load(file.read_text(encoding="utf-8"))["data"]["init_args"]

    def asked(condition: str, **settings: Any) -> set[str]:
        caplog.clear()
        datamodule = RobustnessDataModule(
            test=str(tmp_path / "rows.jsonl"), bank=f"{tmp_path}/mine.json#mine", prompts=levels["prompts"],
            conditions=[condition], **settings,
        )  # fmt: skip
        datamodule.connect(load(llama, None))
        datamodule.setup("test")
        return {sample.instruction for sample in datamodule.conditioned[condition].samples}

    six = {f"Is it {i}?" for i in range(6)}
    assert asked("clean", unseen_share=levels["unseen_share"]) == six
    assert "of 6 templates the first 6 are seen and the last 0 unseen (data.unseen_share: 0)" in caplog.text
    assert asked("unseen", unseen_share=1) == six
    assert asked("clean") == {f"Is it {i}?" for i in range(4)}
    assert (
        "of 6 templates the first 4 are seen and the last 2 unseen (data.unseen_share: null, a quarter)" in caplog.text
    )
    assert "has 4 seen phrasings, which are fewer than 6" in caplog.text
    with pytest.raises(ValueError, match="no unseen phrasings"):
        asked("unseen", unseen_share=0)
    with pytest.raises(ValueError, match=r"data\.unseen_share: found 2; expected a share"):
        asked("clean", unseen_share=2)


def test_a_batch_carries_instructions_before_and_after_noise(llama: str, files: list[str]) -> None:
    data = ready(llama, files, conditions=["clean", "random_typos@0.4"])
    clean = {instruction: sample.instruction for (_, _, instruction), sample in cells(data, "clean").items()}
    for name, loader in zip(("clean", "random_typos@0.4"), data.test_dataloader(), strict=True):
        for batch in loader:
            assert batch.wordings == [clean[instruction] for instruction in batch.instruction_ids]
            assert all(text in prompt for text, prompt in zip(batch.instructions, batch.prompt.texts, strict=True))
            assert (batch.instructions == batch.wordings) == (name == "clean")


def test_noise_for_each_row_keeps_the_wording_too(llama: str, files: list[str]) -> None:
    data = InstructionDataModule(test=files, conditions=["clean", "random_typos@0.4"])
    data.connect(load(llama, None))
    data.setup("test")
    clean, noisy = (data.conditioned[name].samples for name in ("clean", "random_typos@0.4"))
    assert [sample.wording for sample in noisy] == [sample.instruction for sample in clean]
    assert all(sample.wording != sample.instruction for sample in noisy)

"""Few-shot examples in an evaluation: which, where in the prompt, and what when they do not fit."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback

from robustlm.cli import main
from robustlm.datamodules import RobustnessDataModule
from robustlm.evaluation.table import TableWriter, read_table
from robustlm.sources.source import Source
from tests.evaluation.test_resume import QUIET
from tests.tiny import load, write_rows

CONDITIONS = ["clean", "random_typos@0.4", "unseen"]
LETTERS = "abcdefgh"


class KeepIdentity(Callback):
    """Copies what an evaluation says of itself while it runs.

    Args:
        folder: File to copy it to.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def on_test_batch_end(self, trainer: Any, *_: Any) -> None:
        for file in Path(trainer.default_root_dir).rglob("predictions.parquet.run.json"):
            shutil.copy(file, self.folder)


def films(kind: str, count: int) -> list[dict[str, Any]]:
    return [
        {"id": f"{kind}{i}", "sentence": f"{kind} {i}", "label": ("positive", "negative")[i % 2]} for i in range(count)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("films")
    write_rows(found / "test.jsonl", films("film", 6))
    write_rows(found / "train.jsonl", [*films("reel", 9), *films("film", 1)])
    return found


def ready(model: str, **settings: Any) -> RobustnessDataModule:
    data = RobustnessDataModule(**({"conditions": CONDITIONS, "prompts": 2, "samples": 4} | settings))
    data.connect(load(model, None))
    data.setup("test")
    return data


def prompts(data: RobustnessDataModule, condition: str) -> list[str]:
    rows = data.conditioned[condition].encoded
    return [data.backbone.tokenizer.decode(row.prompt_ids, skip_special_tokens=True) for row in rows]


@pytest.mark.parametrize("model", ["llama", "t5"])
@pytest.mark.parametrize("scoring", ["generation", "options"])
def test_every_cell_is_shown_the_same_examples(
    model: str, scoring: str, models: dict[str, str], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = ready(models[model], test=[str(folder)], examples=[str(folder)], shots=4, scoring=scoring)
    assert "left out 1 rows whose input" in caplog.text
    shown = {sample.examples for rows in data.conditioned.values() for sample in rows.samples}
    (examples,) = shown
    assert all(example.id.startswith("reel") for example in examples)
    assert sorted(example.target for example in examples) == ["label: negative"] * 2 + ["label: positive"] * 2
    for condition in CONDITIONS:
        for sample, text, row in zip(
            data.conditioned[condition].samples, prompts(data, condition), data.conditioned[condition].encoded,
            strict=True,
        ):  # fmt: skip
            head, *blocks, query = text.split("\n\n")
            assert head.endswith(sample.instruction)
            assert [f"Text: {one.context.text} Answer: {one.target}" in block
                    for one, block in zip(examples, blocks, strict=True)] == [True] * 4  # fmt: skip
            assert f"Text: {sample.context.text} Answer:" in query
            context = [one for one, flag in zip(row.prompt_ids, row.context, strict=True) if flag]
            assert "reel" not in data.backbone.tokenizer.decode(context)
    bare = ready(models[model], test=[str(folder)], scoring=scoring)
    assert [s.id for s in bare.conditioned["clean"].samples] == [s.id for s in data.conditioned["clean"].samples]
    assert [row.answer_ids for row in bare.conditioned["clean"].encoded] == [
        row.answer_ids for row in data.conditioned["clean"].encoded
    ]


@pytest.mark.parametrize("scoring", ["generation", "options"])
def test_whole_examples_give_way_where_a_prompt_is_too_long(
    scoring: str, llama: str, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings: dict[str, Any] = {"test": [str(folder)], "examples": [str(folder)], "scoring": scoring}
    full = ready(llama, **settings, shots=4)
    longest = max(len(row) for row in full.conditioned["clean"].encoded)
    tight = ready(llama, **settings, shots=4, max_length=longest - 15)
    counted = 0
    for condition in CONDITIONS:
        whole = {(s.id, s.instruction_id): s for s in full.conditioned[condition].samples}
        rows = tight.conditioned[condition]
        assert len(rows.samples) == len(whole)
        for sample, row, options in zip(rows.samples, rows.encoded, rows.options or [[]] * len(rows), strict=True):
            given = whole[sample.id, sample.instruction_id].examples
            assert sample.examples == given[len(given) - len(sample.examples) :]
            counted += len(sample.examples) < 4
            assert all(len(one) <= longest - 15 for one in (row, *options))
            assert all(one.prompt_ids == row.prompt_ids for one in options)
            text = tight.backbone.tokenizer.decode(row.prompt_ids)
            assert f"Text: {sample.context.text} Answer:" in text
            assert text.count("Answer: label") == len(sample.examples)
    assert counted > 0
    said = [record.getMessage() for record in caplog.records if "too long for 4" in record.getMessage()]
    assert len(said) == 1
    assert said[0].startswith(f"data.max_length: {counted} of 24 prompts are too long for 4 examples")
    assert "was cut" not in caplog.text


def test_the_longest_choice_counts_when_options_are_scored(llama: str, tmp_path: Path) -> None:
    def rows(kind: str) -> list[dict[str, Any]]:
        long = "a long choice of many words that nobody takes"
        return [
            {"id": f"{kind}{i}", "question": f"{kind} {letter}?", "choices": ["yes", long], "answer": "yes"}
            for i, letter in enumerate(LETTERS)
        ]

    settings: dict[str, Any] = {
        "test": write_rows(tmp_path / "q.jsonl", rows("is")),
        "examples": [Source(write_rows(tmp_path / "more.jsonl", rows("was")), name="q")],
        "conditions": ["clean"],
    }
    free = ready(llama, **settings, shots=1).conditioned["clean"]
    length = max(len(row) for row in free.encoded)
    fits = ready(llama, **settings, shots=1, max_length=length).conditioned["clean"]
    assert {len(sample.examples) for sample in fits.samples} == {1}
    kept = ready(llama, **settings, shots=1, max_length=length, scoring="options").conditioned["clean"]
    assert {len(sample.examples) for sample in kept.samples} == {0}
    assert all(len(row) <= length for options in kept.options for row in options)


def test_examples_are_of_the_topic_of_the_row(llama: str, tmp_path: Path) -> None:
    def rows(kind: str, count: int) -> list[dict[str, Any]]:
        return [
            {"id": f"{kind}{i}", "subject": ("sea", "sky")[i % 2], "question": f"{kind} {i}?", "choices": ["p", "q"],
             "answer": "pq"[i // 2 % 2]}
            for i in range(count)
        ]  # fmt: skip

    write_rows(tmp_path / "test.jsonl", rows("is", 4))
    write_rows(tmp_path / "dev.jsonl", rows("was", 8))
    data = ready(
        llama, test=[Source(str(tmp_path), topic="subject")], examples=[Source(str(tmp_path), split="dev")], shots=2
    )
    for sample in data.conditioned["clean"].samples:
        assert [example.topic for example in sample.examples] == [sample.topic] * 2
        assert sorted(example.target for example in sample.examples) == ["p", "q"]
    with pytest.raises(ValueError, match=r"found 4 rows for the dataset .* and the topic 's[ek][ay]'; expected 5"):
        ready(llama, test=[Source(str(tmp_path), topic="subject")], examples=[Source(str(tmp_path), split="dev")],
              shots=5)  # fmt: skip


def test_slots_are_filled_from_the_example(llama: str, tmp_path: Path) -> None:
    write_rows(tmp_path / "test.jsonl", films("film", 4))
    write_rows(tmp_path / "train.jsonl", films("reel", 4))
    bank = tmp_path / "banks.json"
    bank.write_text(json.dumps({"films": ["What of {it}? {options_}", "Judge {it}. {options_}"]}), encoding="utf-8")
    asked = Source(str(tmp_path), bank=f"{bank}#films", fields={"it": "sentence"})
    conditions = ["clean", "random_shuffling@1"]
    data = ready(llama, test=[asked], examples=[str(tmp_path)], shots=2, conditions=conditions)
    for sample, text in zip(data.conditioned["clean"].samples, prompts(data, "clean"), strict=True):
        *blocks, query = text.split("Instruction: ")[1:]
        for example, block in zip(sample.examples, blocks, strict=True):
            assert example.context.text in block
            assert "OPTIONS:" in block
            assert block.endswith(f"Answer: {example.target}\n\n")
        assert sample.context.text in query
        assert "{it}" not in text
    (tmp_path / "other.jsonl").write_text((tmp_path / "train.jsonl").read_text(encoding="utf-8"), encoding="utf-8")
    named = replace(asked, name="films")
    with pytest.raises(ValueError, match=r"reel\d has no text for \{it\}"):
        ready(llama, test=[named], examples=[Source(str(tmp_path / "other.jsonl"), name="films")], shots=2)


def test_instructions_of_their_own(llama: str, tmp_path: Path) -> None:
    def rows(kind: str, *instructions: str) -> str:
        made = [{"id": f"{kind}{i}", "instruction": text, "text": f"{kind} {i}", "target": "x"}
                for i, text in enumerate(instructions)]  # fmt: skip
        return write_rows(tmp_path / f"{kind}.jsonl", made)

    data = ready(
        llama,
        test=rows("asked", "Do it."),
        examples=[Source(rows("shown", "Do it.", "Say it."), name="asked")],
        shots=2,
        conditions=["clean", "random_typos@1"],
    )
    assert sorted(example.instruction for example in data.conditioned["clean"].samples[0].examples) == ["", "Say it."]
    (text,) = prompts(data, "random_typos@1")
    assert "Do it." not in text
    assert "Say it." in text


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"shots": -1}, "data.shots: found -1"),
        ({"shots": 2}, "data.examples: found no source for 2"),
        ({"examples": ["x.jsonl"]}, "data.shots: found 0 with data.examples"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RobustnessDataModule(**settings)


def test_an_evaluation_with_other_shots_is_not_continued(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def arguments(name: str, *more: str) -> list[str]:
        return [
            "test", "-c", "robustness", "--model.backbone=builtin:tiny", "--model.max_new_tokens=2",
            f"--data.test={folder}", f"--data.examples={folder}", "--data.conditions=[clean]", "--data.samples=2",
            "--data.prompts=2", f"--trainer.default_root_dir={tmp_path / name}", *QUIET, *more,
        ]  # fmt: skip

    identities = tmp_path / "identities"
    main(arguments("whole", "--data.shots=2", f"--trainer.callbacks+={__name__}.KeepIdentity",
                   f"--trainer.callbacks.folder={identities}"))  # fmt: skip
    begun = tmp_path / "whole/version_0"
    table = read_table(begun / "predictions.parquet")
    assert len(table) == 4
    (begun / "predictions.parquet").unlink()
    (begun / "predictions.parquet.run.json").write_text(identities.read_text(encoding="utf-8"), encoding="utf-8")
    writer = TableWriter(begun / "predictions.parquet")
    writer.write(table[:1])
    writer.close()
    with pytest.raises(SystemExit):
        main(arguments("again", "--data.shots=3", f"--predictions.resume={begun}"))
    assert "the same rows, conditions" in capsys.readouterr().err
    main(arguments("again", "--data.shots=2", f"--predictions.resume={begun}"))
    assert read_table(begun / "predictions.parquet") == table

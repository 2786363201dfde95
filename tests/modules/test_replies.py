"""Answers in evaluation: chosen where rows have choices, generated where they have none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from robustlm.cli import main, run
from robustlm.datamodules import InstructionDataModule
from robustlm.evaluation.record import Record, plain_record
from robustlm.evaluation.table import read_table
from robustlm.models import scoring as option_scoring
from robustlm.models.caches import Reader
from robustlm.modules import InstructionTuning
from tests.modules.test_equivalence import flags
from tests.processes import side_by_side
from tests.tiny import trainer, write_rows

PLANETS = ("Venus", "Mercury", "Mars", "Earth", "a planet far away from the sun")


def mixed() -> list[dict[str, Any]]:
    """Multiple choice with uneven options, classification by robustlm's own rows, and free text."""
    rows: list[dict[str, Any]] = [
        {"question": f"Which planet is number {i}?", "choices": list(PLANETS[: 2 + i % 4]), "answer": PLANETS[i % 2]}
        for i in range(5)
    ]
    rows += [
        {"instruction": "How is it?", "text": "it rains" * i, "target": "label: bad", "task": "tc"}
        | {"choices": ["label: bad", "label: good"]}
        for i in (1, 5)
    ]
    rows += [{"instruction": "Say it again.", "text": f"word {i}", "target": f"word {i}"} for i in range(3)]
    return [row | {"id": f"r{i}"} for i, row in enumerate(rows)]


@pytest.fixture(scope="module")
def mixed_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_rows(tmp_path_factory.mktemp("mixed") / "mixed.jsonl", mixed())


def scored(folder: Path, backbone: str, file: str, **settings: Any) -> list[dict[str, Any]]:
    wanted = {
        "model": "InstructionTuning",
        "model.tuning": "null",
        "data.test": file,
        "data.scoring": "options",
        **settings,
    }
    run(["test", *(f for f in flags(folder, backbone, **wanted) if "tuning." not in f)])
    return read_table(folder / "predictions.parquet")


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_options_are_scored_from_the_command_line(
    kind: str, models: dict[str, str], mixed_file: str, tmp_path: Path
) -> None:
    table = scored(tmp_path / "options", models[kind], mixed_file, **{"data.eval_batch_size": 4})
    generated = scored(tmp_path / "generated", models[kind], mixed_file, **{"data.scoring": "generation"})
    assert [row["sample_id"] for row in table] == [row["sample_id"] for row in generated]
    rows = {row["id"]: row for row in mixed()}
    for row, other in zip(table, generated, strict=True):
        assert other["choices"] is other["option_scores"] is other["option_tokens"] is None
        choices = rows[row["sample_id"]].get("choices")
        assert row["choices"] == choices
        if choices is None:
            assert row == other
            continue
        means = [a / b for a, b in zip(row["option_scores"], row["option_tokens"], strict=True)]
        assert row["prediction"] == choices[max(range(len(means)), key=means.__getitem__)]
        assert row["parsed"] == [[row["prediction"].removeprefix("label: ")]]
        assert row["correct"] is (row["prediction"] == row["target"])
    assert len({row["prediction"] for row in table}) > 3


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_batches_change_no_score(kind: str, models: dict[str, str], mixed_file: str, tmp_path: Path) -> None:
    tables = [
        scored(tmp_path / str(size), models[kind], mixed_file, **{"data.eval_batch_size": size}) for size in (1, 3, 64)
    ]
    for table in tables[1:]:
        alike(table, tables[0])


def alike(table: list[Record], wanted: list[Record]) -> None:
    for a, b in zip(table, wanted, strict=True):
        for name, value in plain_record(b).items():
            assert getattr(a, name) == (pytest.approx(value, rel=1e-5) if name == "option_scores" and value else value)


@pytest.mark.parametrize("together", [True, False])
def test_passes_are_bounded(together: bool, llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty-six options are not twenty-six times the memory, in the row of their prompt or in rows of their own."""
    letters = [f"option {chr(97 + i)}" for i in range(26)]
    row = {"question": "Which?", "choices": letters, "answer": letters[3]}
    file = write_rows(tmp_path / "rows.jsonl", [row] * 5)
    module = InstructionTuning(llama, tuning=None)
    every: list[int] = []
    prompts: list[int] = []
    logits, run = Reader.at, Reader.__call__

    def watched(self: Any, keep: Any, ids: Any, *args: Any, **kwargs: Any) -> Any:
        every.append(len(ids))
        return logits(self, keep, ids, *args, **kwargs)

    def read(self: Any, ids: Any, *args: Any) -> Any:
        prompts.append(len(ids))
        return run(self, ids, *args)

    monkeypatch.setattr(Reader, "at", watched)
    monkeypatch.setattr(Reader, "__call__", read)
    monkeypatch.setattr(option_scoring, "keeps_apart", lambda loaded: together)
    data = InstructionDataModule(test=file, eval_batch_size=3, scoring="options")
    trainer(tmp_path).test(module, data, verbose=False)
    assert max(every) == 3
    if together:
        assert (every, prompts) == ([3, 1], [])  # each prompt runs once, with all options; the last two are equal
        return
    assert sum(every) - sum(prompts) == 5 * 26  # every option is continued once
    # each pass runs the prompts of its options once: 9 passes a row of 26 options, but for those two rows share
    assert sum(prompts) < 2 * 5 * 26 / 3


def test_two_processes_write_the_table_of_one(llama: str, mixed_file: str, tmp_path: Path) -> None:
    settings = {"model": "InstructionTuning", "model.tuning": "null", "data": "InstructionDataModule"}
    settings |= {"data.test": mixed_file, "data.scoring": "options", "data.eval_batch_size": 4}
    parallel = {"trainer.devices": 2, "trainer.strategy": "ddp"}
    args = [flag for flag in flags(tmp_path / "two", llama, **settings, **parallel) if "tuning." not in flag]
    side_by_side(lambda: main(["test", *args]))
    one = scored(tmp_path / "one", llama, mixed_file, **{"data.eval_batch_size": 4})
    alike(read_table(tmp_path / "two" / "predictions.parquet"), one)


def test_validation_may_score_options_too(llama: str, tmp_path: Path) -> None:
    file = write_rows(tmp_path / "labels.jsonl", [row for row in mixed() if row.get("task") == "tc"])
    found = []
    for scoring in ("options", "generation"):
        module = InstructionTuning(llama, tuning=None, generate_in_validation=True, max_new_tokens=4)
        data = InstructionDataModule(validation=file, scoring=scoring)  # type: ignore[arg-type]
        (scores,) = trainer(tmp_path).validate(module, data, verbose=False)
        found.append(scores)
    assert found[0]["val/loss"] == found[1]["val/loss"]
    assert found[0]["val/clean/labels/unparseable"] == 0
    assert found[1]["val/clean/labels/unparseable"] == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"data.scoring": "option"}, "data.scoring"),
        ({"data.test": "free.jsonl", "data.scoring": "options"}, "none of the 1 rows of data.test has any"),
        ({"data.test": "long.jsonl", "data.scoring": "options", "data.max_length": 40}, "the longest of its choices"),
    ],
)
def test_what_cannot_be_scored_is_explained(
    settings: dict[str, Any],
    message: str,
    llama: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(Path("free.jsonl"), [{"instruction": "Say it.", "target": "it"}])
    write_rows(Path("long.jsonl"), [{"instruction": "Say", "target": "it", "choices": ["it", "long " * 40 + "word"]}])
    wanted = {"model": "InstructionTuning", "data": "InstructionDataModule", "data.test": "long.jsonl", **settings}
    with pytest.raises(SystemExit):
        main(["test", *flags(tmp_path, llama, **wanted)])
    assert message in capsys.readouterr().err


def test_rows_with_choices_too_long_can_be_left_out(llama: str, tmp_path: Path) -> None:
    rows = [{"instruction": "Say", "target": "it", "choices": ["it", "long " * n + "word"], "id": n} for n in (1, 40)]
    data = InstructionDataModule(
        test=write_rows(tmp_path / "rows.jsonl", rows),
        max_length=40,
        on_bad_row="skip",
        rejected=str(tmp_path / "rejected.jsonl"),
        scoring="options",
    )
    module = InstructionTuning(llama, tuning=None)
    trainer(tmp_path).test(module, data, verbose=False)
    assert [sample.id for sample in data.conditioned["clean"].samples] == ["1"]
    assert "longest of its choices" in (tmp_path / "rejected-test (clean) options-too-long.jsonl").read_text()


def test_how_many_rows_are_generated_is_told(
    llama: str, mixed_file: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = InstructionDataModule(test=mixed_file, scoring="options")
    data.connect(InstructionTuning(llama, tuning=None).backbone)
    with caplog.at_level("INFO"):
        data.setup("test")
    assert "data.test (clean): 3 of 10 rows have no choices; their answers are generated" in caplog.text
    batch = next(iter(data.test_dataloader()[0]))
    assert batch.options is not None
    assert batch.option_rows is not None
    assert len(batch.options) == len(batch.option_rows) == sum(len(choices) for choices in batch.choices)
    assert torch.equal(batch.option_rows, batch.option_rows.sort().values)
    assert batch.to("cpu").options is not batch.options

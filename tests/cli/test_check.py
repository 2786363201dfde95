"""The preflight shows what would be trained, and trains nothing."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path
from typing import Any

import pytest

from robustlm import __version__
from robustlm.batch import Encoded, collate
from robustlm.cli import main
from robustlm.cli.check import check, rendered
from robustlm.cli.training import _EXAMPLES
from robustlm.datamodules import (
    ContrastiveDataModule,
    InstructionDataModule,
    NoisyInstructionDataModule,
    RobustnessDataModule,
)
from robustlm.models.tuning import LoRA
from robustlm.modules import ANIT, ContrastiveTuning, InstructionTuning
from robustlm.noise.base import MIXED_KINDS, Noise
from robustlm.prompts.encoding import Encoder
from tests.tiny import write_rows


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_it_shows_rows_lengths_parameters_and_memory(
    kind: str, models: dict[str, str], train_file: str, test_file: str, capsys: Any
) -> None:
    module = ANIT(models[kind], tuning=LoRA(r=2))
    data = NoisyInstructionDataModule(
        train=train_file, test=test_file, noise=Noise("random_typos", omega=0.5), max_length=60
    )
    check(module, data, rows=3)
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert f"parameters  {trained:,} of" in shown
    assert any(line.startswith("train") and "26 rows" in line for line in lines)
    assert any(line.startswith("test") and "7 rows" in line for line in lines)
    raw, noisy = ([line for line in lines if line.strip().startswith(name)] for name in ("raw", "variant"))
    assert len(raw) == len(noisy) == 3
    assert all("Instruction: " in line and line.endswith("</s>»") for line in raw)
    assert all("(β = " in line for line in noisy)
    assert "memory      about" in shown
    assert all(p.grad is None for p in module.parameters())


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_it_shows_what_a_test_asks(kind: str, models: dict[str, str], test_file: str, capsys: Any) -> None:
    conditions = ["clean", "random_typos@1", "negated", "attack:deepwordbug@0.2"]
    check(InstructionTuning(models[kind]), RobustnessDataModule(test=test_file, conditions=conditions, samples=5))
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("asked       20 answers; the first row of each condition")
    shown = [line.strip().partition(": Instruction: ") for line in lines[at + 1 : at + 5]]
    assert [name for name, _, _ in shown] == [
        *(f"{name}, 5" for name in conditions[:3]),
        f"{conditions[3]}, 5 (before its search)",
    ]
    clean, noisy, negated, attacked = (text for _, _, text in shown)
    assert clean == attacked != noisy
    assert clean.endswith("Answer:")
    assert "not" in negated


def test_answers_of_a_decoder_as_wide_as_the_prompt(t5: str) -> None:
    tokenizer = InstructionTuning(t5).backbone.tokenizer
    prompt, answer = tokenizer("find the words")["input_ids"], tokenizer("good text in")["input_ids"]
    size = min(len(prompt), len(answer))
    row = Encoded(prompt[:size], [True] * size, [False] * size, answer[:size])
    view = collate([row], pad_id=0, encoder_decoder=True)
    (text,) = rendered(view, tokenizer, encoder_decoder=True)
    assert text == f"{tokenizer.decode(prompt[:size])}«{tokenizer.decode(answer[:size])}»"


def test_what_would_stop_a_run_stops_the_check(llama: str, train_file: str) -> None:
    with pytest.raises(ValueError, match="no source"):
        check(InstructionTuning(llama), InstructionDataModule())
    with pytest.raises(ValueError, match="too long"):
        check(InstructionTuning(llama), InstructionDataModule(train=train_file, max_length=10))


def test_it_says_how_many_rows_have_hard_negatives(llama: str, tmp_path: Path, capsys: Any) -> None:
    labels = ["positive", "negative"]
    rows = [{"text": f"text {i}", "label": labels[i % 2], "labels": labels, "bank": "sentiment"} for i in range(8)]
    data = ContrastiveDataModule(train=write_rows(tmp_path / "two.jsonl", rows), batch_size=4, negatives=1)
    check(ContrastiveTuning(llama, tuning=LoRA(r=2)), data)
    shown = capsys.readouterr().out
    assert "data.group_size 2: 8 of 8 rows (100.0%) have a hard negative in their group" in shown
    assert "data.negatives 1: 8 of 8 rows (100.0%) find as many hard negatives in their task" in shown


def test_notices_are_shown(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["noise", "--help"])
    logging.getLogger("robustlm.sources").info("what was done")
    assert capsys.readouterr().err.splitlines() == ["what was done"]


def test_no_rows_cannot_be_shown(llama: str, train_file: str) -> None:
    with pytest.raises(ValueError, match="rows: found 0; expected a whole number ≥ 1"):
        check(InstructionTuning(llama), InstructionDataModule(train=train_file), rows=0)


def test_what_each_kind_of_noise_does_is_shown(llama: str, tmp_path: Path, capsys: Any) -> None:
    rows = [{"instruction": f"Name every place in text {i}.", "target": "Oslo", "text": "a b"} for i in range(4)]
    train = write_rows(tmp_path / "rows.jsonl", rows)
    check(ANIT(llama, tuning=LoRA(r=2)), NoisyInstructionDataModule(train=train, noise=Noise("mixed", omega=0.5)))
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("noise       at ω = 0.5, on "))
    own = lines[at + 1].split(maxsplit=1)[1]
    assert own == "Name every place in text 0."
    shown = dict(line.split(maxsplit=1) for line in lines[at + 2 : at + 2 + len(MIXED_KINDS)])
    assert list(shown) == list(MIXED_KINDS)
    assert all(text != own for text in shown.values())


def test_what_matters_is_last(llama: str, train_file: str, tmp_path: Path, capsys: Any) -> None:
    args = ["check", "-c", "anit", "--model.backbone", llama, "--data.train", train_file]
    main([*args[:3], "--rows", "1", *args[3:]])
    *_, problems, following = capsys.readouterr().out.splitlines()
    assert problems == "no problem was found"
    assert following.startswith("next: robustlm fit -c anit ")
    assert following.endswith(f"--model.backbone {llama} --data.train {train_file}")
    rows = [{"instruction": "Find.", "target": "no", "text": "word " * 60, "id": f"{i}"} for i in range(3)]
    main([*args[:-1], write_rows(tmp_path / "long.jsonl", rows), "--data.max_length", "40"])
    *_, heading, problem, following = capsys.readouterr().out.splitlines()
    assert heading == "to check (1)"
    assert "data.train: the context of 3 rows (100.0%) at max_length 40 is cut" in problem
    assert following.startswith("next: robustlm fit ")


def test_the_version_and_help_of_a_command(capsys: Any) -> None:
    main(["--version"])
    assert capsys.readouterr().out == f"robustlm {__version__}\n"
    with pytest.raises(SystemExit):
        main(["fit", "--help"])
    said = capsys.readouterr().out
    places = [
        said.index(text) for text in ("example: robustlm fit ", "--model CONFIG", "--data CONFIG", "--trainer CONFIG")
    ]
    assert places == sorted(places)


@pytest.mark.parametrize("command", _EXAMPLES)
def test_examples_of_help_parse(command: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, *shlex.split(_EXAMPLES[command]), "--print_config"])
    assert not end.value.code


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_it_warns_of_answers_that_no_model_may_finish(
    kind: str, models: dict[str, str], tmp_path: Path, capsys: Any
) -> None:
    made = [
        {"id": f"r{i}", "instruction": "Say it.", "target": " ".join(["word"] * n)} for i, n in enumerate((1, 2, 9, 30))
    ]
    rows = write_rows(tmp_path / "rows.jsonl", made)
    module = InstructionTuning(models[kind], max_new_tokens=5)
    data = InstructionDataModule(test=rows)
    check(module, data)
    shown = capsys.readouterr().out
    lengths = {one.id: len(row.answer_ids) - 1 for one, row in zip(*vars_of(data), strict=True)}
    long = sorted(name for name, length in lengths.items() if length > 5)
    assert "r0" not in long
    assert "r3" in long
    assert f"data.test: the true answers of {len(long)} of 4 rows ({len(long) / 4:.0%}) are longer than" in shown
    assert f"the longest has {lengths['r3']} tokens: r3, 'word word" in shown
    check(InstructionTuning(models[kind], max_new_tokens=lengths["r3"]), InstructionDataModule(test=rows))
    assert "are longer than" not in capsys.readouterr().out
    # training alone writes no answers, and options are not written either
    check(module, InstructionDataModule(train=rows))
    assert "are longer than" not in capsys.readouterr().out
    choice = [{"question": "Which?", "choices": ["yes", "word " * 20], "answer": "word " * 20}]
    options = write_rows(tmp_path / "options.jsonl", choice)
    check(module, InstructionDataModule(test=options, scoring="options"))
    assert "are longer than" not in capsys.readouterr().out
    check(module, InstructionDataModule(test=options))
    assert "the true answers of 1 of 1 rows (100%) are longer than" in capsys.readouterr().out


def vars_of(data: InstructionDataModule) -> tuple[Any, Any]:
    """Samples of the test and their tokens."""
    found = data.read("test")
    return found.samples, found.encoded


def test_nothing_is_tokenised_twice(llama: str, train_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    own = Encoder.encode_untruncated

    def counted(self: Encoder, samples: Any, instructions: Any = None) -> Any:
        seen.extend(sample.id for sample in samples)
        return own(self, samples, instructions)

    monkeypatch.setattr(Encoder, "encode_untruncated", counted)
    check(InstructionTuning(llama), InstructionDataModule(train=train_file))
    assert len(seen) == len(set(seen)) == 26


def test_a_large_file_is_checked_in_part(llama: str, train_file: str, tmp_path: Path, capsys: Any) -> None:
    settings: dict[str, Any] = {"train": train_file, "cache_dir": str(tmp_path / "cache")}
    settings["cache_above"] = Path(train_file).stat().st_size / 3.5e6
    check(InstructionTuning(llama), InstructionDataModule(**settings))
    shown = capsys.readouterr().out
    assert "train       7 rows" in shown
    assert "only 1 of 4 rows was checked" in shown
    assert not (tmp_path / "cache").exists()
    check(InstructionTuning(llama), InstructionDataModule(**settings), whole=True)
    shown = capsys.readouterr().out
    assert "train       26 rows" in shown
    assert "was checked" not in shown

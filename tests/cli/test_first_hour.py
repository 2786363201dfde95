"""What a newcomer met in the first hour: small things that failed late, or with a traceback."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from robustlm.cli import main
from robustlm.datamodules import RobustnessDataModule
from robustlm.evaluation.record import Record
from robustlm.evaluation.table import write_table
from robustlm.tools.paraphrase_rules import Rules
from tests.endpoint import SECRET
from tests.tiny import load, make_rows, write_rows

ASKED = "Give the correct label of the text."


def failed(args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as end:
        main(args)
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    return said


def test_a_hosted_model_is_checked(
    test_file: str, train_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    main(["check", "-c", "robustness", "--model.backbone=openai:some-model", f"--data.test={test_file}"])
    said = capsys.readouterr().out
    assert "model       openai:some-model (hosted)" in said
    assert "the model is hosted elsewhere" in said
    assert SECRET not in said
    args = ["check", "-c", "anit", "--model.backbone=openai:some-model", f"--data.train={train_file}"]
    assert "openai:some-model is hosted elsewhere and cannot be tuned" in failed(args, capsys)


@pytest.mark.parametrize(
    "strategy",
    ["ddp_spawn", "ddp_spawn_find_unused_parameters_true", "ddp_fork", "ddp_notebook",
     '{"class_path": "lightning.pytorch.strategies.DDPStrategy", "init_args": {"start_method": "spawn"}}'],
)  # fmt: skip
def test_fit_in_spawned_or_forked_processes_is_refused_at_the_start(
    strategy: str, llama: str, train_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["fit", "-c", "anit", "--model.backbone", llama, "--data.train", train_file,
            "--trainer.strategy", strategy, "--trainer.default_root_dir", f"{tmp_path}/runs"]  # fmt: skip
    assert "trainer.strategy: found" in failed(args, capsys)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "text",
    [
        "Please provide the correct label of the text.",
        "Please provide the label that fits the text.",
        "Please provide the text's correct label.",
        "Please provide, in one word, the correct label of the text.",
        "Please provide a correct label for this text.",
        "Could you provide the correct label of the text?",
        "Could you please provide a label for the text, the correct one?",
        "Please provide the correct label of the given text so that readers know it.",
    ],
)
def test_an_instruction_that_asks_politely_is_no_refusal(text: str) -> None:
    assert not Rules().problem(ASKED, text).startswith("refusal")


@pytest.mark.parametrize(
    "text",
    [
        "Please provide the text whose label you want.",
        "Please provide the instruction you would like me to paraphrase.",
        "Please provide me with the original instruction.",
        "Please provide more context so I can help.",
        "Please provide the text.",
        "Please provide the text for analysis.",
        "Please provide your input, and I will label it.",
        "Please provide a sentence for me to label.",
        "Please provide some text that you want me to label.",
        "Could you provide the text?",
        "Could you please provide more details?",
        "Could you clarify what you mean by label?",
        "Kindly provide the full text below.",
        "Please provide additional information.",
    ],
)
def test_who_asks_for_the_input_refuses(text: str) -> None:
    assert Rules().problem(ASKED, text).startswith("refusal")


@pytest.mark.parametrize("embedder", ["StateEmbedder", "TokenEmbedder"])
def test_noise_by_embeddings_takes_a_model(
    embedder: str, llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_rows(tmp_path / "rows.jsonl", make_rows(4))
    args = ["noise", rows, f"{tmp_path}/measured.jsonl", "--kind", "random_typos", "--omega", "0.9",
            "--distortion", "LME", "--distortion.embedder", embedder]  # fmt: skip
    assert "--backbone MODEL" in failed(args, capsys)
    assert not (tmp_path / "measured.jsonl").exists()
    main([*args, "--backbone", llama])
    measured = [json.loads(line) for line in (tmp_path / "measured.jsonl").read_text(encoding="utf-8").splitlines()]
    assert any(0 < row["distortion"] <= 1 for row in measured)
    assert "asks no model" in failed(["noise", rows, f"{tmp_path}/b.jsonl", "--backbone", llama], capsys)


def test_a_trial_run_writes_no_checkpoint(llama: str, train_file: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    main(["fit", "-c", "anit", "--model.backbone", llama, "--data.train", train_file, "--trainer.fast_dev_run", "1",
          "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"])  # fmt: skip
    assert not list(tmp_path.rglob("*.ckpt"))


def tickets(file: Path, texts: list[str]) -> str:
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["text", "label"])
        writer.writerows((text, ("bug", "praise")[i % 2]) for i, text in enumerate(texts))
    return str(file)


def test_examples_come_from_a_file_of_any_name(llama: str, tmp_path: Path) -> None:
    test = tickets(tmp_path / "march.csv", [f"case {i}" for i in range(4)])
    shown = tickets(tmp_path / "april.csv", [f"other {i}" for i in range(6)])
    data = RobustnessDataModule(test=test, examples=shown, shots=2, prompts=1)
    data.connect(load(llama, None))
    data.setup("test")
    for sample in data.conditioned["clean"].samples:
        assert sample.dataset == "march"
        assert [one.context.text.split()[0] for one in sample.examples] == ["other", "other"]


def test_two_tests_need_names_of_examples(llama: str, tmp_path: Path) -> None:
    tests = [tickets(tmp_path / f"{name}.csv", [f"{name} {i}" for i in range(4)]) for name in ("march", "may")]
    shown = tickets(tmp_path / "april.csv", [f"other {i}" for i in range(6)])
    data = RobustnessDataModule(test=tests, examples=shown, shots=2, prompts=1)
    data.connect(load(llama, None))
    with pytest.raises(ValueError, match="`name` of a source renames"):
        data.setup("test")


@pytest.mark.parametrize("same_ids", [True, False])
def test_compare_says_that_names_of_datasets_differ(
    same_ids: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a", "b"):
        row = Record("r", f"tickets-{name}", "generation", "clean", "i", "x", [["x"]], target="x", correct=True)
        (tmp_path / name).mkdir()
        ids = [f"{'r' if same_ids else name}:{i}" for i in range(3)]
        write_table(tmp_path / name / "predictions.parquet", [replace(row, sample_id=one) for one in ids])
    args = ["compare", f"{tmp_path}/a", f"{tmp_path}/b"]
    expected = "Names of datasets differ (only in a: tickets-a; only in b: tickets-b)"
    if same_ids:
        main(args)
        assert expected in capsys.readouterr().out
        assert expected in failed([*args, "--paired", "true"], capsys)
    else:
        assert expected in failed(args, capsys)

"""The rehearsal of the command that trains a base model on text."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import torch
import transformers

from benchmarks.gpu import base
from benchmarks.gpu.base import TINY, documents, main, operations, rate, windows


@pytest.fixture
def text(tmp_path: Path) -> Path:
    folder = tmp_path / "text"
    folder.mkdir()
    parts = [f"A dog runs {n} times.\nIt sleeps in house {n % 7}." for n in range(400)]
    (folder / "a.txt").write_text("\n\n".join(parts[:200]), encoding="utf-8")
    with gzip.open(folder / "b.txt.gz", "wt", encoding="utf-8") as file:
        file.write("\n<|endoftext|>\n".join(parts[200:]))
    return folder


def test_a_model_is_trained_on_a_folder_of_text(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    assert main(["--text", str(text), "--output", str(output), "--tiny", "--steps", "20", "--look", "10"]) == 0
    lines = [json.loads(line) for line in (output / "training.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10, 20]
    assert lines[1]["held-out loss"] < lines[0]["held-out loss"] < 6
    assert {"tokens/s", "TFLOP/s", "MFU, %", "loss", "minutes"} <= set(lines[1])
    model = transformers.AutoModelForCausalLM.from_pretrained(output / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(output / "model")
    assert tokenizer.decode(tokenizer("A dog runs 3 times.")["input_ids"]) == "A dog runs 3 times."
    assert model.config.vocab_size == len(tokenizer)
    assert sorted(path.name for path in output.iterdir()) == [
        "held-out.tokens",
        "model",
        "train.tokens",
        "training.jsonl",
    ]


def test_documents_are_separated_by_blank_lines_and_marks(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = list(documents(text))
    assert len(found) == 400
    assert found[0] == "A dog runs 0 times.\nIt sleeps in house 0."
    assert found[399] == "A dog runs 399 times.\nIt sleeps in house 0."
    monkeypatch.setattr(base, "LONGEST", 30)
    assert len(list(documents(text))) == 800, "long documents are read as several"


def test_what_is_wrong_with_the_text_is_said(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["--text", str(empty), "--output", str(tmp_path / "o"), "--tiny"]) == 1
    assert f"--text: {empty} holds no .txt and no .gz file" in capsys.readouterr().err
    (empty / "a.txt").write_bytes(b"\xff\xfe\xfa")
    assert main(["--text", str(empty), "--output", str(tmp_path / "o"), "--tiny"]) == 1
    assert "a.txt: " in capsys.readouterr().err
    (empty / "a.txt").write_text("Short.")
    assert main(["--text", str(empty), "--output", str(tmp_path / "p"), "--tiny"]) == 1
    assert "expected more than --context 32" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--text", str(text), "--output", str(text), "--tiny"])
    assert "expected a new folder" in capsys.readouterr().err


def test_the_rate_rises_stays_and_falls() -> None:
    assert rate(0.0) < 0.1
    assert rate(0.02) == rate(0.5) == rate(0.79) == 1
    assert rate(0.9) == pytest.approx(0.5)
    assert rate(1.0) == 0


def test_rows_depend_on_their_seed_alone() -> None:
    tokens = torch.arange(100).numpy()
    first, again, other = (windows(tokens, 4, 8, seed, "cpu") for seed in ((0, 0, 1), (0, 0, 1), (0, 0, 2)))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (4, 9)
    assert torch.equal(first[:, 1:], first[:, :-1] + 1)


def test_operations_of_a_token() -> None:
    assert operations(TINY, 1000) == 6 * 1000 + 6 * 2 * 32 * 32

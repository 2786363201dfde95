"""The spelling corrector that training is compared with."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

from benchmarks.spelling import CorrectedDataModule, Speller, word_counts
from robustlm.modules import InstructionTuning
from tests.tiny import make_rows, write_rows


def test_the_nearest_known_word_is_taken_and_the_most_frequent_of_equally_near_ones() -> None:
    speller = Speller(Counter({"topic": 9, "tonic": 40, "sentence": 9, "the": 99, "then": 9, "rare": 4}))
    assert speller.text("Identify whe topci of this sentnce.") == "Identify the topic of this sentence."
    assert speller.text("Tobic, tobic; toic!") == "Tonic, tonic; tonic!"
    assert speller.text("RAER b2b thn xyzzy rare") == "RAER b2b the xyzzy rare", (
        "rare is no known word, and has none near"
    )


def test_words_are_counted_over_files_plain_and_packed(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The topic\nthe_end\n", encoding="utf-8")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"THE end"))
    assert word_counts(tmp_path) == {"the": 3, "topic": 1, "end": 2}


def test_prompts_have_the_corrected_instruction_and_the_row_as_it_is(llama: str, tmp_path: Path) -> None:
    words = tmp_path / "words.txt"
    words.write_text("Name the person in this sentence. " * 5, encoding="utf-8")
    row = {"instruction": "Nmae the persn.", "input": "Persn Bo.", "output": "Bo", "id": "r"}
    write_rows(tmp_path / "test.jsonl", [*make_rows(3), row])
    data = CorrectedDataModule(str(words), test=str(tmp_path / "test.jsonl"), conditions=["clean"])
    module = InstructionTuning(llama)
    module.configure_model()
    data.connect(module.backbone)
    data.setup("test")
    rows = data.conditioned["clean"]
    (encoded,) = (one for one, sample in zip(rows.encoded, rows.samples, strict=True) if sample.id.endswith("r"))
    prompt = encoded.text
    assert "Name the person." in prompt
    assert "Persn Bo." in prompt

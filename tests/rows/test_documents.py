"""Running text, read as documents."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from robustlm.rows.base import BadRowsError, SourceError
from robustlm.rows.documents import documents, text_files

TEXT = "One.\nStill one.\n<|endoftext|>\n\n<|endoftext|>\n  Two é <|endoftext|> goes on.\n<|endoftext|>\nThree"
WANTED = ["One.\nStill one.", "Two é <|endoftext|> goes on.", "Three"]


def test_documents_end_at_a_line_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text(TEXT, encoding="utf-8")
    with gzip.open(tmp_path / "a.txt.gz", "wt", encoding="utf-8") as file:
        file.write("Zero\n")
    (tmp_path / "README.md").write_text("not read")
    files = text_files([str(tmp_path)])
    assert [Path(file).name for file in files] == ["a.txt.gz", "b.txt"]
    assert list(documents(files)) == ["Zero", *WANTED]


def test_rows_with_a_text_are_documents(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"text": text, "id": i} for i, text in enumerate([*WANTED, " "])]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert list(documents(text_files([str(file)]))) == WANTED


def test_what_is_no_running_text(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a"}\n{"text": 3}\n{"instruction": "Do it.", "text": "b", "target": "c"}\n')
    with pytest.raises(BadRowsError, match=r"2 of 3 rows cannot be used(.|\n)*jsonl:2: (.|\n)*jsonl:3: .*instruction"):
        list(documents([str(file)]))
    (tmp_path / "bad.txt").write_bytes(b"good\n\xff\xfe\n"[:6] + b"\xff\n")
    with pytest.raises(SourceError, match=r"bad\.txt:2: not UTF-8"):
        list(documents([str(tmp_path / "bad.txt")]))
    for path, message in (
        ("none.txt", "found nothing"),
        ("", "an empty name"),
    ):
        with pytest.raises(SourceError, match=message):
            text_files([path and str(tmp_path / path)])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="a folder without text"):
        text_files([str(tmp_path / "empty")])
    (tmp_path / "rows.csv").write_text("text\n")
    with pytest.raises(SourceError, match="unknown kind of file"):
        text_files([str(tmp_path / "rows.csv")])

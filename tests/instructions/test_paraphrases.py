"""Paraphrase files: what is read, and what is said of lines that cannot be."""

import gzip
from pathlib import Path

import pytest

from robustlm.instructions.paraphrases import load_paraphrases
from robustlm.rows.base import BadRowsError, SourceError


def test_reads_strips_and_joins(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    file.write_text(
        '{"instruction": " Find names.\\n", "paraphrases": ["List names. ", "Name them."]}\n'
        "\n"
        '{"instruction": "Sort.", "paraphrases": [], "source": "by hand"}\n'
        '{"instruction": "Find names.", "paraphrases": ["Name them.", "Who is named?"]}\n'
    )
    found = load_paraphrases(str(file))
    assert found == {"Find names.": ("List names.", "Name them.", "Who is named?"), "Sort.": ()}
    packed = tmp_path / "p.jsonl.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    assert load_paraphrases(str(packed)) == found


def test_bad_lines_are_all_named(tmp_path: Path) -> None:
    file = tmp_path / "p.jsonl"
    lines = [
        '{"instruction": "a", "paraphrases": ["b", "  "]}',
        '{"instruction": "a", "paraphrases": "b"}',
        '{"instruction": "a", "paraphrases": ["b", 3]}',
        '{"instruction": "a"}',
        '{"paraphrases": ["b"]}',
        '{"instruction": " ", "paraphrases": []}',
        "[1]",
        '{"instruction": "a", "paraphrases": ["b"',
        '{"instruction": "a", "paraphrases": ["b"]}',
    ]
    file.write_text("\n".join(lines))
    with pytest.raises(BadRowsError) as caught:
        load_paraphrases(str(file))
    message = str(caught.value)
    for expected in [
        "8 of 9 rows cannot be used",
        f"{file}:1: blank paraphrase: element 2 is '  ' (str); expected some text",
        f"{file}:2: paraphrases is no list: found 'b' (str); expected a list of strings",
        f"{file}:3: wrong element of paraphrases: element 2 is 3 (int); expected a list of strings",
        f"{file}:4: no paraphrases: found keys instruction; expected 'paraphrases' among them",
        f"{file}:5: no instruction: found keys paraphrases",
        f"{file}:6: empty instruction: found ' '",
        f"{file}:7: not an object: found a list",
        f"{file}:8: broken JSON",
    ]:
        assert expected in message


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"p\.csv: found another ending; expected a paraphrase file, \.jsonl or"):
        load_paraphrases(str(tmp_path / "p.csv"))
    with pytest.raises(SourceError, match="no such file"):
        load_paraphrases(str(tmp_path / "p.jsonl"))
    (tmp_path / "p.jsonl").touch()
    with pytest.raises(SourceError, match="found no rows"):
        load_paraphrases(str(tmp_path / "p.jsonl"))

"""`attacks.jsonl`: lines are on disk at once, a torn end is no line, and bad ones are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from robustlm.conditions.manifest import Manifest, read_attacks, transferred
from robustlm.conditions.search import Edit

LINE = {
    "condition": "attack:deepwordbug@0.2", "dataset": "d", "instruction_id": "i", "sample_id": None,
    "before": "Say\u2028it", "after": "Sya it",
}  # fmt: skip
KEY = ("attack:deepwordbug@0.2", "d", "i", None)


def test_lines_are_read_as_written_and_the_last_counts(tmp_path: Path) -> None:
    file = tmp_path / "new" / "attacks.jsonl"
    manifest = Manifest(file, keep=False)
    assert not file.exists()
    manifest.add(LINE)
    assert read_attacks(file) == {KEY: LINE}
    manifest.add({**LINE, "sample_id": "s"})
    manifest.add({**LINE, "after": "Say i t"})
    assert read_attacks(file)[KEY]["after"] == "Say i t"
    assert len(read_attacks(file)) == 2


def test_it_goes_on_after_a_torn_line_or_begins_anew(tmp_path: Path) -> None:
    file = tmp_path / "attacks.jsonl"
    Manifest(file, keep=False).add(LINE)
    with file.open("a", encoding="utf-8") as torn:
        torn.write('{"condition": "att')
    assert read_attacks(file) == {KEY: LINE}
    Manifest(file, keep=True).add({**LINE, "dataset": "e"})
    assert [key[1] for key in read_attacks(file)] == ["d", "e"]
    assert [one.name for one in tmp_path.iterdir()] == ["attacks.jsonl"]
    Manifest(file, keep=False)
    assert not file.exists()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "attacks.jsonl:2: found no JSON"),
        ("[]", "attacks.jsonl:2: found list"),
        (json.dumps({**LINE, "after": None}), "attacks.jsonl:2: after: found None"),
        (json.dumps({**LINE, "sample_id": 3}), "attacks.jsonl:2: sample_id: found 3"),
    ],
)
def test_a_bad_line_is_named(line: str, said: str, tmp_path: Path) -> None:
    file = tmp_path / "attacks.jsonl"
    file.write_text(f"{json.dumps(LINE)}\n{line}\n", encoding="utf-8")
    with pytest.raises(ValueError, match="expected") as raised:
        read_attacks(file)
    assert said in str(raised.value)


def test_no_file(tmp_path: Path) -> None:
    missing: Any = tmp_path / "none.jsonl"
    with pytest.raises(ValueError, match=r"none\.jsonl: cannot be read"):
        read_attacks(missing)


EDITS = [{"position": 0, "before": "Say", "after": "Sya"}]


def test_edits_are_read_by_recipe_and_instruction(tmp_path: Path) -> None:
    file = tmp_path / "attacks.jsonl"
    manifest = Manifest(file, keep=False)
    manifest.add({**LINE, "edits": EDITS})
    manifest.add({**LINE, "dataset": "e", "edits": EDITS})
    manifest.add({**LINE, "condition": "unseen+attack:no.such.module@0.3", "edits": EDITS})
    manifest.add({**LINE, "dataset": "f", "edits": []})
    edit = Edit(0, "Say", "Sya")
    assert transferred(file) == {
        ("deepwordbug", LINE["before"]): [(edit,)],
        ("no.such.module", LINE["before"]): [(edit,)],
    }


@pytest.mark.parametrize(
    "edits", [None, 3, [3], [{"position": 0}], [{**EDITS[0], "position": "0"}], [{**EDITS[0], "x": 1}]]
)
def test_bad_edits_are_named(edits: Any, tmp_path: Path) -> None:
    file = tmp_path / "attacks.jsonl"
    Manifest(file, keep=False).add({**LINE, "edits": edits})
    with pytest.raises(
        ValueError, match=r"attacks\.jsonl: attack:deepwordbug@0\.2 of d, instruction i: edits: found .*expected"
    ):
        transferred(file)

"""CSV that no spreadsheet runs, and that comes back as it was."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustlm.report.tables import aligned, cell, csv_text, markdown
from robustlm.rows.cells import neutral, restored
from robustlm.rows.readers import iter_rows
from robustlm.rows.writers import write_rows

BAD = ["=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "'=1", "''=1", "＝1", "-", "+a"]


@pytest.mark.parametrize("text", BAD)
def test_formulas_are_written_as_text(text: str) -> None:
    assert neutral(text) == f"'{text}"
    assert restored(neutral(text)) == text


@pytest.mark.parametrize("value", ["-1.5", "+1", "1e-5", "-.5", "-3.", -1.5, 0, None, "", "'tis", "a=b", "don't"])
def test_numbers_and_other_text_stay(value: Any) -> None:
    assert neutral(value) == value
    assert restored(str(value)) == str(value)


@given(st.text(st.sampled_from("'=+-@\t\r\n＝a1.e"), max_size=8))
def test_cells_come_back(text: str) -> None:
    assert restored(neutral(text)) == text


@given(
    st.lists(
        st.tuples(st.text(st.sampled_from("'=+-@\t\r\n＝a1.e,\"")), st.text(alphabet=st.characters(codec="utf-8"))),
        min_size=1,
        max_size=4,
    )
)
def test_rows_come_back(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]) -> None:
    path = tmp_path_factory.mktemp("cells") / "rows.csv"
    made = [{"=a": one, "@b": other.replace("\0", "")} for one, other in rows]
    write_rows(path, made)
    assert [row.data for row in iter_rows(str(path))] == made
    for record in csv.reader(io.StringIO(path.read_bytes().decode(), newline="")):
        assert not [field for field in record if field != neutral(field) and not field.startswith("'")]


def test_reports_are_neutral_too() -> None:
    text = csv_text(["dataset", "value"], [{"dataset": "=HYPERLINK(1)", "value": -1.5}])
    assert text == "dataset,value\n'=HYPERLINK(1),-1.5\n"


def test_long_fields_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    long = "word " * 60_000
    write_rows(path, [{"text": long, "label": "a"}])
    (row,) = iter_rows(str(path))
    assert row.data == {"text": long, "label": "a"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>x</script>", "\\<script>x\\</script>"),
        ("\\<b>", "\\\\\\<b>"),
        ("a|b", "a\\|b"),
        ("a\nb", "a b"),
        ("![x](http://y)", "![x]\\(http://y)"),
        ("plain @ 0.3 + x", "plain @ 0.3 + x"),
    ],
)
def test_markdown_holds_text(text: str, shown: str) -> None:
    assert cell(text) == shown
    assert shown in "\n".join(aligned(["head"], [[text]]))
    assert shown in markdown("corner", {text: {"mean": 1.0}})
    assert shown in markdown("corner", {"row": {text: 1.0}})

"""Instructions are named by their words, with edits marked, in every form of a report."""

from __future__ import annotations

from dataclasses import replace

import pytest

from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import Settings, robustness
from robustlm.evaluation.wording import Wording, wording_of
from robustlm.report.number_tables import instruction_rows, number_rows, to_markdown
from robustlm.report.page import About, to_html
from robustlm.report.wordings import name_html, name_text, pieces, shortened
from tests.report.test_number_tables import rows
from tests.report.test_page import Page

WORDS = {"bank|i": "Say a or b.", "bank|j": "Which letter is it? Say a *or* b | nothing else."}


def worded(table: list[Record]) -> list[Record]:
    """A table with instructions; in the noisy condition their second word is another."""

    def asked(row: Record) -> str:
        first, _, *rest = WORDS[row.instruction_id].split()
        return " ".join([first, "lteter", *rest]) if row.condition == "noisy" else WORDS[row.instruction_id]

    return [replace(row, wording=WORDS[row.instruction_id], instruction=asked(row)) for row in table]


@pytest.mark.parametrize(
    ("before", "after", "marked"),
    [
        ("Find all names.", "Find lal names.", "Find ~~all~~ **lal** names."),
        ("Find all names.", "Find names.", "Find ~~all~~ names."),
        ("Find names.", "Find the good names.", "Find **the good** names."),
        ("Find all names.", "Find all names.", "Find all names."),
        ("a b c d", "b c d x", "~~a~~ b c d **x**"),  # of equal length, and no word in its place
        ("请把它分类", "请它分类啊", "请~~把~~它分类**啊**"),
        ("Use *stars*.", "Use <b>*stars*.", "Use ~~\\*stars\\*.~~ **\\<b>\\*stars\\*.**"),
    ],
)
def test_edits_are_marked(before: str, after: str, marked: str) -> None:
    found = Wording(before, after)
    assert name_text("id", found) == marked
    whole = pieces(found)
    assert "".join(piece.text for piece in whole if piece.kind != "added").split() == before.split()
    assert "".join(piece.text for piece in whole if piece.kind != "removed").split() == after.split()


def test_a_long_text_loses_its_middle_and_keeps_its_edits() -> None:
    long = "Read the text. " * 40 + "Then answer."
    assert shortened(long, 30).startswith("Read the text.")
    assert shortened(long, 30).endswith("Then answer.")
    assert len(shortened(long, 30)) <= 30
    marked = name_text("id", Wording(long, long.replace("Then", "Tehn")))
    assert "~~Then~~ **Tehn**" in marked
    assert len(marked) < 160
    assert f'title="{long}"' in name_html("id", Wording(long, long))
    assert "title" not in name_html("id", Wording("Short.", "Short."))


def test_rows_that_bring_their_own_instructions_share_no_words() -> None:
    first, second, *_ = worded(rows())
    assert wording_of([first, first]) == Wording("Say a or b.", "Say a or b.")
    assert wording_of([first, second]) is None
    assert wording_of([replace(first, wording=None)]) is None
    assert wording_of([first, replace(first, instruction="Syaa or b.")]) == Wording("Say a or b.", None)


def test_reports_name_instructions_by_their_words() -> None:
    table, settings = worded(rows((0, 1))), Settings(0)
    results = robustness(table, settings)
    text = to_markdown(results, settings)
    assert "Which ~~letter~~ **lteter** is it? Say a \\*or\\* b \\| nothing else." in text
    assert "bank" not in text
    (worst,) = [r for r in number_rows(results) if r["condition"] == "noisy" and r["number"] == "worst_instruction"][:1]
    assert worst["worst"] == "bank|j", "files for programs keep the id"
    assert {
        "dataset": "d", "condition": "noisy", "instruction_id": "bank|i", "value": 1.0,
        "wording": "Say a or b.", "instruction": "Say lteter or b.",
    } in instruction_rows(results)  # fmt: skip
    page = to_html(table, results, settings, About("run"))
    lines = Page(page).named("Score by instruction: d")
    assert lines[1][0].startswith("Which letter is it? Say a *or* b | nothing else.bank|j"), "the worst comes first"
    assert lines[2][0].startswith("Say a or b.bank|i")
    assert "<del>letter</del> <ins>lteter</ins>" in page
    old = [replace(row, wording=None, instruction=None) for row in table]
    page = to_html(old, robustness(old, settings), settings, About("run"))
    assert [line[0] for line in Page(page).named("Score by instruction: d")] == ["instruction", "bank|j", "bank|i"]

"""The worst prompts, and the filters of the page."""

from __future__ import annotations

import re

from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import Settings, robustness
from robustlm.report.page import About, to_html
from robustlm.report.worst_prompts import worst_prompts

WORDS = {"i": "Name the mood.", "j": "Which mood?", "u": "Mood, please."}


def row(condition: str, instruction: str, sample: str, right: bool, asked: str | None = None, dataset: str = "d",
        task: str = "generation") -> Record:  # fmt: skip
    said = "a" if right else "b"
    words = WORDS[instruction]
    return Record(sample, dataset, task, condition, instruction, said, [[said]], "a", right,
                  prompt=f"{asked or words} Input {sample}", wording=words, instruction=asked or words)  # fmt: skip


def table() -> list[Record]:
    """`typos` breaks instruction i; `unseen` is worse than the best clean instruction, j; its typos break nothing."""
    found = []
    for s in "0123":
        found += [row("clean", "i", s, s != "0"), row("clean", "j", s, True)]
        found += [row("typos", "i", s, False, "Nmae the mood."), row("typos", "j", s, True, "Which mod?")]
        found += [row("unseen", "u", s, s in "01"), row("unseen+typos", "u", s, s in "01", "Mod, please.")]
        found += [row("incorrect", "i", s, False, "Name the topic.")]
    return found


def test_prompts_are_held_against_the_same_words_without_edits() -> None:
    first, second = worst_prompts(table())
    assert (first.condition, first.instruction, first.reference) == ("typos", "i", "clean")
    assert (first.before, first.after, first.lost, first.gained, first.answers) == (0.75, 0.0, 3, 0, 4)
    assert [(a.sample_id, a.condition, a.right, b.right) for a, b in first.shown] == [
        ("1", "clean", True, False),
        ("2", "clean", True, False),
    ]
    # unseen phrasings stand beside the best clean one; unseen+typos beside unseen, of which it loses nothing
    assert (second.condition, second.reference, second.before, second.after) == ("unseen", "clean", 1.0, 0.5)
    assert {a.instruction_id for a, _ in second.shown} == {"j"}


def test_only_some_prompts_are_shown_and_each_condition_has_its_turn() -> None:
    assert [one.condition for one in worst_prompts(table(), limit=1)] == ["typos"]
    assert worst_prompts([one for one in table() if one.condition == "clean"]) == []
    assert worst_prompts([]) == []


def test_tables_without_words_are_held_against_the_same_instruction() -> None:
    plain = table()
    for one in plain:
        one.wording = one.instruction = one.prompt = None
    first = worst_prompts(plain)[0]
    assert (first.condition, first.instruction, first.wording, first.before, first.after) == (
        "typos",
        "i",
        None,
        0.75,
        0,
    )


def page(rows: list[Record]) -> str:
    return to_html(rows, robustness(rows, Settings(0)), Settings(0), About("run"))


def test_answers_stand_side_by_side_with_edits_marked() -> None:
    section = page(table()).partition('id="prompts"')[2].partition("</section>")[0]
    assert "<del>Name</del>" in section
    assert "<ins>Nmae</ins>" in section
    assert "75.0 → 0.0 %" in section
    assert section.index("✓ right") < section.index("✗ wrong")
    assert "Input 1" in section


def test_filters_hide_what_was_not_chosen_by_style_alone() -> None:
    rows = [*table(), *(row("clean", "i", s, s == "0", dataset="other") for s in "01")]
    text = page(rows)
    options = dict(re.findall(r'<option value="(\d+)">([^<]+)</option>', text.partition("</fieldset>")[0])[:2])
    assert options == {"0": "d", "1": "other"}
    assert 'main:has(#filter-dataset option[value="1"]:checked) [data-dataset]:not([data-dataset="1"])' in text
    # every element that a rule hides has the attributes that rules read
    section = text.partition('id="prompts"')[2].partition("</section>")[0]
    assert re.findall(r'<article class="prompt" data-dataset="0" data-condition="(\d)" data-verdict="wrong">', section)
    section = text.partition('id="samples"')[2].partition("</section>")[0]
    assert re.findall(r'<tr data-condition="[\d ]+" data-verdict="(?:right|wrong)">', section)
    assert "<script" not in text


def test_datasets_with_two_tasks_are_one_choice() -> None:
    rows = [row("clean", i, s, s == "0", task=task) for task in ("generation", "tc_bare") for s in "01" for i in "ij"]
    text = page(rows)
    assert text.count('data-dataset="0"') >= 2
    assert 'data-dataset="1"' not in text


def test_names_of_conditions_never_reach_the_style_sheet() -> None:
    rows = [row(condition, "i", s, s == "0") for condition in ("clean", "</style>{}") for s in "01"]
    style = page(rows).partition("<style>")[2].partition("</style>")[0]
    assert "{}" not in style
    assert 'option[value="1"]' in style


def test_a_table_of_many_instructions_is_no_larger_than_two_megabytes() -> None:
    """800 instructions under 4 conditions, whose edits differ: the worst ones are shown, the others folded or left."""
    rows = []
    for k in range(800):
        words = f"Name the mood of this text in one word, in the way of the guideline number {k}, please."
        for condition in ("clean", "unseen", "typos", "deepwordbug@0.2"):
            asked = words if condition in ("clean", "unseen") else words.replace("mood", f"md{condition[0]}")
            for s in "01":
                one = row(condition, "i", s, (k + int(s) + len(condition)) % 3 > 0, asked)
                one.instruction_id, one.wording = f"bank/{k:03}", words
                rows.append(one)
    text = page(rows)
    assert len(text.encode()) < 2_000_000
    assert "better instructions" in text

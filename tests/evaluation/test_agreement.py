"""Two tables are compared only if they were asked the same, in whatever template."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from robustlm.cli import main
from robustlm.evaluation.agreement import agreement
from robustlm.evaluation.pairing import pair
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import Settings
from robustlm.report.number_tables import pairing_cells, verdict_line, verdicts
from tests.report.test_number_tables import written

TEXTS = ("the sea is calm", "rain falls at night", "a dog barks", "snow covers all roads")
ASKED = {"i/0": "Is it about weather?", "i/1": "Say whether this text deals with weather."}


def table(texts: tuple[str, ...] = TEXTS, wrong: int = 0, template: str = "{} Text: {} Answer:") -> list[Record]:
    found = []
    for way, words in ASKED.items():
        for at, text in enumerate(texts):
            said = "no" if at < wrong else "yes"
            place = f"s{at}", "d", "generation", "clean", way
            found.append(
                Record(*place, said, [[said]], "yes", said == "yes", prompt=template.format(words, text),
                       wording=words, instruction=words)
            )  # fmt: skip
    return found


CHAT = "<|im_start|>user\n{}\n{}<|im_end|>\n<|im_start|>assistant\n"

CHANGES: dict[str, tuple[str, Callable[[Record], Record]]] = {
    "nothing": ("same", lambda row: row),
    "the true answer": ("target", lambda row: replace(row, target="no", correct=row.prediction == "no")),
    "every prompt by another": ("input", lambda row: replace(row, prompt=f"Tell a joke about {row.sample_id}.")),
    "every prompt by one": ("input", lambda row: replace(row, prompt="x")),
    "one word of each input": ("input", lambda row: replace(row, prompt=str(row.prompt).replace("s", "z"))),
    "the instruction": ("wording", lambda row: replace(row, wording="Is it?", instruction="Is it?")),
    "the edits": ("edits", lambda row: replace(row, instruction=f"{row.instruction} Please", prompt=f"P {row.prompt}")),
    "the end of the input": ("cut", lambda row: replace(row, prompt=" ".join(str(row.prompt).split()[:-2]))),
    "the prompt that is kept": ("unstored", lambda row: replace(row, prompt=None)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_differs_is_named(change: str) -> None:
    kind, changed = CHANGES[change]
    found = agreement(table(), map(changed, table()))
    assert found.counts == {kind: 8}
    assert (found.cells, found.samples, found.alike) == (8, 4, kind == "same")
    assert [len(own) for own in found.examples.values()] == ([] if kind == "same" else [3])


def test_another_template_is_no_other_question() -> None:
    chat = table(template=CHAT)
    assert agreement(table(), chat).counts == {"template": 8}
    old = [replace(row, wording=None, instruction=None) for row in chat]
    assert agreement(table(), old).counts == {"around": 8}, "an old table does not say which instruction was asked"
    assert agreement(table(), table(TEXTS[::-1], template=CHAT)).counts == {"input": 8}
    assert agreement(table(TEXTS[:1]), table(TEXTS[:1], template=CHAT)).counts == {"unclear": 2}
    assert agreement(table(), [replace(row, choices=["a"]) for row in table()]).counts == {"same": 8}
    first, second = ([replace(row, choices=own) for row in table()] for own in (["yes", "no"], ["yes", "maybe"]))
    assert agreement(first, second).counts == {"options": 8}


def test_compare_refuses_other_questions(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [f"a={written(tmp_path / 'a', table())}", ""]
    for change, (kind, changed) in CHANGES.items():
        runs[1] = f"b={written(tmp_path / change, list(map(changed, table(wrong=1))))}"
        if kind in ("target", "options", "wording", "input"):
            for more in ([], ["--paired", "true"]):
                with pytest.raises(SystemExit):
                    main(["compare", *runs, "--draws", "20", *more])
                said = capsys.readouterr()
                assert "b and a: 8 of 8 cells were not asked the same" in said.err
                assert said.err.count(", clean, sample s") == 3
                assert "p (permutation)" not in said.out
            main(["compare", *runs, "--draws", "20", "--paired", "true", "--anyway", "true"])
            assert "WARNING: 8 of 8 cells: another" in capsys.readouterr().out
            continue
        page = tmp_path / "page"
        main(["compare", *runs, "--draws", "20", "--paired", "true", "--output", str(page)])
        said = capsys.readouterr()
        assert ("WARNING" in said.out) == (kind in ("edits", "cut"))
        assert ("prompts could not be compared" in said.out) == (kind == "unstored")
        html = (page / "comparison.html").read_text(encoding="utf-8")
        assert "asked in the same ways" not in html
        assert ("8 cells of 4 samples: 8 the same prompt." in html) == (kind == "same")
        main(["compare", *runs])
        assert ("What b and a were asked" in capsys.readouterr().err) == (kind != "same")


def test_a_verdict_needs_interval_and_test() -> None:
    def many(wrong: int) -> list[Record]:
        return table(tuple(f"text {i}" for i in range(60)), wrong)

    def said(first: int, second: int) -> str:
        (one,) = verdicts(pair(many(first), many(second), Settings(200), permutations=2000))
        return verdict_line("a", "b", one)

    assert said(30, 5).startswith("clean: b is better than a (b +41.7 [")
    assert said(5, 30).startswith("clean: a is better than b (b -41.7 [")
    assert said(5, 6).startswith("clean: no difference seen (b -1.7 [")
    (one,) = verdicts(pair(many(3), many(0), Settings(0), permutations=2000))
    assert one.verdict() == "unknown"
    (one,) = verdicts(pair(many(30), many(5), Settings(200), permutations=2000))
    assert replace(one, permutation_holm=0.2).verdict() == "unclear"


def test_p_values_are_adjusted_within_their_family() -> None:
    def both(wrong: int) -> list[Record]:
        texts = tuple(f"text {i}" for i in range(30))
        found = table(texts, wrong)
        return [replace(row, condition=name, dataset=data) for name in ("c", "n") for data in "de" for row in found]

    found = pair(both(9), both(2), Settings(20), permutations=500)
    single = [one for one in found if one.name]
    pooled = [one for one in found if one.name is None and one.condition]
    (every,) = [one for one in found if one.condition is None]
    assert min(one.mcnemar_holm / one.mcnemar for one in single) == pytest.approx(4)
    assert min(one.mcnemar_holm / one.mcnemar for one in pooled) == pytest.approx(2)
    assert (every.mcnemar_holm, every.permutation_holm) == (every.mcnemar, every.permutation)
    assert verdicts(found)[0] is every
    assert every.differences["mean"].low == pytest.approx(sum(one.differences["mean"].low for one in pooled) / 2)


def test_misleading_conditions_do_not_count_in_the_verdict_over_all() -> None:
    """The second run is better where a high score is wanted, and lower under negated instructions, as it reads them."""

    def both(wrong: int, negated: int) -> list[Record]:
        texts = tuple(f"text {i}" for i in range(60))
        ways = {"clean": wrong, "noisy": wrong, "unseen+negated": negated}
        return [replace(row, condition=name) for name, bad in ways.items() for row in table(texts, bad)]

    first, second = both(30, 0), both(5, 60)
    found = pair(first, second, Settings(200), permutations=500)
    every, *rest = verdicts(found)
    assert every.left_out == ("unseen+negated",)
    assert (every.gained, every.lost) == (100, 0)
    assert every.differences["mean"].value == pytest.approx(25 / 60)
    assert verdict_line("a", "b", every).startswith(
        "all conditions but unseen+negated (a low score is not worse there): b is better than a (b +41.7 ["
    )
    assert [one.condition for one in rest] == ["clean", "noisy", "unseen+negated"]
    said = verdict_line("a", "b", rest[-1])
    assert said.startswith("unseen+negated: a scores higher than b (b -100.0 [")
    assert "; a low score means that the model follows the instruction" in said
    assert pairing_cells(every)[1] == "all but misleading ones"
    only = [row for row in first if row.condition != "noisy"]
    assert all(one.condition for one in pair(only, only, Settings(20), permutations=50))

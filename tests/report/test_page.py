"""The pages: whole, self-contained, harmless, and with the numbers of the other forms."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from robustlm.cli import main
from robustlm.evaluation.numbers import SPLIT
from robustlm.evaluation.pairing import PERMUTATIONS, paired_tests
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import UNBOUNDED, Estimate, Settings, robustness
from robustlm.report.comparison import scores_of
from robustlm.report.comparison_page import comparison_html
from robustlm.report.figures import Axis
from robustlm.report.levels import by_level, level_of
from robustlm.report.markup import LONGEST, Html, named, tag, word
from robustlm.report.number_tables import to_json
from robustlm.report.page import About, to_html
from robustlm.report.run import run_name, run_settings
from robustlm.report.samples import in_turn, most_changing
from tests.report.test_number_tables import rows, written

Table = list[Record]

VOID = ("meta", "link", "wbr", "input")

NASTY = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(1)>",
    "</td></table></style>&amp;",
    "\u202eright to left",
    "مرحبا",
    "👩‍👩‍👧",
    "",
    " \n ",
    "nul\x00bell\x07",
    "x" * 5000,
)


class Page(HTMLParser):
    """What a browser would find: elements with attributes, text, and tables as rows of texts."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.tables: list[list[list[str]]] = []
        self.cell: list[str] | None = None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), "an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag in VOID:
            return
        self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.text += data
        if "title" not in self.open and ("td" in self.open or "th" in self.open):
            self.tables[-1][-1][-1] += data

    def named(self, label: str) -> list[list[str]]:
        """The table in the frame with a label."""
        frames = [a["aria-label"] for _, a in self.elements if a.get("class") == "wide"]
        return self.tables[frames.index(label)]


def table(datasets: int = 2, ways: int = 3) -> Table:
    """Conditions of several levels; noise costs the last instruction some samples, more in later datasets."""
    found: Table = []
    for d in range(datasets):
        for condition in ("clean", "deepwordbug@0.2", "unseen"):
            for s in range(6):
                for w in range(ways):
                    right = condition == "clean" or w < ways - 1 or s > d + 1
                    said = "a" if right else "b"
                    place = f"s{s}", f"d{d}", "generation", condition, f"bank/x/{w}"
                    found.append(Record(*place, said, parsed=[[said]], target="a", correct=right))
    return found


def entities() -> Table:
    """An F1 task beside others; some answers cannot be read."""
    found: Table = []
    for condition in ("clean", "unseen"):
        for s in range(4):
            for w in "ij":
                said = "PER: Ada; LOC: Oslo" if w == "i" else ("PER: Ada" if condition == "clean" else "no idea")
                parsed = None if said == "no idea" else [part.split(": ") for part in said.split("; ")]
                place = str(s), "names", "ner", condition, w
                found.append(Record(*place, said, parsed, target="PER: Ada; LOC: Oslo", correct=w == "i"))
    return found


def made(found: Table, settings: Settings = Settings(50), **settings_of_run: str) -> tuple[str, Any]:  # noqa: B008
    """The page of a table, and its JSON."""
    results = robustness(found, settings)
    text = to_html(found, results, settings, About("my run", settings_of_run))
    return text, json.loads(to_json(results, settings))


EDGES = {
    "several": table(),
    "one of everything": [r for r in table(1, 1) if r["condition"] == "clean"],
    "one dataset": table(1),
    "fifty instructions": table(1, 50),
    "a gap": table()[:-1],
    "no clean condition": [r for r in table() if r["condition"] != "clean"],
    "nothing right": [replace(r, correct=False, prediction="b", parsed=[["b"]]) for r in table(1)],
    "an instruction a sample": [r for r in table(1) if r["instruction_id"][-1] == str(int(r["sample_id"][1]) % 3)],
    "a condition not everywhere": [r for r in table() if (r["dataset"], r["condition"]) != ("d1", "unseen")],
    "f1": entities(),
    "f1 and accuracy": entities() + table(),
}


def shown(row: dict[str, Any]) -> str:
    """A number of the JSON, as tables have it."""
    if row["value"] is None:
        return "-"
    if row["number"] in ("cochran_p", "cochran_holm") and row["value"] < 0.001:
        return "under 0.001"
    scale, digits = (1, 3) if row["number"] in UNBOUNDED else (100, 1)
    value, low, high = (
        one if one is None else f"{scale * one:.{digits}f}" for one in (row["value"], row["low"], row["high"])
    )
    return str(value) if low is None else f"{value} [{low}, {high}]"


@pytest.mark.parametrize("case", EDGES)
def test_every_number_is_that_of_the_json(case: str) -> None:
    text, found = made(EDGES[case])
    page = Page(text)
    cells = {(r["dataset"], r["condition"], r["number"]): shown(r) for r in found["numbers"]}
    conditions = list(dict.fromkeys(r["condition"] for r in EDGES[case]))
    datasets = sorted({r["dataset"] for r in EDGES[case]})

    head, *lines = page.named("Means over datasets")
    assert head == ["", *conditions]
    names = {line[0].rpartition(" ")[2] for line in lines}
    assert names == {r["number"] for r in found["numbers"] if not r["dataset"] and r["value"] is not None}
    for name, *values in lines:
        assert values == [cells.get(("", c, name.rpartition(" ")[2]), "-") for c in conditions]

    lines = page.named("Numbers by dataset and condition")[1:]
    assert len(lines) == len({(r["dataset"], r["condition"]) for r in EDGES[case]})
    for dataset, condition, _, _, _, *values, _ in lines:
        numbers = ("mean", "pdr", "worst_instruction", "worst_case", "consistency")
        assert values == [cells.get((dataset, condition, name), "-") for name in numbers]

    for dataset in datasets:
        label = f"Score by condition: {dataset}" if len(datasets) > 1 else "Score by condition"
        for condition, _, value in page.named(label)[1:]:
            assert value == cells[dataset, condition, "mean"]
        scores = {
            (r["condition"], r["instruction_id"]): r["value"] for r in found["instructions"] if r["dataset"] == dataset
        }
        if scores:
            head, *lines = page.named(f"Score by instruction: {dataset}")
            if f'"Score by instruction: {dataset}, the others"' in text:  # behind a fold
                lines += page.named(f"Score by instruction: {dataset}, the others")[1:]
            got = {(c, line[0]): value for line in lines for c, value in zip(head[1:], line[1:], strict=True)}
            assert {key: value for key, value in got.items() if value != "-"} == {
                key: f"{100 * value:.1f}" for key, value in scores.items()
            }
    assert [line[2:] for line in page.named("all datasets")[1:]] == [
        [str(r[key]) for key in ("rows", "samples", "complete", "instructions", "missing")]
        for r in found["numbers"]
        if r["number"] == "mean"
    ]


def test_dots_and_bars_stand_where_their_numbers_are() -> None:
    text, found = made(table())
    ticks = [float(t) for t in re.findall(r">(\d+)</text>", text.split("</table>")[0])]
    (value,) = [
        r for r in found["numbers"] if (r["dataset"], r["condition"], r["number"]) == ("", "deepwordbug@0.2", "mean")
    ]
    places = re.findall(r'<line x1="([\d.]+)%" x2="([\d.]+)%" y1="11" y2="11"[^>]*/><circle cx="([\d.]+)%"', text)
    low, high, at = (ticks[0] + float(p) / 100 * (ticks[-1] - ticks[0]) for p in places[1])
    assert [low, high, at] == pytest.approx([100 * value[k] for k in ("low", "high", "value")], abs=0.02)
    bars = re.findall(r'<rect x="([\d.]+)%" y="3" width="([\d.]+)%"', text)
    shares = [
        r["value"] for r in found["numbers"] if not r["dataset"] and r["condition"] == "unseen" and r["number"] in SPLIT
    ]
    assert [float(width) for _, width in bars[3:6]] == pytest.approx([100 * share for share in shares], abs=0.01)


def test_the_headline_is_what_was_counted() -> None:
    text, _ = made(table(1))
    said = Page(text).text
    # clean is all right; unseen: the last of three instructions is wrong about 2 of 6 samples
    assert "54 answers to 6 samples of 1 dataset under 3 conditions." in said
    assert "Mean score100.0 %" in said
    assert f"Worst condition{100 * 16 / 18:.1f} %" in said
    assert f"Drop{100 * 2 / 18:.1f} %" in said


@pytest.mark.parametrize("case", EDGES)
def test_a_page_needs_nothing_else_and_is_always_the_same(case: str) -> None:
    text, _ = made(EDGES[case])
    assert made(EDGES[case])[0] == text
    check_alone(Page(text), text)


def check_alone(page: Page, text: str) -> None:
    assert text.startswith("<!doctype html>\n<html")
    tags = {name for name, _ in page.elements}
    assert not tags & {"script", "img", "iframe", "object", "embed", "base", "form", "audio", "video", "use", "image"}
    for name, attributes in page.elements:
        for key, value in attributes.items():
            assert "//" not in (value or ""), (name, key, value)
            assert not key.startswith("on")
        if "href" in attributes:
            assert re.fullmatch(r"#[\w-]+|data:,", str(attributes["href"]))
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(set(ids)) == len(ids)
    assert {str(a["href"])[1:] for name, a in page.elements if name == "a"} <= set(ids)
    assert "url(" not in text
    assert "@import" not in text
    for name, attributes in page.elements:
        if name == "svg":
            assert attributes.get("aria-label") or attributes.get("aria-hidden")


def test_answers_and_names_are_text_whatever_they_say() -> None:
    found = table(len(NASTY) // 2)
    for i, row in enumerate(found):
        found[i] = replace(
            row,
            dataset=NASTY[int(row.dataset[1])] or "d",
            instruction_id=row.instruction_id + NASTY[2],
            prediction=row.prediction if row.correct else NASTY[i % len(NASTY)],
            parsed=row.parsed if row.correct else None,
            target=NASTY[1],
            condition=row.condition.replace("unseen", NASTY[0]),
        )
    settings = Settings(20)
    text = to_html(found, robustness(found, settings), settings, About(NASTY[1], {"backbone": NASTY[0]}))
    page = Page(text)
    check_alone(page, text.replace(NASTY[1], ""))
    for said in NASTY[:6]:
        assert said in page.text
    assert "\x00" not in text
    assert "nul\ufffdbell\ufffd" in page.text
    assert "x" * (LONGEST + 1) not in text
    assert "5,000 characters" in page.text
    other = [replace(row, correct=not row["correct"], prediction=NASTY[0]) for row in found]
    runs = {NASTY[1]: found, NASTY[0]: other}
    tests = paired_tests(runs, settings)
    text = comparison_html(runs, scores_of(runs), tests, settings, NASTY[0], "folder/" + NASTY[2])
    check_alone(Page(text), text)


def test_text_is_escaped_and_markup_is_not() -> None:
    assert tag("p", "a < b", tag("b", "&"), title='"') == '<p title="&quot;">a &lt; b<b>&amp;</b></p>'
    assert (
        tag("i", "x", class_="k", hidden=True, lang=None, aria_label="l") == '<i class="k" hidden aria-label="l">x</i>'
    )
    assert word("") == '<i class="quiet">empty</i>'
    assert word("\ud800") == '<bdi class="said">\ufffd</bdi>'
    assert named("a/b+c@0.2") == "<bdi>a/<wbr>b+<wbr>c@0.2</bdi>"
    assert named("</bdi>") == "<bdi>&lt;/bdi&gt;</bdi>"
    assert isinstance(named("a"), Html)


@pytest.mark.parametrize(
    ("condition", "level"),
    [
        ("clean", "clean"),
        ("random_typos@0.2", "character"),
        ("textbugger@0.1+protected", "character"),
        ("synonyms@0.2", "word"),
        ("synonyms:wordnet@0.2", "word"),
        ("stresstest", "sentence"),
        ("unseen", "semantic"),
        ("unseen+protected+mixed@0.2", "combined"),
        ("mixed@0.2", "anit"),
        ("opposite@0.3", "anit"),
        ("attack:textfooler@0.2", "attack"),
        ("list:mine", "list"),
        ("negated", "misleading"),
        ("paraphrased", "semantic"),
        ("correct", "clean"),
        ("unseen+list:mine", "combined"),
        ("os.system@0.2", "os.system"),
        ("", ""),
        ("@", ""),
    ],
)
def test_levels_are_read_from_names(condition: str, level: str) -> None:
    assert level_of(condition) == level


def test_levels_come_in_order() -> None:
    found = by_level(["x", "unseen", "attack:a@1", "deepwordbug", "random_typos@0.2"])
    assert [*found.values()] == [["deepwordbug", "random_typos@0.2"], ["unseen"], ["attack:a@1"], ["x"]]


def test_a_table_names_no_code_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.import_module", lambda name: pytest.fail(f"imported {name}"))
    assert level_of("this.module@0.2") == "this.module"


@pytest.mark.parametrize(
    "values", [(0.5, 0.51), (0.0, 0.0), (1.0, 1.0), (-3.0, 0.2), (math.nan, math.nan), (0.02, 0.99)]
)
def test_a_scale_holds_its_numbers(values: tuple[float, float]) -> None:
    for zero in (False, True):
        axis = Axis.over([Estimate(values[0], values[0], values[1]), None], zero)
        places = [float(axis.at(100 * value)[:-1]) for value in values if not math.isnan(value)]
        assert all(0 <= place <= 100 for place in places)
        assert 0 in axis.ticks or not zero
        if min(values) >= 0:
            assert axis.ticks[-1] <= 100
            assert axis.ticks[0] >= 0 or zero


def test_prompts_are_shown_as_text_and_only_where_they_are_kept() -> None:
    said = {"a": NASTY[0], "b": "x" * 5000, "c": None}
    table = [
        Record(sample_id="s", dataset="d", task="generation", condition="clean", instruction_id=way,
         prediction=way, parsed=[[way]], target="a", correct=way == "a", prompt=prompt)
        for way, prompt in said.items()
    ]  # fmt: skip
    page = Page(to_html(table, robustness(table, Settings(0)), Settings(0), About("run")))
    assert page.text.count(NASTY[0]) == 1
    assert "x" * 2000 in page.text
    assert "x" * 2001 not in page.text
    assert len([name for name, _ in page.elements if name == "summary"]) >= 2


def test_samples_that_change_most_come_first() -> None:
    said = {"always": "aaaa", "once": "aaab", "twice": "aabb", "never": "abcd"}
    found = [
        Record(sample_id=sample, dataset="d", task="generation", condition="c", instruction_id=str(i),
         prediction=answer, parsed=[[answer]], target="a", correct=answer == "a")
        for sample, answers in said.items() for i, answer in enumerate(answers)
    ]  # fmt: skip
    changing = most_changing(found)
    assert [(one.sample, one.disagreement) for one in changing] == [("never", 1), ("twice", 4 / 6), ("once", 3 / 6)]
    assert [(a.text, a.correct, len(a.asked)) for a in changing[-1].answers] == [("a", True, 3), ("b", False, 1)]
    assert [one.sample for one in most_changing(found, 1)] == ["never"]
    assert most_changing(found[:1]) == []


def test_equal_answers_are_one_in_whatever_order_their_items_come() -> None:
    first, second = (r for r in entities()[:2])
    items = [["LOC", "Oslo"], ["PER", "Ada"]]
    second = replace(second, prediction="LOC: Oslo; PER: Ada", parsed=items, correct=True)
    assert most_changing([first, second]) == []


def test_groups_take_turns() -> None:
    assert in_turn(["a1", "a2", "a3", "b1", "c1", "c2"], lambda one: one[0], 5) == ["a1", "b1", "c1", "a2", "c2"]


def test_settings_come_from_the_config(tmp_path: Path) -> None:
    file = tmp_path / "tiny" / "version_3" / "predictions.parquet"
    file.parent.mkdir(parents=True)
    assert (run_name(file), run_settings(file)) == ("tiny/version_3", {})
    assert run_name(tmp_path / "mine" / "a.parquet") == "mine"
    config = file.with_name("config.yaml")
    config.write_text(
        "model: {class_path: a.B, init_args: {backbone: me/it, tuning: {class_path: r.LoRA, init_args: {r: 8}}}}\n"
        "data: {class_path: c.D, init_args: {test: [{path: a.jsonl, bank: b.json}, c.jsonl], samples: null}}\n"
        "ckpt_path: last.ckpt\n",
        encoding="utf-8",
    )
    found = {
        "backbone": "me/it",
        "checkpoint": "last.ckpt",
        "tuning": "LoRA(r=8)",
        "test data": "a.jsonl (b.json), c.jsonl",
    }
    assert run_settings(file) == found
    for other in ("", "- a\n", "model: 3\n", "data:\n"):
        config.write_text(other, encoding="utf-8")
        assert run_settings(file) == {}
    config.write_text("a: [", encoding="utf-8")
    assert "could not be read" in run_settings(file)["config.yaml"]


def test_settings_name_examples_and_attacks_where_there_are_any(tmp_path: Path) -> None:
    file, config = tmp_path / "predictions.parquet", tmp_path / "config.yaml"

    def settings(conditions: str, shots: int, reuse: str) -> dict[str, str]:
        config.write_text(
            f"data: {{class_path: c.D, init_args: {{conditions: [{conditions}], shots: {shots}, paraphrases: p.jsonl,\n"
            f"  examples: [{{path: a, split: dev}}], attack: {{samples: 8, budget: 50, reuse: {reuse}}}}}}}\n",
            encoding="utf-8",
        )
        return run_settings(file)

    assert settings("clean", 0, "null") == {"paraphrases": "p.jsonl"}
    shown = settings("clean, unseen+attack:textbugger@0.2", 4, "null")
    assert (shown["few-shot examples"], shown["examples from"]) == ("4", "a")
    assert (shown["attacks searched on, samples"], shown["most texts tried"]) == ("8", "50")
    reused = settings("attack:textbugger@0.2", 0, "other.jsonl")
    assert reused == {"paraphrases": "p.jsonl", "attacks of another run": "other.jsonl"}


def test_comparisons_show_what_was_tested(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base, new = rows((0, 1)), rows((1, 2, 3))
    runs = [f"{name}={written(tmp_path / name, found)}" for name, found in (("base", base), ("new", new))]
    args = ["compare", *runs, "--paired", "true", "--draws", "30", "--output", str(tmp_path / "out")]
    main(args)
    assert f"page: {tmp_path / 'out' / 'comparison.html'}" in capsys.readouterr().out
    text = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    page = Page(text)
    check_alone(page, text)
    plain = (tmp_path / "out" / "paired.md").read_text(encoding="utf-8")
    for line in page.named("new against base")[1:]:
        assert re.search(r" *\| ".join(map(re.escape, line)), plain)
    tested = {(r[0], r[1]): r[2] for r in page.named("new against base")[1:]}
    differences = page.named("Paired differences of new and base")[1:]
    assert differences[0][0] == "all datasets"
    assert {line[0]: line[2] for line in differences[1:]} == {c: tested["all datasets", c] for c in ("clean", "noisy")}
    results = {r.condition: r.numbers["mean"].value for r in robustness(new, Settings(0)) if r.name is None}
    assert page.named("mean score over tasks, %")[2] == [
        "new",
        *(f"{100 * results[c]:.1f}" for c in ("clean", "noisy")),
    ]
    assert f"{PERMUTATIONS:,} random exchanges" in page.text
    # 0 is gained, 2 and 3 are lost
    assert "Gained, wrong in the first run: 1 answer. Lost, right there: 2 answers." in page.text
    flipped = {(line[2], line[-1][0]) for line in page.named("Answers that flipped")[1:]}
    assert flipped == {("0", "✓"), ("2", "✗"), ("3", "✗")}
    assert "--flips FILE" in page.text
    main([*args, "--flips", str(tmp_path / "all.jsonl")])
    assert (
        "All of them are in all.jsonl." in Page((tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")).text
    )
    main(["compare", *runs, "--output", str(tmp_path / "plain")])
    assert sorted(file.name for file in (tmp_path / "plain").iterdir()) == [
        *("comparison.html", "comparison.md", "comparison.png")
    ]


def test_only_some_of_many_flips_are_shown() -> None:
    before, after = table(1, 50), [replace(r, correct=not r["correct"]) for r in table(1, 50)]
    runs = {"a": before, "b": after, "c": before}
    settings = Settings(5)
    text = comparison_html(runs, scores_of(runs), paired_tests(runs, settings), settings, "title")
    page = Page(text)
    lines = page.named("Answers that flipped")[1:]
    assert len(lines) == 50
    assert {line[0] for line in lines} == {"b"}
    assert {line[2] for line in lines} == {"clean", "deepwordbug@0.2", "unseen"}
    assert "50 are shown" in page.text


def test_runs_that_are_equal_flip_nothing() -> None:
    runs = {"a": table(1), "b": table(1)}
    text = comparison_html(runs, scores_of(runs), paired_tests(runs, Settings(5)), Settings(5), "title")
    assert "No answer is right in one run and wrong in another." in Page(text).text


def test_a_run_of_the_shipped_model_makes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(
        [
            *("test", "-c", "robustness", "--model.backbone", "builtin:tiny", "--data.samples", "2"),
            *("--data.prompts", "2", "--data.conditions", "[clean, mixed@0.2]"),
            *("--data.test", "[{path: builtin:quickstart, limit: 12}]", "--trainer.default_root_dir", str(tmp_path)),
        ]
    )
    main(["report", str(tmp_path), "--format", "html", "--draws", "20", "--output", str(tmp_path / "out")])
    capsys.readouterr()
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["robustness.html"]
    text = (tmp_path / "out" / "robustness.html").read_text(encoding="utf-8")
    page = Page(text)
    check_alone(page, text)
    for said in ("Robustness of builtin:tiny", "builtin:quickstart", "Noise of ANIT", "F1, %", "accuracy, %"):
        assert said in page.text


def test_colours_stay_between_0_and_100() -> None:
    for said, expected in (("b", "Colour: 0 10 %"), ("a", "Colour: 90 100 %")):
        found = [replace(one, correct=said == "a", prediction=said, parsed=[[said]]) for one in rows()]
        page = Page(to_html(found, robustness(found, Settings(0)), Settings(0), About("run")))
        assert expected in " ".join(page.text.split())


def test_samples_name_instructions_by_their_words_with_edits_marked() -> None:
    def asked(condition: str, instruction: str, prediction: str) -> Record:
        right = prediction == "label: good"
        return Record("s1", "mood", "tc", condition, "mood/concise/seen/3", prediction, [[prediction[7:]]],
                      "label: good", right, wording="Name the mood.", instruction=instruction,
                      lenient=[["good"]] if "**" in prediction else None)  # fmt: skip

    rows = [asked("clean", "Name the mood.", "label: good"), asked("typos", "Nmae <b> mood.", "label: **good**")]
    page = to_html(rows, robustness(rows, Settings(0)), Settings(0), About("run"))
    samples = page.partition('id="samples"')[2].partition("</section>")[0]
    assert "seen/3" not in samples
    assert "Name the mood." in samples
    assert "<del>Name the</del>" in samples
    assert "<ins>Nmae &lt;b&gt;</ins>" in samples
    assert "Edits of noise and attacks are marked" in samples
    assert "read leniently: " in samples

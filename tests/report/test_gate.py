"""The gate: rules, verdicts by the end of the interval, exit status and files for CI."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from robustlm.cli import main
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import Settings, robustness
from robustlm.report.gate import Judged, judge, parse_rule
from robustlm.report.gate_files import to_junit
from robustlm.report.number_tables import cell
from tests.report.test_number_tables import written

FAST = Settings(100)


def table(wrong: int, dataset: str = "sst2", samples: int = 60) -> list[Record]:
    """All right when clean; under noise the first samples are wrong with the second instruction."""
    found = []
    for condition in ("clean", "deepwordbug@0.2", "unseen+mixed@0.3"):
        for way, text in (("b/0", "Say a."), ("b/1", "Say it, please.")):
            for at in range(samples):
                said = "b" if condition != "clean" and way == "b/1" and at < wrong else "a"
                place = f"s{at}", dataset, "generation", condition, way
                asked = text if condition == "clean" else text.replace("Say", "Asy")
                found.append(
                    Record(*place, said, [[said]], "a", said == "a", prompt=f"{asked} Text {at}", wording=text,
                           instruction=asked)
                )  # fmt: skip
    return found


def judged(rule: str, rows: list[Record], **more: str) -> list[Judged]:
    return judge(rows, [parse_rule(rule)], FAST, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("worst_instruction >= 80", ("worst_instruction", None, None, ">=", 80, None)),
        ("pdr[deepwordbug@0.2]<=10%", ("pdr", "deepwordbug@0.2", None, "<=", 10, None)),
        ("mean[unseen]@sst2 > 7e1", ("mean", "unseen", "sst2", ">", 70, None)),
        ("std[*]@* < 5", ("std", "*", "*", "<", 5, None)),
        ("mean[unseen] >= runs/base-1 - 2.5", ("mean", "unseen", None, ">=", -2.5, "runs/base-1")),
        ("mean >= runs/base + 1", ("mean", None, None, ">=", 1, "runs/base")),
        ("mean >= runs/base", ("mean", None, None, ">=", 0, "runs/base")),
    ],
)
def test_rules_are_read(text: str, expected: tuple[object, ...]) -> None:
    rule = parse_rule(text)
    assert (rule.number, rule.condition, rule.dataset, rule.sign, rule.limit, rule.baseline) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mean 80", "found 'mean 80'; expected NUMBER"),
        ("maen >= 80", "unknown number 'maen'; expected one of mean, worst_instruction"),
        ("mean[] >= 80", "found an empty condition"),
        ("mean >= runs/base - x", "found 'x' after the run; expected points"),
        ("mean >= 8o", "the limit '8o' is neither a number nor the folder or table of a run"),
        ("mean >= nan", "the limit 'nan' is neither a number"),
        ("mean[unseeen] >= 8", "no condition 'unseeen'; expected one of clean, deepwordbug@0.2, "),
        ("mean@sst >= 8", "no dataset 'sst'; expected one of sst2"),
        ("posix <= 1", r"posix\[clean\] has no value in this table"),
        ("cochran_p[deepwordbug@0.2] >= 0.05", "has no interval; .* `--by value`"),
    ],
)
def test_what_is_no_rule_of_this_table_is_said(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        judged(text, table(6))


def test_the_conservative_end_of_the_interval_decides() -> None:
    rows = table(6)
    (one,) = [r for r in robustness(rows, FAST) if (r.name, r.condition) == (None, "deepwordbug@0.2")]
    for number, sign in (("mean", ">="), ("pdr", "<=")):
        found = one.numbers[number]
        near, far = (found.low, found.high) if sign == ">=" else (found.high, found.low)
        for limit, by, expected in (
            (near, "bound", True), (found.value, "bound", False), (found.value, "value", True), (far, "value", False),
        ):  # fmt: skip
            (verdict,) = judged(f"{number}[deepwordbug@0.2] {sign} {100 * limit!r}", rows, by=by)
            assert verdict.passed == expected, (number, limit, by)
    (verdict,) = judged("mean[deepwordbug@0.2] >= 94", rows)
    assert verdict.line == (
        f"FAIL  mean[deepwordbug@0.2] >= 94: {cell(one.numbers['mean'], 'mean')} (the value meets the limit, the lower "
        "end of its interval does not)"
    )
    (verdict,) = judged("worst_instruction[deepwordbug@0.2] >= 95", rows)
    assert verdict.line.endswith("(the value does not meet the limit); worst was: ~~Say~~ **Asy** it, please.")


def test_a_star_is_each_of_them() -> None:
    rows = table(6) + table(30, "mnli")
    found = judged("mean[*]@* >= 80", rows)
    assert [one.name for one in found][:2] == ["mean[clean]@mnli >= 80", "mean[clean]@sst2 >= 80"]
    assert [one.passed for one in found] == [True, True, False, True, False, True]


def test_a_baseline_is_compared_sample_by_sample(tmp_path: Path) -> None:
    base = written(tmp_path / "base", table(6))
    assert judged(f"mean[deepwordbug@0.2] >= {base} - 4", table(6))[0].passed
    (verdict,) = judged(f"mean[deepwordbug@0.2] >= {base} - 2", table(30))
    assert not verdict.passed
    assert verdict.found.value == pytest.approx(-24 / 120)
    assert verdict.shown.startswith("-20.0 [")
    other = [replace(row, prompt=f"Tell {row.sample_id}") for row in table(6)]
    with pytest.raises(ValueError, match="360 of 360 cells were not asked the same"):
        judged(f"mean >= {written(tmp_path / 'other', other)}", table(6))
    assert judge(table(6), [parse_rule(f"mean >= {tmp_path / 'other'} - 9")], FAST, anyway=True)[0].passed


def with_draws(count: int, wrong: int = 6) -> list[Record]:
    """`table`, asked several times: in later draws, other answers of the last samples are wrong."""
    found = []
    for draw in range(count):
        for row in table(wrong):
            turned = draw and int(row.sample_id[1:]) >= 60 - 5 * draw
            said = "b" if turned else row.prediction
            found.append(replace(row, prediction=said, parsed=[[said]], correct=said == "a", draw=draw))
    return found


def test_rules_about_a_table_with_draws_judge_the_numbers_of_its_report(tmp_path: Path) -> None:
    rows = with_draws(3)
    noisy = "deepwordbug@0.2"
    own = {(one.name, one.condition): one.numbers for one in robustness(rows, FAST)}
    for number in ("mean", "worst_instruction", "worst_case", "majority_vote", "part_sampling"):
        (verdict,) = judged(f"{number}[{noisy}]@sst2 >= 1", rows)
        assert verdict.found == own["sst2", noisy][number], number
    (verdict,) = judged(f"mean[{noisy}] >= 1", rows)
    assert verdict.found == own[None, noisy]["mean"]
    assert verdict.found.value == pytest.approx(1 - (3 * 6 + 5 * 2 + 10 * 2) / 360)
    base = written(tmp_path / "base", with_draws(3, 0))
    (verdict,) = judged(f"mean[{noisy}] >= {base} - 10", rows)
    assert verdict.found.value == pytest.approx(-18 / 360)
    single = written(tmp_path / "single", table(6))
    with pytest.raises(ValueError, match="other numbers of draws of a question"):
        judged(f"mean >= {single}", rows)


def test_exit_status_lines_and_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    run = written(tmp_path / "mine", table(6))
    good, bad = "mean >= 90", "pdr[deepwordbug@0.2] <= 1"
    main(["gate", run, good, "--draws", "50"])
    assert capsys.readouterr().out.startswith("PASS  mean[clean] >= 90: 100.0 [")
    junit, summary, shared = tmp_path / "junit.xml", tmp_path / "summary.md", tmp_path / "step.md"
    files = ["--junit", str(junit), "--summary", str(summary)]
    with pytest.raises(SystemExit) as end:
        main(["gate", run, good, bad, "--draws", "50", *files])
    assert end.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["PASS", "FAIL"]
    suite = ElementTree.parse(junit).getroot()[0]
    assert (suite.get("name"), suite.get("tests"), suite.get("failures")) == ("robustlm gate mine", "2", "1")
    assert [case.get("name") for case in suite] == ["mean[clean] >= 90", bad]
    assert [len(case.findall("failure")) for case in suite] == [0, 1]
    assert "## Robustness of mine: 1 rule of 2 failed" in summary.read_text(encoding="utf-8")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(shared))
    shared.write_text("before\n", encoding="utf-8")
    main(["gate", run, good, "--draws", "50"])
    assert shared.read_text(encoding="utf-8").startswith("before\n## Robustness of mine: 1 rule passed")
    for args in ([run, "maen >= 1"], [run, good, "--junit", str(tmp_path / "no" / "a.xml")], ["nowhere", good]):
        with pytest.raises(SystemExit) as end:
            main(["gate", *args])
        assert end.value.code == 2
    unread = [replace(row, parsed=None, correct=False) for row in table(0)]
    main(["gate", written(tmp_path / "unread", unread), "mean >= 0", "--by", "value", "--draws", "50"])
    assert "could not be read" in capsys.readouterr().err


def test_junit_is_xml_whatever_an_instruction_says() -> None:
    rows = [replace(row, wording="Say \x00<b>\ud800&", instruction="Say \x00<b>\ud800&") for row in table(6)]
    found = judged("worst_instruction[deepwordbug@0.2] >= 99", rows)
    root = ElementTree.fromstring(to_junit("a\x07<run>", found))
    assert json.dumps(root[0].get("name")) == '"robustlm gate a\\ufffd<run>"'


def test_the_lenient_reading_judges_the_run_and_its_baseline(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Answers that only the lenient reading can read: under the strict one, both runs are at 0."""
    marked = [
        replace(row, parsed=[[row.prediction + "!"]], correct=False, lenient=row.parsed, lenient_correct=row.correct)
        for row in table(6)
    ]
    assert [judged("mean >= 80", marked)[0].passed, judged("mean >= 80", marked, reading="lenient")[0].passed] == [
        False,
        True,
    ]
    base = written(tmp_path / "base", marked)
    worse = [
        replace(row, lenient=new.parsed, lenient_correct=new.correct)
        for row, new in zip(marked, table(30), strict=True)
    ]
    for rows, reading, gap in ((worse, "strict", 0), (worse, "lenient", -24 / 120)):
        (one,) = judged(f"mean[deepwordbug@0.2] >= {base} - 9", rows, reading=reading, by="value")
        assert one.found.value == pytest.approx(gap)
    run = written(tmp_path / "run", worse)
    with pytest.raises(SystemExit) as end:
        main(["gate", run, "mean >= 90", "--draws", "50"])
    assert end.value.code == 1
    assert "the score is 0.0 % strict and 83.3 % lenient" in capsys.readouterr().err
    main(["gate", run, "mean >= 90", "--draws", "50", "--reading", "lenient"])
    assert capsys.readouterr().out.startswith("PASS  mean[clean] >= 90: 100.0 [")


def test_requests_that_failed_do_not_pass_in_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def failing(rows: list[Record], under: str) -> list[Record]:
        lost: dict[str, Any] = {"prediction": "", "parsed": None, "correct": False, "error": "HTTP 500"}
        return [
            replace(row, **lost) if row.condition == under and row.sample_id in ("s0", "s1", "s2") else row
            for row in rows
        ]

    run = written(tmp_path / "run", failing(table(0), "clean"))
    base = written(tmp_path / "base", failing(table(0), "deepwordbug@0.2"))
    report = tmp_path / "gate.xml"
    with pytest.raises(SystemExit) as end:
        main(["gate", run, "mean >= 80", f"mean >= {base} - 20", "--draws", "50", "--junit", str(report)])
    assert end.value.code == 1
    out, err = capsys.readouterr()
    assert [line[:4] for line in out.splitlines()] == ["PASS", "PASS", "FAIL", "FAIL"]
    assert out.splitlines()[2:] == [
        "FAIL  failed requests[clean] <= 0: 5 (6 of 120) (the value does not meet the limit)",
        f"FAIL  failed requests[deepwordbug@0.2] of {base} <= 0: 5 (6 of 120) (the value does not meet the limit)",
    ]
    assert "6 of 360 requests failed (1.7 %)" in err
    assert "6 times: HTTP 500" in err
    assert [len(case) for case in ElementTree.parse(report).getroot()[0].iter("failure")] == [0, 0]
    assert ElementTree.parse(report).getroot()[0].get("failures") == "2"
    main(["gate", run, "mean >= 80", "--draws", "50", "--failed", "5"])
    assert "PASS  failed requests[clean] <= 5: 5 (6 of 120)" in capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        main(["gate", run, "mean >= 80", "--failed", "101"])
    assert end.value.code == 2
    assert "failed: found 101.0" in capsys.readouterr().err


def test_answers_that_were_cut_off_are_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut = [replace(row, finish_reason="length") for row in table(0)]
    main(["gate", written(tmp_path / "run", cut), "mean >= 80", "--draws", "50"])
    assert "360 of 360 answers (100.0 %) were cut off at the limit of tokens" in capsys.readouterr().err

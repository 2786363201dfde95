"""The report of attacks: success rates against rows without the attack, queries, and edits that are marked."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustlm.cli import main
from robustlm.conditions.manifest import Manifest
from robustlm.evaluation.record import OWN, Record
from robustlm.evaluation.robustness import Settings, robustness
from robustlm.report.attacks import (
    attack_markdown,
    attack_numbers,
    attack_outcomes,
    attack_rows,
    success_limits,
    totals,
    without_attack,
)
from robustlm.report.page import About, to_html
from tests.report.test_number_tables import rows, written
from tests.report.test_page import Page

ATTACK = "attack:deepwordbug@0.2"


def attacked(wrong: tuple[int, ...], dataset: str = "d") -> list[Record]:
    """Sample 7 is wrong also without the attack; `wrong` are wrong under instruction j when it is attacked."""
    found = []
    for row in rows(wrong, dataset):
        clean = row.condition == "clean"
        asked = "Say a." if clean or row.instruction_id == "bank|i" else "Sya a."
        found.append(replace(row, condition="clean" if clean else ATTACK, wording="Say a.", instruction=asked))
    return [replace(row, correct=False) if row.sample_id == "7" and row.condition == "clean" else row for row in found]


def line(instruction: str, dataset: str = "d", **more: Any) -> dict[str, Any]:
    return {
        "condition": ATTACK, "dataset": dataset, "instruction_id": instruction, "sample_id": None, "before": "Say a.",
        "after": "Sya a.", "search": "bayesian", "queries": 90, **more,
    }  # fmt: skip


def manifest(*lines: dict[str, Any]) -> dict[Any, dict[str, Any]]:
    return {(one["condition"], one["dataset"], one["instruction_id"], one["sample_id"]): one for one in lines}


def test_success_counts_only_what_was_right_before() -> None:
    """Of 8 rows of each instruction, 7 are right without the attack; three of these, and the other one, are hit."""
    first, second = attack_outcomes(attacked((0, 1, 2, 7)), manifest(line("bank|i", queries=100), line("bank|j")))
    assert (first.right, first.succeeded, first.rate, first.queries) == (7, 0, 0.0, 100)
    assert (second.right, second.succeeded, second.rate, second.search) == (7, 3, 3 / 7, "bayesian")
    (total,) = totals([first, second])
    assert (total.dataset, total.attacks, total.right, total.succeeded, total.queries) == ("d", 2, 14, 3, 95)


def test_two_datasets_have_a_total() -> None:
    found = attack_outcomes(attacked((0,)) + attacked((0, 1), "e"), {})
    assert [(one.dataset, one.succeeded, one.queries) for one in totals(found)] == [
        ("", 3, None),
        ("d", 1, None),
        ("e", 2, None),
    ]


@pytest.mark.parametrize(
    ("condition", "plain"),
    [
        ("attack:textbugger:x.json@0.2", "clean"),
        ("unseen+attack:a@0.1", "unseen"),
        ("list:mine+attack:a", "list:mine"),
        ("attack:a@1+paraphrased", "paraphrased"),
    ],
)
def test_the_condition_without_the_attack(condition: str, plain: str) -> None:
    assert without_attack(condition) == plain


def test_what_is_not_known_is_not_shown() -> None:
    alone = [row for row in attacked((0,)) if row.condition == ATTACK]
    (first, _) = attack_outcomes(alone, manifest(line("bank|i", reused="other.jsonl")))
    assert (first.right, first.rate, first.queries, first.search) == (None, None, None, None)
    assert attack_numbers([first]) == []
    assert "| - " in attack_markdown([first])[-1]
    assert attack_outcomes(rows((0,)), {}) == []
    assert attack_markdown([]) == []


def test_rows_with_their_own_instruction_are_attacks_of_their_own() -> None:
    own = [replace(row, instruction_id=OWN) for row in attacked((0,)) if row.instruction_id == "bank|j"]
    found = attack_outcomes(own, {})
    assert [one.sample_id for one in found] == list("01234567")
    assert [one.succeeded for one in found] == [1] + 7 * [0]
    assert totals(found)[0].attacks == 8


def test_a_table_of_an_earlier_version_takes_the_words_from_the_file() -> None:
    old = [replace(row, wording=None, instruction=None) for row in attacked(())]
    (first, second) = attack_outcomes(old, manifest(line("bank|i")))
    assert first.wording is not None
    assert (first.wording.raw, first.wording.asked) == ("Say a.", "Sya a.")
    assert second.wording is None
    hidden = [replace(row, instruction_id=OWN) for row in old if row.instruction_id == "bank|i"]
    assert all(one.wording is None for one in attack_outcomes(hidden, manifest(line(OWN, sample_id="0")))), (
        "was not stored"
    )


def test_every_form_of_the_report_has_attacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = written(tmp_path, attacked((0, 1, 2)))
    file = Manifest(tmp_path / "attacks.jsonl", keep=False)
    for name in ("bank|i", "bank|j"):
        file.add(line(name))
    out = tmp_path / "out"
    main(["report", run, "--draws=0", f"--output={out}"])
    said = capsys.readouterr().out
    assert "## Attacks" in said
    assert "~~Say~~ **Sya** a." in said
    assert "21.4 %" in said
    numbers = list(csv.DictReader((out / "robustness.csv").read_text().splitlines()))
    (rate,) = [one for one in numbers if one["number"] == "attack_success_rate"]
    assert (rate["condition"], rate["dataset"], rate["rows"]) == (ATTACK, "d", "14")
    assert float(rate["value"]) == pytest.approx(3 / 14)
    (queries,) = [one for one in numbers if one["number"] == "attack_queries"]
    assert float(queries["value"]) == 90
    found = json.loads((out / "robustness.json").read_text())["attacks"]
    assert found == attack_rows(attack_outcomes(attacked((0, 1, 2)), manifest(line("bank|i"), line("bank|j")), None))
    assert rate["low"] == rate["high"] == "", "no draws, no intervals"
    page = (out / "robustness.html").read_text()
    assert "<del>Say</del> <ins>Sya</ins> a." in page
    assert Page(page).named("Attacks by condition and dataset")[1] == [
        ATTACK,
        "d",
        "2",
        "21.4 %",
        "14",
        "bayesian",
        "90",
    ]
    assert len(Page(page).named("Attacked instructions")) == 3


def test_every_form_of_the_report_has_intervals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = written(tmp_path, attacked((0, 1, 2)))
    main(["report", run, "--draws=50", "--level=0.9", f"--output={tmp_path / 'out'}"])
    (total,) = totals(attack_outcomes(attacked((0, 1, 2)), {}, 0.9))
    assert total.limits is not None
    low, high = total.limits
    said = f"21.4 % [{100 * low:.1f}, {100 * high:.1f}]"
    assert said in capsys.readouterr().out
    assert said in (tmp_path / "out/robustness.html").read_text()
    numbers = csv.DictReader((tmp_path / "out/robustness.csv").read_text().splitlines())
    (rate,) = [one for one in numbers if one["number"] == "attack_success_rate"]
    assert (float(rate["low"]), float(rate["high"])) == pytest.approx((low, high))
    found = json.loads((tmp_path / "out/robustness.json").read_text())["attacks"]
    assert all(0 <= one["low"] <= one["success_rate"] <= one["high"] <= 1 for one in found)


def test_rows_of_a_sample_count_together() -> None:
    """Four instructions that fail on the same samples say as little as one; independent ones say more."""
    one = success_limits({("d", str(i)): (1, int(i < 10)) for i in range(40)}, 0.95)
    same = success_limits({("d", str(i)): (4, 4 * (i < 10)) for i in range(40)}, 0.95)
    apart = success_limits({("d", str(i)): (4, 1) for i in range(40)}, 0.95)
    assert one is not None
    assert same == pytest.approx(one)
    assert apart is not None
    assert apart[1] - apart[0] < 0.8 * (one[1] - one[0])
    assert success_limits({("d", "0"): (3, 1), ("d", "1"): (0, 0)}, 0.95) is None
    always = success_limits({("d", str(i)): (1, 1) for i in range(20)}, 0.95)
    assert always is not None
    assert always[0] < 0.9
    assert always[1] == 1


@pytest.mark.parametrize(("rate", "alike"), [(0.5, 0.0), (0.5, 0.9), (0.95, 0.5), (0.99, 0.0)])
def test_intervals_of_success_rates_cover_what_they_promise(rate: float, alike: float) -> None:
    """30 samples under three instructions; with chance `alike`, an instruction does to a sample what the first does."""
    rng, covered = np.random.default_rng(0), 0
    for _ in range(400):
        right = rng.random((30, 3)) < 0.8
        wrong = rng.random((30, 3)) < rate
        wrong = np.where(rng.random((30, 3)) < alike, wrong[:, :1], wrong)
        counts = {
            ("d", str(i)): (int(a.sum()), int((a & b).sum())) for i, (a, b) in enumerate(zip(right, wrong, strict=True))
        }
        limits = success_limits(counts, 0.95)
        assert limits is not None
        covered += limits[0] <= rate <= limits[1]
    assert covered >= 0.925 * 400


def test_a_broken_file_of_attacks_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = written(tmp_path, attacked(()))
    (tmp_path / "attacks.jsonl").write_text("{\n")
    with pytest.raises(SystemExit):
        main(["report", run, "--draws=0"])
    assert "attacks.jsonl:1: found no JSON" in capsys.readouterr().err


def test_pages_without_attacks_have_no_section() -> None:
    found = rows((0,))
    assert "Attacks" not in to_html(found, robustness(found, Settings(0)), Settings(0), About("run"))

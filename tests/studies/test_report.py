"""Reports of studies, against computations by hand."""

from __future__ import annotations

import csv
import itertools
import json
import re
import statistics
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from robustlm.cli import entry, main
from robustlm.evaluation.intervals import holm
from robustlm.evaluation.record import Record
from robustlm.evaluation.resampling import sample_weights, seeded
from robustlm.evaluation.robustness import Settings
from robustlm.report.study import _spreads, study_results
from robustlm.report.study_page import study_html
from robustlm.report.study_text import set_table
from robustlm.studies import stored
from tests.studies import fake
from tests.studies.test_studies import ARMS, STUDY, refused, write

SEEDS = [0, 1, 2]
SWEEP = {
    "epsilon": {
        "fit": "--model ANIT",
        "setting": "model.adversary.epsilon",
        "values": [0.1, 0.5],
        "against": ["untuned"],
    }
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the runs of a study."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(entry, "main", fake.main)
        write({**STUDY, "arms": ARMS, "sweeps": SWEEP, "seeds": SEEDS, "data": {"rows": {"both": ""}}})
        main(["study", "small.yaml"])
    return folder


def score(arm: str, seed: int, condition: str, dataset: str | None = None) -> float:
    rows = [row for row in fake.answers(arm, seed) if row.condition == condition]
    by = [[bool(row.correct) for row in rows if row.dataset == one] for one in ("d", "e") if one in (dataset or one)]
    return 100 * statistics.mean(statistics.mean(own) for own in by)


def test_the_numbers_are_those_of_a_computation_by_hand(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(site)
    main(["report", "runs/small", "--output", "out", "--draws=200", "--seed=3"])
    text = capsys.readouterr().out
    table = text.partition("over seeds 0, 1, 2:")[2].partition("What the runs cost")[0]
    for name, arm in (("untuned", "untuned"), ("plain", "plain"), ("long, noisy", "long-noisy")):
        scores = [[score(arm, seed, condition) for seed in SEEDS] for condition in fake.CONDITIONS]
        cells = [f"{statistics.mean(own):.1f} ± {statistics.stdev(own):.1f}" for own in scores]
        assert re.search(rf"\| {name} +\| " + r" +\| ".join(map(re.escape, cells)) + r" +\|", table), (name, cells)

    found = study_results(Path("runs/small"), draws=2000, seed=3, level=0.95)
    gaps = found.differences["rows"]["long, noisy − plain"]
    draws = by_hand(Settings(2000, 3))
    for condition in fake.CONDITIONS:
        gap = gaps[condition]
        each = [score("long-noisy", s, condition) - score("plain", s, condition) for s in SEEDS]
        assert gap.seeds == pytest.approx(each)
        assert gap.mean == pytest.approx(statistics.mean(each))
        assert (gap.low, gap.high) == pytest.approx(np.quantile(draws[condition], [0.025, 0.975]).tolist())
        below, above = (draws[condition] <= 1e-12).sum(), (draws[condition] >= -1e-12).sum()
        assert gap.p == pytest.approx(min(1, 2 * (min(below, above) + 1) / 2001))
        assert f"{gap.mean:+.1f}" in text
    assert [gap.p_holm for gap in gaps.values()] == pytest.approx(holm([gap.p for gap in gaps.values()]))
    whole = found.data["rows"]["long, noisy"]
    costs = {name: cost.mean for name in ("steps", "seconds", "passes") if (cost := whole.cost(name))}
    assert costs == pytest.approx({"steps": 4, "seconds": 48.0, "passes": 0.048})
    assert str(found.data["rows"]["plain"].level(["mixed@0.2", "mixed@0.4"]).mean)[:5] in {
        str(statistics.mean(score("plain", s, c) for s in SEEDS for c in ("mixed@0.2", "mixed@0.4")))[:5]
    }

    with Path("out/study.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 5 * 3 * 4 * 3
    for line in lines[::7]:
        folder = line["arm"].replace(", ", "-").replace(" ", "-")
        dataset = None if line["dataset"] == "mean" else line["dataset"]
        assert float(line["score"]) == pytest.approx(
            score(folder, int(line["seed"]), line["condition"], dataset), abs=1e-4
        )
    assert json.loads(Path("out/study.json").read_text(encoding="utf-8"))["seeds"] == SEEDS


def by_hand(settings: Settings) -> dict[str, np.ndarray]:
    """Differences of `long, noisy` and `plain` in each draw: seeds and samples one by one, by the same weights."""
    n = len(SEEDS)
    seeds = seeded(settings, "seeds of training").multinomial(n, np.full(n, 1 / n), settings.draws)
    weights = {name: sample_weights(name, 12, settings)[1:] for name in ("d", "e")}
    right = {
        (arm, seed): {(r.condition, r.dataset, r.sample_id): bool(r.correct) for r in fake.answers(arm, seed)}
        for arm in ("plain", "long-noisy")
        for seed in SEEDS
    }
    found = {}
    for condition in fake.CONDITIONS:
        drawn = []
        for at in range(settings.draws):
            whole = 0.0
            for seed, times in zip(SEEDS, seeds[at], strict=True):
                for dataset, own in weights.items():
                    ids = sorted(f"{dataset}-{i}" for i in range(12))
                    gap = [
                        right["long-noisy", seed][condition, dataset, i] - right["plain", seed][condition, dataset, i]
                        for i in ids
                    ]
                    whole += times / n / 2 * float(np.dot(own[at], gap)) / 12
            drawn.append(100 * whole)
        found[condition] = np.array(drawn)
    return found


def test_the_report_has_figures_and_a_page(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(site)
    main(["report", "runs/small", "--output", "page"])
    pictures = {file.name for file in Path("page").glob("*.png")}
    assert pictures == {
        f"{name}-rows.png" for name in ("conditions", "levels", "omega", "time", "sweep-epsilon")
    }  # fmt: skip
    text = Path("page/study.html").read_text(encoding="utf-8")
    assert text.count('<img src="data:image/png;base64,') == 5
    assert "</img>" not in text
    for part in ("Scores", "Paired differences", "Time and memory", "Dataset by dataset", "long, noisy − plain"):
        assert part in text
    assert 'alt="Score against the level ω of the noise on rows' in text
    assert 'alt="Score over epsilon by condition, and that of untuned on rows' in text
    main(["report", "runs/small", "--output", "again"])
    assert Path("again/study.html").read_text(encoding="utf-8") == text


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of a study with two models, two data sets and kinds of datasets."""
    folder = tmp_path_factory.mktemp("sets")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(entry, "main", fake.main)
        patch.setattr(stored, "commit", lambda: "abc123")
        models = {"A": "--model.backbone a", "B": "--model.backbone b"}
        groups = {"both": ["d", "e"], "unknown": ["d", "f"]}
        write({**STUDY, "models": models, "data": {"x": "", "y": ""}, "seeds": [0, 1], "groups": groups})
        main(["study", "small.yaml"])
        main(["report", "runs/small", "--output", "out", "--draws=100", "--format=md"])
    return folder


def test_results_over_all_data_sets_of_a_model_come_first(sets: Path) -> None:
    found = study_results(sets / "runs/small", draws=1000, seed=0, level=0.95)
    assert list(found.data) == ["A, all data sets", "B, all data sets", "A, x", "A, y", "B, x", "B, y"]
    own = found.data["A, all data sets"]["plain"]
    for seed in (0, 1):
        assert own.scores[seed]["unseen"]["x"] == pytest.approx(score("plain", seed, "unseen"))
        assert own.scores[seed]["unseen"]["mean"] == pytest.approx(score("plain", seed, "unseen"))
    assert own.costs[0] == found.data["A, x"]["plain"].costs[0]
    gap = found.differences["A, all data sets"]["long, noisy − plain"]["clean"]
    each = [score("long-noisy", s, "clean") - score("plain", s, "clean") for s in (0, 1)]
    assert gap.seeds == pytest.approx(each)
    assert gap.low < gap.mean < gap.high


def test_tables_have_a_column_for_each_dataset_and_each_kind_of_them(sets: Path) -> None:
    found = study_results(sets / "runs/small", draws=100, seed=0, level=0.95)
    heads, *rows = set_table(found, "A, x", "clean")
    assert heads == ["arm", "both", "d", "e", "mean"]
    cells = [
        [statistics.mean(score("plain", seed, "clean", one) for seed in (0, 1)) for one in (None, "d", "e", None)],
    ]
    assert [cell.partition(" ")[0] for cell in rows[1][1:]] == [f"{value:.1f}" for value in cells[0]]
    assert set_table(found, "A, all data sets", "clean")[0] == ["arm", "x", "y", "mean"]
    text = (sets / "out/study.md").read_text(encoding="utf-8")
    assert "clean: score by dataset on A, x, %" in text
    assert "Score by dataset under unseen on B, y" in str(study_html(found, []))


def test_a_report_names_the_file_and_the_commit_that_made_it(sets: Path) -> None:
    said = "Made by small.yaml, commit abc123."
    assert said in (sets / "out/study.md").read_text(encoding="utf-8")
    assert said in str(study_html(study_results(sets / "runs/small", draws=10, seed=0, level=0.95), []))


def test_deviations_over_instructions_are_those_of_samples_asked_under_all_of_them() -> None:
    right = {"i": (1, 1, 0, 0), "j": (1, 1, 1, 0), "k": (0, 0, 0, 0)}
    rows = [
        Record(f"s{at}", "d", "generation", condition, one, "a", [["a"]], "a", bool(is_right))
        for condition, instructions in (("clean", "ijk"), ("unseen", "i"))
        for one in instructions
        for at, is_right in enumerate(right[one])
    ]
    more = Record("s9", "d", "generation", "clean", "i", "a", [["a"]], "a", False)
    assert _spreads([*rows, more]) == {"clean": pytest.approx(statistics.pstdev([50, 75, 0]))}


def test_the_level_of_noise_begins_at_the_condition_without_it(site: Path) -> None:
    found = study_results(site / "runs/small", draws=100, seed=0, level=0.9)
    assert found.ladders() == {"mixed@ω": {0.0: "clean", 0.2: "mixed@0.2", 0.4: "mixed@0.4"}}
    assert found.sweeps("rows") == {"epsilon": {0.1: "epsilon 0.1", 0.5: "epsilon 0.5"}}


def test_settings_of_single_runs_are_refused(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(site)
    assert "resample: found 'both' for the study" in refused(capsys, "report", "runs/small", "--resample=both")
    assert "draws: found 0" in refused(capsys, "report", "runs/small", "--draws=0")


def test_arms_that_were_not_asked_the_same_are_refused(
    site: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def other(command: list[str]) -> None:
        fake.main(command)
        for file in Path("runs/small/plain").rglob("predictions.parquet"):
            fake.answers_with(file, target="c")

    monkeypatch.setattr(entry, "main", other)
    write({**STUDY, "seeds": [0]})
    main(["study", "small.yaml"])
    assert "another true answer" in refused(capsys, "report", "runs/small")


def test_seeds_that_were_asked_other_samples_are_compared_one_by_one_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = fake.answers

    def own(run: str, seed: int) -> list[Record]:
        return [replace(row, sample_id=f"{seed}-{row.sample_id}") for row in made(run, seed)]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(entry, "main", fake.main)
    write({**STUDY, "arms": ARMS})
    with monkeypatch.context() as patch:
        patch.setattr(fake, "answers", own)
        main(["study", "small.yaml"])
    found = study_results(Path("runs/small"), draws=200, seed=0, level=0.95)
    gap = found.differences[""]["long, noisy − plain"]["clean"]
    assert gap.seeds == pytest.approx([score("long-noisy", s, "clean") - score("plain", s, "clean") for s in (0, 1)])
    assert any("were asked other samples" in note for note in found.notes)


def test_what_searches_for_attacks_came_to_is_shown_beside_the_scores(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(entry, "main", fake.main)
    arms = {"plain": {"fit": None, "against": ["random"]}, "random": {"fit": None}, "none": {"fit": None}}
    write({**STUDY, "arms": arms, "seeds": [0, 1]})
    main(["study", "small.yaml"])
    left = {("plain", 0): [0.1, 0.3], ("plain", 1): [0.2, 0.2], ("random", 0): [0.2, 0.5], ("random", 1): [0.3, 0.4]}
    for (arm, seed), scores in left.items():
        lines = [
            {
                "condition": "attack:deepwordbug@0.2", "dataset": "d", "instruction_id": str(at), "sample_id": None,
                "before": "a", "after": "b", "objective": "likelihood", "score_before": 0.8, "score_after": score,
                "queries": 90 + 20 * at, "edits": [],
            }
            for at, score in enumerate(scores)
        ]  # fmt: skip
        lines.append({**lines[0], "condition": "attack:textbugger@0.2", "reused": "another run"})
        text = "".join(json.dumps(line) + "\n" for line in lines)
        Path(f"runs/small/{arm}/seed-{seed}/test/attacks.jsonl").write_text(text, encoding="utf-8")
    capsys.readouterr()
    main(["report", "runs/small", "--output", "out", "--draws=200"])
    text = capsys.readouterr().out
    part = text.partition("What the searches for attacks came to: likelihood of the true answers")[2]
    assert re.search(r"\| plain +\| 80\.0 → 20\.0 \(100\) +\|", part)
    assert re.search(r"\| random +\| 80\.0 → 35\.0 \(100\) +\|", part)
    assert "textbugger" not in text, "attacks of another run were not searched for"
    assert "over instructions" not in text, "each sample was asked under one instruction"
    (low, high) = np.quantile(
        [np.mean(draw) for draw in itertools.product([-10, -20, -10, -20], repeat=4)], [0.025, 0.975]
    )
    assert f"**-15.0** [{low:+.1f}, {high:+.1f}] (4)" in part
    found = json.loads(Path("out/study.json").read_text(encoding="utf-8"))["searches"][""]
    assert len(found["arms"]["plain"]["attack:deepwordbug@0.2"]) == 4
    assert found["differences"]["plain − random"]["attack:deepwordbug@0.2"]["mean"] == pytest.approx(-15)
    assert "Searches for attacks" in Path("out/study.html").read_text(encoding="utf-8")
    broken = Path("runs/small/plain/seed-0/test/attacks.jsonl")
    broken.write_text(text_without(broken, "score_after"), encoding="utf-8")
    assert "instruction 0: found no score_before, score_after or queries" in refused(capsys, "report", "runs/small")


def text_without(file: Path, name: str) -> str:
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    return "".join(json.dumps({key: value for key, value in line.items() if key != name}) + "\n" for line in lines)

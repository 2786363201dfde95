"""`make results`: what it says first, what it does, and in which order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml

from benchmarks import results
from robustlm.cli import entry
from robustlm.cli import main as robustlm
from robustlm.studies.layers import scales_of
from tests.studies import fake
from tests.studies.test_studies import STUDY


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """Two studies in a folder; the commands that are run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(entry, "main", fake.main)
    for name, more in (("one", {"scales": {"mini": {"seeds": [0]}}}), ("quickstart", {"seeds": [0, 1]})):
        Path(f"{name}.yaml").write_text(yaml.safe_dump({**STUDY, **more}, sort_keys=False), encoding="utf-8")
    monkeypatch.setattr(results, "study_file", lambda name: Path(f"{name}.yaml"))
    return []


def test_the_time_is_said_first_and_nothing_is_done_twice(
    site: list[Sequence[str]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def main(command: Sequence[str]) -> None:
        site.append(command)
        given = [f"{one}.yaml" if one in ("one", "quickstart") else one for one in command]
        drawing_takes_long = ("--format", "md", "--draws", "10") if command[0] == "report" else ()
        robustlm([*given, *drawing_takes_long])
        for file in Path("out").rglob("tested.json"):
            file.write_text(json.dumps({"took": 60, "jobs": 1}), encoding="utf-8")

    studies = results.planned(["one", "quickstart"], Path("out"), 1)
    assert [(one.name, one.study.seeds) for one in studies] == [("one", (0,)), ("quickstart", (0, 1))]
    assert results.make(studies, main) == []
    out = capsys.readouterr().out
    first, second = (part for part in out.split("\n\n") if "\nall: " in part)
    assert first.splitlines() == [
        "one: 3 runs, 3 to do: not known before its first run",
        "quickstart: 6 runs, 6 to do: not known before its first run",
        "all: 9 runs to do, 2 studies whose time is not known yet",
    ]
    assert second.splitlines()[-1].startswith("all: 7 runs to do, about 7 min")
    assert [command[:2] for command in site] == [
        ["study", "one"], ["study", "quickstart"],  # an arm of each
        ["study", "one"], ["report", "out/one-mini"], ["study", "quickstart"], ["report", "out/quickstart"],
    ]  # fmt: skip
    assert site[0][2:] == [
        "--scale", "mini", "--output", "out/one-mini", "--jobs", "1", "--arms", "plain", "--seeds", "0",
    ]  # fmt: skip
    assert Path("out/one-mini/report/study.md").is_file()

    site.clear()
    assert results.make(studies, main) == []
    assert capsys.readouterr().out.startswith("one: 3 runs, 0 to do: 0 s\n")
    assert [command[0] for command in site] == ["study", "report"] * 2


def test_a_study_that_fails_stops_no_other_and_a_signal_stops_all(
    site: list[Sequence[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    studies = results.planned(["one", "quickstart"], Path("out"), 1)

    def fails(command: Sequence[str]) -> None:
        raise SystemExit(1)

    assert results.make(studies, fails) == ["one", "quickstart"]

    def told(command: Sequence[str]) -> None:
        raise SystemExit(130)

    with pytest.raises(SystemExit) as end:
        results.make(studies, told)
    assert end.value.code == 130


def test_what_is_missing_is_named_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("ROBUSTLM_BASE", "ROBUSTLM_DATA", "ROBUSTLM_ALIGNMENT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("sys.argv", ["results"])
    with pytest.raises(SystemExit) as end:
        results.main()
    assert end.value.code == 2
    assert "ROBUSTLM_BASE is not set" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    every = [one.name for one in results.planned((), tmp_path, 1)]
    assert {"quickstart", "methods", "states", "anit_table1", "coin_table2", "align_table5"} <= set(every)
    assert all(name in results.BUILT_IN or "mini" in scales_of(results.study_file(name)) for name in every)

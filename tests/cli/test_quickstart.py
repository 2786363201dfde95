"""The quickstart says what was measured in two sentences, prints little, and runs its arms side by side."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from robustlm.assets import config_file
from robustlm.cli import chains as chains_module
from robustlm.cli import main, quickstart
from robustlm.cli.chains import Chain, run_chains
from robustlm.cli.quickstart import CLEAN, HARD, shown
from robustlm.evaluation.record import Record
from robustlm.evaluation.table import write_table
from tests.two_chains import say

Table = list[Record]
CONDITIONS = [CLEAN, "mixed@0.3", "random_typos@0.3", "unseen", HARD]


def answers(clean: int, hard: int, count: int = 200) -> Table:
    """Answers of which so many are right under the two conditions."""
    return [
        Record(
            sample_id=str(i),
            dataset="d",
            task="generation",
            condition=condition,
            instruction_id="i",
            prediction="a" if i < right else "b",
            parsed=[["a" if i < right else "b"]],
            target="a",
            correct=i < right,
        )
        for condition, right in ((CLEAN, clean), (HARD, hard))
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("plain", "anit", "hard", "clean"),
    [
        ((180, 100), (160, 140), "+20.0 [+", "it is more robust here"),
        ((160, 140), (180, 100), "-20.0 [-", "it is less robust here"),
        ((160, 140), (160, 140), "+0.0 [", "these rows show no clear difference"),
        ((160, 140), (161, 139), "-0.5 [", "these rows show no clear difference"),
    ],
)
def test_the_sentences_follow_the_numbers(plain: tuple[int, int], anit: tuple[int, int], hard: str, clean: str) -> None:
    first, second = shown("ANIT", answers(*plain), answers(*anit)).split("\n")
    assert f"ANIT scores {hard}" in first
    assert first.endswith(f"points against plain tuning: {clean}.")
    change = anit[0] - plain[0]
    assert f"it scores {100 * change / 200:+.1f} [" in second
    expected = "this is the cost" if change < -5 else "it is better there too" if change > 5 else "no clear difference"
    assert expected in second


def test_the_whole_of_it_is_a_screen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All that a user sees; the commands are parsed and not run, and tables stand for what they would write."""
    monkeypatch.chdir(tmp_path)
    ran: list[Sequence[str]] = []

    def here(chains: Sequence[Chain], main: Any, begun: Callable[[Sequence[str]], None]) -> None:
        for chain in chains:
            for command in chain.commands:
                begun(command)
                ran.append(command)
            rows = [
                replace(row, condition=c) for c in CONDITIONS for row in answers(5, 4, 6) if row["condition"] == CLEAN
            ]
            Path(chain.log).parent.mkdir(parents=True)
            write_table(Path(chain.log).with_name("predictions.parquet"), rows, CONDITIONS)

    monkeypatch.setattr(chains_module, "run_chains", here)
    main(["quickstart", "--output", "out"])
    lines = capsys.readouterr().out.splitlines()
    typed = [line for line in lines if line.startswith("$ robustlm ")]
    assert [shlex.split(line)[2:] for line in typed] == [list(command[:-2]) for command in ran]
    assert sorted(command[0] for command in ran) == ["fit"] * 4 + ["test"] * 5
    assert sum(line.startswith("|") for line in lines) == 2 + 5
    assert all("[" in line for line in lines if line.startswith(("| clean", "| unseen", "| mixed")))
    assert sum(f"{name} scores" in line for line in lines for name in ("ANIT", "recommended")) == 2
    assert sum("it scores" in line for line in lines) == 2
    assert sum(" -c recommended " in line for line in lines) == 3
    assert sum("output.log" in line for line in lines) == 1
    assert len(lines) <= 30
    assert Path("out/comparison.png").stat().st_size > 10_000
    assert "[" in Path("out/comparison.md").read_text(encoding="utf-8")


def test_its_commands_parse_and_its_conditions_are_the_configs(capsys: pytest.CaptureFixture[str]) -> None:
    fits = [command for chain in quickstart.chains("out", 1) for command in chain.commands if command[0] == "fit"]
    found = []
    for command in fits:
        with pytest.raises(SystemExit) as end:
            main([*command, "--print_config"])
        assert not end.value.code
        printed = yaml.safe_load(capsys.readouterr().out)
        assert (printed["seed_everything"], printed["data"]["init_args"]["seed"]) == (1, 1)
        assert printed["data"]["init_args"]["conditions"] == CONDITIONS
        found.append(printed)
    assert [one["model"]["class_path"].split(".")[-1] for one in found] == ["ANIT"] * 3 + ["InstructionTuning"]
    file = config_file("recommended")
    assert file is not None
    recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    noise, own = found[0]["data"]["init_args"]["noise"], recipe["data"]["init_args"]["noise"]
    assert {name: noise[name] for name in own} == own
    assert found[0]["model"]["init_args"]["adversary"] is recipe["model"]["init_args"]["adversary"] is None


def test_chains_run_side_by_side_and_print_into_their_logs(tmp_path: Path) -> None:
    """Real processes, as what they print below Python is what must not reach the terminal."""
    chains = [Chain(f"{tmp_path}/{name}/output.log", (("say", name), ("say", "more"))) for name in ("a", "b")]
    begun: list[Sequence[str]] = []
    run_chains(chains, say, begun.append)
    assert sorted(begun) == [("say", "a"), ("say", "b"), ("say", "more"), ("say", "more")]
    for name in ("a", "b"):
        lines = (tmp_path / name / "output.log").read_text(encoding="utf-8").splitlines()
        assert lines == [name, "also from below Python", "more", "also from below Python"]


def test_a_command_that_fails_shows_its_end_and_stops_the_others(tmp_path: Path) -> None:
    waiting = tmp_path / "waiting"
    chains = [
        Chain(f"{tmp_path}/slow.log", (("wait", str(waiting)),)),
        Chain(f"{tmp_path}/bad.log", (("fail", "line"), ("say", "never"))),
    ]
    began = time.monotonic()
    with pytest.raises(ValueError, match=r"bad\.log has its whole output, which ends with:\n  line 18\n") as error:
        run_chains(chains, say, lambda command: None)
    assert str(error.value).endswith("line 29")
    assert time.monotonic() - began < 50
    if waiting.exists():  # a machine of one core never began it
        with pytest.raises(ProcessLookupError):
            os.kill(int(waiting.read_text(encoding="utf-8")), 0)

"""The packaged studies: each is a plan at each of its scales, of commands that the parser takes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import jsonargparse
import pytest
import yaml

from robustlm.assets import config_file, known_studies
from robustlm.checks.run import check_run
from robustlm.cli import main, training
from robustlm.cli.arguments import groups_of, key_of, ordered
from robustlm.cli.configs import named_configs
from robustlm.cli.entry import _prepare
from robustlm.conditions.condition import parse_condition
from robustlm.studies.layers import scales_of, study_file
from robustlm.studies.plan import runs_of
from robustlm.studies.spec import Study, read_study
from robustlm.studies.variables import VARIABLES

PLANS = [(name, scale) for name in known_studies() for scale in scales_of(study_file(name)) or (None,)]


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "somewhere")


def read(name: str, scale: str | None) -> Study:
    return read_study(study_file(name), scale)


@pytest.mark.parametrize(("name", "scale"), PLANS)
def test_a_packaged_study_is_a_plan_without_model_rows_and_variables(
    name: str,
    scale: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    main(["study", name, *(() if scale is None else ("--scale", scale)), "--dry_run"])
    plan = capsys.readouterr().out
    study = read(name, scale)
    runs = runs_of(study, tmp_path)
    assert f"{len(runs)} runs, 0 finished" in plan
    assert not list(tmp_path.iterdir())
    # what stays in the plan are the variables that it names at its end
    left = {
        found for run in runs for text in (*(run.fit or ()), *run.test) for found in re.findall(r"\$([A-Z_]+)", text)
    }
    assert left == set(study.unset)
    assert all(f"{variable} is not set" in plan.splitlines()[-1] for variable in study.unset)
    assert scale != "paper" or "ROBUSTLM_BASE" not in study.unset
    for condition in study.conditions:
        assert parse_condition(condition).name == condition


@pytest.mark.usefixtures("places")
def test_the_docs_have_a_study_with_scales_and_name_all_that_are_packaged(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")
    (text,) = re.findall(r"^```yaml scales\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    file = tmp_path / "which.yaml"
    file.write_text(text, encoding="utf-8")
    mini, paper = read_study(file, "mini"), read_study(file, "paper")
    assert "--model.backbone somewhere" in " ".join(mini.fit)
    assert mini.seeds == (0,)
    assert paper.arm("noise").fit == ("--data.noise.omega", "0.3")
    assert {rows.model for rows in paper.data} == {"LLaMA2-7B"}
    known = {name for name, scale in PLANS if scale is not None}
    assert set(re.findall(r"`((?:anit|coin|align)_\w+)`", page)) == known


@pytest.mark.usefixtures("places")
def test_the_commands_of_packaged_studies_are_those_that_the_parser_takes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some of all commands, in which each option occurs with each class and each kind of value that it has anywhere."""
    seen: set[object] = set()
    parsers: dict[str, jsonargparse.ArgumentParser] = {}
    for command in commands():
        given = ordered(named_configs(command))
        if seen.issuperset(new := kinds(given)):
            continue
        seen |= new
        if command[0] not in parsers:
            parsers[command[0]] = parser_of(command[0], monkeypatch)
        try:
            found = parsers[command[0]].parse_args(given)
        except SystemExit:
            pytest.fail(f"{' '.join(command)}\n{capsys.readouterr().err}")
        check_run(command[0], found[command[0]].as_dict())


def commands() -> Iterator[Sequence[str]]:
    for name, scale in PLANS:
        study = read(name, scale)
        runs = runs_of(study, Path("runs"), seeds=study.seeds[:1])
        first = {run.arm.name: run for run in reversed(runs)} | {run.rows: run for run in reversed(runs)}
        for run in first.values():
            if run.fit is not None:
                yield run.fit_command()
            yield run.test_command()


def parser_of(command: str, monkeypatch: pytest.MonkeyPatch) -> jsonargparse.ArgumentParser:
    """The parser of a command. Making one takes longer than parsing with it."""
    made: list[jsonargparse.ArgumentParser] = []

    def keep(self: object, parser: jsonargparse.ArgumentParser, args: object) -> None:
        made.append(parser)
        raise SystemExit(0)

    _prepare([command])
    with monkeypatch.context() as patch:
        patch.setattr(training.RobustLMCLI, "parse_arguments", keep)
        with pytest.raises(SystemExit):
            training.RobustLMCLI([command])
    return made[0]


def kinds(given: Sequence[str]) -> set[object]:
    """The options of a command, each with its slot's class and its own class, kind of value, or keys of sources."""
    found: set[object] = set()
    classes = {key_of(group): group[-1] for group in groups_of(given[1:]) if key_of(group) in ("model", "data")}
    for group in groups_of(given[1:]):
        key, value = key_of(group), yaml.safe_load(" ".join(group[1:]))
        if key == "data.conditions":  # they are read above, and the parser takes any texts
            continue
        if key in ("data.train", "data.test"):
            sources = value if isinstance(value, list) else [value]
            found |= {("sources", name) for one in sources for name in (one if isinstance(one, dict) else ["path"])}
        else:
            named = isinstance(value, str) and re.fullmatch(r"[A-Za-z]+", value)
            of = classes.get(key.partition(".")[0])
            found.add((key, of, value if named else type(value).__name__))
    return {*found, given[0]}


def test_the_study_of_the_recipe_tunes_as_the_config_says() -> None:
    study, file = read_study(study_file("recommended")), config_file("recommended")
    assert file is not None
    noise = yaml.safe_load(file.read_text(encoding="utf-8"))["data"]["init_args"]["noise"]
    found = study.arm("recommended").fit
    assert found is not None
    for name, value in noise.items():
        assert yaml.safe_load(found[found.index(f"--data.noise.{name}") + 1]) == value

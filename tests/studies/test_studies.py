"""Plans of studies, runs that fail, stop or change, jobs at once, and equal compute. No model is run."""

from __future__ import annotations

import json
import logging
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from robustlm.cli import entry, main
from robustlm.cli.arguments import value_of
from robustlm.evaluation.table import SCHEMA, write_table
from robustlm.studies import stored
from robustlm.studies.plan import runs_of
from robustlm.studies.spec import read_study
from tests.studies import fake

ARMS: dict[str, dict[str, object]] = {
    "untuned": {"fit": None, "test": {"model.tuning": None}},
    "plain": {"fit": {"model": "InstructionTuning"}},
    "long, noisy": {
        "fit": "--model ANIT --each 3",
        "against": ["plain"],
        "compute": {"equal_to": "plain", "by": "passes", "trial": 4},
    },
}
STUDY: dict[str, object] = {
    "about": "What helps?",
    "both": "-c quickstart",
    "seeds": [0, 1],
    "conditions": list(fake.CONDITIONS),
    "arms": ARMS,
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with `small.yaml`, whose commands are those of `tests.studies.fake`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(entry, "main", Ran())
    write(STUDY)
    return tmp_path


class Ran:
    """Runs the commands of a study, and keeps them."""

    commands: list[Sequence[str]]

    def __init__(self) -> None:
        Ran.commands = []

    def __call__(self, command: Sequence[str]) -> None:
        Ran.commands.append(command)
        fake.main(command)


def write(study: dict[str, object], name: str = "small.yaml") -> None:
    Path(name).write_text(yaml.safe_dump(study, sort_keys=False), encoding="utf-8")


def refused(capsys: pytest.CaptureFixture[str], *args: str, status: int = 2) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(list(args))
    assert end.value.code == status
    return capsys.readouterr().err


# --- plans -------------------------------------------------------------------------------------------------------


def test_the_plan_has_commands_that_a_user_can_type_and_writes_nothing(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["study", "small.yaml", "--dry_run"])
    lines = capsys.readouterr().out.splitlines()
    assert not Path("runs").exists()
    assert [line for line in lines if line.startswith("#")] == [
        f"# {arm}, seed {seed}: to do, cost not known" for seed in (0, 1) for arm in ("untuned", "plain", "long, noisy")
    ]
    assert lines[-1] == "6 runs, 0 finished, 6 to do: not known before the first run is finished"
    typed = [shlex.split(line[2:], comments=True) for line in lines if line.startswith("$ ")]
    assert [command[1] for command in typed] == ["test", "fit", "test", "fit", "fit", "test"] * 2
    test = typed[2][1:]
    assert value_of(test, "--trainer.default_root_dir") == "runs/small/plain"
    assert value_of(test, "--run") == "seed-0"
    assert [value_of(typed[8][1:], flag) for flag in ("--seed_everything", "--data.seed")] == ["1", "1"]
    assert value_of(test, "--data.conditions") == "[clean, mixed@0.2, mixed@0.4, unseen]"
    assert value_of(typed[0][1:], "--model.tuning") == "null"
    assert Ran.commands == []


def test_the_plan_of_a_study_that_has_begun_knows_the_cost(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["study", "small.yaml", "--seeds=[0]"])
    for file in Path("runs").rglob("tested.json"):
        file.write_text(json.dumps({"took": 60, "jobs": 1}), encoding="utf-8")
    for file in Path("runs").rglob("fitted.json"):
        file.write_text(json.dumps({"took": 120, "jobs": 1}), encoding="utf-8")
    capsys.readouterr()
    main(["study", "small.yaml", "--dry_run", "true"])
    lines = capsys.readouterr().out.splitlines()
    assert "# plain, seed 0: finished" in lines
    assert "# untuned, seed 1: to do, about 60 s" in lines
    assert "# plain, seed 1: to do, about 3 min" in lines
    assert lines[-1] == "6 runs, 3 finished, 3 to do: about 7 min, 1 at a time"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"data": {"a": {"after": "b"}}}, "data: a: after: found 'b'; expected another data set of this study"),
        ({"data": {"a": {"after": "a"}}}, "data: a: after: found 'a'; expected another data set"),
        ({"models": {"a": {"set": {"x": 1}}}}, "models: a: set: found 'x': 1; expected names in capitals"),
        ({"models": {}}, "models: found none; expected a name and options for each"),
        ({"models": {"a": {"after": "b"}}}, "models: a: found the key 'after'; expected some of both, fit, test"),
        ({"models": {"a": ""}, "data": {"b": "", "b,": ""}}, "models and data: two names would share a folder"),
        ({"like": 3}, "like: found 3; expected the name or the file of another study"),
        ({"scales": {"mini": {"like": "x"}}}, "scales: mini: found the key 'like', which only a whole file may have"),
        ({"armz": {}}, "the file: found the key 'armz'; expected some of about, both"),
        ({"arms": {}}, "arms: found none"),
        ({"arms": {"a": {"fitt": "-c x"}}}, "arms: a: found the key 'fitt'; expected some of like, fit"),
        ({"arms": {"a": {"fit": "ANIT"}}}, "arms: a: fit: found 'ANIT' first; expected an option"),
        ({"arms": {"a": {"fit": "--x 'y"}}}, "arms: a: fit: found \"--x 'y\", which a shell could not read"),
        ({"arms": {"a": {"like": "b"}}}, "arms: a: like: found 'b'; expected an arm above it: none"),
        ({"arms": {"a": {"weights": "a"}}}, "arms: a: weights: found 'a'; expected an arm above it"),
        (
            {"arms": {"a": None, "b": {"fit": None}, "c": {"weights": "b"}}},
            "arms: c: weights: found 'b'; expected an arm above it that is tuned: a",
        ),
        (
            {"arms": {"a": None, "b": {"weights": "a"}, "c": {"like": "b", "fit": "--x 1"}}},
            "arms: c: fit: found options, but its weights are those of 'a'; expected one of both",
        ),
        (
            {
                "arms": {"a": None, "b": {"weights": "a"}},
                "sweeps": {"s": {"like": "b", "setting": "x", "values": [1, 2]}},
            },
            "sweeps: s: like: 'b' has the weights of 'a'; expected an arm that is tuned",
        ),
        ({"arms": {"a": {"against": "b"}}}, "arms: a: against: found 'b'; expected other arms"),
        ({"arms": {"a b": None, "a,b": None}}, "'a,b' and 'a b' would share the folder a-b"),
        ({"arms": {"a": None, "b": {"compute": {"equal_to": "c"}}}}, "b: compute: equal_to: found 'c'; expected"),
        ({"arms": {"a": None, "b": {"compute": {"equal_to": "a", "by": "x"}}}}, "by: found 'x'; expected passes or"),
        ({"arms": {"a": None, "b": {"compute": {"equal_to": "a", "trial": 1}}}}, "trial: found 1; expected 2 or more"),
        ({"arms": {"a": {"fit": None}, "b": {"compute": {"equal_to": "a"}}}}, "expected another arm that is tuned"),
        ({"seeds": [0, 0]}, "seeds: found [0, 0]; expected different whole numbers"),
        ({"seeds": 3}, "seeds: found 3"),
        ({"conditions": [1]}, "conditions: found [1]; expected a list of texts"),
        ({"sweeps": {"e": {"setting": "model.x", "values": [1]}}}, "sweeps: e: values: found [1]; expected two"),
        ({"sweeps": {"e": {"values": [1, 2]}}}, "sweeps: e: setting: found None"),
        ({"data": {"a": {"train": "x"}}}, "data: a: found the key 'train'; expected some of both, fit, test"),
        ({"shared_time": "yes"}, "shared_time: found 'yes'; expected true or false"),
    ],
)  # fmt: skip
def test_a_wrong_study_is_refused_by_its_key(
    change: dict[str, object], said: str, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(STUDY | change)
    error = refused(capsys, "study", "small.yaml")
    assert "study: small.yaml: " in error
    assert said in error
    assert not Path("runs").exists()


def test_broken_yaml_and_unknown_names_are_refused(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("broken.yaml").write_text("arms:\n  a: [", encoding="utf-8")
    assert "study: broken.yaml:2: broken YAML" in refused(capsys, "study", "broken.yaml")
    assert "study: nowhere: found nothing; expected a YAML file" in refused(capsys, "study", "nowhere")
    assert "arms: found 'plane'; expected some of untuned, plain" in refused(
        capsys, "study", "small.yaml", "--arms=[plane]"
    )
    assert "seeds: found 7; expected some of 0, 1" in refused(capsys, "study", "small.yaml", "--seeds=[7]")
    assert "'long, noisy' needs 'plain'" in refused(capsys, "study", "small.yaml", "--arms=['long, noisy']")
    assert "jobs: found 2 with --executor here" in refused(capsys, "study", "small.yaml", "--jobs=2", "--executor=here")


def test_arms_take_over_options_and_sweeps_make_arms(site: Path) -> None:
    arms = {
        "plain": {"fit": {"model": "ANIT", "data.train": [{"path": "x", "limit": 3}]}, "against": []},
        "same": {"like": "plain", "fit": "--model.adversary null", "against": "plain"},
    }
    sweeps = {"epsilon": {"like": "plain", "setting": "model.adversary.epsilon", "values": [0, 0.5]}}
    data = {"a": {"both": "--data.max_length 9", "test": "--data.test a"}, "b": {}}
    write({**STUDY, "arms": arms, "sweeps": sweeps, "data": data})
    study = read_study(Path("small.yaml"))
    plain = study.arm("plain").fit
    assert plain == ("--model", "ANIT", "--data.train", "[{limit: 3, path: x}]")
    assert study.arm("same").fit == (*plain, "--model.adversary", "null")
    assert study.arm("epsilon 0.5").fit == (*plain, "--model.adversary.epsilon", "0.5")
    assert study.arm("epsilon 0").sweep == ("epsilon", 0.0)
    runs = runs_of(study, Path("r"))
    assert len(runs) == 2 * 2 * 4
    assert runs[0].folder == Path("r/a/plain/seed-0")
    assert runs[0].test[-2:] == ("--data.test", "a")


def test_a_scale_and_a_study_that_it_is_like_add_to_a_file(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scales: dict[str, Any] = {
        "mini": {"both": "--data.max_length 9", "arms": {"plain": {"fit": "--trainer.max_steps 5"}}, "seeds": [7]},
        "paper": {"fit": {"trainer.max_epochs": 3}, "models": {"A": "--model.backbone a", "B": {"fit": "--x 1"}}},
    }
    write({**STUDY, "data": {"d": "--data.test d", "e": None}, "scales": scales}, "first.yaml")
    more = {"like": "first", "about": "More.", "both": "--data.instructions concise"}
    more["scales"] = {"mini": {"arms": {"plain": {"test": "--y 2"}}}}  # type: ignore[assignment]
    more["arms"] = {"third": {"like": "plain", "fit": ["--a 1", {"b": 2}]}}  # type: ignore[assignment]
    write(more)
    study = read_study(Path("small.yaml"), "mini")
    assert (study.name, study.about, study.seeds) == ("small-mini", "More.", (7,))
    assert study.fit == ("-c", "quickstart", "--data.instructions", "concise", "--data.max_length", "9")
    plain = ("--model", "InstructionTuning", "--trainer.max_steps", "5")
    assert study.arm("plain").fit == plain
    assert study.arm("plain").test == ("--y", "2")
    assert study.arm("third").fit == (*plain, "--a", "1", "--b", "2")
    assert [rows.name for rows in study.data] == ["d", "e"]
    scales["paper"]["models"]["A"] = {"both": "--model.backbone a", "set": {"WHERE": "there"}}
    write({**STUDY, "data": {"d": "--data.test $WHERE/d", "e": None}, "scales": scales}, "first.yaml")
    paper = read_study(Path("small.yaml"), "paper")
    assert [(rows.name, rows.model, rows.data) for rows in paper.data] == [
        (f"{model}, {data}", model, data) for model in "AB" for data in "de"
    ]
    assert runs_of(paper, Path("r"))[1].test[-4:] == ("--model.backbone", "a", "--data.test", "there/d")
    assert paper.data[3].test == ()
    assert paper.fit[-2:] == ("--trainer.max_epochs", "3")

    for args, said in (
        ((), "scale: found none; expected --scale with one of mini, paper"),
        (("--scale=midi",), "scale: found 'midi'; expected --scale with one of mini, paper"),
    ):
        assert said in refused(capsys, "study", "small.yaml", *args)
    write(STUDY)
    assert "expected no --scale: this study has no scales" in refused(capsys, "study", "small.yaml", "--scale=mini")
    main(["study", "first.yaml", "--scale=mini"])
    assert Path("runs/first-mini/d/plain/seed-7").is_dir()


def test_a_study_that_begins_with_itself_is_refused(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write({"like": "other"})
    write({"like": "small"}, "other.yaml")
    assert "study: other.yaml: like: found 'small', which begins with this study" in refused(
        capsys, "study", "small.yaml"
    )


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"arms": {"plain": {"set": 3}}}, "arms: plain: set: found 3; expected keys and values"),
        ({"sweeps": {"size": {"scales": [1]}}}, "sweeps: size: scales: found [1]; expected keys and values"),
        ({"scales": {"mini": 5}}, "scales: mini: found 5; expected keys and values"),
        ({"scales": {"mini": {"set": 3}}}, "scales: mini: set: found 3; expected keys and values"),
        (
            {"scales": {"mini": {"arms": {"plain": {"arms": 4}}}}},
            "scales: mini: arms: plain: arms: found 4; expected keys and values",
        ),
    ],
)
def test_a_fault_in_a_layer_is_named_by_its_place(
    more: dict[str, object], said: str, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(STUDY, "first.yaml")
    write({"like": "first", **more})
    assert f"study: small.yaml: {said}" in refused(capsys, "study", "small.yaml")


def test_variables_are_filled_in_and_those_that_are_missing_are_named(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ROBUSTLM_BASE", raising=False)
    monkeypatch.setenv("ROBUSTLM_DATA", "sets")
    both = [
        "-c quickstart --model.backbone $ROBUSTLM_BASE",
        {"data.test": [{"path": "$ROBUSTLM_DATA/sst2", "limit": 3}]},
    ]
    write({**STUDY, "both": both})
    error = refused(capsys, "study", "small.yaml")
    assert "study: small.yaml: ROBUSTLM_BASE is not set; expected the folder or hub name of a small base model" in error
    assert "(export ROBUSTLM_BASE=…). docs/studies.md says how to get" in error
    assert not Path("runs").exists()
    main(["study", "small.yaml", "--dry_run"])
    out = capsys.readouterr().out
    assert "ROBUSTLM_BASE is not set" in out.splitlines()[-1]
    assert "--data.test '[{limit: 3, path: sets/sst2}]'" in out
    monkeypatch.setenv("ROBUSTLM_BASE", "a folder")
    study = read_study(Path("small.yaml"))
    assert study.fit[:4] == ("-c", "quickstart", "--model.backbone", "a folder")
    assert study.unset == ()


@pytest.mark.parametrize("typed", [["--seeds", "0", "1"], ["--seeds", "0,1"], ["--seeds=0, 1"], ["--seeds=[0, 1]"]])
def test_seeds_are_given_as_people_write_them(typed: list[str], site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["study", *typed, "--arms", "plain", "small.yaml", "--dry_run"])
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("#")]
    assert shown == [f"# plain, seed {seed}: to do, cost not known" for seed in (0, 1)]


# --- runs --------------------------------------------------------------------------------------------------------


def test_the_results_are_one_table_and_a_second_call_runs_nothing(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["study", "small.yaml"])
    out, err = capsys.readouterr()
    assert err.splitlines()[0] == "0 of 6 runs finished, now: untuned, seed 0, time left is known after the first run"
    assert err.splitlines()[-1] == "6 of 6 runs finished"
    assert out.splitlines()[-1] == "next: robustlm report runs/small --output runs/small/report"
    table = pq.read_table("runs/small/results.parquet")
    assert table.column_names == ["arm", "seed", "data", *SCHEMA.names]
    expected = [
        (arm, seed, row.sample_id, row.condition, row.correct)
        for seed in (0, 1)
        for arm, folder in (("untuned", "untuned"), ("plain", "plain"), ("long, noisy", "long-noisy"))
        for row in fake.answers(folder, seed)
    ]
    names = ("arm", "seed", "sample_id", "condition", "correct")
    found = zip(*(table.column(name).to_pylist() for name in names), strict=True)
    assert sorted(found) == sorted(expected)
    log = Path("runs/small/plain/seed-1/output.log").read_text(encoding="utf-8")
    assert log.startswith("$ robustlm fit -c quickstart --seed_everything 1 ")
    assert "fit of plain" in log
    assert "fit of plain" not in out

    before = len(Ran.commands)
    main(["study", "small.yaml"])
    assert len(Ran.commands) == before
    assert pq.read_table("runs/small/results.parquet").equals(table)


def test_messages_of_a_library_go_to_the_log_of_the_run_that_they_are_about(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that a command imports keeps the stream of that time for all of its messages."""
    logger = logging.getLogger("tests.kept")
    monkeypatch.setattr(logger, "handlers", [])

    def logs(command: Sequence[str]) -> None:
        if not logger.handlers:
            logger.addHandler(logging.StreamHandler())
        logger.warning("a message of %s", command[0])
        fake.main(command)

    monkeypatch.setattr(entry, "main", logs)
    main(["study", "small.yaml", "--arms", "plain", "--seeds", "0,1"])
    for seed in (0, 1):
        text = Path(f"runs/small/plain/seed-{seed}/output.log").read_text(encoding="utf-8")
        assert [line for line in text.splitlines() if "message" in line] == ["a message of fit", "a message of test"]
        assert "Logging error" not in text
    assert "message" not in capsys.readouterr().err


def test_a_run_that_fails_stops_no_other_and_is_named_at_the_end(
    site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arms = {**ARMS, "bad": {"fit": "--model ANIT --fails"}, "needs": {"compute": {"equal_to": "bad"}}}
    write({**STUDY, "arms": arms, "seeds": [0]})
    error = refused(capsys, "study", "small.yaml", status=1)
    assert error.splitlines()[-3:] == [
        "not finished:",
        "  bad, seed 0: `fit` ended with status 2 (see runs/small/bad/seed-0/output.log)",
        "  needs, seed 0: not begun: 'bad' was not tuned (see runs/small/needs/seed-0/output.log)",
    ]
    assert "3 of 5 runs finished, 2 failed" in error
    assert set(pq.read_table("runs/small/results.parquet").column("arm").to_pylist()) == {
        "untuned", "plain", "long, noisy",
    }  # fmt: skip


def test_a_signal_ends_the_study_and_the_same_command_goes_on(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(command: Sequence[str]) -> None:
        if command[0] == "fit":
            raise SystemExit(143)
        fake.main(command)

    monkeypatch.setattr(entry, "main", told)
    error = refused(capsys, "study", "small.yaml", status=130)
    assert error.splitlines()[-1] == "stopped; the same command goes on"
    monkeypatch.setattr(entry, "main", Ran())
    main(["study", "small.yaml"])
    assert len(Ran.commands) == 5 * 2 - 2 + 2 + 1  # all but the test of the untuned model with the first seed
    assert capsys.readouterr().err.splitlines()[-1] == "6 of 6 runs finished"


def test_a_study_that_is_killed_leaves_the_results_of_its_finished_runs(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    def killed(command: Sequence[str]) -> None:
        if command[0] == "fit":
            raise Killed
        fake.main(command)

    monkeypatch.setattr(entry, "main", killed)
    with pytest.raises(Killed):
        main(["study", "small.yaml"])
    assert set(pq.read_table("runs/small/results.parquet").column("arm").to_pylist()) == {"untuned"}
    main(["report", "runs/small", "--output", "report"])
    assert "untuned" in Path("report/study.md").read_text(encoding="utf-8")


def test_a_data_set_may_come_after_another_one(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = {"few": {"fit": "--data.train few", "after": "many"}, "many": {"fit": "--data.train many"}}
    write({**STUDY, "data": data, "seeds": [0]})
    main(["study", "small.yaml"])
    assert "6 of 6 runs finished" in capsys.readouterr().err
    fits = {(value_of(one, "--trainer.default_root_dir"), value_of(one, "--data.train")): one for one in Ran.commands}
    first = fits["runs/small/few/plain", "few"]
    assert value_of(first, "--model.backbone") == "runs/small/many/plain/seed-0/fit/adapter"
    assert value_of(fits["runs/small/many/plain", "many"], "--model.backbone") is None
    for test in (one for one in Ran.commands if one[0] == "test"):  # its weights are loaded into the same model
        begun = "few" in str(value_of(test, "--trainer.default_root_dir")) and "untuned" not in str(test)
        assert (value_of(test, "--model.backbone") is not None) == begun
    steps = stored.read_json(Path("runs/small/few/long-noisy/seed-0/equal.json"))
    assert steps is not None
    assert steps["steps"] == 4
    write({**STUDY, "data": {**data, "many": {"fit": "--data.train more"}}, "seeds": [0]})
    assert "few, plain, seed 0: after: stored: runs/small/many/plain/seed-0 -c quickstart" in refused(
        capsys, "study", "small.yaml"
    )


def test_runs_after_one_that_fails_are_not_begun(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = {"few": {"after": "many"}, "many": {"fit": "--fails"}}
    arms = {"plain": ARMS["plain"], "long, noisy": ARMS["long, noisy"]}
    write({**STUDY, "data": data, "seeds": [0], "arms": arms})
    error = refused(capsys, "study", "small.yaml", status=1)
    assert "few, plain, seed 0: not begun: 'plain' on 'many' was not tuned" in error
    assert "0 of 4 runs finished, 4 failed" in error


def test_an_arm_tests_the_weights_of_another_one(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arms: dict[str, object] = {
        "plain": {"fit": "--model InstructionTuning", "test": "--x 1"},
        "random": {"weights": "plain", "test": "--data.attack.search random"},
        "noisy": ARMS["long, noisy"],
        "greedy": {"weights": "noisy", "like": "random", "test": "--data.attack.search greedy"},
        "patient": {"like": "random", "test": "--data.attack.budget 9", "against": ["random"]},
    }
    data = {"few": {"after": "many"}, "many": {}}
    write({**STUDY, "arms": arms, "data": data, "seeds": [0]})
    main(["study", "small.yaml"])
    assert "10 of 10 runs finished" in capsys.readouterr().err
    assert [one[0] for one in Ran.commands].count("fit") == 2 * (1 + 2)  # the second arm is preceded by a short fit
    assert len(Ran.commands) == 2 * (1 + 2 + 5)
    tests = {str(value_of(one, "--trainer.default_root_dir")): one for one in Ran.commands if one[0] == "test"}
    for arm, tuned in (("random", "plain"), ("greedy", "noisy"), ("patient", "plain")):
        for rows in data:
            test = tests[f"runs/small/{rows}/{arm}"]
            assert value_of(test, "--ckpt_path") == f"runs/small/{rows}/{tuned}/seed-0/fit"
            assert value_of(test, "--x") == "1"
            # the weights of an adapter are loaded into the model that its fit began with
            begun = value_of(tests[f"runs/small/{rows}/{tuned}"], "--model.backbone")
            assert value_of(test, "--model.backbone") == begun
    assert value_of(tests["runs/small/many/plain"], "--ckpt_path") is None
    assert value_of(tests["runs/small/many/patient"], "--data.attack.search") == "random"

    write({**STUDY, "arms": {**arms, "plain": {"fit": "--model ANIT", "test": "--x 1"}}, "data": data, "seeds": [0]})
    refused(capsys, "study", "small.yaml")
    changed = [
        line for run in runs_of(read_study(Path("small.yaml")), Path("runs/small")) for line in stored.changed(run)
    ]
    named = {line.partition(", seed 0: weights: stored: fit ")[0] for line in changed if "weights" in line}
    # the steps of `noisy` are those that cost what `plain` costs, and `greedy` has its weights
    assert named == {f"{rows}, {arm}" for rows in data for arm in ("random", "greedy", "patient")}
    assert "arms: 'random' needs 'plain', whose weights it tests; name both" in refused(
        capsys, "study", "small.yaml", "--arms=[random]"
    )


def test_weights_of_a_run_that_fails_are_not_tested(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arms = {"bad": {"fit": "--model ANIT --fails"}, "again": {"weights": "bad"}}
    write({**STUDY, "arms": arms, "seeds": [0]})
    error = refused(capsys, "study", "small.yaml", status=1)
    assert "  again, seed 0: not begun: 'bad' was not tuned (see" in error


def test_an_answer_that_is_missing_is_asked_again(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    main(["study", "small.yaml", "--arms=[plain]", "--seeds=[0]"])
    file = Path("runs/small/plain/seed-0/test/predictions.parquet")
    rows = fake.answers("plain", 0)
    rows[3].error = "no answer"
    write_table(file, rows)
    Ran.commands.clear()
    main(["study", "small.yaml", "--arms=[plain]", "--seeds=[0]"])
    (again,) = Ran.commands
    assert again[0] == "test"
    assert value_of(again, "--predictions.resume") == "runs/small/plain/seed-0/test"
    assert value_of(again, "--predictions.retry_failed") == "true"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"fit": "--data.batch_size 4"}, "plain, seed 0: fit: stored: -c quickstart --seed_everything 0"),
        ({"conditions": ["clean"]}, "plain, seed 0: test: stored: -c quickstart --seed_everything 0"),
    ],
)
def test_a_changed_study_is_loud(
    change: dict[str, object], said: str, site: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["study", "small.yaml"])
    write(STUDY | change)
    Ran.commands.clear()
    error = refused(capsys, "study", "small.yaml")
    assert "runs/small holds runs that were made by other commands, configs or code" in error
    assert said in error
    assert "--changed redo" in error
    assert Ran.commands == []
    main(["study", "small.yaml", "--dry_run"])
    assert said in capsys.readouterr().out

    main(["study", "small.yaml", "--changed=keep"])
    assert Ran.commands == []
    shutil.rmtree("runs/small/plain/seed-0/test")
    main(["study", "small.yaml", "--changed=keep"])  # a run that is not finished would be a mixture
    again = [command[0] for command in Ran.commands]
    assert again == (["test"] if "conditions" in change else ["fit", "test"])
    Ran.commands.clear()
    main(["study", "small.yaml", "--changed=redo"])
    kinds = [command[0] for command in Ran.commands]
    # another test needs no other fit, and another fit no other test of what is not tuned
    assert (kinds.count("fit"), kinds.count("test")) == ((0, 5) if "conditions" in change else (5, 3))
    Ran.commands.clear()
    main(["study", "small.yaml"])
    assert Ran.commands == []


def test_an_arm_of_equal_compute_changes_with_the_other_arm(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["study", "small.yaml"])
    write({**STUDY, "arms": {**ARMS, "plain": {"fit": "--model InstructionTuning --trainer.max_steps 20"}}})
    assert "long, noisy, seed 0: compute: stored: plain passes 4" in refused(capsys, "study", "small.yaml")
    main(["study", "small.yaml", "--changed=redo"])
    equal = stored.read_json(Path("runs/small/long-noisy/seed-1/equal.json"))
    assert equal is not None
    assert equal["steps"] == 8  # 24 steps' worth of `plain`, three times as long each


def test_other_code_and_other_configs_are_loud(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("own.yaml").write_text("data: {batch_size: 3}", encoding="utf-8")
    write({**STUDY, "both": "-c own.yaml"})
    main(["study", "small.yaml"])
    Path("own.yaml").write_text("data: {batch_size: 4}", encoding="utf-8")
    assert "plain, seed 0: configs: stored: own.yaml" in refused(capsys, "study", "small.yaml")
    Path("own.yaml").write_text("data: {batch_size: 3}", encoding="utf-8")
    monkeypatch.setattr(stored, "_code", lambda: "another")
    assert "plain, seed 0: code: stored:" in refused(capsys, "study", "small.yaml")


def test_a_folder_that_nothing_explains_is_refused(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["study", "small.yaml"])
    (Path("runs/small/plain/seed-0") / stored.MADE_BY).unlink()
    Path("runs/small/plain/seed-0/fit/config.yaml").touch()
    assert "holds a run of which nothing says what made it" in refused(capsys, "study", "small.yaml")


# --- equal compute -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["passes", "time"])
def test_an_arm_gets_the_steps_that_cost_as_much(by: str, site: Path) -> None:
    long = ARMS["long, noisy"] | {"compute": {"equal_to": "plain", "by": by, "trial": 10}}
    write({**STUDY, "arms": {**ARMS, "long, noisy": long}, "seeds": [0]})
    main(["study", "small.yaml"])
    fits = [command for command in Ran.commands if command[0] == "fit"]
    assert [value_of(command, "--trainer.max_steps") for command in fits] == [None, "10", "4"]
    # plain: 10 steps, of which the first is five times as long, so 14 steps; here each is three times as long: 4.67
    assert stored.read_json(Path("runs/small/long-noisy/seed-0/equal.json")) == {
        "to": "plain", "by": by, "spent": 28.0, "each_step": 6.0, "steps": 4,
    }  # fmt: skip


def test_time_is_not_measured_by_jobs_that_share_a_machine(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arms = {"a": None, "b": {"compute": {"equal_to": "a", "by": "time"}}}
    write({**STUDY, "arms": arms})
    error = refused(capsys, "study", "small.yaml", "--jobs=2")
    assert "b: compute: by: time, and 2 jobs would share this machine" in error
    assert "`shared_time: true`" in error
    write({**STUDY, "arms": arms, "shared_time": True})
    main(["study", "small.yaml", "--jobs=2", "--dry_run"])
    assert "jobs share this machine, so wall clock of arms does not compare" in capsys.readouterr().out


# --- jobs --------------------------------------------------------------------------------------------------------


def test_two_jobs_run_at_once(site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Real processes: each fit waits for the other one."""
    pytest.importorskip("submitit")
    Path("meet").mkdir()
    monkeypatch.setenv(fake.WAITS, str(site / "meet"))
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    monkeypatch.setattr(entry, "main", fake.main)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    arms = {"one": {"fit": "--model ANIT"}, "two": {"fit": "--model ANIT"}, "bad": {"fit": "--model ANIT --fails"}}
    write({**STUDY, "arms": arms, "seeds": [0]})
    error = refused(capsys, "study", "small.yaml", "--jobs=2", status=1)
    assert "  bad, seed 0: `fit` ended with status 2" in error
    assert "2 of 3 runs finished, 1 failed" in error
    assert len(list(Path("meet").iterdir())) == 2
    assert {run["jobs"] for run in json.loads(Path("runs/small/study.json").read_text(encoding="utf-8"))["runs"]} == {2}
    main(["report", "runs/small"])
    assert "wall clock does not compare arms" in capsys.readouterr().out


def test_jobs_of_a_cluster_go_through_submitit(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the stand-in for Slurm that submitit tests itself with: the job script is written and submitted."""
    slurm = pytest.importorskip("submitit.slurm.test_slurm")
    from robustlm.studies.executors import Submitted
    from robustlm.studies.work import Work

    (run,) = runs_of(read_study(Path("small.yaml")), site / "r", ["plain"], [0])
    with slurm.mocked_slurm():
        made = Submitted("slurm", site / "r" / "jobs", 2, {"slurm_partition": "gpu", "timeout_min": 5})
        made.begin(Work(run, fake.main, 2))
        script = next((site / "r" / "jobs").glob("*.sh")).read_text(encoding="utf-8")
        assert "--partition=gpu" in script
        assert "--time=5" in script
        assert stored.read_json(run.folder / "job.json") == {"kind": "slurm", "id": "12"}
        shutil.rmtree(site / "r" / "jobs")
        again = made.begin(Work(run, fake.main, 2))  # the job waits in the queue: no second one
        assert not again.done()
        assert not list((site / "r").glob("jobs/*.sh"))


def test_without_submitit_jobs_say_what_to_install(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "submitit", None)
    assert "pip install 'robustlm[study]'" in refused(capsys, "study", "small.yaml", "--jobs=2")
    main(["study", "small.yaml"])

"""Every packaged config parses, keeps to the names that exist, and the presets train."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from robustlm.assets import known_configs
from robustlm.cli import main

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = known_configs()
ROWS = [
    {"instruction": "Name the entities.", "adv_instruction": "Name teh the entities.", "input": "Ada is in Oslo."},
    {"instruction": "List all names in it.", "adv_instruction": "names all List in it.", "input": "Bo met Cy."},
    {"instruction": "Which names occur?", "adv_instruction": "Which names occur?", "input": "It rains."},
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    rows = [{**row, "question": "", "format": "type: word", "option": "PER, LOC", "output": "None"} for row in ROWS]
    Path("rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    sizes = "--vocab_size 300 --hidden_size 16 --layers 1 --heads 2 --intermediate_size 32"
    main(shlex.split(f"init model rows.jsonl {sizes}"))
    return tmp_path


def differences(given: object, printed: object, where: str = "") -> list[str]:
    """Settings that a layer gives and that the printed config lacks."""
    if isinstance(given, dict):
        found = printed if isinstance(printed, dict) else {}
        return [one for name, value in given.items() for one in differences(value, found.get(name), f"{where}.{name}")]
    if isinstance(given, list):
        missing = [value for value in given if all(differences(value, one) for one in (printed or []))]  # type: ignore[attr-defined]
        return [f"{where}: {value}" for value in missing]
    if where.endswith("class_path"):  # printed with its module
        return [] if str(printed).endswith(str(given)) else [f"{where}: {printed}"]
    return [] if given == printed else [f"{where}: {printed}"]


@pytest.mark.parametrize("name", NAMES)
def test_a_config_parses(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text(encoding="utf-8"))
    layer = "seed_everything" not in given  # such a config goes on top of a method's
    with pytest.raises(SystemExit) as end:
        main(["fit", *(("-c", "anit") if layer else ()), "-c", name, "--model.backbone", "model", "--print_config"])
    assert not end.value.code, capsys.readouterr().err
    printed = yaml.safe_load(capsys.readouterr().out)
    if layer and not name.startswith("trainer/"):
        assert not differences(given, printed)
    elif layer:
        wanted = given["trainer"]["strategy"]
        found = printed["trainer"]["strategy"]
        assert found == wanted or wanted.items() <= {**found, "init_args": wanted.get("init_args")}.items()
        assert (wanted == "ddp") or (wanted.get("init_args") or {}).items() <= found["init_args"].items()
    else:
        assert printed["seed_everything"] == given["seed_everything"]


@pytest.mark.parametrize("name", NAMES)
def test_every_config_says_what_it_is_and_how_to_start_it(name: str) -> None:
    first = (CONFIGS / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert first[0].startswith("# ")


def test_the_released_preset_trains_as_the_released_code_does(folder: Path) -> None:
    command = """
        fit -c presets/anit_released --model.backbone model --model.loading.scratch true
        --data.train rows.jsonl --data.batch_size 3 --trainer.max_epochs 2 --trainer.accelerator cpu
        --trainer.log_every_n_steps 1 --trainer.enable_progress_bar false
    """
    main(shlex.split(command))
    lines = (folder / "runs/version_0/metrics.csv").read_text(encoding="utf-8").splitlines()
    names = lines[0].split(",")
    steps = [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]
    steps = [row for row in steps if row.get("nrm/delta_norm")]
    assert len(steps) == 2
    for row in steps:
        assert float(row["nrm/clipped_share"]) == 0  # nothing is projected
        # β differs from row to row: the clean one starts at 5.77, the noisy ones below
        assert 2 < float(row["nrm/delta_norm"]) < 5.9
        assert abs(float(row["nrm/gradient_cosine"])) < 0.2  # the direction is that of the random start


def test_a_folder_of_runs_does_not_hide_the_config_of_its_name(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "coin").mkdir()
    with pytest.raises(SystemExit) as end:
        main(["fit", "-c", "coin", "--model.backbone", "model", "--print_config"])
    assert not end.value.code, capsys.readouterr().err
    assert "ContrastiveTuning" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "negatives"), [("coin", 1), ("presets/coin_released", 0), ("robust", 0)])
def test_the_negatives_of_a_contrast(
    name: str, negatives: int, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`coin` has the paper's negatives, under the anchor's instruction; the others have other rows' variants."""
    with pytest.raises(SystemExit):
        main(["fit", "-c", name, "--model.backbone", "model", "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["data"]["init_args"]["negatives"] == negatives


def test_the_contrast_trains_as_published_and_as_released(folder: Path) -> None:
    rows = [
        {"text": f"text {i}", "label": ("good", "bad")[i % 2], "labels": ["good", "bad"], "bank": "sentiment"}
        for i in range(8)
    ]
    Path("mood.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    main(shlex.split("pairs mood.jsonl pairs.csv --form coin"))
    runs = (("coin", "mood.jsonl", 2 + 4), ("presets/coin_released", "pairs.csv", 2))
    for number, (name, source, candidates) in enumerate(runs):
        command = f"""
            fit -c {name} --model.backbone model --model.loading.scratch true --data.train {source}
            --trainer.max_epochs 1 --trainer.accelerator cpu --trainer.log_every_n_steps 1
            --trainer.accumulate_grad_batches 1 --trainer.enable_progress_bar false
        """
        extra = "--data.batch_size 4 " if name == "coin" else ""
        main(shlex.split(command + extra))
        lines = (folder / f"runs/version_{number}/metrics.csv").read_text(encoding="utf-8").splitlines()
        names = lines[0].split(",")
        steps = [dict(zip(names, line.split(","), strict=True)) for line in lines[1:]]
        counts = [float(row["contrast/candidates"]) for row in steps if row["contrast/candidates"]]
        assert counts
        assert all(candidates - 2 <= count <= candidates for count in counts)

"""States from a test to tables and pictures, through the command line."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from robustlm.cli import main
from robustlm.evaluation.displacement import NUMBERS
from robustlm.evaluation.hidden_state_table import (
    HiddenStatePart,
    HiddenStateTable,
    clear_hidden_states,
    merge_hidden_states,
)
from robustlm.evaluation.table import TableWriter, read_table
from robustlm.report.hidden_state_pictures import _chosen, _file_names
from tests.processes import side_by_side
from tests.tiny import write_rows

QUIET = ("--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false",
         "--trainer.logger=false")  # fmt: skip


def test_the_folder_of_a_study_stands_for_its_arms(
    tested: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = next(tested.rglob("predictions.parquet")).parent
    for arm in ("plain", "long-noisy"):
        for seed in (3, 4):
            copied(run, tmp_path / "study" / arm / f"seed-{seed}" / "test", scaled=2.0 if arm == "plain" else None)
    runs = [{"arm": arm, "seed": seed, "data": ""} for seed in (3, 4) for arm in ("plain", "long, noisy")]
    about = {"name": "s", "about": "", "arms": {"plain": {}, "long, noisy": {}}, "runs": runs}
    (tmp_path / "study" / "study.json").write_text(json.dumps(about), encoding="utf-8")
    (tmp_path / "study" / "results.parquet").touch()
    main(["states", str(tmp_path / "study"), "--draws", "0"])
    said = capsys.readouterr().out
    assert "plain, seed 3" in said
    assert "long, noisy, seed 3" in said
    assert "seed 4" not in said


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model, tested on the built-in corpus."""
    folder = tmp_path_factory.mktemp("tested")
    main(["test", "-c", "robustness", "--model.backbone", "builtin:tiny", "--data.samples", "3", "--data.prompts", "2",
          "--data.test", "[{path: builtin:quickstart, limit: 60}]", "--data.conditions", "[clean, mixed@0.3, unseen]",
          "--model.max_new_tokens", "4", "--states.layer", "-2", "--trainer.default_root_dir", str(folder),
          *QUIET])  # fmt: skip
    return folder


def copied(run: Path, target: Path, *, scaled: float | None = None, layer: int = -2, skip: int = 0) -> Path:
    """Another run with the same answers, whose states are multiples of the first's, without the first few."""
    shutil.copytree(run, target)
    if scaled is not None:
        table = HiddenStateTable(run / "states.parquet")
        writer = HiddenStatePart(target / "states.parquet")
        writer.write(table.keys[skip:], np.float32(scaled) * table.read(range(skip, len(table.keys))))
        writer.close()
        merge_hidden_states(target / "states.parquet", ["clean"], {"layer": layer, "position": "prompt_end"})
        clear_hidden_states(target / "states.parquet")
        if skip:
            predictions = TableWriter(target / "predictions.parquet")
            predictions.write(read_table(run / "predictions.parquet")[skip:])
            predictions.close()
            predictions.merge(["clean"])
    return target


def test_a_test_keeps_a_state_for_each_row(tested: Path) -> None:
    rows = read_table(tested / "predictions.parquet")
    table = HiddenStateTable(tested / "states.parquet")
    assert table.keys == [row.cell for row in rows]
    assert (len(rows), table.width, table.layer, table.position) == (6 * 3 * 2 * 3, 128, -2, "prompt_end")
    assert np.isfinite(table.read(range(len(rows)))).all()
    assert [file.name for file in tested.glob("*.part-*")] == []


def test_states_prints_and_writes(tested: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = copied(tested, tmp_path / "other", scaled=3)
    out = tmp_path / "out"
    capsys.readouterr()
    main(["states", f"before={tested}", f"after={other}", "--draws", "50", "--output", str(out), "--points", "30"])
    printed = capsys.readouterr().out
    text = (out / "states.md").read_text(encoding="utf-8")
    assert printed.startswith(text)
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    before, after = (next(line for line in lines if line[:2] == ["unseen", run]) for run in ("before", "after"))
    names = ["condition", "run", *NUMBERS]
    for name in ("ratio", "relative", "own"):
        assert before[names.index(name)] == after[names.index(name)] != "-"
    assert before[names.index("distance")] != after[names.index("distance")]

    numbers = list(csv.DictReader((out / "states.csv").open(encoding="utf-8")))
    found = json.loads((out / "states.json").read_text(encoding="utf-8"))
    assert len(numbers) == len(found["numbers"]) == 2 * 3 * 7 * len(NUMBERS)
    assert found["states"] == {"layer": -2, "position": "prompt_end", "observed": "clean"}
    for number in ("distance", "within", "between"):
        own = {
            row["run"]: row["value"]
            for row in found["numbers"]
            if (row["dataset"], row["condition"], row["number"]) == ("", "unseen", number)
        }
        assert own["after"] == pytest.approx(3 * own["before"], rel=1e-4)
    assert len(found["points"]) == 2 * 6 * 2 * 2
    assert {trend["over"] for trend in found["trends"]} >= {"all", "centred"}

    datasets = sorted({row["dataset"] for row in read_table(tested / "predictions.parquet")})
    pictures = {"degradation.png", "projection.png", *(f"projection-{name}.png" for name in datasets)}
    assert {file.name for file in out.iterdir()} == {"states.md", "states.csv", "states.json", *pictures}
    for name in pictures:
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    again = tmp_path / "again"
    main(["states", f"before={tested}", f"after={other}", "--draws", "50", "--output", str(again), "--points", "30"])
    for file in out.iterdir():
        assert file.read_bytes() == (again / file.name).read_bytes(), file.name


@pytest.mark.parametrize(("projection", "module"), [("tsne", "sklearn"), ("umap", "umap")])
def test_other_projections(projection: str, module: str, tested: Path, tmp_path: Path) -> None:
    pytest.importorskip(module)
    main(["states", str(tested), "--draws=0", f"--output={tmp_path}", f"--projection={projection}", "--points=18"])
    assert (tmp_path / "projection.png").stat().st_size > 10_000


def test_whole_samples_are_drawn() -> None:
    keys = [("clean", "d", f"s{s}", f"i{i}") for s in range(10) for i in range(4)]
    found = _chosen(keys, 14, 0)
    assert len(found) == 12
    assert {key[2]: 4 for key in found} == {
        name: sum(key[2] == name for key in found) for name in {k[2] for k in found}
    }
    assert found == _chosen(keys[::-1], 14, 0) != _chosen(keys, 14, 1)
    assert sorted(_chosen(keys, 40, 0)) == sorted(keys)
    assert len(_chosen(keys, 3, 0)) == 4
    assert _file_names(["a/b", "a b", "c"]) == ["a_b", "a_b-1", "c"]


def test_bad_input_is_said(tested: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    without = copied(tested, tmp_path / "without")
    (without / "states.parquet").unlink()
    unanswered = copied(tested, tmp_path / "unanswered")
    (unanswered / "predictions.parquet").unlink()
    damaged = copied(tested, tmp_path / "damaged")
    (damaged / "states.parquet").write_bytes(b"PAR1")
    fewer = copied(tested, tmp_path / "fewer", scaled=1, skip=2)
    mixed = copied(fewer, tmp_path / "mixed")
    shutil.copy(tested / "states.parquet", mixed)
    layer = copied(tested, tmp_path / "layer", scaled=1, layer=1)
    (tmp_path / "file").write_text("text", encoding="utf-8")
    run = str(tested)
    for args, message in (
        ([str(tmp_path / "nowhere")], "no predictions.parquet there"),
        ([str(unanswered)], "no predictions.parquet there"),
        ([str(without)], "no states.parquet beside"),
        ([str(damaged)], "no state table"),
        ([str(mixed)], "2 rows have a state and no answer"),
        ([run, str(fewer)], "hold the states of different rows (106 and 108)"),
        ([run, str(layer)], "different layers or positions: (1, 'prompt_end'), (-2, 'prompt_end')"),
        ([run, run], "a second run called"),
        ([run, "--clean", "cleen"], "clean: found 'cleen'; expected a condition of the run: clean, mixed@0.3, unseen"),
        ([run, "--points", "2"], "points: found 2; expected ≥ 3"),
        ([run, "--projection", "som"], "som"),
        ([run, "--draws", "-1"], "draws: found -1"),
        ([run, "--draws", "0", "--output", str(tmp_path / "file")], "is a file; expected a folder"),
    ):
        with pytest.raises(SystemExit):
            main(["states", *args])
        assert message in capsys.readouterr().err, args
    assert (tmp_path / "file").read_text(encoding="utf-8") == "text"


def test_a_missing_library_is_said_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("robustlm.evaluation.hidden_states.find_spec", lambda _: None)
    with pytest.raises(SystemExit):
        main(["states", "nowhere", "--projection=umap"])
    assert "needs umap-learn, which is not installed; use pca, or pip install 'robustlm[projection]'" in (
        capsys.readouterr().err
    )


# --- keeping states --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = [
        {"id": f"r{i}", "sentence": "rain " * (i % 4) + str(i), "label": "good" if i % 2 else "bad"} for i in range(9)
    ]
    return write_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", made)


def arguments(backbone: str, rows: str, folder: Path, *more: str, how: str = "test") -> list[str]:
    return [
        how, "--model=InstructionTuning", f"--model.backbone={backbone}", "--model.tuning=null",
        "--model.max_new_tokens=3", "--data=RobustnessDataModule", f"--data.test={rows}", "--data.prompts=2",
        "--data.conditions=[clean,unseen]", f"--trainer.default_root_dir={folder}", *QUIET, *more,
    ]  # fmt: skip


@pytest.mark.parametrize(("kind", "position"), [("llama", "mean"), ("t5", "prompt_end")])
def test_batches_change_no_state(kind: str, position: str, models: dict[str, str], rows: str, tmp_path: Path) -> None:
    found = []
    for size, how in ((1, "test"), (5, "predict")):
        folder = tmp_path / how
        more = (f"--data.eval_batch_size={size}", "--states.layer=1", f"--states.position={position}")
        main(arguments(models[kind], rows, folder, *more, how=how))
        found.append(HiddenStateTable(folder / "states.parquet"))
    alone, together = (table.read(range(36)) for table in found)
    assert found[0].keys == found[1].keys
    np.testing.assert_allclose(alone, together, atol=1e-4)
    main(["states", str(tmp_path / "predict"), "--draws=10"])


def test_two_processes_write_one_table(llama: str, rows: str, tmp_path: Path) -> None:
    main(arguments(llama, rows, tmp_path / "one", "--states.layer=-1"))
    parallel = ("--trainer.devices=2", "--trainer.strategy=ddp", "--data.eval_batch_size=4", "--states.layer=-1")
    side_by_side(lambda: main(arguments(llama, rows, tmp_path / "two", *parallel)))
    one, two = (HiddenStateTable(tmp_path / name / "states.parquet") for name in ("one", "two"))
    assert one.keys == two.keys
    np.testing.assert_allclose(one.read(range(36)), two.read(range(36)), atol=1e-4)
    assert sorted(file.name for file in (tmp_path / "two").iterdir() if "part" in file.name) == []


def test_a_prefix_moves_states_and_its_checkpoint_brings_them_back(
    llama: str, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(arguments(llama, rows, tmp_path / "before", "--states.layer=-2"))
    tuned = (
        "--model.tuning=PrefixTuning",
        "--model.tuning.tokens=3",
        "--model.optimizer.lr=0.1",
        f"--data.train={rows}",
    )
    fit = arguments(llama, rows, tmp_path / "fit", *tuned, "--trainer.max_steps=3", how="fit")
    main([*fit, f"--checkpoint.dirpath={tmp_path / 'weights'}"])
    checkpoint = f"--ckpt_path={tmp_path / 'weights' / 'last.ckpt'}"
    script = [one for one in arguments(llama, rows, tmp_path / "after", checkpoint) if "tuning" not in one]
    main([*script, "--states.layer=-2"])
    before, after = (HiddenStateTable(tmp_path / name / "states.parquet") for name in ("before", "after"))
    assert np.abs(before.read(range(36)) - after.read(range(36))).max() > 0.01
    capsys.readouterr()
    main(["states", str(tmp_path / "before"), str(tmp_path / "after"), "--draws=10"])
    assert "| after" in capsys.readouterr().out


def test_off_by_default_and_states_of_other_answers_are_removed(llama: str, rows: str, tmp_path: Path) -> None:
    (tmp_path / "states.parquet").write_bytes(b"of an earlier run")
    main(arguments(llama, rows, tmp_path))
    assert sorted(file.name for file in tmp_path.glob("*.parquet*")) == ["predictions.parquet"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--states.layer=3"], "states.layer: found 3; "),
        (["--states.layer=-4"], "has 2 layers, expected -3 … 2"),
        (["--states.layer=1", "--states.position=first"], "states.position"),
        (["--states.layer=two"], "states.layer"),
    ],
)
def test_a_wrong_layer_is_said_before_anything_is_read(
    more: list[str], message: str, llama: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for how in ("test", "predict"):
        with pytest.raises(SystemExit):
            main(arguments(llama, "nowhere.jsonl", tmp_path, *more, how=how))
        assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_hosted_model_shows_no_states(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(arguments("openai:some", "nowhere.jsonl", tmp_path, "--states.layer=-2"))
    assert "hosted elsewhere and shows no hidden states" in capsys.readouterr().err


def test_states_are_taken_at_the_precision_of_the_run(llama: str, rows: str, tmp_path: Path) -> None:
    seen: list[Any] = []
    hook = torch.nn.modules.module.register_module_forward_pre_hook(
        lambda module, args: (
            seen.append(torch.is_autocast_enabled("cpu")) if "Attention" in type(module).__name__ else None
        )
    )
    try:
        main(arguments(llama, rows, tmp_path, "--states.layer=-2", "--trainer.precision=bf16-mixed"))
    finally:
        hook.remove()
    assert seen
    assert all(seen)

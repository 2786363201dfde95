"""Named runs, and folders of runs in place of checkpoints."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest
import torch
import yaml

from robustlm.callbacks.interruption import going_on
from robustlm.cli import main, run
from robustlm.cli.training import FIT_ONLY
from robustlm.evaluation.table import read_table
from robustlm.report.run import run_name
from robustlm.runs import checkpoint_in, evaluation_folder, evaluation_in, fit_folder
from tests.callbacks.test_interruption import at
from tests.cli.test_stored import QUIET, site

__all__ = ["site"]

FIT = [
    *("fit", "--run=mine", "--model=InstructionTuning", "--model.backbone=model", "--data=InstructionDataModule"),
    *(
        "--data.train=train.jsonl",
        "--data.batch_size=8",
        "--data.template=chat",
        "--trainer.log_every_n_steps=1",
        *QUIET,
    ),
]
TEST = ["test", "--data=InstructionDataModule", "--data.test=test.jsonl", *QUIET]


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def refused(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main(list(args))
    assert end.value.code == 2
    return capsys.readouterr().err


def test_fit_and_tests_of_one_name_lie_together(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli = run([*FIT, "--trainer.max_steps=1", "--model.tuning.r=4"])
    assert cli is not None
    settings = cli.config["fit"].clone()
    for name in FIT_ONLY:
        settings.pop(name)
    checked = cli._parser("fit").dump(settings, skip_none=False)
    assert Path("runs/mine/fit/config.yaml").read_text(encoding="utf-8") == checked
    assert yaml.safe_load(checked)["model"]["init_args"].items() <= dict(cli.model.hparams).items()
    assert {"config.yaml", "adapter", "checkpoints", "metrics.csv"} < {
        one.name for one in Path("runs/mine/fit").iterdir()
    }
    assert list(Path("runs/mine/fit").glob("events*"))
    before = Path("runs/mine/fit/config.yaml").read_bytes()
    assert "run: runs/mine/fit holds a fit already; expected another name, or --resume auto" in refused(
        capsys, *FIT, "--trainer.max_steps=1"
    )
    assert Path("runs/mine/fit/config.yaml").read_bytes() == before

    main([*TEST, "--run=mine"])
    said = capsys.readouterr().out
    assert "run: the weights are those of the fit in this run, runs/mine/fit/checkpoints/last.ckpt" in said
    assert "data.template: 'chat'" in said
    main([*TEST, "--run=mine", "--data.conditions=[random_typos@0.2]"])
    tables = [Path(f"runs/mine/{part}/predictions.parquet") for part in ("test", "test-2")]
    assert [{row["condition"] for row in read_table(one)} for one in tables] == [{"clean"}, {"random_typos@0.2"}]
    assert [run_name(one) for one in tables] == ["mine/test", "mine/test-2"]
    assert sorted(one.name for one in Path("runs/mine").iterdir()) == ["fit", "test", "test-2"]

    capsys.readouterr()
    main(["report", "runs/mine"])
    assert (
        "runs/mine: reading runs/mine/test-2/predictions.parquet, the newest of 2 tables there"
        in capsys.readouterr().err
    )
    main(["compare", "a=runs/mine/test", "b=runs/mine/test"])
    main(["export-harness", "runs/mine", "tasks"])

    cli = run(
        ["test", "--model=InstructionTuning", "--model.backbone=model", *TEST[1:], "--run=mine", "--ckpt_path=null"]
    )
    assert cli is not None
    assert cli.trainer.ckpt_path is None
    assert Path("runs/mine/test-3/predictions.parquet").is_file()

    main([*FIT, "--resume=runs/mine", "--trainer.max_epochs=2"])
    assert "resume: runs/mine/fit/checkpoints/last.ckpt" in capsys.readouterr().out
    assert Path("runs/mine/fit/metrics-1.csv").is_file()
    assert Path("runs/mine/fit/metrics.csv").is_file()
    assert "run: found '../mine'; expected a plain name" in refused(capsys, *TEST, "--run=../mine")


def test_a_run_goes_on_by_what_is_printed(
    site: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("own.yaml").write_text("{resume: auto, data: {init_args: {num_workers: 0}}}", encoding="utf-8")
    with pytest.raises(SystemExit):
        main([*FIT, "--trainer.max_steps=3", "-c", "own.yaml", *at("on_train_batch_start", 2, number=2)])
    line = capfd.readouterr().err.strip().splitlines()[-1]
    program, *args = shlex.split(line)
    assert program == "robustlm"
    cli = run([*(arg for arg in args if "callbacks" not in arg)])
    assert cli is not None
    assert cli.trainer.global_step == 3
    assert [one.name for one in Path("runs").iterdir()] == ["mine"]
    assert [one.name for one in Path("runs/mine").iterdir()] == ["fit"]

    with pytest.raises(SystemExit):
        main([*TEST, "--run=mine", "--data.eval_batch_size=2", *at("on_test_batch_start", 2, number=2)])
    program, *args = shlex.split(capfd.readouterr().err.strip().splitlines()[-1])
    main([*(arg for arg in args if "callbacks" not in arg)])
    assert len(read_table(Path("runs/mine/test/predictions.parquet"))) == 7
    assert sorted(one.name for one in Path("runs/mine").iterdir()) == ["fit", "test"]


def test_a_config_file_names_the_checkpoint(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*FIT, "--trainer.max_steps=1"])
    Path("test.yaml").write_text(yaml.safe_dump({"ckpt_path": "runs/mine"}), encoding="utf-8")
    cli = run([*TEST, "-c", "test.yaml"])
    assert cli is not None
    assert cli.model.hparams["backbone"] == "model"
    assert cli.datamodule.template == "chat"
    assert "ckpt_path: runs/mine/fit/checkpoints/last.ckpt" in capsys.readouterr().out


def test_folders_without_or_with_several_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    touch("runs/version_3/checkpoints/last.ckpt", "runs/a/fit/checkpoints/last.ckpt", "runs/b/last.ckpt", "runs/c/x")
    for folder, file in (
        ("runs/version_3", "runs/version_3/checkpoints/last.ckpt"),
        ("runs/version_3/checkpoints", "runs/version_3/checkpoints/last.ckpt"),
        ("runs/a", "runs/a/fit/checkpoints/last.ckpt"),
        ("runs/a/fit", "runs/a/fit/checkpoints/last.ckpt"),
        ("runs/b", "runs/b/last.ckpt"),
    ):
        assert checkpoint_in("ckpt_path", Path(folder)) == Path(file)
    with pytest.raises(ValueError, match=r"ckpt_path: runs/c holds no last.ckpt; expected the folder of a"):
        checkpoint_in("ckpt_path", Path("runs/c"))
    with pytest.raises(ValueError, match=r"runs holds no last.ckpt, but those of runs/a, runs/version_3; expected"):
        checkpoint_in("ckpt_path", Path("runs"))
    touch("runs/a/fit/checkpoints/last-v1.ckpt")
    with pytest.raises(ValueError, match=r"runs/a holds several: .*last-v1.ckpt, .*last.ckpt; expected one of them"):
        checkpoint_in("resume", Path("runs/a"))


def test_where_parts_of_a_run_go(tmp_path: Path) -> None:
    assert fit_folder(tmp_path, goes_on=False) == tmp_path / "fit"
    assert evaluation_folder(tmp_path, "test") == tmp_path / "test"
    (tmp_path / "test").mkdir()
    assert evaluation_folder(tmp_path, "test") == tmp_path / "test"  # an empty one, of a run that failed at its start
    touch(f"{tmp_path}/test/predictions.parquet.run.json", f"{tmp_path}/test-2/predictions.parquet")
    assert evaluation_folder(tmp_path, "test") == tmp_path / "test-3"
    assert evaluation_in(tmp_path) == tmp_path / "test"
    assert evaluation_in(tmp_path / "test-2") == tmp_path / "test-2"
    touch(f"{tmp_path}/predict/attacks.jsonl")
    with pytest.raises(ValueError, match=r"several evaluations that did not end: .*predict, .*test; expected one"):
        evaluation_in(tmp_path)


@pytest.mark.parametrize(
    ("argv", "original", "path", "said"),
    [
        (["bin/robustlm"], ["python", "bin/robustlm"], "", "bin/robustlm fit"),
        (["bin/robustlm"], ["python", "bin/robustlm"], "bin", "robustlm fit"),
        (["a/robustlm/__main__.py"], ["python", "-P", "-m", "robustlm", "fit"], "", "python -P -m robustlm fit"),
        (["a/pytest/__main__.py"], ["python", "-m", "pytest"], "", "robustlm fit"),
        (["my script.py"], ["python", "my script.py"], "", "robustlm fit"),
    ],
)
def test_the_command_is_the_one_that_was_typed(
    argv: list[str], original: list[str], path: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    touch("bin/robustlm")
    Path("bin/robustlm").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / path) if path else "")
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", original)
    assert going_on(["fit", "-c", "a b"], "--ckpt_path", "it's") == f"""{said} -c 'a b' --ckpt_path 'it'"'"'s'"""


def test_a_runs_config_is_one_for_every_command(site: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([*FIT, "--trainer.max_steps=1", "--resume=auto"])
    config = "runs/mine/fit/config.yaml"
    main(["test", "-c", config, "--data.test=test.jsonl", "--data.conditions=[clean]"])
    assert len(read_table(Path("runs/mine/test/predictions.parquet"))) > 0
    assert "holds a fit already" in refused(capsys, "fit", "-c", config)
    main(["fit", "-c", config, "--run=again"])
    assert Path("runs/again/fit/adapter").is_dir()


def test_precision_is_chosen_and_said(
    site: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    main([*FIT, "--trainer.max_steps=1", "--trainer.precision=auto", "--trainer.accelerator=cpu"])
    assert "precision: bf16-mixed, because this CPU computes bfloat16 in hardware (AMX)\n" in capsys.readouterr().out
    assert (
        yaml.safe_load(Path("runs/mine/fit/config.yaml").read_text(encoding="utf-8"))["trainer"]["precision"] == "auto"
    )
    stored = torch.load("runs/mine/fit/checkpoints/last.ckpt", weights_only=True)
    assert stored["robustlm"]["precision"] == "bf16-mixed"
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    main([*FIT, "--resume=auto", "--trainer.max_steps=2", "--trainer.precision=auto", "--trainer.accelerator=cpu"])
    out, err = capsys.readouterr()
    assert "precision: 32-true, because this CPU has neither AMX nor AVX512-BF16\n" in out
    assert "the checkpoint was trained in bf16-mixed, and this run is in 32-true, so its steps are not those" in err

"""Loggers by one flag, each against its own library and offline; adapters for the hub, against the hub's own client."""

from __future__ import annotations

import importlib.util
import inspect
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest

from robustlm.cli import main
from tests.cli.test_runs import FIT, refused
from tests.cli.test_stored import site

__all__ = ["site"]

ONE = [*FIT, "--trainer.max_steps=1"]


@pytest.mark.parametrize("kind", ["csv", "tensorboard"])
def test_one_kind_of_log(kind: str, site: Path) -> None:
    main([*ONE, f"--logger={kind}"])
    folder = Path("runs/mine/fit")
    assert (folder / "metrics.csv").exists() == (kind == "csv")
    assert any(folder.glob("events*")) == (kind == "tensorboard")
    assert (folder / "config.yaml").is_file()
    assert (folder / "adapter").is_dir()


def test_wandb_offline(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wandb: Any = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    try:
        main([*ONE, "--logger=wandb"])
    finally:
        wandb.finish()
    (file,) = Path("runs/mine/fit/wandb").glob("offline-run-*/run-*.wandb")
    end = time.monotonic() + 60
    while b"train/loss" not in (logged := file.read_bytes()) and time.monotonic() < end:
        time.sleep(0.1)  # W&B's own process writes, also after `finish`
    assert b"train/loss" in logged
    assert b"mine/fit" in logged
    assert Path("runs/mine/fit/metrics.csv").is_file()


def test_mlflow_in_a_database(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes seconds: MLflow lays out its database in many steps."""
    mlflow: Any = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    main([*ONE, "--logger=mlflow"])
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{Path('runs/mlflow.db').absolute()}")
    experiment = client.get_experiment_by_name("robustlm")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.run_name == "mine/fit"
    assert run.data.metrics["train/loss"] > 0
    assert Path("runs/mine/fit/metrics.csv").is_file()


def test_what_cannot_log_is_refused(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "wandb" else find(name, *more))
    said = refused(capsys, *ONE, "--logger=wandb")
    assert "logger: wandb is not installed; expected pip install 'robustlm[wandb]'" in said
    said = refused(capsys, *ONE, "--logger=csv", "--trainer.logger=false")
    assert "logger: csv and trainer.logger both choose a logger" in said
    assert not Path("runs").exists()


class Hub:
    """What the hub's client sends, in place of its connection."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
        self.repos: list[tuple[str, bool]] = []
        self.files: dict[str, list[str]] = {}

        def create_repo(api: Any, repo_id: str, *, private: bool, exist_ok: bool) -> str:
            assert exist_ok
            self.repos.append((repo_id, private))
            return f"https://huggingface.co/{repo_id}"

        wanted = inspect.signature(huggingface_hub.HfApi.upload_folder)

        def upload_folder(*args: Any, **named: Any) -> None:
            given = wanted.bind(*args, **named).arguments  # as the client takes them
            if error is not None:
                raise error
            self.files[given["repo_id"]] = [one.name for one in Path(given["folder_path"]).iterdir()]

        inspect.signature(huggingface_hub.HfApi.create_repo).bind(None, "a/b", private=True, exist_ok=True)
        monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
        monkeypatch.setattr(huggingface_hub.HfApi, "upload_folder", upload_folder)
        monkeypatch.setenv("HF_TOKEN", "hf_none")


def test_an_adapter_is_brought_to_the_hub(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = Hub(monkeypatch)
    main([*ONE, "--hub=me/mine"])
    assert "hub: https://huggingface.co/me/mine" in capsys.readouterr().out
    assert hub.repos == [("me/mine", True)]
    assert {"README.md", "robustlm.json", "adapter_model.safetensors", "tokenizer.json"} <= set(hub.files["me/mine"])


def test_a_push_that_fails_loses_no_run(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Hub(monkeypatch, error=OSError("no network"))
    said = refused(capsys, *ONE, "--hub=me/mine", "--hub_private=false")
    assert "hub: runs/mine/fit/adapter is saved, but was not uploaded to me/mine: no network" in said
    assert "hf upload me/mine runs/mine/fit/adapter" in said
    assert Path("runs/mine/fit/adapter/adapter_model.safetensors").is_file()
    assert Path("runs/mine/fit/checkpoints/last.ckpt").is_file()


def test_a_push_that_cannot_work_is_refused_at_the_start(
    site: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    assert "hub: this machine has no token for the hub" in refused(capsys, *ONE, "--hub=me/mine")
    assert "hub: found 'a/b/c'; expected user/name" in refused(capsys, *ONE, "--hub=a/b/c")
    assert not Path("runs").exists()

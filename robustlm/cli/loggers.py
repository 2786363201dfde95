"""Create the loggers of a run from one flag."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any, Literal, get_args

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

Kind = Literal["tensorboard", "csv", "wandb", "mlflow"]
PROJECT = "robustlm"
"""Default name of the W&B project and the MLflow experiment."""
_MODULES = {"wandb": ("wandb",), "mlflow": ("mlflow", "sqlalchemy", "alembic")}


def check_logger(kind: str, configured: object) -> None:
    """Refuse a logger whose library is missing, or a second logger in `trainer.logger`.

    Args:
        kind: The value of `--logger`.
        configured: `trainer.logger`.

    Raises:
        ValueError: The logger is unknown, its library is not installed, or `trainer.logger` is set too.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"logger: found {kind!r}; expected one of {', '.join(get_args(Kind))}")
    if configured not in (None, True):
        raise ValueError(f"logger: {kind} and trainer.logger both choose a logger; expected only one of them")
    if missing := [name for name in _MODULES.get(kind, ()) if importlib.util.find_spec(name) is None]:
        raise ValueError(f"logger: {missing[0]} is not installed; expected pip install 'robustlm[{kind}]'")


def make_loggers(kind: Kind | None, root: Path, part: Path | None) -> list[Logger]:
    """The loggers of a run; the first one sets the folder of the run's files.

    Args:
        kind: `tensorboard`, `csv`, `wandb` or `mlflow`; null: TensorBoard and CSV. W&B and MLflow are used together
            with CSV, so that the run's folder is the same as without them.
        root: Folder of the runs.
        part: Folder of this part of a named run; null: a new numbered folder (`root/version_0`, …).
    """
    where: dict[str, Any] = {"name": "", "version": None if part is None else part.name}
    folder = root if part is None else part.parent
    if kind in (None, "tensorboard"):
        board = TensorBoardLogger(folder, **where)
        return [board] if kind else [board, CSVLogger(folder, name="", version=board.version)]
    table = CSVLogger(folder, **where)
    name = f"{folder.name}/{part.name}" if part is not None else Path(table.log_dir).name
    if kind == "wandb":
        return [table, WandbLogger(name=name, save_dir=table.log_dir, project=os.environ.get("WANDB_PROJECT", PROJECT))]
    if kind == "mlflow":
        return [table, _mlflow(name, root)]
    return [table]


def _mlflow(name: str, root: Path) -> Logger:
    """A run at `$MLFLOW_TRACKING_URI`, or else in a database in `root`: MLflow no longer supports plain files."""
    wanted: dict[str, Any] = {"tracking_uri": os.environ.get("MLFLOW_TRACKING_URI")}
    if not wanted["tracking_uri"]:
        root.mkdir(parents=True, exist_ok=True)
        wanted["tracking_uri"] = f"sqlite:///{(root / 'mlflow.db').absolute()}"
        wanted["artifact_location"] = (root / "mlflow").absolute().as_uri()
    return MLFlowLogger(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT), name, **wanted)

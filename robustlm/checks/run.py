"""Checks of run settings that Lightning does not check, before anything is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from string import Formatter
from typing import Any

from robustlm.checks.numbers import check_number
from robustlm.checks.places import check_folder, check_name, check_output

_SEEDS = 2**32
"""Seeds must be below this limit: Lightning seeds NumPy, which takes no larger ones."""
_BATCHES = ("train", "val", "test", "predict")


def check_run(command: str, settings: Mapping[str, Any]) -> None:
    """Raise if a run with these settings would fail late, train nothing, or write outside of its folder.

    Args:
        command: `fit`, `validate`, `test`, `predict`, `check` or `plan`.
        settings: All settings of the command by section (`trainer`, `checkpoint`, …), as plain data.

    Raises:
        ValueError: A setting is wrong; the message says which one, what was found and what was expected.
    """
    seed = settings.get("seed_everything")
    if not isinstance(seed, bool | None):
        check_number("seed_everything", seed, least=0, below=_SEEDS, whole=True)
    trainer = settings.get("trainer", {})
    if not isinstance(trainer, Mapping):
        raise ValueError(f"trainer: found {trainer!r}; expected settings such as max_epochs, or no key trainer")
    _check_loops(trainer)
    _check_strategy(command, trainer.get("strategy"))
    _check_divided(command, trainer.get("strategy"), settings)
    if str(settings.get("ckpt_path") or "").lower().partition(":")[0] == "registry":
        raise ValueError(
            f"ckpt_path: found {settings['ckpt_path']!r}, a registry of checkpoints, which robustlm does not "
            "read; expected a .ckpt file that `robustlm fit` wrote"
        )
    if command == "fit":
        _check_trains(trainer)
        _check_checkpoint(settings.get("checkpoint") or {})
        check_name("export.name", (settings.get("export") or {}).get("name", "adapter"))
    if command in ("test", "predict"):
        predictions = settings.get("predictions") or {}
        check_name("predictions.name", predictions.get("name", "predictions.parquet"))
        if not str(predictions.get("name", ".parquet")).endswith(".parquet"):
            raise ValueError(f"predictions.name: found {predictions['name']!r}; expected a name that ends in .parquet")
    if command not in ("check", "plan") and (root := trainer.get("default_root_dir")):
        check_folder("trainer.default_root_dir", root)
    data = (settings.get("data") or {}).get("init_args") or {}
    if rejected := data.get("rejected"):
        if not str(rejected).endswith((".jsonl", ".jsonl.gz")):
            raise ValueError(f"data.rejected: found {rejected!r}; expected a file that ends in .jsonl or .jsonl.gz")
        check_output("data.rejected", rejected)


def _check_loops(trainer: Mapping[str, object]) -> None:
    least: dict[str, int] = {
        "accumulate_grad_batches": 1,
        "check_val_every_n_epoch": 1,
        "num_nodes": 1,
        "log_every_n_steps": 0,
        "num_sanity_val_steps": -1,
        "max_epochs": -1,
        "max_steps": -1,
        "min_epochs": 0,
        "min_steps": 0,
    }
    for name, bound in least.items():
        if trainer.get(name) is not None:
            check_number(f"trainer.{name}", trainer[name], least=bound, whole=True)
    if trainer.get("gradient_clip_val") is not None:
        check_number("trainer.gradient_clip_val", trainer["gradient_clip_val"], least=0)
    for name in (*(f"limit_{stage}_batches" for stage in _BATCHES), "overfit_batches"):
        _check_share(f"trainer.{name}", trainer.get(name), least=0)
    _check_share("trainer.val_check_interval", trainer.get("val_check_interval"), above=0)


def _check_strategy(command: str, strategy: Any) -> None:
    """Raise for strategies that spawn processes or, in `fit`, fork them.

    Modules cannot be sent to spawned processes. Forked processes send all weights back at the end of `fit`, and modules
    that load only trained weights refuse them.
    """
    known = isinstance(strategy, Mapping)
    name = str(strategy.get("class_path") if known else strategy)
    start = (strategy.get("init_args") or {}).get("start_method") if known else None
    begun = next((kind for kind in ("spawn", "fork", "notebook") if name.startswith(f"ddp_{kind}")), start)
    if begun in ("spawn", "forkserver") or (command == "fit" and begun not in (None, "popen")):
        found = begun if known else name
        raise ValueError(
            f"trainer.strategy: found {found}; expected ddp, because {command} fails in processes started in this way"
        )


def _check_divided(command: str, strategy: Any, settings: Mapping[str, Any]) -> None:
    """Raise for strategies that divide weights or optimiser state, where a run would hang or go wrong in silence."""
    known = isinstance(strategy, Mapping)
    name = str(strategy.get("class_path") if known else strategy).rsplit(".", 1)[-1]
    found = f"trainer.strategy: found {name}"
    if name in ("ModelParallelStrategy", "FSDPStrategy") or name.startswith("fsdp"):
        raise ValueError(
            f"{found}; expected `-c trainer/fsdp2`, because {name} divides weights in a way that checkpoints, adapters "
            "and adversaries of robustlm do not know"
        )
    deep = name == "DeepSpeedStrategy" or name.startswith("deepspeed")
    if command not in ("fit", "check", "plan") and (deep or name == "FSDP2"):
        raise ValueError(
            f"{found} in {command}; expected ddp or one device, because processes need different numbers of passes to "
            "answer, and would wait for each other. What `fit` exported or saved under this strategy can be used so"
        )
    if command != "fit":
        return
    stage = (strategy.get("init_args") or {}).get("stage", 2) if known else 3 if "stage_3" in name else 2
    if deep and stage == 3:
        raise ValueError(
            f"{found} with stage 3; expected `-c trainer/fsdp2`, which divides the same, because stage 3 leaves empty "
            "weights outside of the layers, which adversaries read and adapters are written from"
        )
    data = (settings.get("data") or {}).get("init_args") or {}
    if name == "FSDP2" and data.get("validation"):
        raise ValueError(
            f"data.validation: found {data['validation']!r} with {name}; expected null, because processes may have "
            "different numbers of validation batches, and would wait for each other. `robustlm validate` measures the "
            "loss of a checkpoint on one device or under ddp"
        )


def _check_share(name: str, value: object, *, least: float | None = None, above: float | None = None) -> None:
    """Check a number of batches (an integer) or a share of them (a float up to 1)."""
    if isinstance(value, int) and not isinstance(value, bool):
        check_number(name, value, whole=True, least=least, above=above)
    elif isinstance(value, float):
        check_number(name, value, most=1, why="a share, or a whole number of batches", least=least, above=above)


def _check_trains(trainer: Mapping[str, object]) -> None:
    for name in ("max_epochs", "max_steps", "limit_train_batches"):
        if trainer.get(name) == 0:
            raise ValueError(f"trainer.{name}: found {trainer[name]}, which trains nothing; expected a number > 0")


def _check_checkpoint(checkpoint: Mapping[str, Any]) -> None:
    if (folder := checkpoint.get("dirpath")) is not None:
        check_folder("checkpoint.dirpath", folder)
    name = checkpoint.get("filename")
    if name is None:
        return
    expected = "expected a name such as {epoch}-{step}, without .. and conversions"
    try:
        fields = list(Formatter().parse(name))
    except ValueError as error:
        raise ValueError(f"checkpoint.filename: found {name!r} ({error}); {expected}") from error
    path = PurePath(name)
    if path.is_absolute() or ".." in path.parts or not path.name or any(conversion for *_, conversion in fields):
        raise ValueError(f"checkpoint.filename: found {name!r}; {expected}")
    for part in path.parts:
        check_name("checkpoint.filename", part.replace(":", "-"))

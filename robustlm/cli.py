"""The command line: `robustlm fit · validate · test · predict · check` over any module, and the small commands."""

from __future__ import annotations

import inspect
import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import docstring_parser
import jsonargparse
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

import robustlm
from robustlm.assets import config_file
from robustlm.callbacks import AdapterExport, PredictionWriter, WhereItIs
from robustlm.commands import COMMANDS
from robustlm.datamodules import InstructionDataModule
from robustlm.modules import InstructionTuning

USER_ERRORS = (ValueError, TypeError, OSError, MisconfigurationException, ImportError)
"""What wrong input raises; anything else is a bug and keeps its traceback."""


class CheckingTrainer(Trainer):
    """Lightning's trainer, and `check`: everything that `fit` would begin with, without training."""

    def check(self, model: InstructionTuning, datamodule: InstructionDataModule, rows: int = 2) -> None:
        """Show what a run would do: rows as the model sees them, lengths, parameters, memory. Trains nothing.

        Args:
            model: The module.
            datamodule: Its data.
            rows: How many rows of every view to show.
        """
        from robustlm.check import check

        check(model, datamodule, rows)

    def test(  # type: ignore[override]
        self,
        model: Any = None,
        dataloaders: Any = None,
        ckpt_path: str | None = None,
        verbose: bool = False,
        datamodule: Any = None,
        weights_only: bool | None = None,
    ) -> Any:
        """Score answers under every instruction condition, and write them to a table.

        Args:
            model: The module.
            dataloaders: Loaders in place of a datamodule's.
            ckpt_path: Checkpoint with the trained weights.
            verbose: Also print every single metric.
            datamodule: The data.
            weights_only: Refuse checkpoints that hold more than weights and plain data.
        """
        return super().test(model, dataloaders, ckpt_path, verbose, datamodule, weights_only)


class Parser(LightningArgumentParser):
    """Errors of nested settings without the dump of everything around them."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong and end with status 2."""
        noise = re.compile(
            r"\s*-?\s*(Given value( type)?:|Subtypes:|Does not validate|Expected a <class 'NoneType'>|Errors:$)"
        )
        lines = [line for line in message.split("\n") if not noise.match(line)]
        super().error("\n".join(lines), ex)


class RobustLMCLI(LightningCLI):
    """LightningCLI over any `InstructionTuning` and any `InstructionDataModule`, named by their class.

    Values are taken from, each over the one before: defaults, config files, the checkpoint at `--ckpt_path`, flags.
    """

    def __init__(self, args: Sequence[str]) -> None:
        super().__init__(
            InstructionTuning,
            InstructionDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            trainer_class=CheckingTrainer,
            trainer_defaults={"max_epochs": 1, "callbacks": [PredictionWriter(), WhereItIs()]},
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_class=Parser,
            parser_kwargs={"prog": "robustlm", "description": robustlm.__doc__, "epilog": _epilog()},
            args=list(args),
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's commands, and `check`."""
        return {**LightningCLI.subcommands(), "check": {"model", "datamodule"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Callbacks that every run has, with options of their own."""
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(AdapterExport, "export")
        parser.set_defaults({"checkpoint.save_last": True, "checkpoint.filename": "{epoch}-{step}"})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; where a checkpoint is named, with its settings between config files and flags."""
        given = [_known_config(arg) for arg in args]
        path = _value_of(given, "--ckpt_path")
        stored = {} if path in (None, "best", "last", "hpc", "registry", "null") else checkpoint_settings(str(path))
        if not stored:
            self.config = parser.parse_args(given)
            return
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "checkpoint.yaml"
            file.write_text(yaml.safe_dump({"model": stored}), encoding="utf-8")
            self.config = parser.parse_args(_after_configs(given, str(file)))
        used = yaml.safe_load(parser.dump(self.config, skip_none=False))[self.config["subcommand"]]["model"]
        _report_differences(str(path), _flat(stored), _flat(used), _flat(_configured_model(given)))

    def _parse_ckpt_path(self) -> None:
        """Lightning would let the checkpoint overrule flags; `parse_arguments` has done it the other way round."""

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add TensorBoard and CSV logs in one folder, unless a logger is configured."""
        config = self.config_init[self.config_init["subcommand"]]["trainer"]
        if config.get("logger") in (None, True) and "logger" not in kwargs:
            board = TensorBoardLogger(config.get("default_root_dir") or "runs", name="")
            kwargs["logger"] = [board, CSVLogger(board.save_dir, name="", version=board.version)]
            config["callbacks"] = [*(config.get("callbacks") or []), LearningRateMonitor()]
        return super().instantiate_trainer(**kwargs)


def checkpoint_settings(path: str) -> dict[str, Any]:
    """The model settings that a checkpoint holds, as `{"class_path": …, "init_args": …}`; empty where it has none.

    Raises:
        ValueError: There is no such file, or it is no checkpoint (truncated, of another program, not weights only).
    """
    if not Path(path).is_file():
        raise ValueError(f"ckpt_path: {path} is not a file; expected a .ckpt file that a run wrote")
    try:
        checkpoint = torch.load(path, weights_only=True, map_location="cpu")
    except Exception as error:  # whatever a broken file makes torch raise
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"ckpt_path: {path} cannot be read as a checkpoint (damaged or of another kind): {reason}"
        ) from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise ValueError(f"ckpt_path: {path} is no Lightning checkpoint: it holds no state_dict")
    settings = dict(checkpoint.get("hyper_parameters", {}))
    settings.pop("_instantiator", None)
    class_path = settings.pop("_class_path", None)
    return {"class_path": class_path, "init_args": settings} if class_path else {}


def run(args: Sequence[str]) -> RobustLMCLI | None:
    """Run a command, raising what goes wrong. `main` is for shells, this is for Python."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenizers and forked workers deadlock otherwise
    _quiet()
    if args and args[0] in COMMANDS:
        parser = jsonargparse.ArgumentParser(prog=f"robustlm {args[0]}", description=_first_line(COMMANDS[args[0]]))
        _add_arguments(parser, COMMANDS[args[0]])
        values = parser.instantiate_classes(parser.parse_args(list(args[1:])))
        COMMANDS[args[0]](**vars(values))
        return None
    return RobustLMCLI(args)


def _add_arguments(parser: jsonargparse.ArgumentParser, function: Any) -> None:
    """Make a function's arguments those of a command; required ones go without a flag, lists take all that comes."""
    required = [p for p in inspect.signature(function).parameters.values() if p.default is inspect.Parameter.empty]
    help_of = {found.arg_name: found.description for found in docstring_parser.parse(function.__doc__ or "").params}
    for parameter in required:
        many: Any = {"nargs": "+"} if str(parameter.annotation).startswith("list") else {}
        parser.add_argument(parameter.name, type=str, help=help_of.get(parameter.name), **many)
    parser.add_function_arguments(function, skip={p.name for p in required})


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of `robustlm` and `python -m robustlm`. Wrong input ends with a message and exit status 2."""
    given = sys.argv[1:] if args is None else list(args)
    try:
        run(given)
    except USER_ERRORS as error:
        if os.environ.get("ROBUSTLM_TRACEBACK"):
            raise
        text = str(error).strip() or type(error).__name__
        print(f"robustlm: error: {text}\n(ROBUSTLM_TRACEBACK=1 shows where it was raised)", file=sys.stderr)
        raise SystemExit(2) from error


def _known_config(arg: str) -> str:
    """Turn the name of a packaged config into its file; anything else stays."""
    flag, equals, value = arg.rpartition("=")
    if equals and flag in ("-c", "--config"):
        return f"{flag}={_known_config(value)}"
    found = None if Path(arg).exists() or arg.startswith("-") else config_file(arg)
    return arg if found is None else str(found)


def _after_configs(args: list[str], file: str) -> list[str]:
    """The arguments with one more config file after all others and before all flags."""
    command, rest = args[0], args[1:]
    configs, flags = [], []
    while rest:
        arg = rest.pop(0)
        if arg in ("-c", "--config") and rest:
            configs += [arg, rest.pop(0)]
        elif arg.startswith(("-c=", "--config=")):
            configs.append(arg)
        else:
            flags.append(arg)
    return [command, *configs, "--config", file, *flags]


def _value_of(args: list[str], flag: str) -> str | None:
    """The value of a flag, written `--flag VALUE` or `--flag=VALUE`; the last one counts."""
    value = None
    for i, arg in enumerate(args):
        if arg == flag and i + 1 < len(args):
            value = args[i + 1]
        elif arg.startswith(f"{flag}="):
            value = arg.partition("=")[2]
    return value


def _configured_model(args: list[str]) -> dict[str, Any]:
    """The model section of the config files among the arguments; the last one counts."""
    found: dict[str, Any] = {}
    for i, arg in enumerate(args):
        flag, equals, value = arg.partition("=")
        if flag in ("-c", "--config"):
            config = yaml.safe_load(Path(value if equals else args[i + 1]).read_text(encoding="utf-8"))
            found = (config or {}).get("model") or found
    return found


def _flat(value: Any, prefix: str = "model") -> dict[str, Any]:
    if isinstance(value, dict):
        inner = {k: v for name, item in value.items() for k, v in _flat(item, f"{prefix}.{name}").items()}
        return {name.replace(".init_args", ""): item for name, item in inner.items()}
    return {prefix: value}


@rank_zero_only
def _report_differences(path: str, stored: dict[str, Any], used: dict[str, Any], configured: dict[str, Any]) -> None:
    flags = [f"  {k}: {used[k]!r} (checkpoint: {stored[k]!r})" for k in stored if k in used and used[k] != stored[k]]
    configs = [
        f"  {k}: {used[k]!r} (config file: {configured[k]!r})"
        for k in stored
        if k in configured and used.get(k) == stored[k] != configured[k]
    ]
    if flags:
        print(f"flags overrule the settings stored in {path}:\n" + "\n".join(flags))
    if configs:
        print(f"the settings stored in {path} overrule config files:\n" + "\n".join(configs))


def _first_line(function: Any) -> str:
    return (function.__doc__ or "").strip().split("\n")[0]


def _epilog() -> str:
    small = "; ".join(f"`robustlm {name}`: {_first_line(function)}" for name, function in COMMANDS.items())
    return f"Besides: {small} Each has its own --help."


def _quiet() -> None:
    """Silence what a user can do nothing about."""
    for pattern in (
        ".*does not have many workers.*",
        ".*is_gradient_checkpointing.*",
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
        ".*Experiment logs directory .* exists and is not empty.*",
        ".*Checkpoint directory .* exists and is not empty.*",
    ):
        warnings.filterwarnings("ignore", pattern)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: not re.search(r"litlogger|available: False|^Loading `train_dataloader`", record.getMessage())
    )

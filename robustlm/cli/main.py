"""The command line: `robustlm fit · validate · test · predict · check` over any module, and the small commands."""

from __future__ import annotations

import inspect
import logging
import os
import re
import shlex
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NoReturn

import docstring_parser
import jsonargparse
import jsonargparse.typing
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_only

import robustlm
from robustlm.adapters.hub import check_hub, push
from robustlm.assets import known_configs
from robustlm.callbacks.checkpoints import StepCheckpoint
from robustlm.callbacks.export import AdapterExport
from robustlm.callbacks.folder import run_folder
from robustlm.callbacks.hidden_states import StateWriter
from robustlm.callbacks.interruption import StopOnSignal
from robustlm.callbacks.predictions import PredictionWriter
from robustlm.callbacks.progress import AnswersBar
from robustlm.callbacks.ranks import LostRank
from robustlm.callbacks.run import FalseStart, KnownMonitor, RestoredOptimizer, TrainedWeights, WhereItIs
from robustlm.checkpoints.trust import said
from robustlm.checks.run import check_run
from robustlm.checks.texts import brief
from robustlm.cli.chains import run_chains
from robustlm.cli.commands import COMMANDS
from robustlm.cli.configs import check_config, named_configs
from robustlm.cli.explain import explain, nearest
from robustlm.cli.foreign import as_user_error, in_checkpoint
from robustlm.cli.layers import drop_on_switch, named_by_user, ordered, reported
from robustlm.cli.loggers import Kind, check_logger, make_loggers
from robustlm.cli.quickstart import as_typed
from robustlm.cli.stored import (
    NO_CHECKPOINT,
    PromptLayer,
    after_configs,
    check_run_name,
    chosen_model,
    configs_of,
    keep_metrics,
    model_differences,
    of_backbone,
    of_checkpoint,
    part_of_run,
    setting,
    untrained,
    value_of,
    with_checkpoint,
    with_evaluation,
)
from robustlm.datamodules import InstructionDataModule
from robustlm.endpoint import EndpointError
from robustlm.modules import InstructionTuning
from robustlm.noise.embedders import EmbeddingError
from robustlm.sources.source import Source
from robustlm.utils.own_code import serve
from robustlm.utils.yaml_text import check_yaml

USER_ERRORS = (ValueError, OSError, MisconfigurationException, ImportError, EmbeddingError, EndpointError)
"""What wrong input raises; anything else is a bug and keeps its traceback."""

TRAINER_COMMANDS = {
    "fit": "Tune a model; leaves a log, a checkpoint and an adapter.",
    "validate": "Measure the loss on the validation rows.",
    "test": "Score answers under every instruction condition, and write them to a table.",
    "predict": "Write answers to a table, without scores.",
    "check": "Show what a run would do, and find what would stop it; trains nothing.",
}
"""The commands that take a model and data, and what they do."""


FIT_ONLY = ("hub", "hub_private", "resume")
"""Settings of `fit` that other commands do not have, nor another run of the same settings."""


class CheckingTrainer(Trainer):
    """Lightning's trainer, and `check`: everything that `fit` would begin with, without training."""

    def check(self, model: InstructionTuning, datamodule: InstructionDataModule, rows: int = 2) -> None:
        """Show what a run would do: rows as the model sees them, lengths, parameters, memory. Trains nothing.

        Args:
            model: The module.
            datamodule: Its data.
            rows: How many rows of every view to show.
        """
        from robustlm.cli.check import check

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


class BriefParser(jsonargparse.ArgumentParser):
    """Errors in a few lines: what is wrong and where, without every option and every other value."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong and end with status 2."""
        if not self.exit_on_error:  # of a nested class: the parser around it says where
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        program = parser.prog.replace(" [options]", "")
        text = explain(message, re.findall(r"(?<=\s)--[\w.]+", parser.format_help()))
        self.exit(2, f"robustlm: error: {brief(text)}\n(`{program} --help` shows the options)\n")


class Parser(BriefParser, LightningArgumentParser):
    """Parser of the commands that run a trainer."""

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """The help, with the options of model and data before those of the trainer."""
        found = self._action_groups
        first = [group for group in found if {f"--{name}" for name in _FIRST} & _flags(group)]
        self._action_groups = [*found[:2], *first, *(group for group in found[2:] if group not in first)]
        try:
            return str(super().format_help(*args, **kwargs))
        finally:
            self._action_groups = found


_FIRST = ("model", "data")
"""What a user names in any run."""


def _flags(group: Any) -> set[str]:
    """The options of a group of arguments."""
    return {flag for action in group._group_actions for flag in action.option_strings}


class SavedConfig(SaveConfigCallback):
    """The settings of a run as `config.yaml`, which every command takes: without those that `fit` alone has."""

    def __init__(self, parser: LightningArgumentParser, config: jsonargparse.Namespace, **settings: Any) -> None:
        kept = config.clone()
        for name in FIT_ONLY:
            kept.pop(name, None)
        super().__init__(parser, kept, **settings)


class RobustLMCLI(LightningCLI):
    """LightningCLI over any `InstructionTuning` and any `InstructionDataModule`, named by their class.

    Values are taken from, each over the one before: defaults, config files, the checkpoint at `--ckpt_path`, flags.
    """

    def __init__(self, args: Sequence[str]) -> None:
        self._command = args[0]
        self._typed = list(args)
        self._given = named_configs(args)
        super().__init__(
            InstructionTuning,
            InstructionDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            trainer_class=CheckingTrainer,
            trainer_defaults={
                "max_epochs": 1,
                "enable_model_summary": False,  # see TrainedWeights
                "callbacks": [
                    TrainedWeights(),
                    LostRank(args),
                    WhereItIs(),
                    KnownMonitor(),
                    RestoredOptimizer(),
                    StopOnSignal(args),
                ],
            },
            seed_everything_default=0,
            auto_configure_optimizers=False,
            save_config_callback=SavedConfig,
            save_config_kwargs={"overwrite": True},  # without a logger, a second run writes to the same folder
            parser_class=Parser,
            parser_kwargs={"prog": "robustlm", "allow_abbrev": False, args[0]: _options_of(args[0])},
            args=list(args),
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """The command at hand, one of Lightning's or `check`: the parser of each one takes a while to build."""
        known = {**LightningCLI.subcommands(), "check": {"model", "datamodule"}}
        return {self._command: known[self._command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Callbacks that every run has, with options of their own."""
        parser.add_lightning_class_args(StepCheckpoint, "checkpoint")
        parser.add_lightning_class_args(AdapterExport, "export")
        parser.add_lightning_class_args(PredictionWriter, "predictions")
        parser.add_lightning_class_args(StateWriter, "states")
        if self._command == "fit":
            parser.add_argument(
                "--hub",
                type=str | None,
                default=None,
                help="Repository at the Hugging Face hub (user/name) that the adapter is brought to after the run.",
            )
            parser.add_argument(
                "--hub_private", type=bool, default=True, help="Whether a new repository at the hub is private."
            )
            parser.add_argument(
                "--resume",
                type=str | None,
                default=None,
                help="`auto` goes on with the newest last.ckpt below trainer.default_root_dir (with --run: of it), "
                "or begins anew; the folder of a run, or a checkpoint, goes on with that.",
            )
        if self._command != "check":
            parser.add_argument(
                "--logger",
                type=Kind | None,
                default=None,
                help="Where to log: tensorboard, csv, wandb or mlflow (the last two beside a CSV file); null: "
                "TensorBoard and a CSV file.",
            )
            parser.add_argument(
                "--run",
                type=str | None,
                default=None,
                help="Name of the run: a fit goes to runs/NAME/fit, a test to runs/NAME/test, another one to test-2; a "
                "test tests the run's own fit.",
            )
        parser.set_defaults({"checkpoint.save_last": True, "checkpoint.filename": "{epoch}-{step}"})

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; where a checkpoint is named, with its settings between config files and flags."""
        with reported():
            self._parse_layers(parser, ordered(named_configs(args)))

    def _parse_layers(self, parser: LightningArgumentParser, given: list[str]) -> None:
        for config in configs_of(given):
            check_config(config)
        given = with_evaluation(with_checkpoint(given))
        path = setting(given, "ckpt_path") or None  # the parser says it of a flag without a value
        stored = of_backbone(setting(given, "model.backbone")) if path in NO_CHECKPOINT else of_checkpoint(str(path))
        if stored is None:
            self.config = parser.parse_args(given)
            return
        words = said(given, configs_of(given))
        stored.allow(words)
        prompts = PromptLayer(stored, given, words)
        layer = {"model": stored.model, "data": prompts.section}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "stored.yaml"
            file.write_text(yaml.safe_dump({name: part for name, part in layer.items() if part}), encoding="utf-8")
            self.config = parser.parse_args(after_configs(given, str(file)) if any(layer.values()) else given)
        used = yaml.safe_load(parser.dump(self.config, skip_none=False))[self.config["subcommand"]]
        lines: Iterable[str] = prompts.differences((used["data"] or {}).get("init_args") or {})
        if stored.model:
            chosen = chosen_model(stored, used["model"], words)
            lines = (*chosen, *model_differences(stored.path, stored.model, used["model"], given), *lines)
        for line in lines:
            rank_zero_only(print)(line)

    def _parse_ckpt_path(self) -> None:
        """Lightning would let the checkpoint overrule flags; `parse_arguments` has done it the other way round."""

    def instantiate_classes(self) -> None:
        """Tell the data which conditions the user named; those of a packaged config may be left out."""
        super().instantiate_classes()
        self.datamodule.named = named_by_user(self._given, "conditions")

    def before_instantiate_classes(self) -> None:
        """Refuse numbers and places that a run would fail on, before model and rows are looked at."""
        settings = self.config[self._command].as_dict()
        check_run(self._command, settings)
        if settings.get("logger"):
            check_logger(settings["logger"], settings["trainer"].get("logger"))
        if settings.get("hub"):
            check_hub(settings["hub"])

    def after_fit(self) -> None:
        """Bring the adapter to the hub, when all else of the run is done."""
        settings = self.config_init["fit"]
        folder = run_folder(self.trainer) / settings["export"].name
        if settings.get("hub") and self.trainer.is_global_zero and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            print(f"hub: {push(folder, settings['hub'], private=settings['hub_private'])}")

    def check(self, **kwargs: Any) -> None:
        """Print the settings that are not defaults, then what the trainer finds."""
        settings = self._parser("check").dump(self.config["check"], skip_default=True)
        print("settings\n" + textwrap.indent(settings, "  "))
        assert isinstance(self.trainer, CheckingTrainer)
        self.trainer.check(**kwargs)
        command = (
            "fit" if self.datamodule.sources["train"] else "test" if self.datamodule.sources["test"] else "validate"
        )
        given = [
            a for i, a in enumerate(self._typed) if i and not a.startswith("--rows") and self._typed[i - 1] != "--rows"
        ]
        print(f"next: {shlex.join(['robustlm', command, *given])}")

    def before_validate(self) -> None:
        """Say that weights are untrained."""
        line = untrained(self.model, self.config_init[self.config_init["subcommand"]].get("ckpt_path"))
        if line is not None:
            rank_zero_only(print)(line)

    def before_test(self) -> None:
        """See `before_validate`; refuse states that the model does not have before any rows are read."""
        self.before_validate()
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, StateWriter):
                callback.check(self.model)

    before_predict = before_test

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add TensorBoard and CSV logs in one folder, unless a logger is configured."""
        config = self.config_init[self.config_init["subcommand"]]["trainer"]
        root = config.get("default_root_dir")
        if root and Path(root).exists() and not Path(root).is_dir():
            raise ValueError(f"trainer.default_root_dir: {root} is a file; expected a folder, or a name for a new one")
        part = self._part_of_run(Path(root or "runs"))
        if part is not None:
            config["default_root_dir"] = str(part)
        if config.get("logger") in (None, True) and "logger" not in kwargs:
            if part is not None:
                keep_metrics(part)
            kind = self.config_init[self.config_init["subcommand"]].get("logger")
            kwargs["logger"] = make_loggers(kind, Path(root or "runs"), part)
            config["callbacks"] = [
                *(config.get("callbacks") or []),
                LearningRateMonitor(),
                FalseStart(Path(kwargs["logger"][0].log_dir)),
            ]
        callbacks = config.get("callbacks") or []
        if config.get("enable_progress_bar") is not False and not any(
            isinstance(one, ProgressBar) for one in callbacks
        ):
            config["callbacks"] = [*callbacks, AnswersBar()]
        trainer = super().instantiate_trainer(**kwargs)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, LostRank):
                callback.watch(trainer)
        return trainer

    def _part_of_run(self, root: Path) -> Path | None:
        """The folder of the named run that this command logs in; null without a name."""
        command = self.config_init["subcommand"]
        settings = self.config_init[command]
        if not settings.get("run"):
            return None
        checkpoint, resume = settings.get("ckpt_path"), settings.get("resume")
        evaluation = settings["predictions"].resume
        return part_of_run(command, root / check_run_name(settings["run"]), checkpoint, resume, evaluation)


def run(args: Sequence[str]) -> RobustLMCLI | None:
    """Run a command, raising what goes wrong. `main` is for shells, this is for Python."""
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    given = named_configs(args)
    serve(os.getcwd(), (path.partition(".")[0] for path in said(given, configs_of(given)).paths()))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenizers and forked workers deadlock otherwise
    _quiet()
    _speak()
    if args and args[0] in COMMANDS:
        parser = BriefParser(prog=f"robustlm {args[0]}", description=_first_line(COMMANDS[args[0]]), allow_abbrev=False)
        _add_arguments(parser, COMMANDS[args[0]])
        with reported():
            parsed = parser.parse_args(ordered(args)[1:])
        values = parser.instantiate_classes(parsed)
        for chains in COMMANDS[args[0]](**vars(values)) or ():
            run_chains(chains, main, lambda command: print(as_typed(command), flush=True))
        return None
    if list(args) == ["--version"]:
        print(f"robustlm {robustlm.__version__}")
        return None
    if list(args) in (["-h"], ["--help"]):
        print(_overview())
        return None
    known = [*TRAINER_COMMANDS, *COMMANDS]
    if not args or args[0] not in known:
        found = f"{args[0]!r} is no command{nearest(args[0], known)}" if args else "no command"
        raise ValueError(f"{found}; expected one of {', '.join(known)} first. `robustlm --help` explains them")
    return RobustLMCLI(args)


def _add_arguments(parser: jsonargparse.ArgumentParser, function: Any) -> None:
    """Make a function's arguments those of a command; required ones go without a flag, lists take all that comes."""
    required = [p for p in inspect.signature(function).parameters.values() if p.default is inspect.Parameter.empty]
    help_of = {found.arg_name: found.description for found in docstring_parser.parse(function.__doc__ or "").params}
    for parameter in required:
        many: Any = {"nargs": "+"} if str(parameter.annotation).startswith("list") else {}
        parser.add_argument(parameter.name, type=str, help=help_of.get(parameter.name), **many)
    parser.add_function_arguments(function, skip={p.name for p in required})
    # the options follow one by one with what they mean
    parser.usage = " ".join([parser.prog, *(p.name for p in required), "[--OPTION VALUE ...]"])


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of `robustlm` and `python -m robustlm`. Wrong input ends with a message and exit status 2."""
    given = sys.argv[1:] if args is None else list(args)
    if not given:
        print(_overview(), file=sys.stderr)
        raise SystemExit(2)
    try:
        run(given)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        raise SystemExit(130) from None
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # Lightning turns it into 1
            raise SystemExit(130) from None
        raise
    except BrokenPipeError:  # whoever reads has had enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except USER_ERRORS as error:
        if os.environ.get("ROBUSTLM_TRACEBACK"):
            raise
        text = str(error).strip() or type(error).__name__
        text = explain(text) if text.startswith("Does not validate") else text  # raised in making what was parsed
        _end(in_checkpoint(text, error, value_of(given, "--ckpt_path")), error)
    except Exception as error:
        text = as_user_error(error, value_of(given, "--ckpt_path")) or ""
        if not text or os.environ.get("ROBUSTLM_TRACEBACK"):
            raise
        _end(text, error)


def _end(text: str, error: Exception) -> NoReturn:
    print(f"robustlm: error: {brief(text)}\n(ROBUSTLM_TRACEBACK=1 shows where it was raised)", file=sys.stderr)
    raise SystemExit(2) from error


def _first_line(function: Any) -> str:
    return (function.__doc__ or "").strip().split("\n")[0]


def _overview() -> str:
    lines = {**TRAINER_COMMANDS, **{name: _first_line(function) for name, function in COMMANDS.items()}}
    return "\n".join(
        [
            "usage: robustlm COMMAND [arguments]",
            "",
            str(robustlm.__doc__),
            "",
            *(f"  {name:<{max(map(len, lines)) + 2}}{text}" for name, text in lines.items()),
            "",
            "Each has its own --help. Start from a config that comes along with `-c NAME`: "
            f"{', '.join(known_configs())}.",
        ]
    )


_EXAMPLES = {
    "fit": "-c anit --model.backbone builtin:tiny --data.train builtin:quickstart --trainer.max_steps 20",
    "validate": "-c anit --model.backbone builtin:tiny --data.validation builtin:quickstart",
    "test": "-c robustness --model.backbone builtin:tiny --data.test builtin:quickstart",
    "predict": "-c robustness --model.backbone builtin:tiny --data.test builtin:quickstart",
    "check": "-c anit --model.backbone builtin:tiny --data.train builtin:quickstart",
}
"""Arguments that run as they stand."""


def _options_of(command: str) -> dict[str, Any]:
    """How a command's parser is made."""
    usage = (
        f"robustlm {command} [-c CONFIG] --model CLASS --data CLASS [--model.ARG VALUE] [--data.ARG VALUE] …\n\n"
        f"example: robustlm {command} {_EXAMPLES[command]}\n\n"
        "--model.help CLASS and --data.help CLASS show the options of a class, such as ANIT and NLUDataModule"
    )
    return {"usage": usage, "description": TRAINER_COMMANDS[command]}


def _source(value: Any) -> Source:
    """Rows named in a config, either by path or as the fields of a `Source`."""
    if not isinstance(value, dict):
        raise ValueError(f"expected a path, or an object with the key path, found {value!r}")
    known = [field.name for field in fields(Source)]
    for key in value:
        if key not in known:
            raise ValueError(f"a source has no {key!r}{nearest(str(key), known)}. It has: {', '.join(known)}")
    if not isinstance(value.get("path"), str):
        raise ValueError(f"path: expected a file, folder or name of a data set, found {value.get('path')!r}")
    if not isinstance(value.get("limit"), int | None):
        raise ValueError(f"limit: expected an integer or null, found {value['limit']!r}")
    return Source(**value)


_SETTINGS = {"trainer", "model", "data", "class_path", "init_args", "template", "tokens"}
"""Of these keys, every mapping has one that is settings and holds a prompt template or text somewhere."""

_yaml_load = jsonargparse.get_loader("yaml")


def _load(text: str) -> Any:
    """Read YAML, but take a prompt template given by flag (`Task: {instruction}`) for text and not for a mapping."""
    try:
        check_yaml(text)
        value = _yaml_load(text)
    except RecursionError as error:
        raise yaml.YAMLError("nested too deeply; expected a few levels") from error
    except ValueError:  # a date that no calendar has: the parser says what it expected instead
        return text
    template = isinstance(value, dict) and not _SETTINGS & value.keys() and re.search(r"\{\w+\}", text)
    return text if template else value


def _quiet() -> None:
    """Silence what a user can do nothing about."""
    for pattern in (
        ".*does not have many workers.*",
        ".*is_gradient_checkpointing.*",
        "The dirpath has changed from .*",
        ".*Total length of `(list|DataLoader)` across ranks is zero.*",  # no validation rows; all answered before
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",
        ".*Experiment logs directory .* exists and is not empty.*",
        ".*Checkpoint directory .* exists and is not empty.*",
        "pkg_resources is deprecated as an API",  # of a library that asks an older setuptools for versions
    ):
        warnings.filterwarnings("ignore", pattern)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: not re.search(r"litlogger|available: False|^Loading `train_dataloader`", record.getMessage())
    )


class _Notices(logging.Handler):
    """Prints what the package has to say on standard error; what is no warning, on the first rank alone."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING or getattr(rank_zero_only, "rank", 0) == 0:
            print(self.format(record), file=sys.stderr)


def _speak() -> None:
    """Show notices of this package, which Python hides below the level of a warning."""
    logger = logging.getLogger("robustlm")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _Notices) for handler in logger.handlers):
        logger.addHandler(_Notices())


jsonargparse.set_loader("yaml", _load, exceptions=(yaml.YAMLError,))
drop_on_switch(InstructionTuning, InstructionDataModule)
# as a type of its own, since the parser opens the file that a path names where it expects a dataclass
jsonargparse.typing.register_type(Source, asdict, _source)

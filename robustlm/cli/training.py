"""The commands on any module and data: `fit`, `validate`, `test`, `predict`, `check` and `plan`."""

from __future__ import annotations

import shlex
import tempfile
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import jsonargparse
import jsonargparse.typing
import yaml
from lightning.fabric.plugins.precision.precision import _PRECISION_INPUT
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.accelerators import Accelerator
from lightning.pytorch.callbacks import LearningRateMonitor, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_only

from robustlm.adapters.hub import check_hub, push
from robustlm.callbacks.checkpoints import StepCheckpoint
from robustlm.callbacks.export import AdapterExport
from robustlm.callbacks.folder import run_folder
from robustlm.callbacks.hidden_states import HiddenStateWriter
from robustlm.callbacks.interruption import StopOnSignal
from robustlm.callbacks.predictions import PredictionWriter
from robustlm.callbacks.progress import AnswersBar
from robustlm.callbacks.ranks import LostRank
from robustlm.callbacks.run import RemoveFailedRun, RestoredOptimizer, RunSummary, TrainedWeights, ValidateMonitor
from robustlm.checkpoints.words import said
from robustlm.checks.run import check_run
from robustlm.cli.arguments import after_configs, configs_of, named_by_user, ordered, setting
from robustlm.cli.commands import COMMANDS
from robustlm.cli.configs import check_config, named_configs
from robustlm.cli.layers import drop_on_switch, reported
from robustlm.cli.loggers import Kind, check_logger, make_loggers
from robustlm.cli.parsers import BriefParser
from robustlm.cli.plan import Target, show_plan, with_shape
from robustlm.cli.stored import (
    NO_CHECKPOINT,
    PromptLayer,
    check_run_name,
    chosen_model,
    keep_metrics,
    model_differences,
    of_backbone,
    of_checkpoint,
    part_of_run,
    untrained,
    with_checkpoint,
    with_evaluation,
)
from robustlm.datamodules import InstructionDataModule
from robustlm.models.precision import automatic
from robustlm.modules import InstructionTuning
from robustlm.utils.yaml_text import read_yaml

FIT_ONLY = ("hub", "hub_private", "resume")
"""Settings of `fit` that other commands do not have, and that a repeated run must not reuse."""


class CheckingTrainer(Trainer):
    """Lightning's trainer with `precision: auto`, and with `check`, which prepares everything and trains nothing.

    Args:
        accelerator: Kind of device; `auto` takes a GPU if there is one.
        precision: `32-true`, `bf16-mixed`, `16-mixed`, `bf16-true`, … `auto`: `bf16-mixed` if the device computes it in
            hardware, otherwise `32-true`; a line says which. Trained weights stay float32 in mixed precision.
        kwargs: Further settings of Lightning's trainer.
    """

    def __init__(
        self,
        *,
        accelerator: str | Accelerator = "auto",
        precision: _PRECISION_INPUT | Literal["auto"] | None = None,
        **kwargs: object,
    ) -> None:
        if precision == "auto":
            precision, why = automatic(accelerator if isinstance(accelerator, str) else accelerator.name())
            rank_zero_only(print)(f"precision: {precision}, because {why}")
        super().__init__(accelerator=accelerator, precision=precision, **kwargs)  # type: ignore[arg-type]

    def check(
        self, model: InstructionTuning, datamodule: InstructionDataModule, rows: int = 2, whole: bool = False
    ) -> None:
        """Show what a run would do: rows as the model sees them, lengths, parameters, memory. Trains nothing.

        Args:
            model: The module.
            datamodule: Its data.
            rows: How many rows of every view to show.
            whole: Read and tokenise all rows; otherwise, of files above `data.cache_above`, rows at equal distances.
        """
        from robustlm.cli.check import check

        check(model, datamodule, rows, whole)

    def plan(
        self,
        model: InstructionTuning,
        datamodule: InstructionDataModule,
        gpu: str = "h100",
        gpu_memory: float | None = None,
        gpu_tflops: float | None = None,
        shape: str | None = None,
        prompt: int | None = None,
        answer: int | None = None,
        rows: int | None = None,
        mfu: float = 0.4,
    ) -> None:
        """Show what memory and time a run needs on GPUs; reads no weights, trains nothing.

        Model, method, tuning and batch are those of `fit`: one step of the module's own code runs on tensors without
        data. The number of GPUs is `trainer.devices` × `trainer.num_nodes`.

        Args:
            model: The module.
            datamodule: Its data; without `data.train`, lengths come from `prompt` and `answer`.
            gpu: Kind of GPU: b200, h200, h100, h100-pcie, a100-80gb, a100-40gb, l40s, a10, l4, rtx4090, rtx3090; or
                any name, with the next two options.
            gpu_memory: Memory of a GPU in GB; null: by the table.
            gpu_tflops: Peak of dense bf16 products in TFLOP/s; null: by the table.
            shape: A model without a name, instead of `model.backbone`: 1b, 3b, 8b, 70b (Llama); sizes such as
                `8b,layers=16,vocab=32000`; or a folder or file with a config.
            prompt: Tokens of a prompt; null: those of the training rows; without rows, what `answer` leaves of
                `data.max_length`.
            answer: Tokens of an answer; null: those of the training rows; without rows, an eighth of `data.max_length`.
            rows: Rows of the corpus; null: those of `data.train`.
            mfu: Share of the GPU's peak that a step reaches (0.4: an assumption, not a measurement).
        """
        raise RuntimeError("the command line runs `plan`, which needs settings of GPUs that this machine may lack")

    def test(  # type: ignore[override]
        self,
        model: LightningModule | None = None,
        dataloaders: object = None,
        ckpt_path: str | None = None,
        verbose: bool = False,
        datamodule: LightningDataModule | None = None,
        weights_only: bool | None = None,
    ) -> object:
        """Score answers under every instruction condition, and write them to a table.

        Args:
            model: The module.
            dataloaders: Loaders to use instead of a datamodule.
            ckpt_path: Checkpoint with the trained weights.
            verbose: Also print every metric.
            datamodule: The data.
            weights_only: Refuse checkpoints with anything but weights and plain data.
        """
        return super().test(model, dataloaders, ckpt_path, verbose, datamodule, weights_only)


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
"""Options that a user gives in every run."""


def _flags(group: Any) -> set[str]:
    """The options of a group of arguments."""
    return {flag for action in group._group_actions for flag in action.option_strings}


class SavedConfig(SaveConfigCallback):
    """Saves the settings of a run as `config.yaml`. A second run in the same folder, without a logger, replaces it.

    Args:
        parser: The parser of the command.
        config: The settings.
        text: The settings as they are written.
    """

    def __init__(self, parser: LightningArgumentParser, config: jsonargparse.Namespace, text: str) -> None:
        super().__init__(parser, config, overwrite=True)
        self._text = text

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the file. Lightning would check all settings again, which takes longer than parsing some of them."""
        if self.already_saved:
            return
        folder = trainer.log_dir  # every process asks, since the answer is broadcast
        assert folder is not None
        if trainer.is_global_zero:
            files = get_filesystem(folder)
            files.makedirs(folder, exist_ok=True)
            with files.open(f"{folder}/{self.config_filename}", "w", encoding="utf-8") as file:
                file.write(self._text)
        self.already_saved = True


class RobustLMCLI(LightningCLI):
    """LightningCLI for any `InstructionTuning` and any `InstructionDataModule`, given by their class names.

    Values come from defaults, config files, the checkpoint at `--ckpt_path` and flags. Later ones override earlier
    ones.
    """

    def __init__(self, args: Sequence[str]) -> None:
        drop_on_switch(InstructionTuning, InstructionDataModule)
        self._command = args[0]
        self._shapes = tempfile.TemporaryDirectory(prefix="robustlm-shape-")
        if args[0] == "plan":
            args = with_shape(args, Path(self._shapes.name))
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
                    RunSummary(),
                    ValidateMonitor(),
                    RestoredOptimizer(),
                    StopOnSignal(args),
                ],
            },
            seed_everything_default=0,
            auto_configure_optimizers=False,
            save_config_callback=SavedConfig,
            parser_class=Parser,
            parser_kwargs={"prog": "robustlm", "allow_abbrev": False, args[0]: _options_of(args[0])},
            args=list(args),
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Only the current command (one of Lightning's, `check` or `plan`), since building each parser takes time."""
        own = {name: {"model", "datamodule"} for name in ("check", "plan")}
        known = {**LightningCLI.subcommands(), **own}
        return {self._command: known[self._command]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """See `add_run_arguments`."""
        add_run_arguments(parser, self._command)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments. The settings of a checkpoint are placed between config files and flags."""
        with reported():
            self._parse_layers(parser, ordered(named_configs(args)))
        check_run(self._command, self.config[self._command].as_dict())  # before Lightning takes the seed

    def _parse_layers(self, parser: LightningArgumentParser, given: list[str]) -> None:
        for config in configs_of(given):
            check_config(config)
        given = with_evaluation(with_checkpoint(given))
        path = setting(given, "ckpt_path") or None  # the parser reports a flag without a value
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
        self._dump_config()
        used = self.config_dump
        lines: Iterable[str] = prompts.differences((used["data"] or {}).get("init_args") or {})
        if stored.model:
            chosen = chosen_model(stored, used["model"], words)
            lines = (*chosen, *model_differences(stored.path, stored.model, used["model"], given), *lines)
        for line in lines:
            rank_zero_only(print)(line)

    def _parse_ckpt_path(self) -> None:
        """Do nothing: in Lightning, the checkpoint overrides flags; `parse_arguments` lets flags override it."""

    def _dump_config(self) -> None:
        """Write the settings as text, once for all that read it; those that only `fit` has are left out.

        The parser has checked them. Lightning writes and checks them twice: for hyperparameters and for `config.yaml`.
        """
        if not hasattr(self, "config_dump"):
            kept = self.config[self._command].clone()
            for name in FIT_ONLY:
                kept.pop(name, None)
            parser = self._parser(self._command)
            self._text = parser.dump(kept, skip_link_targets=False, skip_none=False, skip_validation=True)
            self.config_dump = read_yaml(self._text)

    def instantiate_classes(self) -> None:
        """Tell the datamodule which conditions the user named; those of a packaged config may be skipped."""
        super().instantiate_classes()
        self.datamodule.named = named_by_user(self._given, "conditions")

    def before_instantiate_classes(self) -> None:
        """Refuse a logger or a hub name that cannot be used, before the model and the rows are loaded."""
        settings = self.config[self._command].as_dict()
        if settings.get("logger"):
            check_logger(settings["logger"], settings["trainer"].get("logger"))
        if settings.get("hub"):
            check_hub(settings["hub"])
        if self._command == "plan":
            self._target = Target.taken_from(self.config["plan"]["trainer"])

    def after_fit(self) -> None:
        """Upload the adapter to the hub, after everything else in the run is done."""
        settings = self.config_init["fit"]
        folder = run_folder(self.trainer) / settings["export"].name
        if settings.get("hub") and self.trainer.is_global_zero and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            print(f"hub: {push(folder, settings['hub'], private=settings['hub_private'])}")

    def check(self, **kwargs: Any) -> None:
        """Print the settings that are not defaults, then run the trainer's check."""
        settings = self._parser("check").dump(self.config["check"], skip_default=True, skip_validation=True)
        print("settings\n" + textwrap.indent(settings, "  "))
        assert isinstance(self.trainer, CheckingTrainer)
        self.trainer.check(**kwargs)
        command = (
            "fit" if self.datamodule.sources["train"] else "test" if self.datamodule.sources["test"] else "validate"
        )
        given = [
            a
            for i, a in enumerate(self._typed)
            if i and not a.startswith(("--rows", "--whole")) and self._typed[i - 1] not in ("--rows", "--whole")
        ]
        print(f"next: {shlex.join(['robustlm', command, *given])}")

    def plan(self, **kwargs: Any) -> None:
        """Print what memory and time the run needs on its GPUs."""
        show_plan(target=self._target, trainer=self.config_init["plan"]["trainer"], **kwargs)

    def before_validate(self) -> None:
        """Print a message if the weights are untrained."""
        line = untrained(self.model, self.config_init[self.config_init["subcommand"]].get("ckpt_path"))
        if line is not None:
            rank_zero_only(print)(line)

    def before_test(self) -> None:
        """As `before_validate`; also refuse hidden states that the model does not have, before rows are read."""
        self.before_validate()
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, HiddenStateWriter):
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
                RemoveFailedRun(Path(kwargs["logger"][0].log_dir)),
            ]
        callbacks = config.get("callbacks") or []
        if config.get("enable_progress_bar") is not False and not any(
            isinstance(one, ProgressBar) for one in callbacks
        ):
            config["callbacks"] = [*callbacks, AnswersBar()]
        self._dump_config()
        self.save_config_kwargs = {"text": self._text}
        trainer = super().instantiate_trainer(**kwargs)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, LostRank):
                callback.watch(trainer)
        return trainer

    def _part_of_run(self, root: Path) -> Path | None:
        """The folder in the named run for this command's logs; null if the run has no name."""
        command = self.config_init["subcommand"]
        settings = self.config_init[command]
        if not settings.get("run"):
            return None
        checkpoint, resume = settings.get("ckpt_path"), settings.get("resume")
        evaluation = settings["predictions"].resume
        return part_of_run(command, root / check_run_name(settings["run"]), checkpoint, resume, evaluation)


_EXAMPLES = {
    "fit": "-c anit --model.backbone builtin:tiny --data.train builtin:quickstart --trainer.max_steps 20",
    "validate": "-c anit --model.backbone builtin:tiny --data.validation builtin:quickstart",
    "test": "-c robustness --model.backbone builtin:tiny --data.test builtin:quickstart",
    "predict": "-c robustness --model.backbone builtin:tiny --data.test builtin:quickstart",
    "check": "-c anit --model.backbone builtin:tiny --data.train builtin:quickstart",
    "plan": "-c anit --shape 8b --trainer.precision bf16-mixed --gpu h100",
}
"""Example arguments that work unchanged."""


def _options_of(command: str) -> dict[str, object]:
    """Usage and description for a command's parser."""
    usage = (
        f"robustlm {command} [-c CONFIG] --model CLASS --data CLASS [--model.ARG VALUE] [--data.ARG VALUE] …\n\n"
        f"example: robustlm {command} {_EXAMPLES[command]}\n\n"
        "--model.help CLASS and --data.help CLASS show the options of a class, such as ANIT and\n"
        "NoisyInstructionDataModule"
    )
    return {"usage": usage, "description": COMMANDS[command].purpose}


def add_run_arguments(parser: LightningArgumentParser, command: str) -> None:
    """Add the options of the callbacks that every run has, and the options of single commands."""
    parser.add_lightning_class_args(StepCheckpoint, "checkpoint")
    parser.add_lightning_class_args(AdapterExport, "export")
    parser.add_lightning_class_args(PredictionWriter, "predictions")
    parser.add_lightning_class_args(HiddenStateWriter, "states")
    if command == "fit":
        parser.add_argument(
            "--hub",
            type=str | None,
            default=None,
            help="Repository on the Hugging Face hub (user/name) to which the adapter is uploaded after the run.",
        )
        parser.add_argument(
            "--hub_private", type=bool, default=True, help="Whether a new repository on the hub is private."
        )
        parser.add_argument(
            "--resume",
            type=str | None,
            default=None,
            help="What to continue: `auto` is the newest last.ckpt below trainer.default_root_dir (with --run: of that "
            "run), or a new start if there is none; else the folder of a run, or a checkpoint.",
        )
    if command not in ("check", "plan"):
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
            help="Name of the run. A fit is written to runs/NAME/fit, a test to runs/NAME/test, the next test to "
            "runs/NAME/test-2. A test uses the weights of the run's own fit.",
        )
    parser.set_defaults({"checkpoint.save_last": True, "checkpoint.filename": "{epoch}-{step}"})

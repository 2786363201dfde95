"""The commands: their purposes and the modules of their code. This module imports none of those."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

TRAINING = "training"
"""Module of the commands that run a trainer over a model and data."""


@dataclass(frozen=True)
class Command:
    """A command."""

    name: str
    """What users type."""
    purpose: str
    """Its purpose in one line. For a function, this is the first line of its docstring."""
    home: str
    """Module of `robustlm.cli` that holds its code."""
    function: str = ""
    """Name of its function in that module; empty: its own name, with `_` for `-`."""

    @property
    def trains(self) -> bool:
        """Whether it runs a trainer over a model and data."""
        return self.home == TRAINING

    def load(self) -> Callable[..., Any]:
        """Import the command's function, which has the command's arguments. It may yield chains of other commands."""
        home = import_module(f"robustlm.cli.{self.home}")
        function: Callable[..., Any] = getattr(home, self.function or self.name.replace("-", "_"))
        return function


GROUPS = {
    "tune": (
        Command("fit", "Tune a model; leaves a log, a checkpoint and an adapter.", TRAINING),
        Command("validate", "Measure the loss on the validation rows.", TRAINING),
        Command("check", "Show what a run would do, and find what would stop it; trains nothing.", TRAINING),
        Command("plan", "Show what memory and time a run needs on GPUs; reads no weights, trains nothing.", TRAINING),
        Command("merge", "Merge the adapter of a run into the weights of its base model.", "model_commands"),
        Command("init", "Make a tokenizer and a model config from rows, to train from scratch.", "model_commands"),
        Command("study", "Tune and test every arm of a study with every seed, on every data set.", "study"),
        Command("quickstart", "Tune the shipped model in four ways, test all, and say what that shows.", "quickstart"),
    ),
    "evaluate": (
        Command("test", "Score answers under every instruction condition, and write them to a table.", TRAINING),
        Command("predict", "Write answers to a table, without scores.", TRAINING),
    ),
    "rows": (
        Command("noise", "Write rows with noisy variants of their instructions.", "data_commands"),
        Command("pairs", "Write rows with two phrasings each, grouped with hard negatives.", "data_commands"),
        Command("paraphrase", "Ask a chat model for other wordings of instructions.", "data_commands"),
    ),
    "reports": (
        Command("report", "Print how a run does on every phrasing and kind of noise.", "report_commands"),
        Command("compare", "Print the scores of several runs side by side, and draw them.", "report_commands"),
        Command("power", "Print how many samples and instructions an evaluation needs.", "decision_commands"),
        Command("gate", "Check the numbers of a run against rules; fails if one is not met.", "decision_commands"),
        Command("states", "Print how far other phrasings move the hidden states of a model.", "report_commands"),
        Command(
            "import", "Make a prediction table from the logs of another program.", "exchange_commands", "import_logs"
        ),
        Command("export", "Write a prediction table in a form that other programs read.", "exchange_commands"),
        Command("export-harness", "Write the prompts of a run as tasks of lm-evaluation-harness.", "exchange_commands"),
        Command("import-harness", "The older name of `robustlm import harness`, for one log.", "exchange_commands"),
    ),
    "set up": (
        Command("schema", "Print a JSON schema of config files, for editors.", "setup_commands"),
        Command("completion", "Print a script that completes commands and options in a shell.", "setup_commands"),
    ),
}
"""The commands, under the headings of `robustlm --help`."""

COMMANDS = {command.name: command for commands in GROUPS.values() for command in commands}
"""Every command by name."""

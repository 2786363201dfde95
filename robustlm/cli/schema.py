"""Describe the options of the commands to editors (JSON schema) and to shells (completion script)."""

from __future__ import annotations

import json
from typing import Any, get_args

from jsonargparse import ArgumentParser
from lightning.pytorch.cli import LightningArgumentParser

from robustlm.cli.commands import COMMANDS
from robustlm.cli.parsers import BriefParser, add_arguments
from robustlm.cli.training import CheckingTrainer, add_run_arguments
from robustlm.datamodules import InstructionDataModule
from robustlm.modules import InstructionTuning
from robustlm.sources.source import Role, Source

_FREE = ("accelerator", "callbacks", "logger", "plugins", "profiler", "strategy")
"""Settings of the trainer that accept many classes of Lightning."""


def config_schema(command: str) -> str:
    """The JSON schema of the config files that a command takes.

    It does not describe the values of `trainer.callbacks` and other slots for classes of Lightning.

    Args:
        command: `fit`, `validate`, `test`, `predict` or `check`.
    """
    found = _in_layers(json.loads(_trainer_parser(command).get_completion_script("jsonschema")))
    found["properties"]["trainer"]["properties"] |= {name: {} for name in _FREE}
    sources = LightningArgumentParser()
    sources.add_class_arguments(Source)
    described = json.loads(sources.get_completion_script("jsonschema"))
    found["$defs"]["Source"] = {name: described[name] for name in ("type", "properties", "additionalProperties")}
    return json.dumps(found, indent=1)


def completion_script(shell: str) -> str:
    """A script for a shell that completes the commands and their options.

    Args:
        shell: `bash`, `zsh` or `tcsh`.

    Raises:
        ImportError: The package shtab, which writes such scripts, is not installed.
    """
    try:
        import shtab  # noqa: F401
    except ImportError as error:
        raise ImportError("completion: shtab is not installed; pip install 'robustlm[completion]'") from error
    parser = BriefParser(prog="robustlm")
    commands = parser.add_subcommands()
    for command in COMMANDS.values():
        if command.trains:
            inner: ArgumentParser = _trainer_parser(command.name)
        else:
            inner = BriefParser()
            add_arguments(inner, command.load())
        commands.add_subcommand(command.name, inner, help=command.purpose)
    return str(parser.get_completion_script(f"shtab-{shell}"))


def _trainer_parser(command: str) -> LightningArgumentParser:
    """A parser of the options of a command that runs a trainer. It only describes the options; it parses nothing."""
    parser = LightningArgumentParser()
    parser.add_argument("-c", "--config", action="config", help="A YAML file, or the name of a packaged config.")
    parser.add_argument("--seed_everything", type=bool | int, default=0, help="Seed of everything random.")
    parser.add_class_arguments(CheckingTrainer, "trainer", skip=set(_FREE), fail_untyped=False)
    parser.add_subclass_arguments(InstructionTuning, "model", fail_untyped=False)
    parser.add_subclass_arguments(InstructionDataModule, "data", fail_untyped=False)
    add_run_arguments(parser, command)
    if command != "check":
        parser.add_argument("--ckpt_path", type=str | None, default=None, help="A checkpoint, or the folder of a run.")
    return parser


def _in_layers(node: Any) -> Any:
    """Adapt a schema to settings in layers and to the names of classes.

    No argument of a class is required, since another layer may set it. A class of this package may be given by the last
    part of its name. The arguments of other classes are not described.
    """
    if isinstance(node, list):
        return [_in_layers(item) for item in node]
    if not isinstance(node, dict):
        return node
    found = {name: _in_layers(item) for name, item in node.items()}
    for role in get_args(Role):  # the parser registers a source as its own type, and describes it as text
        for one in found.get(role, {}).get("anyOf", ()) if isinstance(found.get(role), dict) else ():
            if one.get("type") == "array":
                one["items"] = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/Source"}]}
    path = (found.get("properties") or {}).get("class_path")
    if isinstance(path, dict) and "const" in path:
        found["properties"]["class_path"] = {"enum": [path["const"].rpartition(".")[2], path["const"]]}
        found["properties"].get("init_args", {}).pop("required", None)
        found["required"] = ["class_path"]
    if any("class_path" in (one.get("properties") or {}) for one in found.get("anyOf", ()) if isinstance(one, dict)):
        own = {"type": "string", "pattern": r"^(?!robustlm\.)\w+\.\w"}
        found["anyOf"].append({"type": "object", "properties": {"class_path": own}, "required": ["class_path"]})
    return found

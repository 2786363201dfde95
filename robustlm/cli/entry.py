"""The command line: `robustlm COMMAND`. The code of a command is imported only when that command runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import NoReturn

import robustlm
from robustlm.cli.commands import COMMANDS, GROUPS, Command


def run(args: Sequence[str]) -> object:
    """Run a command from Python; errors are raised. `main` is the entry point for shells.

    Args:
        args: The command and its arguments.

    Returns:
        For a command that runs a trainer, the `RobustLMCLI` with its model, data and trainer; `None` for others.

    Raises:
        ValueError: There is no such command, or an argument is wrong.
    """
    if list(args) == ["--version"]:
        from robustlm.utils.version import __version__

        print(f"robustlm {__version__}")
        return None
    if list(args) in (["-h"], ["--help"]):
        print(_overview())
        return None
    command = COMMANDS.get(args[0]) if args else None
    if command is None:
        from robustlm.cli.explain import nearest

        found = f"{args[0]!r} is not a command{nearest(args[0], COMMANDS)}" if args else "no command"
        raise ValueError(f"{found}; expected one of {', '.join(COMMANDS)} first. `robustlm --help` explains them")
    _prepare(args)
    if command.trains:
        from robustlm.cli.training import RobustLMCLI

        return RobustLMCLI(args)
    _run_function(command, args)
    return None


def _prepare(args: Sequence[str]) -> None:
    """Set up the process: the modules of the working folder that it may import, and its messages."""
    import jsonargparse

    from robustlm.checkpoints.words import said
    from robustlm.cli.arguments import configs_of
    from robustlm.cli.configs import named_configs
    from robustlm.cli.notices import quiet, speak
    from robustlm.utils.own_code import serve

    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    given = named_configs(args)
    serve(os.getcwd(), (path.partition(".")[0] for path in said(given, configs_of(given)).paths()))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenizers and forked workers deadlock otherwise
    quiet()
    speak()


def _run_function(command: Command, args: Sequence[str]) -> None:
    """Run a command that is a function. If it yields chains of other commands, run those."""
    from robustlm.cli.arguments import ordered, with_lists
    from robustlm.cli.layers import drop_on_switch, reported
    from robustlm.cli.parsers import BriefParser, add_arguments, lists_of

    drop_on_switch()
    function = command.load()
    parser = BriefParser(prog=f"robustlm {command.name}", description=command.purpose, allow_abbrev=False)
    add_arguments(parser, function)
    with reported():
        parsed = parser.parse_args(with_lists(ordered(args)[1:], lists_of(function)))
    values = parser.instantiate_classes(parsed)
    for chains in function(**vars(values)) or ():
        from robustlm.cli.chains import run_chains
        from robustlm.cli.quickstart import as_typed

        run_chains(chains, main, lambda command: print(as_typed(command), flush=True))


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
    except BrokenPipeError:  # the reader closed the pipe, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except Exception as error:
        text = None if os.environ.get("ROBUSTLM_TRACEBACK") else _message(error, given)
        if text is None:
            raise
        print(f"robustlm: error: {text}\n(ROBUSTLM_TRACEBACK=1 shows where it was raised)", file=sys.stderr)
        _end(error)


def _message(error: Exception, args: Sequence[str]) -> str | None:
    """The message for the user about an error; `None` for a bug, which keeps its traceback."""
    from robustlm.checks.texts import brief
    from robustlm.cli.arguments import value_of
    from robustlm.cli.explain import explain
    from robustlm.cli.foreign import as_user_error, in_checkpoint
    from robustlm.utils.errors import UserError

    checkpoint = value_of(args, "--ckpt_path")
    if isinstance(error, ValueError | OSError | ImportError | UserError) or _is_misconfiguration(error):
        text = str(error).strip() or type(error).__name__
        text = explain(text) if text.startswith("Does not validate") else text  # raised while creating classes
        return brief(in_checkpoint(text, error, checkpoint))
    found = as_user_error(error, checkpoint)
    return brief(found) if found else None


def _is_misconfiguration(error: Exception) -> bool:
    """Whether Lightning raised it for wrong settings. This check does not import the class of the error."""
    return any(cls.__name__ == "MisconfigurationException" for cls in type(error).__mro__)


def _end(error: Exception) -> NoReturn:
    raise SystemExit(2) from error


def _listed(configs: list[str]) -> str:
    """Names of configs, those of a folder together: `anit, presets/{coipo, sam}`."""
    folders: dict[str, list[str]] = {}
    for name in configs:
        folder, _, own = name.rpartition("/")
        folders.setdefault(folder, []).append(own)
    alone = folders.pop("", [])
    return ", ".join([*alone, *(f"{folder}/{{{', '.join(names)}}}" for folder, names in folders.items())])


def _overview() -> str:
    """The text of `robustlm --help`."""
    from robustlm.assets import known_configs

    width = max(map(len, COMMANDS)) + 2
    lines = ["usage: robustlm COMMAND [arguments]", "", str(robustlm.__doc__)]
    for group, commands in GROUPS.items():
        lines += ["", f"{group}:", *(f"  {command.name:<{width}}{command.purpose}" for command in commands)]
    return "\n".join(
        [
            *lines,
            "",
            f"Each has its own --help. Start from a packaged config with `-c NAME`: {_listed(known_configs())}.",
        ]
    )

"""Commands that set up an editor and a shell: `schema`, `completion`."""

from __future__ import annotations

from typing import Literal

Trains = Literal["fit", "validate", "test", "predict", "check"]
"""The commands that take config files."""
Shell = Literal["bash", "zsh", "tcsh"]


def schema(command: Trains = "fit", output: str | None = None) -> None:
    """Print a JSON schema of config files, for editors.

    An editor with a YAML language server can then complete and check a config. Write the schema to a file, and name
    this file in the first line of the config: `# yaml-language-server: $schema=robustlm.schema.json`.

    Args:
        command: The command that the config is for.
        output: File for the schema; by default it is printed.
    """
    from pathlib import Path

    from robustlm.checks.places import check_output
    from robustlm.cli.schema import config_schema
    from robustlm.utils.files import write_text

    if output is None:
        print(config_schema(command))
        return
    check_output("output", output)
    write_text(Path(output), config_schema(command) + "\n")
    print(f"schema: {output}")


def completion(shell: Shell = "bash") -> None:
    """Print a script that completes commands and options in a shell.

    For bash: `robustlm completion > ~/.local/share/bash-completion/completions/robustlm`, then open a new shell. The
    script does not update itself; make it again after an update of robustlm.

    Args:
        shell: The shell.
    """
    from robustlm.cli.schema import completion_script

    print(completion_script(shell))

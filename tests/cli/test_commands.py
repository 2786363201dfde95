"""The table of commands, what the command line imports, and what it tells editors and shells."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from robustlm.assets import config_file, known_configs
from robustlm.cli import main
from robustlm.cli.commands import COMMANDS, GROUPS

HEAVY = ("torch", "lightning", "transformers", "peft", "datasets", "matplotlib", "scipy", "pandas")


def test_a_command_says_the_same_in_the_overview_and_in_its_docstring() -> None:
    for command in COMMANDS.values():
        if not command.trains:
            assert (command.load().__doc__ or "").split("\n")[0] == command.purpose, command.name


def test_the_overview_has_groups(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--help"])
    shown = capsys.readouterr().out
    for group, commands in GROUPS.items():
        part = re.split(r"\n\n", shown.partition(f"\n{group}:\n")[2])[0]
        assert [line.split()[0] for line in part.splitlines()] == [command.name for command in commands]
    assert all(len(line) <= 120 for line in shown.splitlines()[:-1])


def test_help_imports_only_what_it_needs() -> None:
    """The overview imports no library; the help of commands on rows and reports imports none of the large ones."""
    small = [command.name for command in COMMANDS.values() if not command.trains and command.name != "quickstart"]
    code = f"""
import contextlib, io, sys
from robustlm.cli import main
def told(args):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
        main(args)
    return [name for name in {HEAVY!r} if name in sys.modules]
print(told(["--help"]), told(["--version"]), "jsonargparse" in sys.modules)
for name in {small!r}:
    print(name, told([name, "--help"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[] [] False", *(f"{name} []" for name in small)]


DESCRIBED = """
import contextlib, sys
from robustlm.cli import main, schema
main(["schema", "--output", sys.argv[1]])
schema.COMMANDS = {name: schema.COMMANDS[name] for name in ("fit", "noise")}  # all of them take long
with open(sys.argv[2], "w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
    main(["completion"])
"""


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The schema, and the script that completes commands, from one process, since its imports take seconds.

    It is a process of its own, because both list all classes that there are, also those that other tests made.
    """
    folder = tmp_path_factory.mktemp("described")
    files = folder / "robustlm.schema.json", folder / "script"
    subprocess.run([sys.executable, "-c", DESCRIBED, *map(str, files)], check=True)
    return files


@pytest.fixture(scope="module")
def schema(described: tuple[Path, Path]) -> Any:
    found = json.loads(described[0].read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(found)
    return jsonschema.Draft202012Validator(found)


@pytest.mark.parametrize("name", known_configs())
def test_every_packaged_config_fits_the_schema(name: str, schema: Any) -> None:
    file = config_file(name)
    assert file is not None
    assert [error.message for error in schema.iter_errors(yaml.safe_load(file.read_text(encoding="utf-8")))] == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("trainer", "max_stepps"), 3),
        (("trainer", "max_steps"), "many"),
        (("model", "init_args", "adversary", "init_args", "epsilonn"), 1.0),
        (("model", "init_args", "adversary", "class_path"), "robustlm.NRMM"),
        (("model", "init_args", "loading", "dtype"), "float99"),
        (("data", "init_args", "train"), [{"path": "rows.jsonl", "limmit": 3}]),
        (("data", "init_args", "batch_size"), "x"),
        (("modle",), {}),
    ],
)
def test_the_schema_finds_what_the_parser_would_refuse(path: tuple[str, ...], value: Any, schema: Any) -> None:
    file = config_file("anit")
    assert file is not None
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert schema.is_valid(config)
    node = config
    for key in path[:-1]:
        node = node.setdefault(key, {})
    node[path[-1]] = value
    assert not schema.is_valid(config)


def test_the_schema_lets_classes_of_others_be(schema: Any) -> None:
    assert schema.is_valid({"model": {"class_path": "my.Module", "init_args": {"anything": 1}}})
    assert schema.is_valid({"model": "ANIT", "trainer": {"callbacks": [{"class_path": "lightning.pytorch.X"}]}})


COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
completer=$(complete -p robustlm | sed 's/.*-F \\([^ ]*\\).*/\\1/')
$completer robustlm "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
echo "${COMPREPLY[@]}"
"""


def test_bash_completes_commands_and_options(described: tuple[Path, Path]) -> None:
    def completed(*words: str) -> list[str]:
        command = ["bash", "-c", COMPLETE, "-", str(described[1]), "robustlm", *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()

    assert completed("f") == ["fit"]
    assert set(completed("fit", "--data.te")) >= {"--data.test", "--data.template"}
    assert completed("noise", "--om") == ["--omega"]
    assert "--ckpt_path" in completed("fit", "--ck")

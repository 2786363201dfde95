"""Every command in a block of the guides is one: its flags are known, and their values are of the right kind."""

from __future__ import annotations

import functools
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from robustlm.cli import main
from robustlm.cli.commands import COMMANDS, Command

ROOT = Path(__file__).parents[2]
PAGES = ("base", "command_line", "data", "evaluation", "runs", "studies", "performance", "methods", "results", "safety")
"""README and extending.md are run from top to bottom by tests of their own."""
LINES = [
    (page, line)
    for page in PAGES
    for body in re.findall(r"^```bash\n(.*?)^```$", (ROOT / f"docs/{page}.md").read_text("utf-8"), re.M | re.S)
    for line in body.replace("\\\n", " ").splitlines()
    if line.strip() and not line.startswith("#")
]
OTHERS = {"lm-eval": "run", "mkdir": "-p", "pip": "download", "export": r"(OPENAI_API_KEY|ROBUSTLM_\w+)=.+"}
"""Programs of others that the guides name, with a pattern of the word after them."""
TARGETS = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.M)


@pytest.mark.parametrize(("page", "line"), LINES)
def test_a_command_is_one(
    page: str, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    program, *arguments = shlex.split(line, comments=True)
    if program == "timeout":
        program, *arguments = arguments[1:]
    if program == "python":
        assert arguments[0] == "-m"
        assert (ROOT / (arguments[1].replace(".", "/") + ".py")).is_file()
        return
    if program == "make":
        assert arguments[0] in TARGETS
        return
    if program != "robustlm":
        assert re.fullmatch(OTHERS[program], arguments[0])
        return
    name = arguments[0]
    if ">" in arguments:  # of the shell
        del arguments[arguments.index(">") :]
    command = COMMANDS.get(name)
    if command is not None and not command.trains:
        called: list[dict[str, Any]] = []

        @functools.wraps(command.load())
        def record(**values: Any) -> None:
            called.append(values)

        monkeypatch.setattr(Command, "load", lambda self: record)
        main(arguments)
        assert len(called) == 1
        return
    if "--ckpt_path" in arguments:  # whose settings would be read, and is not there
        at = arguments.index("--ckpt_path")
        del arguments[at : at + 2]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--print_config"])
    assert ended.value.code == 0, capsys.readouterr().err

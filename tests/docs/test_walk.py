"""The README, read from top to bottom in a fresh folder: every block runs, in order, on rows of each shape."""

from __future__ import annotations

import contextlib
import csv
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from robustlm.cli import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

HUB = ("meta-llama/Llama-3.2-1B-Instruct", "meta-llama/Llama-3.2-1B", "Qwen/Qwen2.5-0.5B")
"""Models that the README names and no test can download: a small one with a chat template stands for each."""

TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|> {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|> {% endif %}"
)

WORDS = ("refund", "invoice", "parcel", "broken", "late", "screen", "password", "login", "card", "blocked", "question")
LABELS = ["Billing, refunds", "Parcel late", "Account blocked"]


def _text(number: int) -> str:
    return " ".join(WORDS[(number * step) % len(WORDS)] for step in (1, 3, 5, 7))


def _alpaca(number: int) -> dict[str, Any]:
    return {"instruction": f"Say what the customer wants, case {number}.", "input": _text(number), "output": "a refund"}


def _chat(number: int) -> dict[str, Any]:
    turns = [
        {"role": "system", "content": "You help customers."},
        {"role": "user", "content": f"My {_text(number)}."},
        {"role": "assistant", "content": "Which one?"},
        {"role": "user", "content": f"Number {number}, please say what to do."},
        {"role": "assistant", "content": "Send it back."},
    ]
    return {"messages": turns}


def _ticket(number: int) -> dict[str, Any]:
    return {"text": f"{_text(number)} {number}", "label": LABELS[number % len(LABELS)]}


SHAPES: dict[str, Callable[[int], dict[str, Any]]] = {"alpaca": _alpaca, "chat": _chat, "tickets": _ticket}


def _without_answer(row: dict[str, Any]) -> dict[str, Any]:
    """A chat loses its last turn; a ticket is asked about in words, since a text alone says of no task."""
    if "messages" in row:
        return {**row, "messages": row["messages"][:-1]}
    if "label" in row:
        return {"instruction": "What does the customer want?", "input": row["text"]}
    return {key: value for key, value in row.items() if key != "output"}


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    if path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture(scope="session")
def stand_in(shallow: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model that can chat."""
    folder = tmp_path_factory.mktemp("hub") / "model"
    shutil.copytree(shallow, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(params=SHAPES)
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh folder with the files that the README names, all of one shape, each with rows of its own."""
    make = SHAPES[request.param]
    names = sorted(set(re.findall(r"[\w-]+\.(?:jsonl|json|csv)\b", "".join(body for _, body in BLOCK.findall(README)))))
    for start, name in enumerate(names):
        rows = [make(10 * start + number) for number in range(6)]
        _write(tmp_path / name, list(map(_without_answer, rows)) if name == "requests.jsonl" else rows)
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(1)
    return tmp_path


def _lines(body: str) -> Iterator[str]:
    for line in body.replace("\\\n", " ").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield line


PACKAGED = ("-c quickstart", "builtin:", "runs/tiny")
"""Commands that do not read a user's rows, so that the shape of the rows does not matter: one shape runs them."""

SHORTER = {"--trainer.max_steps 30": "--trainer.max_steps 2", "--data.samples 5": "--data.samples 1"}
"""Fewer steps and samples of the same commands."""

ANSWERING = ("fit", "test", "predict")
SHORT = "--model.max_new_tokens=4"
"""A random model does not end its answers: they have 128 tokens for each row and condition. So they are with rows of
one shape, those that the commands of `PACKAGED` run with; answers to rows of other shapes are short."""


def run(kind: str, body: str, model: str, names: dict[str, Any], *, packaged: bool) -> list[str]:
    """Run a block, with the commands of `PACKAGED` if `packaged`; those of other programs come back."""
    for name in HUB:
        body = body.replace(name, model)
    for long, short in SHORTER.items():
        body = body.replace(long, short)
    if kind == "python":
        exec(compile(body, "README.md", "exec"), names)
        return []
    assert kind == "bash", f"{kind} blocks are not run"
    others = []
    for line in _lines(body):
        program, *arguments = shlex.split(line, comments=True)
        if program == "robustlm" and arguments[0] != "schema":  # it lists classes, also those that other tests made
            if not packaged and any(part in line for part in PACKAGED):
                continue
            print(f"$ {line}")
            main([*arguments, SHORT] if arguments[0] in ANSWERING and not packaged else arguments)
        else:
            others.append(f"{program} {arguments[0]}")
    return others


def test_the_first_screen_has_two_commands_a_picture_and_a_table() -> None:
    """Then the three things that users do, each with a command."""
    screen, _, rest = README.partition("\n## ")
    assert [body.split()[:2] for _, body in BLOCK.findall(screen)] == [["make", "quickstart"]]
    assert re.findall(r"^make (\w+)", screen, re.MULTILINE) == ["quickstart", "test"]
    assert screen.count("![") == 1
    assert len(re.findall(r"^\|[-:|]+\|$", screen, re.MULTILINE)) == 1
    things = re.findall(r"^\*\*(\w+)\.\*\* .*?^```bash\n(.*?)^```$", rest, re.MULTILINE | re.DOTALL)
    assert [thing for thing, _ in things] == ["Tune", "Evaluate", "Extend"]


def test_every_block_runs(folder: Path, stand_in: str, request: pytest.FixtureRequest) -> None:
    packaged = request.node.callspec.params["folder"] == next(iter(SHAPES))
    names: dict[str, Any] = {"__name__": "readme"}
    others = []
    for kind, body in BLOCK.findall(README):
        others += run(kind, body, stand_in, names, packaged=packaged)
    examples = {f"python examples/{file.name}" for file in (ROOT / "examples").glob("*.py")}
    known = {
        "robustlm schema",
        "make quickstart",
        "make test",
        ". .venv/bin/activate",
        "tensorboard --logdir",
        *examples,
    }
    assert set(others) <= known
    assert all(long in README for long in SHORTER)
    assert find_spec("tensorboard")
    with contextlib.suppress(FileNotFoundError):
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in ("quickstart", "test"))

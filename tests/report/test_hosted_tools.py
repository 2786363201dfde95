"""Two hosted models on chats with tools, as a user compares them and gates one of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from robustlm.cli import main
from robustlm.evaluation.table import read_table
from tests.endpoint import SECRET, LocalEndpoint
from tests.tiny import write_rows

WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}
CITIES = ("Oslo", "Rome", "Lima", "Bern", "Cairo", "Delhi", "Paris", "Quito")


def chat(city: str) -> list[dict[str, Any]]:
    """A question, the call of the tool, its result, and the answer."""
    function = {"name": "get_weather", "arguments": json.dumps({"city": city})}
    return [
        {"role": "system", "content": "Use the tools."},
        {"role": "user", "content": f"How is the weather in {city}?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": function}]},
        {"role": "tool", "tool_call_id": "1", "content": '{"sky": "blue"}'},
        {"role": "assistant", "content": "Blue."},
    ]


def calls(request: dict[str, Any]) -> tuple[int, Any]:
    """The model `good` calls the tool as it should; `bad` names no city for half of them, and ends with other words."""
    last, bad = request["messages"][-1], request["model"] == "bad"
    message: dict[str, Any] = {"role": "assistant", "content": "Grey." if bad else "Blue."}
    if last["role"] == "user":
        (city,) = [city for city in CITIES if city in last["content"]] or ["nowhere"]
        known = {} if bad and city < "E" else {"city": city}
        function = {"name": "get_weather", "arguments": json.dumps(known)}
        message = {
            "role": "assistant", "content": None,
            "tool_calls": [{"id": "9", "type": "function", "function": function}],
        }  # fmt: skip
    usage = {"prompt_tokens": 20, "completion_tokens": 5, "total_tokens": 25}
    return 200, {"choices": [{"message": message, "finish_reason": "stop"}], "usage": usage}


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalEndpoint]:
    pytest.importorskip("openai")
    found = LocalEndpoint(calls)
    monkeypatch.setenv("OPENAI_BASE_URL", found.url)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setattr("robustlm.models.hosted.CACHE", str(tmp_path / "cache"))
    yield found
    found.close()


def test_compare_and_gate(endpoint: LocalEndpoint, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"messages": chat(city)[:end], "tools": [WEATHER]} for city in CITIES for end in (3, 5)]
    file = write_rows(tmp_path / "tools.jsonl", rows)
    runs = {}
    for model in ("good", "bad"):
        main(["test", "-c", "robustness", f"--model.backbone=openai:{model}", f"--data.test={file}",
              "--data.template=chat", "--data.conditions=[clean,deepwordbug@0.1]", "--trainer.accelerator=cpu",
              "--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={tmp_path}/{model}"])  # fmt: skip
        runs[model] = f"{tmp_path}/{model}/version_0"
    table = read_table(Path(runs["good"]) / "predictions.parquet")
    assert {(row.task, row.condition) for row in table} == {
        (task, condition) for task in ("tool_calls", "generation") for condition in ("clean", "deepwordbug@0.1")
    }
    assert all(row.prompt and row.prompt.startswith('Tools: [{"type": "function"') for row in table)

    capsys.readouterr()
    flips, pages = tmp_path / "flips.jsonl", tmp_path / "comparison"
    main(["compare", f"good={runs['good']}", f"bad={runs['bad']}", "--paired", "true", "--flips", str(flips),
          "--output", str(pages)])  # fmt: skip
    said = capsys.readouterr().out
    assert "- clean: good is better than bad" in said
    assert "What bad and good were asked: 32 cells of 16 samples: 32 the same prompt." in said
    flipped = [json.loads(line) for line in flips.read_text(encoding="utf-8").splitlines()]
    assert {one["flip"] for one in flipped} == {"right→wrong"}
    called = [one["after"] for one in flipped if one["task"] == "tool_calls"]
    assert called == ['<tool_call>{"name": "get_weather", "arguments": {}}</tool_call>'] * len(called)
    assert len(called) >= 6
    assert "get_weather" in (pages / "comparison.html").read_text(encoding="utf-8")

    junit, summary = tmp_path / "gate.xml", tmp_path / "gate.md"
    written = ["--junit", str(junit), "--summary", str(summary)]
    main(["gate", runs["good"], "mean[clean] >= 60", "unparseable <= 25", *written])
    assert "PASS  mean[clean] >= 60: 100.0" in capsys.readouterr().out
    assert not list(ElementTree.parse(junit).iter("failure"))
    with pytest.raises(SystemExit, match="1"):
        main(["gate", runs["bad"], "mean[clean] >= 60", *written])
    assert "FAIL  mean[clean] >= 60" in capsys.readouterr().out
    assert len(list(ElementTree.parse(junit).iter("failure"))) == 1
    assert "mean[clean]" in summary.read_text(encoding="utf-8")

"""A local model behind an endpoint gives the same table as the model itself; chats are sent as messages."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from robustlm.cli import main
from robustlm.evaluation.record import Record
from robustlm.evaluation.table import read_table
from robustlm.models.backbone import Backbone
from tests.endpoint import SECRET, LocalEndpoint, ServedModel, completed, fail
from tests.tiny import write_rows

TINY = "builtin:tiny"


@pytest.fixture(scope="module")
def served() -> ServedModel:
    backbone = Backbone(TINY)
    backbone.load()
    backbone.eval()
    return ServedModel(backbone)


@pytest.fixture
def endpoint(served: ServedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalEndpoint]:
    pytest.importorskip("openai")
    found = LocalEndpoint(served)
    monkeypatch.setenv("OPENAI_BASE_URL", found.url)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("HOME", str(tmp_path))
    yield found
    found.close()


@pytest.fixture
def rows(tmp_path: Path) -> str:
    made = [
        {"id": f"r{i}", "sentence": f"a {'fine' if i % 2 else 'dull'} film, {i}", "label": ("bad", "good")[i % 2]}
        for i in range(5)
    ]
    return write_rows(tmp_path / "rows.jsonl", made)


def table_of(backbone: str, rows: str, folder: Path, *more: str) -> list[Record]:
    main([
        "test", "--model=InstructionTuning", f"--model.backbone={backbone}", "--model.max_new_tokens=12",
        *(["--model.tuning=null"] if backbone == TINY else []), "--data=RobustnessDataModule", f"--data.test={rows}",
        "--data.prompts=2", "--data.conditions=[clean,random_typos@0.3]", "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={folder}", *more,
    ])  # fmt: skip
    return read_table(folder / "version_0/predictions.parquet")


def test_generated_answers_are_those_of_the_model_itself(endpoint: LocalEndpoint, rows: str, tmp_path: Path) -> None:
    here = table_of(TINY, rows, tmp_path / "here")
    there = table_of("openai:tiny", rows, tmp_path / "there")
    assert len(here) == 20
    for mine, its in zip(here, there, strict=True):
        assert its.latency is not None
        its.latency = None
        assert its == mine
    assert {row.finish_reason for row in here} <= {"stop", "length"}
    assert all(row.prompt_tokens and row.answer_tokens is not None for row in here)


def test_chosen_options_are_those_of_the_model_itself(endpoint: LocalEndpoint, rows: str, tmp_path: Path) -> None:
    more = ["--data.scoring=acc_norm", "--data.conditions=[clean]"]
    here = table_of(TINY, rows, tmp_path / "here", *more)
    there = table_of("openai:tiny", rows, tmp_path / "there", *more)
    for mine, its in zip(here, there, strict=True):
        assert its.option_scores == pytest.approx(mine.option_scores, abs=1e-3)
        assert (its.prediction, its.option_tokens, its.choices) == (mine.prediction, mine.option_tokens, mine.choices)
    asked = {(request["prompt"], request["echo"], request["max_tokens"]) for request in endpoint.requests}
    assert len(asked) == len(endpoint.requests) == 5 * 2 * 3, "a prompt, and each of its two options, once"


def test_a_server_without_likelihoods_of_prompts_is_refused(
    endpoint: LocalEndpoint, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The server of llama.cpp answers with the likelihood of the new token alone, from which scores would be chance."""
    choice = {"text": " x", "logprobs": {"token_logprobs": [-0.5]}, "finish_reason": "length"}
    endpoint.answers = [lambda request: completed("", choices=[choice])] * 50
    with pytest.raises(SystemExit):
        table_of("openai:tiny", rows, tmp_path / "there", "--data.scoring=acc")
    assert "gave log-likelihoods of 1 tokens for a prompt of 11 tokens" in capsys.readouterr().err
    endpoint.answers = [fail(404, "no such path")] * 50
    with pytest.raises(SystemExit):
        table_of("openai:tiny", rows, tmp_path / "elsewhere", "--data.scoring=acc")
    assert "HTTP 404" in capsys.readouterr().err


def test_a_failed_request_leaves_a_row_without_a_choice(endpoint: LocalEndpoint, rows: str, tmp_path: Path) -> None:
    def answer(request: dict[str, Any]) -> tuple[int, Any]:
        return fail(400, "no")(request) if "dull film, 2" in request["prompt"] else endpoint.usual(request)

    endpoint.answers = [answer] * 50
    table = table_of(
        "openai:tiny",
        rows,
        tmp_path / "there",
        "--data.scoring=acc",
        "--data.conditions=[clean]",
        "--model.hosting.max_failures=0.5",
    )
    failed = [row for row in table if row.error is not None]
    assert [row.sample_id for row in failed] == ["r2", "r2"]
    assert all((row.prediction, row.correct, row.option_scores) == ("", False, None) for row in failed)


def test_a_chat_is_sent_as_messages(endpoint: LocalEndpoint, tmp_path: Path) -> None:
    messages = [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": "Name a colour."},
        {"role": "assistant", "content": "Red."},
        {"role": "user", "content": "And another one?"},
        {"role": "assistant", "content": "Blue."},
    ]
    file = write_rows(tmp_path / "chats.jsonl", [{"id": "c", "messages": messages}])
    endpoint.answers = [lambda request: completed("Blue.")] * 9
    main([
        "test", "--model=InstructionTuning", "--model.backbone=openai:tiny", "--data=InstructionDataModule",
        f"--data.test={file}", "--data.template=chat", "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false", f"--trainer.default_root_dir={tmp_path}",
    ])  # fmt: skip
    (row,) = read_table(tmp_path / "version_0/predictions.parquet")
    (request,) = endpoint.requests
    assert request["messages"] == messages[:-1]
    assert row.correct
    assert row.prompt is not None
    assert all(message["content"] in row.prompt for message in messages[:-1])

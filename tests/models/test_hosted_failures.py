"""Requests that fail are rows that say why; a run ends where all or too many fail; missing answers are asked again."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from robustlm.cli import main
from robustlm.endpoint import EndpointError, Pace
from robustlm.evaluation.record import Record
from robustlm.evaluation.table import read_table
from robustlm.models.hosted import Failures, HostedBackbone, Hosting
from robustlm.report.samples import most_changing
from tests.endpoint import SECRET, Answer, LocalEndpoint, completed, fail
from tests.models.test_hosted import arguments, rows, says

__all__ = ["rows"]


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[LocalEndpoint]:
    pytest.importorskip("openai")
    found = LocalEndpoint(says)
    monkeypatch.setenv("OPENAI_BASE_URL", found.url)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("HOME", str(tmp_path))
    yield found
    found.close()


def answers(file: Path) -> list[Record]:
    return read_table(file / "version_0/predictions.parquet")


def fails_for(text: str, answer: Answer) -> Answer:
    """Fails for prompts that hold a text."""
    return lambda request: answer(request) if text in str(request) else says(request)


CUT: Answer = lambda request: (200, '{"choices": [{"mess')  # noqa: E731
PAGE: Answer = lambda request: (200, "<html><body>Bad gateway</body></html>")  # noqa: E731
EMPTY: Answer = lambda request: completed("", choices=[])  # noqa: E731
INSIDE: Answer = lambda request: (200, {"choices": None, "error": {"message": "upstream is gone"}})  # noqa: E731
REMOVED: Answer = lambda request: completed(  # noqa: E731
    None, choices=[{"message": {"role": "assistant", "content": None}, "finish_reason": "content_filter"}]
)


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (CUT, "malformed answer"),
        (PAGE, "malformed answer"),
        (EMPTY, "no choices"),
        (INSIDE, "upstream is gone"),
        (REMOVED, "content filter removed the answer"),
        (fail(400, "the content management policy forbids this"), "HTTP 400): Error code: 400"),
        (fail(500), "HTTP 500) after 0 retries"),
    ],
    ids=["cut", "page", "empty", "inside", "removed", "filter", "500"],
)
def test_a_bad_reply_is_a_row_that_says_why(
    answer: Answer, why: str, endpoint: LocalEndpoint, rows: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    endpoint.answers = [fails_for("n° 3", answer)] * 60
    main(arguments(rows, tmp_path / "a", "--model.hosting.max_retries=0", "--data.conditions=[clean]"))
    table = answers(tmp_path / "a")
    assert len(table) == 12
    failed = [row for row in table if row.error is not None]
    assert [row.sample_id for row in failed] == ["r3", "r3"]
    assert all(why in str(row.error) for row in failed)
    assert all(
        (row.prediction, row.parsed, row.correct, row.finish_reason) == ("", None, False, None) for row in failed
    )
    assert all(row.correct for row in table if row.error is None)
    assert (
        "2 of 12 requests failed (16.7 %); these rows have no answer and count as wrong: clean 2 of 12" in caplog.text
    )
    assert why in caplog.text
    assert "--predictions.retry_failed true" in caplog.text
    assert "could not be read" not in caplog.text, "what was not answered is not unreadable"
    assert SECRET not in caplog.text
    capsys.readouterr()
    main(["report", str(tmp_path / "a/version_0"), "--output", str(tmp_path / "report"), "--draws=10"])
    said = "2 of 12 requests failed (16.7 %)"
    assert said in capsys.readouterr().out
    page = (tmp_path / "report/robustness.html").read_text(encoding="utf-8")
    assert said in page
    assert ("✗ no answer" in page) == ("r3" in [one.sample for one in most_changing(table)])


def test_missing_answers_are_asked_again(
    endpoint: LocalEndpoint, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.answers = [fails_for("n° 3", fail(400, "no"))] * 24
    main(arguments(rows, tmp_path / "a"))
    folder = tmp_path / "a/version_0"
    assert sum(row.error is not None for row in answers(tmp_path / "a")) == 4
    again = arguments(rows, tmp_path / "a", f"--predictions.resume={folder}")
    with pytest.raises(SystemExit):
        main(again)
    assert "but 4 of 24 rows, which have no answer: add --predictions.retry_failed true" in capsys.readouterr().err
    count = len(endpoint.requests)
    endpoint.answers = [fails_for("n° 3", fail(400, "no"))] * 3
    main([*again, "--predictions.retry_failed=true"])
    assert len(endpoint.requests) == count + 4, "every other answer is at hand"
    assert sum(row.error is not None for row in answers(tmp_path / "a")) == 3
    main([*again, "--predictions.retry_failed=true"])
    assert len(endpoint.requests) == count + 4 + 3
    assert all(row.correct and row.error is None for row in answers(tmp_path / "a"))
    assert sorted(file.name for file in folder.glob("predictions*")) == ["predictions.parquet"]
    with pytest.raises(SystemExit):
        main([*again, "--predictions.retry_failed=true"])
    assert "each of its 24 rows has an answer; nothing to retry" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(arguments(rows, tmp_path / "b", "--predictions.retry_failed=true"))
    assert "predictions.retry_failed: found no predictions.resume" in capsys.readouterr().err


def test_another_temperature_does_not_go_on_with_a_table(
    endpoint: LocalEndpoint, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.answers = [fails_for("n° 3", fail(400, "no"))] * 24
    main(arguments(rows, tmp_path / "a"))
    again = [f"--predictions.resume={tmp_path}/a/version_0", "--predictions.retry_failed=true"]
    with pytest.raises(SystemExit):
        main(arguments(rows, tmp_path / "a", *again, "--model.hosting.temperature=0.5"))
    assert "expected the same hosted model, asked with the same model.hosting settings" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "said", "most"),
    [
        (fail(401), "HTTP 401", 8),
        (fail(403), "HTTP 403", 8),
        (fail(404, "no such model"), "no such model", 8),
        (fail(400, "no"), "6 of 6 requests failed, the last 6 in a row; expected at most model.hosting.max_f", 16),
        (PAGE, "is this a chat endpoint?", 30),
        (fail(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
         "try --model.hosting.max_tokens_name max_completion_tokens", 8),
    ],
    ids=["401", "403", "404", "400", "page", "renamed"],
)  # fmt: skip
def test_a_run_in_which_every_request_fails_ends_at_once(
    answer: Answer, said: str, most: int, endpoint: LocalEndpoint, rows: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    endpoint.answers = [answer] * 100
    with pytest.raises(SystemExit):
        main(arguments(rows, tmp_path / "a", "--model.hosting.max_retries=1", "--model.hosting.concurrency=1"))
    assert said in capsys.readouterr().err
    assert len(endpoint.requests) <= most
    assert not (tmp_path / "a/version_0/predictions.parquet").exists()


def test_an_endpoint_that_is_not_there_ends_a_run(
    endpoint: LocalEndpoint, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.close()
    with pytest.raises(SystemExit):
        main(arguments(rows, tmp_path / "a", "--model.hosting.max_retries=0"))
    assert "cannot reach the endpoint" in capsys.readouterr().err


def test_a_small_run_without_any_answer_ends_with_an_error(
    endpoint: LocalEndpoint, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.answers = [fail(400, "no")] * 100
    few = ["--data.conditions=[clean]", "--data.prompts=1", "--model.hosting.max_failures=1"]
    with pytest.raises(SystemExit):
        main(arguments(rows, tmp_path / "a", *few))
    assert "none of the 6 rows was answered: every request failed, the first: " in capsys.readouterr().err
    endpoint.answers = []
    main(arguments(rows, tmp_path / "a", *few, f"--predictions.resume={tmp_path}/a/version_0",
                   "--predictions.retry_failed=true"))  # fmt: skip
    endpoint.answers = []


def failure(concerns: Any = "one") -> EndpointError:
    return EndpointError("it failed", concerns=concerns)


def test_when_failures_end_a_run() -> None:
    some = Failures(0.1)
    for _ in range(5):
        some.failed(failure())
    with pytest.raises(EndpointError, match="6 of 6 requests failed"):
        some.failed(failure())
    rare = Failures(0.1)
    for _ in range(10):
        for _ in range(9):
            rare.answered()
        rare.failed(failure())
    with pytest.raises(EndpointError, match="11 of 101 requests failed, the last 2 in a row"):
        rare.failed(failure())
    late = Failures(0.5)
    for _ in range(1000):
        late.answered()
    for _ in range(19):
        late.failed(failure("unknown"))
    with pytest.raises(EndpointError, match="the last 20 in a row"):
        late.failed(failure())
    none = Failures(0.0)
    none.answered()
    with pytest.raises(EndpointError, match="it failed"):
        none.failed(failure())
    every = Failures(1.0)
    for _ in range(100):
        every.failed(failure())
    with pytest.raises(EndpointError, match="it failed"):
        every.failed(failure("all"))
    with pytest.raises(EndpointError, match="it failed"):
        Failures(1.0).failed(failure("unknown"))


def test_requests_are_spread_over_time() -> None:
    pace, sent = Pace(60 * 100), list[float]()

    def ask() -> None:
        pace.wait()
        sent.append(time.monotonic())

    threads = [threading.Thread(target=ask) for _ in range(8)]
    begun = time.monotonic()
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert max(sent) - begun >= 0.07
    free = Pace(None)
    begun = time.monotonic()
    for _ in range(1000):
        free.wait()
    assert time.monotonic() - begun < 0.5


def test_settings_reach_the_request_and_its_key(
    endpoint: LocalEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: list[dict[str, Any]] = [
        {},
        {"temperature": 0.7},
        {"temperature": None},
        {"top_p": 0.9},
        {"seed": 3},
        {"stop": ["\n"]},
        {"max_tokens_name": "max_completion_tokens"},
        {"body": {"reasoning_effort": "low"}},
        {"body": {"chat_template_kwargs": {"enable_thinking": False}}},
    ]
    for count, one in enumerate(settings, start=1):
        for _ in range(2):
            model = HostedBackbone("openai:m", Hosting(**one), str(tmp_path))
            assert model.answer(["a fine film"], 8) == ["label: good"]
        assert len(endpoint.requests) == count, f"{one} is a request of its own, and is sent once"
    first, hot, unset, *_, low, kwargs = endpoint.requests
    plain = {"model": "m", "messages": [{"role": "user", "content": "a fine film"}], "path": "/v1/chat/completions"}
    assert first == plain | {"temperature": 0, "max_tokens": 8}
    assert hot["temperature"] == 0.7
    assert "temperature" not in unset
    assert [one.get("top_p", one.get("seed", one.get("stop"))) for one in endpoint.requests[3:6]] == [0.9, 3, ["\n"]]
    assert endpoint.requests[6] == plain | {"temperature": 0, "max_completion_tokens": 8}
    assert low["reasoning_effort"] == "low"
    assert kwargs["chat_template_kwargs"] == {"enable_thinking": False}
    identities = {HostedBackbone("openai:m", Hosting(**one)).identity for one in settings}
    assert len(identities | {HostedBackbone("openai:other").identity}) == len(settings) + 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"timeout": 0}, "hosting.timeout: found 0"),
        ({"max_retries": -1}, "hosting.max_retries: found -1"),
        ({"requests_per_minute": 0}, "hosting.requests_per_minute: found 0"),
        ({"max_failures": 1.5}, "hosting.max_failures: found 1.5"),
        ({"temperature": -1}, "hosting.temperature: found -1"),
        ({"top_p": 0}, "hosting.top_p: found 0"),
        ({"body": {"seed": 1}}, "hosting.body: found 'seed', which has a setting of its own: hosting.seed"),
        ({"body": {"messages": []}}, "hosting.body: found 'messages', which robustlm sets"),
        ({"max_tokens_name": "tokens"}, "hosting.max_tokens_name: found 'tokens'"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Hosting(**settings)


def test_what_is_known_of_an_answer_is_kept(
    endpoint: LocalEndpoint, rows: str, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    long = {"choices": [{"message": {"role": "assistant", "content": "label: go"}, "finish_reason": "length"}]}
    endpoint.answers = [lambda request: completed("label: good", **(long if "n° 3" in str(request) else {}))] * 12
    main(arguments(rows, tmp_path / "a", "--data.conditions=[clean]"))
    table = answers(tmp_path / "a")
    assert {row.finish_reason for row in table} == {"stop", "length"}
    assert all((row.prompt_tokens, row.answer_tokens) == (11, 3) for row in table)
    assert all(0 < (row.latency or 0) < 60 for row in table)
    assert "tokens: 132 of prompts and 36 of answers" in capsys.readouterr().out
    assert "2 of 12 answers (16.7 %) were cut off at the limit of tokens; raise model.max_new_tokens" in caplog.text
    main(["report", str(tmp_path / "a/version_0"), "--output", str(tmp_path / "report"), "--draws=10"])
    page = (tmp_path / "report/robustness.html").read_text(encoding="utf-8")
    assert "132 of prompts and 36 of answers" in page
    assert "2 of 12 answers (16.7 %) were cut off" in page
    again = arguments(rows, tmp_path / "b", "--data.conditions=[clean]")
    main(again)
    assert answers(tmp_path / "b") == table, "also from stored answers"

"""Asking for paraphrases: the chat protocol against a local server, interruptions, files that appear whole."""

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from robustlm.cli import main
from robustlm.endpoint import Endpoint, EndpointError
from robustlm.instructions.banks import InstructionBank
from robustlm.instructions.paraphrases import load_paraphrases
from robustlm.rows.base import BadRowsError, SourceError
from robustlm.tools.paraphrase_rules import Rules
from robustlm.tools.paraphrasing import ParaphraseSummary, Question, instructions_of, paraphrase
from tests.endpoint import SECRET, Answer, LocalEndpoint, fail
from tests.processes import command

WORDINGS = [
    "Please list whatever {} the passage mentions.",
    "Which {} occur? Name them, one after the other.",
    "I need all {} that you can find.",
    "Go looking for {} and report what turns up.",
]


def listed(input: str) -> list[str]:
    return list(instructions_of(input))


def things(instruction: str) -> str:
    return instruction.removeprefix("Find the ").removesuffix(" in the text.")


def instruction(word: str) -> str:
    return f"Find the {word} in the text."


def wordings(word: str) -> list[str]:
    return [wording.format(word) for wording in WORDINGS]


def asked(request: dict[str, Any]) -> str:
    text: str = request["messages"][0]["content"]
    return text.partition("Instruction:\n")[2].partition("\n\n")[0]


def saying(text: Any, **changes: Any) -> Answer:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop", **changes}
    body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return lambda request: (200, body)


def usual(request: dict[str, Any]) -> tuple[int, Any]:
    return saying(json.dumps(wordings(things(asked(request)))))(request)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalEndpoint]:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    running = LocalEndpoint(usual)
    yield running
    running.close()


Run = Callable[..., ParaphraseSummary]


@pytest.fixture
def run(endpoint: LocalEndpoint, tmp_path: Path) -> Run:
    def paraphrased(*words: str, output: str = "out.jsonl", **changes: Any) -> ParaphraseSummary:
        rows = tmp_path / "rows.jsonl"
        lines = [json.dumps({"instruction": instruction(word), "target": "x"}) + "\n" for word in words]
        rows.write_text("".join(lines), encoding="utf-8")
        whom = {"model": "m", "base_url": endpoint.url, "max_retries": 2, "timeout": 5.0}
        what = {"count": 4, "rounds": 2}
        for name in list(changes):
            for settings in (whom, what):
                if name in settings or (settings is what and name in Question.__dataclass_fields__):
                    settings[name] = changes.pop(name)
                    break
        options = {"cache_dir": str(tmp_path / "cache"), **changes}
        path = str(tmp_path / output)
        return paraphrase(str(rows), path, endpoint=Endpoint(**whom), question=Question(**what), **options)

    return paraphrased


def test_asks_once_for_each_instruction(endpoint: LocalEndpoint, run: Run, tmp_path: Path) -> None:
    summary = run("names", "dates", "names")
    assert load_paraphrases(str(tmp_path / "out.jsonl")) == {
        instruction(word): tuple(wordings(word)) for word in ("names", "dates")
    }
    assert len(endpoint.requests) == 2
    request = next(request for request in endpoint.requests if "names" in asked(request))
    assert request["path"] == "/v1/chat/completions"
    assert request["model"] == "m"
    assert (request["temperature"], request["seed"]) == (1.0, 0)
    assert "Write 4 paraphrases" in request["messages"][0]["content"]
    assert endpoint.headers[0]["authorization"] == f"Bearer {SECRET}"
    assert str(summary).splitlines() == [
        f"{tmp_path / 'out.jsonl'}: 8 paraphrases of 2 instructions",
        "requests: 2, answers from the cache: 0",
        "rejected: none",
    ]


def test_answers_are_paid_for_once(
    endpoint: LocalEndpoint, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("names", "dates")
    monkeypatch.delenv("OPENAI_API_KEY")
    summary = run("dates", "names", output="again.jsonl")
    assert "requests: 0, answers from the cache: 2" in str(summary)
    # other rules judge the same answers
    run("names", output="strict.jsonl", rules=Rules(longest=1.0, shortest=0.0), rounds=1)
    assert len(endpoint.requests) == 2
    with pytest.raises(EndpointError, match="set the environment variable OPENAI_API_KEY"):
        run("places", output="new.jsonl")
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    changed: list[dict[str, Any]] = [{"model": "n"}, {"seed": 1}, {"temperature": 0.5}, {"count": 3}]
    changed += [{"prompt": "Rephrase {count} times.\nInstruction:\n{instruction}"}, {"seed": None}, {"cache_dir": None}]
    for number, change in enumerate(changed):
        run("names", output=f"{number}.jsonl", **change)
    assert len(endpoint.requests) == 2 + len(changed)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_tries_again(endpoint: LocalEndpoint, run: Run, status: int) -> None:
    endpoint.answers = [fail(status), fail(status)]
    assert run("names").kept == 4
    assert len(endpoint.requests) == 3


def test_a_failing_endpoint_keeps_what_was_answered(endpoint: LocalEndpoint, run: Run, tmp_path: Path) -> None:
    endpoint.answers = [usual, usual, *[fail(500, f"crashed on {SECRET}")] * 3]
    with pytest.raises(EndpointError) as caught:
        run("names", "dates", "places", "times", concurrency=1, rejected=str(tmp_path / "no.jsonl"))
    message = str(caught.value)
    assert f"{endpoint.url} m: the endpoint failed (HTTP 500) after 2 retries" in message
    assert "out.jsonl was not written; answers so far are kept in" in message
    assert SECRET not in message
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "rows.jsonl"]
    run("names", "dates", "places", "times", concurrency=1)
    assert [things(asked(request)) for request in endpoint.requests[5:]] == ["places", "times"]


def test_a_refused_key_ends_it(endpoint: LocalEndpoint, run: Run, caplog: pytest.LogCaptureFixture) -> None:
    endpoint.answers = [fail(401, f"Incorrect API key provided: {SECRET}")] * 20
    with caplog.at_level(logging.DEBUG), pytest.raises(EndpointError) as caught:
        run(*(f"things{i}" for i in range(20)), concurrency=2)
    assert "refused the key in $OPENAI_API_KEY (HTTP 401)" in str(caught.value)
    assert SECRET not in str(caught.value) + caplog.text
    assert len(endpoint.requests) <= 2, "the others are not even asked"


@pytest.mark.parametrize("name", ["seed", "temperature"])
def test_an_endpoint_without_a_setting_is_not_passed_over(endpoint: LocalEndpoint, run: Run, name: str) -> None:
    endpoint.answers = [fail(400, f"Unrecognized request argument supplied: {name}")]
    with pytest.raises(EndpointError, match=rf"HTTP 400.*takes no {name}, leave it out with --{name} null"):
        run("names")
    run("names", **{name: None})
    assert name not in endpoint.requests[-1]


@pytest.mark.parametrize(
    "answer",
    [
        lambda request: (200, "<html>welcome</html>"),
        lambda request: (200, {}),
        lambda request: (200, {"choices": []}),
        lambda request: (200, {"choices": [{}]}),
        lambda request: (200, []),
        lambda request: (200, None),
        saying(["a", "list"]),
    ],
)
def test_malformed_answers_are_errors_and_not_cached(endpoint: LocalEndpoint, run: Run, answer: Answer) -> None:
    endpoint.answers = [answer]
    with pytest.raises(EndpointError, match=rf"{endpoint.url} m: malformed answer .*is this a chat endpoint\?"):
        run("names")
    assert run("names").kept == 4


@pytest.mark.parametrize("text", ["", None, "???", "I'm sorry, but I can't do that.", "[]", "Here you are:"])
def test_useless_answers_are_asked_again_and_counted(
    endpoint: LocalEndpoint, run: Run, tmp_path: Path, text: str | None
) -> None:
    endpoint.answers = [saying(text)] * 2
    summary = run("names", rejected=str(tmp_path / "no.jsonl"))
    assert [request["seed"] for request in endpoint.requests] == [0, 1]
    assert load_paraphrases(str(tmp_path / "out.jsonl")) == {instruction("names"): ()}
    (reason,) = summary.reasons
    assert summary.reasons[reason] == 2
    assert f"rejected: {reason} 2" in str(summary)
    assert f"fewer than 4: 1 instructions\n  0 of 4: {instruction('names')}" in str(summary)
    rejected = [json.loads(line) for line in (tmp_path / "no.jsonl").read_text().splitlines()]
    expected = {"instruction": instruction("names"), "paraphrase": text or "", "reason": reason}
    assert [{key: row[key] for key in expected} for row in rejected] == [expected] * 2
    assert rejected[0]["problem"].startswith(reason)


def test_asks_for_what_is_missing_and_names_what_is_there(endpoint: LocalEndpoint, run: Run) -> None:
    first = wordings("names")
    endpoint.answers = [saying(f"1. {first[0]}\n2. {first[0]}\n3. Names: Ada, Bob")]
    summary = run("names")
    assert load_paraphrases(summary.output) == {instruction("names"): tuple(first)}
    assert summary.reasons == {"duplicate": 2, "answer": 1}
    assert f"write others:\n- {first[0]}" in endpoint.requests[1]["messages"][0]["content"]
    assert len(endpoint.requests) == 2
    assert run("names", count=2, cache_dir=None, output="two.jsonl").reasons == {"surplus": 2}


def test_an_answer_that_was_cut_off_loses_its_end(endpoint: LocalEndpoint, run: Run) -> None:
    one, two, *_ = wordings("names")
    endpoint.answers = [saying(f"1. {one}\n2. {two[:25]}", finish_reason="length")]
    summary = run("names", rounds=1)
    assert load_paraphrases(summary.output) == {instruction("names"): (one,)}
    assert summary.reasons == {"cut off": 1}


def test_threads_change_nothing(endpoint: LocalEndpoint, run: Run, tmp_path: Path) -> None:
    words = [f"{letter}{other}items" for letter in "abcdef" for other in "klmn"]
    lock, active, most = threading.Lock(), 0, 0

    def slowly(request: dict[str, Any]) -> tuple[int, Any]:
        nonlocal active, most
        with lock:
            active += 1
            most = max(most, active)
        time.sleep(0.02 if words.index(things(asked(request))) % 3 else 0.1)
        with lock:
            active -= 1
        return usual(request)

    endpoint.answers = [slowly] * len(words)
    run(*words, output="many.jsonl", concurrency=6, rejected=str(tmp_path / "many-no.jsonl"))
    assert 1 < most <= 6
    run(*words, output="one.jsonl", concurrency=1, cache_dir=None, rejected=str(tmp_path / "one-no.jsonl"))
    assert (tmp_path / "many.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()
    assert (tmp_path / "many-no.jsonl").read_bytes() == (tmp_path / "one-no.jsonl").read_bytes()
    assert list(load_paraphrases(str(tmp_path / "many.jsonl"))) == [instruction(word) for word in words]


def test_killed_and_run_again(endpoint: LocalEndpoint, run: Run, tmp_path: Path) -> None:
    words = [f"{letter}items" for letter in "abcdefgh"]
    run(*words, output="whole.jsonl", cache_dir=None)
    endpoint.requests.clear()
    blocked = threading.Event()

    def hang(request: dict[str, Any]) -> tuple[int, Any]:
        blocked.wait(30)
        return usual(request)

    endpoint.answers = [usual, usual, usual, hang, hang]
    arguments = [str(tmp_path / "rows.jsonl"), str(tmp_path / "out.jsonl"), "--base_url", endpoint.url, "--model", "m"]
    arguments += ["--count", "4", "--rounds", "2", "--concurrency", "1", "--cache_dir", str(tmp_path / "cache")]
    process = command("paraphrase", *arguments)
    deadline = time.monotonic() + 120
    while len(endpoint.requests) < 4 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    blocked.set()
    assert [path.name for path in tmp_path.glob("*out*")] == []
    endpoint.answers.clear()
    endpoint.requests.clear()
    main(["paraphrase", *arguments])
    assert [things(asked(request)) for request in endpoint.requests] == words[3:]
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_the_key_is_kept_nowhere(endpoint: LocalEndpoint, run: Run, tmp_path: Path) -> None:
    run("names", rejected=str(tmp_path / "no.jsonl"))
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) == 4
    assert not any(SECRET.encode() in path.read_bytes() for path in files)


def test_files_that_are_there_are_left_alone(endpoint: LocalEndpoint, run: Run, tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("precious")
    with pytest.raises(SourceError, match=r"out\.jsonl: found a file; expected a new name.*--overwrite true"):
        run("names")
    with pytest.raises(SourceError, match=r"out\.jsonl: found a file"):
        run("names", output="other.jsonl", rejected=str(tmp_path / "out.jsonl"))
    assert (tmp_path / "out.jsonl").read_text() == "precious"
    for output, message in [
        ("out.csv", "found another ending"),
        ("rows.jsonl", "found the input there"),
        ("none/out.jsonl", "create it first"),
    ]:
        with pytest.raises(SourceError, match=message):
            run("names", output=output, overwrite=True)
    with pytest.raises(SourceError, match="found another file to write there"):
        run("names", output="new.jsonl", rejected=str(tmp_path / "new.jsonl"))
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(SourceError, match="found a folder"):
        run("names", output="folder.jsonl")
    assert not endpoint.requests, "all that is known before anything is paid for"
    run("names", overwrite=True)
    assert load_paraphrases(str(tmp_path / "out.jsonl"))


def test_a_broken_cache_is_an_error_that_says_what_to_do(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "paraphrases.sqlite3").write_text("this is no database, but long enough for one" * 99)
    with pytest.raises(EndpointError, match="remove the file, or set --cache_dir to another folder or to null"):
        run("names")


def test_where_instructions_come_from(tmp_path: Path) -> None:
    bank = {"task": "ner", "concise": {"seen": ["Find every name."], "unseen": ["Who?"]}, "detailed": {}}
    (tmp_path / "bank.json").write_text("\n" + json.dumps(bank))
    assert listed(str(tmp_path / "bank.json")) == ["Find every name."]
    rows = [{"instruction": f" {text} ", "input": "", "output": "x"} for text in ("b", "a", "b")]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    assert listed(str(tmp_path / "rows.json")) == ["b", "a"]
    (tmp_path / "many.json").write_text('{"rte": ["Does it follow?", "Is it so?"], "qa": ["Answer it."]}')
    assert listed(f"{tmp_path / 'many.json'}#rte") == ["Does it follow?", "Is it so?"]
    with pytest.raises(ValueError, match="found no bank 'nli'; expected one of rte, qa"):
        listed(f"{tmp_path / 'many.json'}#nli")
    assert listed("ner") == [phrasing.text for phrasing in InstructionBank.load("ner").phrasings(split="seen")]
    (tmp_path / "ner.jsonl").write_text('{"tokens": ["Ada"], "ner_tags": ["B-PER"]}\n')
    with pytest.raises(BadRowsError, match="The rows need instructions"):
        listed(str(tmp_path / "ner.jsonl"))
    with pytest.raises(SourceError, match="no such file"):
        listed(str(tmp_path / "none.jsonl"))


def test_a_prompt_of_ones_own(endpoint: LocalEndpoint) -> None:
    question = Question(count=3, prompt='{"n": {count}} Again: {instruction}', temperature=None, seed=None)
    body = question.request("m", "Keep {count} and {x}.", [], 0)
    assert body == {"model": "m", "messages": [{"role": "user", "content": '{"n": 3} Again: Keep {count} and {x}.'}]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "--count: expected 1 or more, found 0"),
        ({"rounds": 0}, "--rounds: expected 1 or more, found 0"),
        ({"temperature": 3.0}, r"--temperature: expected a number in \[0, 2\] or null, found 3"),
        ({"prompt": "Say it again {count} times."}, r"--prompt: expected \{instruction\} in it"),
        ({"concurrency": 0}, "--concurrency: expected 1 or more, found 0"),
        ({"max_retries": -1}, "--max_retries: expected 0 or more, found -1"),
        ({"base_url": "ftp://host/v1"}, "--base_url: found no address that begins with http"),
        ({"base_url": "api.openai.com/v1"}, "--base_url: found no address that begins with http"),
        ({"base_url": f"https://me:{SECRET}@host/v1"}, "--base_url: found credentials in it"),
    ],
)
def test_settings_are_checked(run: Run, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        run("names", **settings)
    assert SECRET not in str(caught.value)


def test_credentials_in_the_environment_are_not_shown(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", f"https://me:{SECRET}@host/v1")
    with pytest.raises(ValueError, match=r"\$OPENAI_BASE_URL: found credentials in it") as caught:
        run("names", base_url=None)
    assert SECRET not in str(caught.value)


def test_the_command(
    endpoint: LocalEndpoint,
    run: Run,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bank = tmp_path / "bank.json"
    bank.write_text(json.dumps({"task": "ner", "concise": {"seen": [instruction("names")], "unseen": []}}))
    arguments = ["paraphrase", str(bank), str(tmp_path / "p.jsonl.gz"), "--base_url", endpoint.url, "--count", "4"]
    arguments += ["--cache_dir", str(tmp_path), "--temperature", "null", "--rules.min_distance", "0.2"]
    main([*arguments, "--prompt", "{count} times!\nInstruction:\n{instruction}"])
    assert "4 paraphrases of 1 instructions" in capsys.readouterr().out
    assert "temperature" not in endpoint.requests[0]
    assert endpoint.requests[0]["messages"][0]["content"] == f"4 times!\nInstruction:\n{instruction('names')}"
    endpoint.answers = [fail(401)]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--overwrite", "true"])
    assert ended.value.code == 2
    assert f"robustlm: error: {endpoint.url} gpt-4o-mini: the endpoint refused the key" in capsys.readouterr().err

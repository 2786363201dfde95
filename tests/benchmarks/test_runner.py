"""How checks are run and reported, whatever they do."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu import runner
from benchmarks.gpu.machine import ROOT, below_bounds, required, versions

FAKE = "tests.benchmarks.fake_checks"


def run(folder: Path, *flags: str) -> tuple[int, dict[str, Any], str]:
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    try:
        status = runner.command("A title", FAKE, "about", ["--output", str(folder), "--device", "cpu", *flags])
    finally:
        for number, handler in zip((signal.SIGTERM, signal.SIGINT), handlers, strict=True):
            signal.signal(number, handler)
    return status, json.loads((folder / "results.json").read_text()), (folder / "report.md").read_text()


def test_every_way_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them stops the others, and all of them are listed."""
    monkeypatch.setattr(runner, "LEAST_S", 1.0)
    monkeypatch.setattr(runner, "PATIENCE", 1.0)
    status, found, page = run(tmp_path)
    verdicts = {check["name"]: check["verdict"] for check in found["checks"]}
    assert verdicts == {
        "good": "pass", "bad": "fail", "noisy": "error", "skipped": "skip", "killed": "crash", "hanging": "timeout",
        "huge": "not run", "last": "pass",
    }  # fmt: skip
    assert status == found["status"] == 1
    assert found["finished"]
    by_name = {check["name"]: check for check in found["checks"]}
    assert by_name["bad"]["figures"] == {"error": "nan"}
    assert by_name["noisy"]["reason"] == "ValueError: first line"
    assert "fake_checks.py" in by_name["noisy"]["traceback"]
    assert by_name["noisy"]["figures"] == {"half": 1}
    assert by_name["killed"]["figures"] == {"before": 7}
    assert "exit code 3" in by_name["killed"]["reason"]
    assert by_name["hanging"]["figures"] == {"rows": [{"round": 1}]}
    assert "its share is 900 s" in by_name["huge"]["reason"]
    assert "2 pass, 1 fail, 1 error, 1 timeout, 1 crash, 1 skip, 1 not run" in page
    assert "| a\\|b | 0.5 |  |" in page
    assert "Traceback: noisy" in page
    assert "said by a library" in (tmp_path / "log.txt").read_text()
    assert found["machine"] == {"GPU 0": "a card"}
    assert len(found["commit"].rstrip("+")) == 40 or found["commit"] == "unknown"


@pytest.mark.parametrize(("pattern", "expected"), [("good", 0), ("[gs]*", 0), ("bad", 1), ("huge", 2), ("none", 1)])
def test_the_exit_status_says_how_it_went(pattern: str, expected: int, tmp_path: Path) -> None:
    status, found, _ = run(tmp_path, "--only", pattern)
    assert status == found["status"] == expected


def test_a_worker_that_does_not_come_up_is_a_failure(tmp_path: Path) -> None:
    status, found, _ = run(tmp_path, "--minutes", "1e-5")
    assert status == 1
    assert [(check["name"], check["verdict"]) for check in found["checks"]] == [("start", "error")]


def test_a_stopped_run_keeps_what_it_had(tmp_path: Path) -> None:
    code = f"import sys; from benchmarks.gpu.runner import command; sys.exit(command('t', {FAKE!r}, 'a', sys.argv[1:]))"
    flags = ["--output", str(tmp_path), "--tiny"]
    process = subprocess.Popen([sys.executable, "-c", code, *flags], cwd=ROOT, stdout=subprocess.DEVNULL)
    file = tmp_path / "results.json"
    wanted = '"round": 1'
    limit = time.monotonic() + 30
    while time.monotonic() < limit and not (file.exists() and wanted in file.read_text()):
        time.sleep(0.05)
    during = {check["name"]: check for check in json.loads(file.read_text())["checks"]}
    assert during["good"]["verdict"] == "pass"  # what a kill that cannot be caught would leave
    assert during["hanging"]["reason"] == "the run was killed during this check"
    assert during["last"]["verdict"] == "not run"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 1
    found = json.loads(file.read_text())
    after = {check["name"]: (check["verdict"], check["reason"]) for check in found["checks"]}
    assert after["hanging"] == ("timeout", "the run was stopped during this check")
    assert after["last"] == ("not run", "stopped by SIGTERM")
    assert not found["finished"]


def test_a_further_call_runs_what_has_not_passed(tmp_path: Path) -> None:
    status, found, _ = run(tmp_path, "--only", "[bg]*")
    assert status == 1
    mark = "earlier"
    for check in found["checks"]:
        check["commit"] = mark
    (tmp_path / "results.json").write_text(json.dumps(found))
    settings = runner.Settings(str(tmp_path), False, "cpu", 1, None, {})
    assert runner.known(settings, "good") == {"worst": 0.5, "rows": found["checks"][0]["figures"]["rows"]}
    assert runner.known(settings, "bad") is None  # it has not passed
    assert runner.known(settings, "last") is None

    status, found, page = run(tmp_path, "--only", "[!hn]*", "--resume")
    by_name = {check["name"]: check for check in found["checks"]}
    assert list(by_name) == ["good", "bad", "skipped", "killed", "last"]
    assert by_name["good"]["commit"] == mark  # kept as it was
    assert {by_name[name]["commit"] for name in ("bad", "last")} == {found["commit"]}
    assert by_name["last"]["verdict"] == "pass"
    assert f"Of an earlier call, with other code: good ({mark})." in page
    assert status == 1

    status, found, _ = run(tmp_path, "--only", "good", "--resume")
    assert {check["name"]: check["verdict"] for check in found["checks"]}["killed"] == "crash"  # not tried, so kept
    assert status == 1


def test_results_of_another_machine_or_command_are_not_mixed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, found, _ = run(tmp_path, "--only", "good")
    with pytest.raises(SystemExit):
        runner.command("Another", FAKE, "about", ["--output", str(tmp_path), "--device", "cpu", "--resume"])
    assert "holds results with title 'A title'; found 'Another'" in capsys.readouterr().err
    found["machine"] = {"GPU 0": "another card"}
    (tmp_path / "results.json").write_text(json.dumps(found))
    status, found, _ = run(tmp_path, "--resume")
    (start,) = (check for check in found["checks"] if check["verdict"] == "error")
    assert (status, start["name"]) == (1, "start")
    assert start["reason"].startswith("--resume: the results are of another card; found a card; expected")


def test_bad_flags_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "results.json").write_text("{}")
    cases: dict[str, list[str]] = {"another run": [], "--minutes: found -1": ["--minutes", "-1"]}
    for message, flags in cases.items():
        with pytest.raises(SystemExit) as stopped:
            runner.command("t", FAKE, "a", ["--output", str(tmp_path), *flags])
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err


def test_versions_are_held_against_setup_cfg() -> None:
    assert required()["torch"] == "2.9"
    assert "jsonargparse" in required()
    assert below_bounds(versions()) == []
    assert below_bounds(dict.fromkeys(required(), "0.1"))[0].endswith(" 0.1 < 4.0")
    assert below_bounds(dict.fromkeys(required(), "none")) == []

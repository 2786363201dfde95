"""Runs checks one by one within a time budget, in a process of their own, and writes what they found as they go.

The parent process reads the clock and writes the report. It imports neither torch nor the project, so it outlives
whatever a check does to the GPU. The worker process runs the checks. It is started anew after a crash, a hang or an
error that leaves CUDA unusable, so one check never decides about the next.
"""

from __future__ import annotations

import argparse
import fnmatch
import importlib
import importlib.util
import json
import math
import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any, Final, Literal, NoReturn

from benchmarks.gpu.machine import about_machine, commit

Verdict = Literal["pass", "fail", "error", "timeout", "crash", "skip", "not run"]
FAILED: Final[frozenset[Verdict]] = frozenset(("fail", "error", "timeout", "crash"))
"""Verdicts that make the exit status 1."""
NEEDED: Final = ("torch", "transformers", "peft", "lightning")
"""Packages without which nothing can be checked."""
START_S: Final = 90.0
"""Seconds that a worker may take to import everything and to find the GPU."""
PATIENCE: Final = 3.0
"""A check is stopped after this many times its share, or `LEAST_S`, or when the whole budget is used up."""
LEAST_S: Final = 30.0
LOG: Final = "log.txt"
RESULTS: Final = "results.json"
START: Final = "start"
"""Name of the entry of a worker that does not come up."""
UNREACHED: Final = "the run has not come to it"

Note = Callable[[Mapping[str, Any]], None]
"""Takes figures of a check that is not finished, so that a killed run keeps them."""


class Skip(Exception):
    """This machine cannot run a check; the message says why."""


@dataclass
class Finding:
    """What a check found."""

    verdict: Literal["pass", "fail"]
    reason: str = ""
    figures: dict[str, Any] = field(default_factory=dict)
    """Numbers and texts by name. A list of dicts under `rows` becomes a table of the report."""


@dataclass(frozen=True, slots=True)
class Check:
    """Something to be found out."""

    name: str
    seconds: float
    """Its share of the budget. It starts only while so much time is left."""
    run: Callable[..., Finding]
    """Called with a `Note`, by the name `note`."""


@dataclass
class Entry:
    """A check in the report."""

    name: str
    share_s: float
    verdict: Verdict = "not run"
    reason: str = UNREACHED
    seconds: float = 0.0
    figures: dict[str, Any] = field(default_factory=dict)
    traceback: str = ""
    commit: str = ""
    """The code that it ran on."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How a command runs."""

    output: str
    tiny: bool
    device: str
    minutes: float
    only: str | None
    extra: dict[str, Any]
    """Further options of the command, by name."""


def known(settings: Settings, name: str) -> dict[str, Any] | None:
    """The figures of a check that has passed, also in an earlier process or call; null if it has not.

    Args:
        settings: Of the run.
        name: Of the check.
    """
    entries = _stored(Path(settings.output)).get("checks", [])
    return next((one["figures"] for one in entries if one["name"] == name and one["verdict"] == "pass"), None)


def _stored(folder: Path) -> dict[str, Any]:
    file = folder / RESULTS
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return found


class Report:
    """`results.json` and `report.md` in a folder, written again after every event.

    Args:
        title: Of the Markdown page.
        settings: Of the run.
    """

    def __init__(self, title: str, settings: Settings) -> None:
        self.title = title
        self.settings = settings
        self.started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.commit = commit()
        self.machine: dict[str, Any] = {}
        self.entries: dict[str, Entry] = {}
        self.finished = False
        self._begin = time.monotonic()
        self._folder = Path(settings.output)

    def resume(self) -> None:
        """Take over the results of an earlier run in the folder, if there is one.

        Raises:
            ValueError: It was another command, or had other settings.
        """
        stored = _stored(self._folder)
        if not stored:
            return
        old, new = stored["settings"] | {"title": stored["title"]}, asdict(self.settings) | {"title": self.title}
        for name in ("title", "tiny", "device", "extra"):
            if old[name] != new[name]:
                raise ValueError(
                    f"--resume: {self._folder} holds results with {name} {old[name]!r}; found {new[name]!r}; expected "
                    "the same, or another --output"
                )
        self.machine = stored["machine"]
        self.entries = {one["name"]: Entry(**one) for one in stored["checks"] if one["name"] != START}
        for entry in self.entries.values():
            if entry.verdict == "not run":
                entry.reason = UNREACHED

    @property
    def due(self) -> list[Entry]:
        """The checks without a pass; those that were never tried come first."""
        left = [entry for entry in self.entries.values() if entry.verdict != "pass"]
        return sorted(left, key=lambda entry: entry.verdict != "not run")

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._begin

    @property
    def status(self) -> int:
        """1: a check failed. 2: none failed, but some did not run. 0: all passed or were skipped with a reason."""
        verdicts = {entry.verdict for entry in self.entries.values()}
        if verdicts & FAILED or not verdicts:
            return 1
        return 2 if "not run" in verdicts else 0

    def write(self) -> None:
        """Write both files, each as a whole."""
        content = {
            "title": self.title,
            "started": self.started,
            "elapsed_s": round(self.elapsed, 1),
            "finished": self.finished,
            "status": self.status,
            "commit": self.commit,
            "settings": asdict(self.settings),
            "machine": self.machine,
            "checks": [asdict(entry) for entry in self.entries.values()],
        }
        self._put(RESULTS, json.dumps(_plain(content), indent=1, allow_nan=False) + "\n")
        self._put("report.md", self.markdown())

    def _put(self, name: str, text: str) -> None:
        part = self._folder / f".{name}.part"
        part.write_text(text, encoding="utf-8")
        os.replace(part, self._folder / name)

    def markdown(self) -> str:
        """The report as a page."""
        counts = dict.fromkeys(("pass", "fail", "error", "timeout", "crash", "skip", "not run"), 0)
        for entry in self.entries.values():
            counts[entry.verdict] += 1
        shown = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count) or "nothing yet"
        lines = [
            f"# {self.title}",
            "",
            f"**{shown}**; {self.elapsed:.0f} s" + ("" if self.finished else ", unfinished"),
        ]
        lines += ["", f"Commit {self.commit}, started {self.started}.", ""]
        old = [f"{one.name} ({one.commit})" for one in self.entries.values() if one.commit not in ("", self.commit)]
        lines += [f"Of an earlier call, with other code: {', '.join(old)}.", ""] if old else []
        lines += [f"- {name}: {_cell(value)}" for name, value in self.machine.items()]
        lines += ["", "| check | verdict | worst ÷ limit | s | why |", "|---|---|---|---|---|"]
        for entry in self.entries.values():
            worst = entry.figures.get("worst")
            cells = (entry.name, entry.verdict, "" if worst is None else worst, f"{entry.seconds:.1f}", entry.reason)
            lines.append("| " + " | ".join(_cell(cell) for cell in cells) + " |")
        for entry in self.entries.values():
            rows = entry.figures.get("rows")
            others = {k: v for k, v in entry.figures.items() if k not in ("rows", "worst")}
            if rows or others:
                lines += ["", f"## {entry.name}", ""]
                lines += [f"- {name}: {_cell(value)}" for name, value in others.items()]
            if rows:
                lines += ["", *_table(rows)]
            if entry.traceback:
                lines += ["", f"## Traceback: {entry.name}", "", "```", entry.traceback.replace("```", "'''"), "```"]
        return "\n".join(lines) + "\n"


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(_cell(row.get(name, "")) for name in columns) + " |" for row in rows]


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.replace("|", "\\|").split())


def _plain(value: Any) -> Any:
    """The same for JSON, which has no NaN and no infinity: they become text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


# --- the worker ------------------------------------------------------------------------------------------------


def serve(pipe: Connection, module: str, settings: Settings) -> None:
    """Offer the checks of a module, and run those that are asked for, until the pipe closes."""
    with open(Path(settings.output) / LOG, "a", encoding="utf-8") as log:  # of the libraries; a crash ends it too
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    try:
        found: list[Check] = importlib.import_module(module).checks(settings)
        pipe.send({"checks": [(check.name, check.seconds) for check in found], "machine": about_machine()})
    except BaseException:
        pipe.send({"failed": traceback.format_exc()})
        return
    by_name = {check.name: check for check in found}
    while True:
        try:
            name = pipe.recv()
        except EOFError:
            return
        pipe.send(_outcome(by_name[name], lambda figures: pipe.send({"figures": _plain(figures)})))


def _outcome(check: Check, note: Note) -> dict[str, Any]:
    answer: dict[str, Any] = {"reason": "", "figures": {}, "traceback": "", "broken": False}
    try:
        found = check.run(note=note)
        answer |= {"verdict": found.verdict, "reason": found.reason, "figures": _plain(found.figures)}
    except Skip as skip:
        answer |= {"verdict": "skip", "reason": str(skip)}
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).split("\n")[0]
        answer |= {"verdict": "error", "reason": f"{type(error).__name__}: {first}"}
        answer["traceback"] = traceback.format_exc()
        del answer["figures"]  # those that were noted before the error stay
        answer["broken"] = not _device_answers()
    return answer


def _device_answers() -> bool:
    """Whether CUDA can still be used in this process, or is not used at all."""
    torch: Any = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
        torch.zeros(1, device="cuda").item()
    except RuntimeError:
        return False
    return True


class Worker:
    """A process that runs checks.

    Args:
        module: Whose `checks` it runs.
        settings: Of the run.
    """

    def __init__(self, module: str, settings: Settings) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, module, settings))
        self._process.start()
        theirs.close()

    def receive(self, seconds: float) -> dict[str, Any] | None:
        """The next message, `None` where none comes in time. Raises `EOFError` where the process has died."""
        if not self._pipe.poll(max(seconds, 0.0)):
            return None
        message: dict[str, Any] = self._pipe.recv()
        return message

    def ask(self, name: str) -> None:
        """Begin a check."""
        self._pipe.send(name)

    def end(self) -> int | None:
        """Stop it, whatever it does; returns its exit code."""
        self._process.join(0.2)
        if self._process.is_alive():
            self._process.kill()
        self._process.join(10)
        self._pipe.close()
        return self._process.exitcode


# --- the parent ------------------------------------------------------------------------------------------------


class Run:
    """One command: every check of a module, within the budget.

    Args:
        report: Where findings go.
        module: Whose `checks` are run.
        settings: Of the run.
    """

    def __init__(self, report: Report, module: str, settings: Settings) -> None:
        self.report = report
        self.module = module
        self.settings = settings
        self.worker: Worker | None = None
        self._wanted: set[str] = set()

    @property
    def left(self) -> float:
        """Seconds left of the budget."""
        return 60 * self.settings.minutes - self.report.elapsed

    def all(self) -> None:
        """Run every check that fits."""
        try:
            if self._begin():
                for entry in self.report.due:
                    if entry.name in self._wanted:
                        self._one(entry)
        except _Stopped as stopped:
            self._unreached(f"stopped by {stopped}")
        else:
            self.report.finished = True
        finally:
            if self.worker is not None:
                self.worker.end()
            self.report.write()

    def _begin(self) -> bool:
        """Start a worker; false where it does not come up, which is then the verdict of a check called `start`."""
        self.worker = Worker(self.module, self.settings)
        try:
            message = self.worker.receive(min(START_S, self.left))
        except EOFError:
            message = {"failed": f"the worker died with exit code {self.worker.end()}; see {LOG}"}
        if message is None:
            message = {"failed": f"the worker did not come up in {min(START_S, self.left):.0f} s; see {LOG}"}
        if "failed" in message:
            reason = message["failed"].strip().split("\n")[-1]
            self.report.entries[START] = Entry(START, START_S, "error", reason, 0.0, {}, message["failed"])
            self._unreached("the worker did not come up")
            self._drop()
            return False
        before, now = (_gpus(found) for found in (self.report.machine, message["machine"]))
        if self.report.machine and before != now:
            reason = f"--resume: the results are of {before}; found {now}; expected the same, or another --output"
            self.report.entries[START] = Entry(START, START_S, "error", reason)
            self._drop()
            return False
        self.report.machine = message["machine"]
        for name, share in message["checks"]:
            wanted = self.settings.only is None or fnmatch.fnmatch(name, self.settings.only)
            if wanted and name not in self.report.entries:
                self.report.entries[name] = Entry(name, share)
            self._wanted |= {name} if wanted else set()
        if not self._wanted:
            reason = f"--only {self.settings.only}: no check has such a name"
            self.report.entries[START] = Entry(START, START_S, "error", reason)
        self.report.write()
        return START not in self.report.entries

    def _one(self, entry: Entry) -> None:
        if self.left < entry.share_s:
            if entry.verdict == "not run":  # else it is known better, from an earlier call
                entry.reason = f"{self.left:.0f} s of the budget were left, its share is {entry.share_s:g} s"
            return
        if self.worker is None and not self._begin():
            raise _Stopped("a worker that did not come up again")
        assert self.worker is not None
        limit = min(max(PATIENCE * entry.share_s, LEAST_S), self.left)
        began = time.monotonic()
        entry.verdict, entry.reason = "timeout", "the run was killed during this check"  # until it is known better
        entry.figures, entry.traceback, entry.commit = {}, "", self.report.commit
        self.report.write()
        try:
            self.worker.ask(entry.name)
            while True:
                message = self.worker.receive(limit - (time.monotonic() - began))
                if message is None:
                    entry.reason = f"stopped after {limit:.0f} s (share: {entry.share_s:g} s)"
                    self._drop()
                    break
                if set(message) == {"figures"}:
                    entry.figures = message["figures"]
                    self.report.write()
                    continue
                if message.pop("broken"):
                    self._drop()
                for name, value in message.items():
                    setattr(entry, name, value)
                break
        except (EOFError, BrokenPipeError, ConnectionResetError):
            entry.verdict, entry.reason = "crash", f"the worker died with exit code {self._drop()}; see {LOG}"
        except _Stopped:
            entry.reason = "the run was stopped during this check"
            raise
        finally:
            entry.seconds = round(time.monotonic() - began, 2)
        print(f"{self.report.elapsed:6.1f} s  {entry.verdict:8} {entry.name}  {entry.reason}", flush=True)
        self.report.write()

    def _drop(self) -> int | None:
        assert self.worker is not None
        worker, self.worker = self.worker, None
        return worker.end()

    def _unreached(self, why: str) -> None:
        for entry in self.report.entries.values():
            if entry.verdict == "not run" and entry.reason == UNREACHED:
                entry.reason = why


def _gpus(machine: Mapping[str, Any]) -> str:
    return "; ".join(str(value) for name, value in machine.items() if name.startswith("GPU")) or "no GPU"


class _Stopped(BaseException):
    """A signal asked the run to stop."""


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise _Stopped(signal.Signals(number).name)


def command(
    title: str,
    module: str,
    about: str,
    argv: Sequence[str] | None,
    options: Mapping[str, tuple[Any, str]] | None = None,
) -> int:
    """Parse a command's flags, run its checks, and return the exit status.

    Args:
        title: Of the report.
        module: Import path of the module whose `checks(settings)` are run, in the worker.
        about: Text of `--help`.
        argv: Arguments; `None` takes those of the process.
        options: Further options: default and text by name.
    """
    parser = argparse.ArgumentParser(prog=f"python -m {module.removesuffix('_checks')}", description=about)
    parser.add_argument("--output", required=True, help="folder for results.json, report.md and log.txt")
    parser.add_argument("--tiny", action="store_true", help="small models, few rounds: a rehearsal for a CPU")
    parser.add_argument("--device", choices=("cuda", "cpu"), help="where to run (cuda; cpu with --tiny)")
    parser.add_argument("--minutes", type=float, default=8.5, help="time budget of the whole run (%(default)s)")
    parser.add_argument("--resume", action="store_true", help="keep what has passed in --output, and run the rest")
    parser.add_argument("--only", metavar="PATTERN", help="run checks whose name matches, such as 'ANIT NRM*'")
    for name, (default, text) in (options or {}).items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"{text} (%(default)s)")
    args = vars(parser.parse_args(argv))
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        parser.error(f"not installed: {', '.join(missing)}; docs/performance.md says how to bring them as wheels")
    if not 0 < args["minutes"] < math.inf:
        parser.error(f"--minutes: found {args['minutes']:g}; expected a number > 0")
    folder = Path(args["output"])
    if (folder / RESULTS).exists() and not args["resume"]:
        parser.error(f"--output: {folder} holds the results of another run; expected a new folder, or --resume")
    folder.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        output=str(folder),
        tiny=args["tiny"],
        device=args["device"] or ("cpu" if args["tiny"] else "cuda"),
        minutes=args["minutes"],
        only=args["only"],
        extra={name: args[name.replace("-", "_")] for name in options or {}},
    )
    report = Report(title, settings)
    try:
        report.resume()
    except ValueError as error:
        parser.error(str(error))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop)
    Run(report, module, settings).all()
    print(f"{folder / 'report.md'}: exit status {report.status}", file=sys.stderr)
    return report.status

"""Does one run of a study, from where it is to its end."""

from __future__ import annotations

import fcntl
import json
import math
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, cast

from robustlm.evaluation.session import PREDICTIONS
from robustlm.runs import FIT, evaluation_in
from robustlm.studies import stored
from robustlm.studies.plan import QUIET, TRIAL, Run, as_typed
from robustlm.utils.files import write_text

Main = Callable[[Sequence[str]], object]
"""Runs a command of `robustlm`; raises `SystemExit` with its status if it fails."""

LOCK = "working"
"""File in the folder of a run that a process holds locked while it works at it."""

SIGNALLED = (130, 143)
"""Exit statuses of a command that was told to end, by Ctrl-C or SIGTERM, and has saved what it had."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the work at a run ended."""

    error: str | None = None
    """Why the run is not finished; null: it is."""
    stopped: bool = False
    """Whether a signal ended it, and not an error."""


class FailedRun(Exception):
    """A run that could not be finished."""


class StoppedRun(Exception):
    """A run that a signal has ended."""


@dataclass(frozen=True)
class Work:
    """One run as a job: a call does it. Other processes can unpickle it."""

    run: Run
    main: Main
    jobs: int
    """How many runs share the machine with it, itself included."""

    def __call__(self) -> Outcome:
        """Do what is left of the run."""
        try:
            self._do()
        except FailedRun as error:
            return Outcome(str(error))
        except StoppedRun as error:
            return Outcome(str(error), stopped=True)
        return Outcome()

    def _do(self) -> None:
        if stored.table_of(self.run) is not None:
            return
        self.run.folder.mkdir(parents=True, exist_ok=True)
        with _locked(self.run):
            stored.begin(self.run)
            if not stored.is_fitted(self.run):
                began = time.monotonic()
                steps = self._steps()
                more = () if steps is None else ("--trainer.max_steps", str(steps))
                resume = ("--resume", "auto") if (self.run.folder / FIT).is_dir() else ()
                self._command([*self.run.fit_command(more), *resume])
                _check_steps(self.run, steps)
                self._note(stored.FITTED, began)
            began = time.monotonic()
            self._command([*self.run.test_command(), *_where_a_test_is(self.run)])
            if stored.table_of(self.run) is None:
                raise FailedRun("the test ended without an answer to each row")
            self._note(stored.TESTED, began)

    def checkpoint(self) -> object:
        """What submitit asks for before a job's time is over: the same work, put into the queue once more."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _note(self, name: str, began: float) -> None:
        took = time.monotonic() - began
        write_text(self.run.folder / name, json.dumps({"took": took, "jobs": self.jobs}))

    def _command(self, command: Sequence[str]) -> None:
        """Run a command, with its output in the log."""
        with _into(self.run.folder / stored.LOG):
            print(as_typed(command), flush=True)
            try:
                self.main([*command, *QUIET])
            except KeyboardInterrupt:
                raise StoppedRun("interrupted") from None
            except SystemExit as end:
                if end.code in SIGNALLED:
                    raise StoppedRun(f"`{command[0]}` was told to end, and has saved what it had") from None
                if end.code:
                    raise FailedRun(f"`{command[0]}` ended with status {end.code}") from None
            except Exception as error:
                traceback.print_exc()
                raise FailedRun(f"`{command[0]}`: {type(error).__name__}: {error}") from error

    def _steps(self) -> int | None:
        """The number of steps that equals another run's compute; null: the options say how many."""
        run = self.run
        if run.equal is None or run.arm.compute is None:
            return None
        known = (stored.read_json(run.folder / stored.EQUAL) or {}).get("steps")
        if isinstance(known, int):
            return known
        if not stored.cost(run, TRIAL):
            shutil.rmtree(run.folder / TRIAL, ignore_errors=True)
            self._command(run.trial_command())
        by = run.arm.compute.by
        spent = _spent(stored.read_json(run.equal / FIT / stored.COST) or {}, by)
        each = _each_step(stored.cost(run, TRIAL), by)
        if not spent or not each:
            raise FailedRun(f"no {by} measured of {run.arm.compute.equal_to!r} or of a step of {run.arm.name!r}")
        steps = max(1, math.floor(spent / each + 1e-9))
        found = {"to": run.arm.compute.equal_to, "by": by, "spent": spent, "each_step": each, "steps": steps}
        write_text(run.folder / stored.EQUAL, json.dumps(found, indent=1))
        return steps


def _spent(cost: Mapping[str, object], by: str) -> float:
    """What a fit cost: seconds, or positions run forward and backward."""
    names = ("seconds",) if by == "time" else ("forward", "backward")
    values = [cost.get(name) for name in names]
    return sum(float(value) for value in values if isinstance(value, int | float))


def _each_step(cost: Mapping[str, object], by: str) -> float:
    """What a step costs, by a short fit, whose first step warms up and does not count."""
    first, steps = cost.get("first"), cost.get("steps")
    if not isinstance(first, dict) or not isinstance(steps, int) or steps < 2:
        return 0.0
    return (_spent(cost, by) - _spent(first, by)) / (steps - 1)


def _check_steps(run: Run, steps: int | None) -> None:
    found = stored.cost(run, "fit").get("steps")
    if steps is not None and found != steps:
        raise FailedRun(
            f"the fit ended after {found} of {steps} steps" if found else "the fit did not say how many steps it took"
        )


def _where_a_test_is(run: Run) -> tuple[str, ...]:
    """Options that go on with a test that was interrupted; what cannot be gone on with is removed."""
    for folder in sorted(one for one in run.folder.glob("test*") if one.is_dir()):
        table = folder / PREDICTIONS
        if table.is_file() and stored.unanswered(table):
            return "--predictions.resume", str(folder), "--predictions.retry_failed", "true"
        if not table.is_file() and not (folder / f"{PREDICTIONS}.run.json").is_file():
            shutil.rmtree(folder)  # killed before the first answer
    found = evaluation_in(run.folder)
    return () if found == run.folder else ("--predictions.resume", str(found))


# --- processes ---------------------------------------------------------------------------------------------------


@contextmanager
def _locked(run: Run) -> Iterator[None]:
    """Hold the lock of a run; it ends with the process, however that ends."""
    with (run.folder / LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FailedRun(f"another process works at {run.folder}; wait for it, or end it") from None
        yield


def is_worked_at(run: Run) -> bool:
    """Whether a process works at a run now."""
    file = run.folder / LOCK
    if not file.is_file():
        return False
    with file.open("a+", encoding="utf-8") as opened:
        try:
            fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


class _Current:
    """A stream that writes where the process writes now.

    A library that is first imported by a command may keep the stream that it finds then, for its messages. A file that
    is closed after the command would be lost to the next one.
    """

    def __init__(self, fallback: TextIO) -> None:
        self.fallback = fallback
        self.file: TextIO | None = None

    def __getattr__(self, name: str) -> object:
        return getattr(self.file or self.fallback, name)


_OUT, _ERR = _Current(sys.__stdout__ or sys.stdout), _Current(sys.__stderr__ or sys.stderr)


@contextmanager
def _into(log: Path) -> Iterator[None]:
    """Send all output of this process to the end of a file, also that from below Python."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    try:
        with log.open("a", encoding="utf-8", buffering=1) as file:
            for descriptor in (1, 2):
                os.dup2(file.fileno(), descriptor)
            _OUT.file = _ERR.file = file
            with redirect_stdout(cast(TextIO, _OUT)), redirect_stderr(cast(TextIO, _ERR)):
                yield
    finally:
        _OUT.file = _ERR.file = None
        for descriptor, old in zip((1, 2), kept, strict=True):
            os.dup2(old, descriptor)
            os.close(old)

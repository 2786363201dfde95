"""Does the runs of a study that are not finished, and says how far it is."""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from robustlm.studies import stored
from robustlm.studies.executors import Executor, Handle
from robustlm.studies.plan import Run
from robustlm.studies.work import Main, Work

_PAUSE = 0.5
"""Seconds between two looks at the jobs."""


@dataclass
class Report:
    """How the runs of a study ended."""

    failed: dict[str, str] = field(default_factory=dict)
    """Why runs are not finished, by name."""
    stopped: str | None = None
    """The run that a signal has ended, and with it the study; null: none."""


def run_study(
    runs: Sequence[Run],
    executor: Executor,
    main: Main,
    jobs: int,
    say: Callable[[str], None],
    gather: Callable[[], object],
) -> Report:
    """Do the runs that are not finished. One that fails does not stop the others.

    Args:
        runs: All runs; one whose compute equals another's comes after that one.
        executor: Does them.
        main: Runs a command of `robustlm`.
        jobs: How many are done at once.
        say: Gets one line whenever a run begins or ends.
        gather: Called after each finished run, so that a study that is killed has the results of its finished runs.
    """
    report = Report()
    times = Times(runs, jobs)
    left = deque(run for run in runs if stored.table_of(run) is None)
    waiting: list[Run] = []
    at_work: dict[str, tuple[Run, Handle]] = {}
    try:
        while left or at_work:
            while left and len(at_work) < jobs and report.stopped is None:
                run = left.popleft()
                if not _is_ready(run):
                    if _may_become_ready(run, [*(one for one, _ in at_work.values()), *left, *waiting]):
                        waiting.append(run)
                    else:
                        report.failed[run.name] = f"not begun: {_needed(run)} was not tuned"
                    if not left:
                        break
                    continue
                say(times.line(len(left) + len(waiting) + 1 + len(at_work), [*at_work, run.name], report))
                at_work[run.name] = run, executor.begin(Work(run, main, jobs))
            for name, (run, handle) in list(at_work.items()):
                if handle.done():
                    del at_work[name]
                    outcome = handle.outcome()
                    if outcome.stopped:
                        report.stopped = name
                    if outcome.error is not None:
                        report.failed[name] = outcome.error
                    else:
                        times.add(run)
                        gather()
            left.extendleft(reversed(waiting))
            waiting.clear()
            if report.stopped is not None:
                left.clear()
            if at_work:
                time.sleep(_PAUSE)
    except BaseException:
        for _, handle in at_work.values():
            handle.cancel()
        raise
    say(times.line(0, [], report))
    return report


def _is_ready(run: Run) -> bool:
    if run.weights is not None:
        return stored.is_fitted(run.weights)
    equal = run.equal is None or (run.equal / stored.FITTED).is_file() or (run.folder / stored.EQUAL).is_file()
    return equal and (run.after is None or stored.is_fitted(run) or (run.after / stored.FITTED).is_file())


def _may_become_ready(run: Run, others: Sequence[Run]) -> bool:
    """Whether a run that this one needs is among those that are still to be tuned."""
    needed = [run.equal if run.equal is not None and not (run.equal / stored.FITTED).is_file() else None, run.after]
    needed.append(None if run.weights is None else run.weights.folder)
    return any(one.folder in needed for one in others)


def _needed(run: Run) -> str:
    """How a message names what a run needs and does not have."""
    if run.weights is not None:
        return repr(run.arm.weights)
    if run.after is not None and not (run.after / stored.FITTED).is_file():
        return f"{run.arm.name!r} on {run.rows.after!r}"
    return repr("" if run.arm.compute is None else run.arm.compute.equal_to)


class Times:
    """Says how long the rest of a study takes, from the times of the runs that are finished.

    Args:
        runs: All runs of the study.
        jobs: How many are done at once.
    """

    def __init__(self, runs: Sequence[Run], jobs: int) -> None:
        self._runs, self._jobs = runs, jobs
        self._took: dict[str, list[float]] = {}
        self._finished: set[str] = set()
        for run in runs:
            if stored.table_of(run) is not None:
                self.add(run)

    def add(self, run: Run) -> None:
        """Take in a run that is finished."""
        self._finished.add(run.name)
        seconds = stored.took(run)
        if seconds is not None:
            self._took.setdefault(run.arm.name, []).append(seconds)

    def expected(self, run: Run) -> float | None:
        """Seconds that a run will take: the mean of its arm, else of all; null: no time is known yet."""
        own = self._took.get(run.arm.name) or [one for values in self._took.values() for one in values]
        return statistics.fmean(own) if own else None

    def left(self, runs: Sequence[Run]) -> float | None:
        """Seconds that runs will take, shared by the jobs; null: not known."""
        times = [self.expected(run) for run in runs]
        if any(one is None for one in times):
            return None
        return sum(one for one in times if one is not None) / max(1, min(self._jobs, len(times)))

    def line(self, missing: int, at_work: Sequence[str], report: Report) -> str:
        """One line: how many runs are done, what is worked at, and the time left."""
        parts = [f"{len(self._finished)} of {len(self._runs)} runs finished"]
        if report.failed:
            parts.append(f"{len(report.failed)} failed")
        if at_work:
            parts.append(f"now: {'; '.join(at_work)}")
        if missing:
            rest = [run for run in self._runs if run.name not in self._finished and run.name not in report.failed]
            seconds = self.left(rest)
            parts.append("time left is known after the first run" if seconds is None else f"{said(seconds)} left")
        return ", ".join(parts)


def said(seconds: float) -> str:
    """A duration in words: `40 s`, `12 min`, `3 h 20 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"

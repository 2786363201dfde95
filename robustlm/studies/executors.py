"""Where the runs of a study are done: in this process, or as jobs that submitit starts here or on a cluster."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

from robustlm.studies import stored
from robustlm.studies.work import Outcome, Work, is_worked_at
from robustlm.utils.files import write_text

Kind = Literal["here", "local", "slurm"]

JOBS = "jobs"
"""Folder of submitit's files, in the folder of a study."""
_JOB = "job.json"
"""Names a run's job on a cluster, in its folder."""
_LONGEST = 7 * 24 * 60
"""Minutes after which submitit ends a job, unless `timeout_min` says otherwise; its own default is two."""


class Handle(Protocol):
    """A run that somebody works at."""

    def done(self) -> bool:
        """Whether the work has ended."""

    def outcome(self) -> Outcome:
        """How it ended; call it after the end."""

    def cancel(self) -> None:
        """Tell it to end soon, if it should not outlive this process."""


class Executor(Protocol):
    """Begins the work at runs."""

    def begin(self, work: Work) -> Handle:
        """Begin with a run, or find the work at it that goes on already."""


def executor_of(kind: Kind, folder: Path, jobs: int, machine: Mapping[str, object]) -> Executor:
    """The executor with this name.

    Args:
        kind: `here`: this process; `local`: processes of this machine; `slurm`: jobs of a cluster.
        folder: The study's folder.
        jobs: How many runs are done at once.
        machine: Parameters of submitit's executor, such as `gpus_per_node`, `timeout_min` or `slurm_partition`.

    Raises:
        ImportError: submitit is needed and not installed.
        ValueError: submitit does not know a parameter.
    """
    if kind == "here":
        return Here()
    return Submitted(kind, folder / JOBS, jobs, machine)


class Here:
    """Does a run in this process before `begin` returns."""

    def begin(self, work: Work) -> Handle:
        """Do it."""
        if is_worked_at(work.run):
            return _Elsewhere(work)
        return _Done(work())


class _Done:
    """A run that was done in this process."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome

    def done(self) -> bool:
        return True

    def outcome(self) -> Outcome:
        return self._outcome

    def cancel(self) -> None:
        pass


class _Elsewhere:
    """A run that a process works at which an earlier call of the study began."""

    def __init__(self, work: Work) -> None:
        self._work = work

    def done(self) -> bool:
        return not is_worked_at(self._work.run)

    def outcome(self) -> Outcome:
        whole = stored.table_of(self._work.run) is not None
        return Outcome() if whole else Outcome("another process worked at it, and ended before the run was finished")

    def cancel(self) -> None:
        pass


class _Job(Protocol):
    """A job of submitit."""

    @property
    def job_id(self) -> str: ...

    def done(self) -> bool: ...

    def result(self) -> Outcome: ...

    def cancel(self) -> None: ...


class Submitted:
    """Gives runs to submitit.

    Args:
        kind: `local` or `slurm`.
        folder: Folder of submitit's files.
        jobs: How many runs are done at once.
        machine: Parameters of submitit's executor.
    """

    def __init__(self, kind: Literal["local", "slurm"], folder: Path, jobs: int, machine: Mapping[str, object]) -> None:
        try:
            import submitit
        except ImportError as error:
            raise ImportError(
                f"executor: {kind} needs submitit, which is not installed: pip install 'robustlm[study]'. "
                "--executor here does one run after the other without it"
            ) from error
        self._kind = kind
        self._executor = submitit.AutoExecutor(folder=folder, cluster=kind)
        try:
            self._executor.update_parameters(**{"timeout_min": _LONGEST if kind == "local" else 24 * 60, **machine})
        except (NameError, AssertionError, ValueError) as error:
            raise ValueError(f"machine: {error}") from error
        if kind == "local":
            # jobs share the cores; each process would take all of them
            os.environ.setdefault("OMP_NUM_THREADS", str(max(1, _cores() // jobs)))

    def begin(self, work: Work) -> Handle:
        """Submit it, unless a job of an earlier call has not ended."""
        known = self._known(work)
        if known is not None:
            return _Submitted(known, work)
        if is_worked_at(work.run):
            return _Elsewhere(work)
        job: _Job = self._executor.submit(work)
        if self._kind == "slurm":
            work.run.folder.mkdir(parents=True, exist_ok=True)
            stored.begin(work.run)
            write_text(work.run.folder / _JOB, json.dumps({"kind": self._kind, "id": job.job_id}))
        return _Submitted(job, work, ends_with_study=self._kind == "local")

    def _known(self, work: Work) -> _Job | None:
        """The job on the cluster that works at a run, or waits to do so."""
        found = stored.read_json(work.run.folder / _JOB)
        if self._kind != "slurm" or found is None or found.get("kind") != self._kind:
            return None
        import submitit

        job: _Job = submitit.SlurmJob(folder=self._executor.folder, job_id=str(found["id"]))
        return None if job.done() else job


class _Submitted:
    """A job of submitit."""

    def __init__(self, job: _Job, work: Work, *, ends_with_study: bool = False) -> None:
        self._job, self._work, self._ends_with_study = job, work, ends_with_study

    def done(self) -> bool:
        return self._job.done()

    def outcome(self) -> Outcome:
        if stored.table_of(self._work.run) is not None:
            return Outcome()
        try:
            return self._job.result()
        except Exception as error:  # submitit's own errors, and those of a job whose result cannot be read
            lines = str(error).strip().splitlines() or [type(error).__name__]
            return Outcome(f"job {self._job.job_id}: {lines[0]}")

    def cancel(self) -> None:
        if self._ends_with_study:
            self._job.cancel()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

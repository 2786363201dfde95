"""The command `study`: a plan, the runs that are missing, and a table over all of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from robustlm.studies.plan import Run
from robustlm.studies.spec import Study


def study(
    study: str,
    scale: str | None = None,
    output: str | None = None,
    executor: Literal["here", "local", "slurm"] | None = None,
    jobs: int = 1,
    machine: dict[str, int | float | str | bool] = {},  # noqa: B006 - read only
    arms: list[str] = [],  # noqa: B006 - read only
    seeds: list[int] = [],  # noqa: B006 - read only
    changed: Literal["refuse", "keep", "redo"] = "refuse",
    dry_run: bool = False,
) -> None:
    """Tune and test every arm of a study with every seed, on every data set.

    Runs that are finished are not done again, so the same command goes on with a study that was ended in any way. A run
    that fails does not stop the others; the exit status is then 1. `robustlm report FOLDER` makes tables, figures and a
    page of the results.

    Args:
        study: The study: a YAML file, or the name of a packaged one, such as `quickstart`.
        scale: Which scale of the study, if it has scales: `mini` (a small model, on a CPU) or `paper` (the models, rows
            and settings of the paper).
        output: Folder of the runs and of `results.parquet`; by default `runs/NAME` of the file, or `runs/NAME-SCALE`.
        executor: Where runs are done: `here`, in this process; `local`, in processes of this machine; `slurm`, in jobs
            of a cluster (`local` and `slurm` need the extra `study`). By default `here` for one job, else `local`.
        jobs: How many runs are done at once.
        machine: What a job gets, as parameters of submitit: `{gpus_per_node: 1, timeout_min: 600, slurm_partition: a}`.
        arms: Names of the arms to run, `'[plain, ANIT]'`; by default all.
        seeds: The seeds to run, `0 1` or `0,1`; by default all.
        changed: What happens if a stored run was made by other commands, configs or code than now: `refuse` it all,
            `keep` those that are finished, or `redo` them. The others are removed and begin anew.
        dry_run: Only print the plan: runs, commands, what is there already, and what the rest costs where it is known.
    """
    from robustlm.checks.numbers import check_number
    from robustlm.checks.places import check_folder
    from robustlm.cli.entry import main
    from robustlm.studies import stored
    from robustlm.studies.executors import executor_of
    from robustlm.studies.layers import study_file
    from robustlm.studies.plan import runs_of
    from robustlm.studies.runner import run_study
    from robustlm.studies.spec import read_study
    from robustlm.studies.variables import missing

    check_number("jobs", jobs, least=1, whole=True)
    kind = executor or ("here" if jobs == 1 else "local")
    if kind == "here" and jobs > 1:
        raise ValueError(f"jobs: found {jobs} with --executor here, which does one run after the other; expected 1")
    if machine and kind == "here":
        raise ValueError("machine: found parameters with --executor here, which starts no jobs; expected none")
    file = study_file(study)
    whole = read_study(file, scale)
    if whole.unset and not dry_run:
        raise ValueError(f"study: {file}: {missing(whole.unset)}")
    root = Path(output or f"runs/{whole.name}")
    check_folder("output", str(root))
    runs = runs_of(whole, root, arms, seeds)
    shared = kind == "local" and jobs > 1
    timed = [arm.name for arm in whole.arms if arm.compute is not None and arm.compute.by == "time"]
    if shared and any(run.arm.name in timed for run in runs) and not whole.shared_time:
        raise ValueError(
            f"study: {file}: arms: {timed[0]}: compute: by: time, and {jobs} jobs would share this machine, so that a "
            "second of one arm is not a second of another; expected --jobs 1, `by: passes`, or `shared_time: true` "
            "in the study"
        )
    # without the values of variables, every stored run would count as changed
    lines = [] if whole.unset else [line for run in runs for line in stored.changed(run)]
    if dry_run:
        print("\n".join([*_plan(runs, jobs, lines, shared), *([missing(whole.unset)] if whole.unset else [])]))
        return
    if lines and changed == "refuse":
        shown = "\n".join(f"  {line}" for line in lines[:8]) + ("\n  …" if len(lines) > 8 else "")
        raise ValueError(
            f"study: {file}: {root} holds runs that were made by other commands, configs or code:\n{shown}\n"
            "expected the same, --changed redo (removes those runs), --changed keep (takes finished ones as they are), "
            "or another --output"
        )
    if lines and changed == "keep":
        print(f"kept, although made by other commands, configs or code: {len(lines)} differences", file=sys.stderr)
    for run in runs if changed != "refuse" else ():
        # a run that is not finished would go on as a mixture of both
        if stored.changed(run) and (changed == "redo" or stored.table_of(run) is None):
            stored.remove(run)
    if shared:
        print(f"{jobs} runs share this machine: compare CPU time and passes of arms, not their wall clock", flush=True)
    every = runs_of(whole, root)
    report = run_study(
        runs, executor_of(kind, root, jobs, machine), main, jobs, _said, lambda: _gathered(whole, root, every)
    )
    finished = [run for run in runs if stored.table_of(run) is not None]
    if text := _gathered(whole, root, every):
        print(text)
    if report.failed:
        print("not finished:", file=sys.stderr)
        for run in runs:
            if run.name in report.failed:
                print(f"  {run.name}: {report.failed[run.name]} (see {run.folder / stored.LOG})", file=sys.stderr)
    if report.stopped is not None:
        print("stopped; the same command goes on", file=sys.stderr)
        raise SystemExit(130)
    if len(finished) < len(runs):
        raise SystemExit(1)
    print(f"next: robustlm report {root} --output {root / 'report'}")


def _gathered(study: Study, root: Path, runs: Sequence[Run]) -> str:
    """Write the results of all finished runs, and say so; empty if none is finished."""
    from robustlm.studies import stored

    finished = [run for run in runs if stored.table_of(run) is not None]
    if not finished:
        return ""
    rows = stored.write_results(study, root, finished)
    return f"{rows:,} answers of {len(finished)} runs: {root / stored.RESULTS}"


def _said(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _plan(runs: Sequence[Run], jobs: int, changed: Sequence[str], shared: bool) -> list[str]:
    """The lines of `--dry_run`."""
    from robustlm.studies import stored
    from robustlm.studies.plan import as_typed
    from robustlm.studies.runner import Times, said

    times = Times(runs, jobs)
    left = [run for run in runs if stored.table_of(run) is None]
    lines = []
    for run in runs:
        seconds = times.expected(run)
        there = stored.progress(run)
        cost = "" if there.finished else ", cost not known" if seconds is None else f", about {said(seconds)}"
        lines.append(f"# {run.name}: {there}{cost}")
        compute = run.arm.compute
        if compute is not None:
            lines.append(f"{as_typed(run.trial_command())}    # what a step costs")
            lines.append(
                f"{as_typed(run.fit_command(('--trainer.max_steps', 'STEPS')))}    # STEPS: as many as cost the "
                f"{'seconds of training' if compute.by == 'time' else 'passes'} of {compute.equal_to}"
            )
        elif run.fit is not None:
            lines.append(as_typed(run.fit_command()))
        lines.append(as_typed(run.test_command()))
    whole = times.left(left)
    cost = "not known before the first run is finished" if whole is None else f"about {said(whole)}, {jobs} at a time"
    lines.append(f"\n{len(runs)} runs, {len(runs) - len(left)} finished, {len(left)} to do: {cost if left else '0 s'}")
    if shared:
        lines.append("time: jobs share this machine, so wall clock of arms does not compare; CPU time and passes do")
    if changed:
        lines += ["made by other commands, configs or code than now:", *(f"  {line}" for line in changed)]
    return lines

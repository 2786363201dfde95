"""Makes every study of the mini scale, and says first how long that takes: `make results`.

The studies are those with the scale `mini`, and those on the built-in corpus that docs/ shows (`quickstart`, `methods`,
`states`). Nothing that is finished is done again, so the same command goes on after any end. Times are those of
finished runs. Of a study without any, the first arm is run first, and counts for the others until they have run. Each
study's tables, figures and page go to `report` in its folder. Needs `ROBUSTLM_BASE` and `ROBUSTLM_DATA`
(docs/studies.md); without `ROBUSTLM_ALIGNMENT`, rows and banks of the alignment paper are made in `runs/alignment`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustlm.assets import known_studies
from robustlm.cli import main as robustlm
from robustlm.studies import stored
from robustlm.studies.layers import scales_of, study_file
from robustlm.studies.plan import Run, runs_of
from robustlm.studies.runner import Times, said
from robustlm.studies.spec import Study, read_study
from robustlm.studies.variables import missing

BUILT_IN = ("quickstart", "methods", "states")
"""Studies on the built-in corpus, which have no scales."""
ALIGNMENT = "ROBUSTLM_ALIGNMENT"


@dataclass(frozen=True)
class Planned:
    """A study that is to be made."""

    name: str
    study: Study
    root: Path
    jobs: int

    @property
    def runs(self) -> list[Run]:
        """All of its runs."""
        return runs_of(self.study, self.root)

    @property
    def left(self) -> list[Run]:
        """Its runs that are not finished."""
        return [run for run in self.runs if stored.table_of(run) is None]

    @property
    def seconds(self) -> float | None:
        """How long these runs take; null: not known."""
        return Times(self.runs, self.jobs).left(self.left)

    def command(self, *more: str) -> list[str]:
        """The command that makes it."""
        scale = ("--scale", "mini") if "mini" in scales_of(study_file(self.name)) else ()
        return ["study", self.name, *scale, "--output", str(self.root), "--jobs", str(self.jobs), *more]

    def first(self) -> list[str]:
        """The command that makes the runs of one arm with one seed."""
        tuned = [arm for arm in self.study.arms if arm.compute is None and arm.fit is not None]
        arm = (tuned or self.study.arms)[0]
        return self.command("--arms", arm.name, "--seeds", str(self.study.seeds[0]))


def planned(names: Iterable[str], output: Path, jobs: int) -> list[Planned]:
    """The studies with some names; without names, all of them."""
    wanted = list(names)
    if not wanted:
        wanted = [*BUILT_IN, *(name for name in known_studies() if "mini" in scales_of(study_file(name)))]
    found = []
    for name in wanted:
        study = read_study(study_file(name), None if name in BUILT_IN else "mini")
        found.append(Planned(name, study, output / study.name, jobs))
    return found


def plan(studies: Sequence[Planned]) -> str:
    """What there is to do, a line for each study, and all of it."""
    lines = []
    for one in studies:
        seconds, left = one.seconds, len(one.left)
        time = "0 s" if not left else "not known before its first run" if seconds is None else f"about {said(seconds)}"
        lines.append(f"{one.name}: {len(one.runs)} runs, {left} to do: {time}")
    known = [seconds for one in studies if (seconds := one.seconds) is not None]
    unknown = sum(one.seconds is None for one in studies)
    times = [f"about {said(sum(known))}"] if known else []
    times += [f"{unknown} studies whose time is not known yet"] if unknown else []
    lines.append(f"all: {sum(len(one.left) for one in studies)} runs to do, {', and '.join(times)}")
    return "\n".join(lines)


def make(studies: Sequence[Planned], main: Callable[[Sequence[str]], object]) -> list[str]:
    """Make studies and their reports; the names of those that are not whole."""
    unfinished = []
    print(plan(studies), flush=True)
    if unknown := [one for one in studies if one.left and one.seconds is None]:
        print("\nfirst, one arm of each study whose time is not known", flush=True)
        for one in unknown:
            _ends_well(main, one.first())
        print(f"\n{plan(studies)}", flush=True)
    for one in studies:
        print(f"\n$ robustlm {' '.join(one.command())}", flush=True)
        if not _ends_well(main, one.command()):
            unfinished.append(one.name)
        report = ["report", str(one.root), "--output", str(one.root / "report")]
        if (one.root / stored.RESULTS).is_file() and not _ends_well(main, report):
            unfinished.append(f"the report of {one.name}")
    return unfinished


def _ends_well(main: Callable[[Sequence[str]], object], command: Sequence[str]) -> bool:
    """Run a command; a study that fails does not stop the others, but a signal stops all."""
    try:
        main(command)
    except SystemExit as end:
        if end.code in (130, 143):
            raise
        return not end.code
    return True


def main() -> None:
    """Make the studies."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="only these studies")
    parser.add_argument("--output", type=Path, default=Path("runs"), help="folder of the studies' folders")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, on this machine")
    parser.add_argument("--dry_run", action="store_true", help="only say what there is to do, and how long it takes")
    options = parser.parse_args()
    if ALIGNMENT not in os.environ and os.environ.get("ROBUSTLM_DATA"):
        os.environ[ALIGNMENT] = str(options.output / "alignment")
    studies = planned(options.names, options.output, options.jobs)
    unset = dict.fromkeys(name for one in studies for name in one.study.unset)
    if options.dry_run:
        print("\n".join([plan(studies), *([missing(unset)] if unset else [])]))
        return
    if unset:
        parser.error(missing(unset))
    align = Path(os.environ.get(ALIGNMENT, ""))
    if any(one.name.startswith("align") for one in studies) and not (align / "FLAN" / "banks.json").is_file():
        from benchmarks.alignment import write

        write(Path(os.environ["ROBUSTLM_DATA"]), align)
    if unfinished := make(studies, robustlm):
        print(f"\nnot finished: {', '.join(unfinished)}; the same command goes on", file=sys.stderr)
        raise SystemExit(1)


if __name__ == "__main__":
    main()

"""What a study has stored: which runs are finished, what they were made by, what they cost, and their results."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from robustlm.assets import PACKAGE, config_file
from robustlm.evaluation.session import PREDICTIONS
from robustlm.evaluation.table import SCHEMA
from robustlm.runs import FIT
from robustlm.studies.plan import TRIAL, Run
from robustlm.studies.spec import Study
from robustlm.utils.files import whole_file, write_text
from robustlm.utils.version import __version__

RESULTS = "results.parquet"
"""The table over all runs, in the folder of a study."""
STUDY = "study.json"
"""What a report needs to know of a study beside the table."""
MADE_BY = "made_by.json"
"""Commands, configs and code that a run was made by, in its folder."""
FITTED = "fitted.json"
"""Says in the folder of a run that its fit has ended."""
TESTED = "tested.json"
"""Says how a run's test was made, once it has ended."""
EQUAL = "equal.json"
"""The number of steps that makes a run cost as much as another."""
LOG = "output.log"
COST = "cost.json"

OWN_COLUMNS = (("arm", pa.string()), ("seed", pa.int64()), ("data", pa.string()))
"""Columns of the results before those of the prediction table; `data` is empty in a study without data sets."""


def identity(run: Run) -> dict[str, object]:
    """What must be equal for two runs to give the same table: commands, contents of config files, and the code.

    Rows and models that the commands name are not read; tables of arms are held against each other in the report.
    """
    arguments, compute = [*(run.fit or ()), *run.test], run.arm.compute
    tuned = {} if run.weights is None else {name: own for name, own in identity(run.weights).items() if name != "test"}
    return {
        "fit": None if run.fit is None else list(run.fit),
        "test": list(run.test),
        "compute": None if compute is None else [compute.equal_to, compute.by, compute.trial, *run.equal_fit],
        **({} if run.after is None else {"after": [str(run.after), *run.after_fit]}),
        **({"weights": tuned} if tuned else {}),
        "configs": {name: _digest([file]) for name, file in _configs(arguments)},
        "code": f"{__version__} {_code()}",
    }


def _configs(arguments: Sequence[str]) -> Iterable[tuple[str, Path]]:
    for at, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag in ("-c", "--config"):
            name = value if equals else arguments[at + 1] if at + 1 < len(arguments) else ""
            file = Path(name) if Path(name).is_file() else config_file(name)
            if file is not None:
                yield name, file


def _digest(files: Iterable[Path]) -> str:
    found = hashlib.sha256()
    for file in files:
        found.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    return found.hexdigest()[:12]


_CODE: list[str] = []


def _code() -> str:
    """Digest of the package's modules, without reports and the command line, which make no answers."""
    if not _CODE:
        left_out = (PACKAGE / "report", PACKAGE / "cli", PACKAGE / "studies")
        files = sorted(PACKAGE.rglob("*.py"))
        _CODE.append(_digest(file for file in files if not any(one in file.parents for one in left_out)))
    return _CODE[0]


def changed(run: Run) -> list[str]:
    """What differs between a run in the plan and the one that is stored, a line each; empty if nothing is stored."""
    known = _json(run.folder / MADE_BY)
    if known is None:
        if run.folder.is_dir() and any(run.folder.glob("*/config.yaml")):
            return [f"{run.name}: {run.folder} holds a run of which nothing says what made it"]
        return []
    lines = []
    for name, value in identity(run).items():
        if known.get(name) != value:
            lines.append(f"{run.name}: {name}: stored: {_shown(known.get(name))}; now: {_shown(value)}")
    return lines


def _shown(value: object) -> str:
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {one}" for name, one in value.items())
    return "none" if value is None else str(value)


def remove(run: Run) -> None:
    """Remove what is stored of a run; of its fit nothing, if only the test has another command."""
    known = _json(run.folder / MADE_BY) or {}
    now = identity(run)
    if known and all(known.get(name) == value for name, value in now.items() if name != "test"):
        for folder in run.folder.glob("test*"):
            if folder.is_dir():
                shutil.rmtree(folder)
        (run.folder / TESTED).unlink(missing_ok=True)
        write_text(run.folder / MADE_BY, json.dumps({**now, "commit": commit()}, indent=1))
    elif run.folder.exists():
        shutil.rmtree(run.folder)


def begin(run: Run) -> None:
    """Note what a run is made by, before anything of it is stored."""
    run.folder.mkdir(parents=True, exist_ok=True)
    if not (run.folder / MADE_BY).exists():
        # the commit is for reports: the code is compared by its digest, which commits of other files do not change
        write_text(run.folder / MADE_BY, json.dumps({**identity(run), "commit": commit()}, indent=1))


@cache
def commit() -> str | None:
    """The commit of the package's repository, with `-dirty` if files differ from it; null: it is in no repository."""
    if not (PACKAGE.parent / ".git").exists():
        return None
    command = ["git", "-C", str(PACKAGE.parent), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip() or None


# --- how far a run is --------------------------------------------------------------------------------------------


def table_of(run: Run) -> Path | None:
    """The prediction table of a run, if it is complete: written, and each row has an answer."""
    found = [file for file in sorted(run.folder.glob(f"test*/{PREDICTIONS}")) if unanswered(file) == 0]
    return found[-1] if found else None


def unanswered(table: Path) -> int:
    """How many rows of a prediction table have no answer."""
    if "error" not in pq.read_schema(table).names:
        return 0
    errors = pq.read_table(table, columns=["error"]).column("error")
    return len(errors) - int(errors.null_count)


def is_fitted(run: Run) -> bool:
    """Whether the fit of a run has ended, or none is needed."""
    return run.fit is None or (run.folder / FITTED).is_file()


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is, for the plan."""

    finished: bool
    fitted: bool
    begun: bool

    def __str__(self) -> str:
        """One of `finished`, `tuned`, `begun` and `to do`."""
        if self.finished:
            return "finished"
        return "tuned, to be tested" if self.fitted else "begun" if self.begun else "to do"


def progress(run: Run) -> Progress:
    """How far a run is."""
    fitted = run.fit is not None and is_fitted(run)
    return Progress(table_of(run) is not None, fitted, (run.folder / MADE_BY).is_file())


# --- what it cost ------------------------------------------------------------------------------------------------


def cost(run: Run, part: str) -> dict[str, object]:
    """What `fit`, `test` or the trial of a run cost, by `robustlm.callbacks.cost`; empty if that is not stored."""
    folders = {"fit": run.folder / FIT, TRIAL: run.folder / TRIAL / FIT}
    if part in folders:
        file = folders[part] / COST
    else:
        table = table_of(run)
        file = run.folder / "test" / COST if table is None else table.with_name(COST)
    return _json(file) or {}


def took(run: Run) -> float | None:
    """Seconds that the commands of a finished run took, start to end; null: not known."""
    whole = 0.0
    for name in (FITTED, TESTED):
        found = _json(run.folder / name)
        if found is None and (name == TESTED or run.fit is not None):
            return None
        seconds = (found or {}).get("took")
        whole += float(seconds) if isinstance(seconds, int | float) else 0.0
    return whole


def _json(file: Path) -> dict[str, object] | None:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def read_json(file: Path) -> dict[str, object] | None:
    """A JSON file of a run; null if there is none, or if it holds something else than an object."""
    return _json(file)


# --- results -----------------------------------------------------------------------------------------------------


def write_results(study: Study, root: Path, runs: Sequence[Run]) -> int:
    """Write the table over all finished runs, and what a report needs beside it; return the number of rows.

    Args:
        study: The study.
        root: Its folder.
        runs: The runs whose tables are taken; those that are not finished are left out.
    """
    schema = pa.schema([*(pa.field(name, kind, nullable=False) for name, kind in OWN_COLUMNS), *SCHEMA])
    count, taken = 0, []
    with whole_file(root / RESULTS) as unfinished, pq.ParquetWriter(unfinished, schema) as writer:
        for run in runs:
            file = table_of(run)
            if file is None:
                continue
            table = pq.read_table(file)
            own = {"arm": run.arm.name, "seed": run.seed, "data": run.rows.name}
            columns = [pa.array([own[name]] * len(table), kind) for name, kind in OWN_COLUMNS]
            columns += [_column(table, field) for field in SCHEMA]
            writer.write_table(pa.table(columns, schema=schema))
            count += len(table)
            taken.append(run)
    write_text(root / STUDY, json.dumps(_about(study, taken), indent=1))
    return count


def _column(table: pa.Table, field: pa.Field) -> object:
    if field.name in table.column_names:
        return table.column(field.name).cast(field.type)
    return pa.nulls(len(table), field.type)


def _about(study: Study, runs: Sequence[Run]) -> Mapping[str, object]:
    arms = [arm for arm in study.arms if any(run.arm.name == arm.name for run in runs)]
    return {
        "name": study.name,
        "about": study.about,
        "file": study.file,
        "shared_time": study.shared_time,
        "groups": {name: list(own) for name, own in study.groups},
        "arms": {
            arm.name: {"against": list(arm.against), "sweep": None if arm.sweep is None else list(arm.sweep)}
            for arm in arms
        },
        "runs": [
            {
                "arm": run.arm.name,
                "seed": run.seed,
                "data": run.rows.name,
                "model": run.rows.model,
                "set": run.rows.data,
                "fit": cost(run, "fit"),
                "test": cost(run, "test"),
                "equal": _json(run.folder / EQUAL),
                "jobs": (_json(run.folder / TESTED) or {}).get("jobs"),
                "code": (_json(run.folder / MADE_BY) or {}).get("code"),
                "commit": (_json(run.folder / MADE_BY) or {}).get("commit"),
                "took": took(run),
            }
            for run in runs
        ],
    }

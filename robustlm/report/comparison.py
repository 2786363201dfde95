"""Several runs side by side, from their prediction tables alone: a table and a picture."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import Estimate
from robustlm.evaluation.scores import Scores
from robustlm.evaluation.table import read_table
from robustlm.tasks import TASKS

TABLE = "predictions.parquet"


def mean_scores(rows: Sequence[Record]) -> dict[str, float]:
    """Mean of the datasets' main scores, in per cent, for each condition of a prediction table.

    Raises:
        ValueError: A row has an unknown task.
    """
    if unknown := sorted({row.task for row in rows} - set(TASKS)):
        raise ValueError(f"unknown task {unknown[0]!r} in the table; name its class with --tasks '[module.Class]'")
    scores = Scores()
    scores.count(rows)
    return {
        name.removesuffix("/mean"): 100 * float(v) for name, v in scores.compute().items() if name.endswith("/mean")
    }


def find_table(run: str) -> Path:
    """Find the prediction table of a run: the file itself, or the newest `predictions.parquet` below a folder.

    Raises:
        ValueError: No table was found.
    """
    path = Path(run)
    if path.is_file():
        return path
    found = sorted(path.rglob(TABLE), key=lambda file: file.stat().st_mtime) if path.is_dir() else []
    if not found:
        raise ValueError(f"{run}: no {TABLE} there; expected a table, or a folder of a run that `robustlm test` wrote")
    if len(found) > 1:
        print(f"{run}: reading {found[-1]}, the newest of {len(found)} tables there", file=sys.stderr)
    return found[-1]


def named_runs(runs: list[str]) -> dict[str, str]:
    """Paths by name. A run is given as a path or as `name=path`.

    Raises:
        ValueError: Two runs have the same name.
    """
    found: dict[str, str] = {}
    for run in runs:
        name, equals, path = run.partition("=")
        name, path = (name, path) if equals else (Path(run).name, run)
        if name in found:
            raise ValueError(f"{run}: a second run called {name!r}; name it, as in name={path}")
        found[name] = path
    return found


def load_tables(runs: list[str]) -> dict[str, list[Record]]:
    """Prediction tables by run. A run is given as a path or as `name=path`.

    Raises:
        ValueError: A table is missing or empty, or two runs have the same name.
    """
    files = {name: find_table(path) for name, path in named_runs(runs).items()}
    found = {name: read_table(file) for name, file in files.items()}
    for name, rows in found.items():
        if not rows:
            raise ValueError(
                f"{files[name]}: the table holds no answers; expected those of a `robustlm test` that ended"
            )
    return found


def scores_of(tables: Mapping[str, list[Record]]) -> dict[str, dict[str, float]]:
    """Scores by run and condition, from prediction tables.

    Raises:
        ValueError: The runs did not answer the same rows.
    """
    found = {name: mean_scores(rows) for name, rows in tables.items()}
    asked = {name: {(row.sample_id, row.condition) for row in rows} for name, rows in tables.items()}
    first = next(iter(asked))
    for name, keys in asked.items():
        if keys != asked[first]:
            raise ValueError(
                f"{name} and {first} answered different rows ({len(keys)} and {len(asked[first])}); "
                "expected answers to the same samples under the same conditions" + other_datasets(tables, first, name)
            )
    return found


def same_cells(tables: Mapping[str, Sequence[Record]]) -> bool:
    """Whether all tables hold answers to the same samples under the same conditions and instructions."""
    first, *others = ({(*row.key, row.task) for row in rows} for rows in tables.values())
    return all(own == first for own in others)


def other_datasets(tables: Mapping[str, Sequence[Record]], first: str, second: str) -> str:
    """The end of an error message: datasets that only one of two runs has; empty if there are none."""
    names = {run: {row.dataset for row in tables[run]} for run in (first, second)}
    alone = {run: ", ".join(sorted(names[run] - names[other])) for run, other in ((first, second), (second, first))}
    if names[first] == names[second]:
        return ""
    listed = "; ".join(f"only in {run}: {found}" for run, found in alone.items() if found)
    return f". Names of datasets differ ({listed}): `name` of a source in data.test makes them alike"


def draw(
    runs: dict[str, dict[str, float]], file: Path, intervals: Mapping[str, Mapping[str, Estimate]] | None = None
) -> None:
    """Draw a bar for each run and condition.

    Args:
        runs: Scores in per cent, by run and condition.
        file: Path of the picture.
        intervals: Intervals of the scores by run and condition, drawn on the bars.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    conditions = list(next(iter(runs.values())))
    figure, axes = plt.subplots(figsize=(1.8 + 1.5 * len(conditions), 4.2), layout="constrained")
    thickness = 0.8 / len(runs)
    colours = ["#9aa0a6", "#4e79a7", "#59a14f", "#e15759", "#b07aa1", "#f28e2b"]
    for i, (name, scores) in enumerate(runs.items()):
        places = [at + (i - (len(runs) - 1) / 2) * thickness for at in range(len(conditions))]
        values = [scores[condition] for condition in conditions]
        bars = axes.bar(places, values, thickness * 0.92, label=name, color=colours[i % len(colours)])
        if intervals is not None:
            ends = [(100 * intervals[name][c].low, 100 * intervals[name][c].high) for c in conditions]
            axes.vlines(places, *zip(*ends, strict=True), color="#202124", linewidth=1)
        axes.bar_label(
            bars, fmt="%.0f", fontsize=7, label_type="center" if intervals is not None else "edge", padding=1
        )
    labels = [condition.replace("attack:", "attack:\n").replace("+", "\n+ ") for condition in conditions]
    axes.set_xticks(range(len(conditions)), labels)
    axes.set_ylabel("mean score over tasks (%)")
    axes.set_ylim(0, 108)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    axes.set_axisbelow(True)
    figure.legend(loc="outside upper center", ncols=len(runs), frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=130)
    plt.close(figure)

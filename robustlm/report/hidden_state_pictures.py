"""Pictures of hidden states, from a run's tables alone: projections, and change of score against distance."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from robustlm.evaluation.displacement import Displacement, Point
from robustlm.evaluation.hidden_state_table import HiddenStateTable
from robustlm.evaluation.hidden_states import Floats, Projection, project
from robustlm.evaluation.record import Cell

# palette of Okabe and Ito, for colour-blind readers too; each colour also has its own marker
_COLOURS = ("#000000", "#E69F00", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#8C8C8C")
_MARKERS = ("o", "^", "s", "D", "v", "P", "X", "<", ">")
_TITLES: dict[Projection, str] = {"pca": "PCA", "tsne": "t-SNE", "umap": "UMAP"}


def draw(
    runs: Mapping[str, HiddenStateTable],
    found: Mapping[str, Displacement],
    folder: Path,
    how: Projection = "pca",
    points: int = 600,
    seed: int = 0,
) -> list[Path]:
    """Draw projections of all datasets and of each dataset, and degradation against distance.

    Args:
        runs: Hidden states by run, of the same rows.
        found: Distances by run.
        folder: Existing folder for the pictures.
        how: Projection method, applied to each run separately.
        points: Largest number of states in a projection; whole samples are chosen at random.
        seed: Seed of that choice and of the projection.
    """
    keys = next(iter(runs.values())).keys
    datasets = sorted({key[1] for key in keys})
    order = list(dict.fromkeys(key[0] for key in keys))
    made = [_degradation(found, order, folder / "degradation.png")]
    wanted: dict[str, tuple[list[Cell], str]] = {"projection": (keys, "dataset")}
    for dataset, name in zip(datasets, _file_names(datasets), strict=True):
        wanted[f"projection-{name}"] = [key for key in keys if key[1] == dataset], "instruction"
    for name, (whole, second) in wanted.items():
        if len(whole) < 3:
            continue
        drawn = _chosen(whole, points, seed)
        states = {run: _states_of(table, drawn) for run, table in runs.items()}
        made.append(_projections(states, drawn, len(whole), order, second, how, seed, folder / f"{name}.png"))
    return made


def _chosen(keys: Sequence[Cell], points: int, seed: int) -> list[Cell]:
    """Keys of random whole samples: as many as fit into `points` states, but at least three states."""
    samples: dict[tuple[str, str], list[Cell]] = {}
    for key in sorted(keys):
        samples.setdefault(key[1:3], []).append(key)
    found: list[Cell] = []
    listed = list(samples.values())
    for more in map(listed.__getitem__, np.random.default_rng(seed).permutation(len(listed)).tolist()):
        if len(found) >= 3 and len(found) + len(more) > points:
            break
        found += more
    return found


def _states_of(table: HiddenStateTable, keys: Sequence[Cell]) -> Floats:
    """States in the order of the keys."""
    place = {key: at for at, key in enumerate(table.keys)}
    rows = np.array([place[key] for key in keys])
    order = np.argsort(rows)
    found = np.empty((len(rows), table.width))
    found[order] = table.read(rows[order].tolist())
    return found


def _projections(
    states: Mapping[str, Floats],
    keys: Sequence[Cell],
    whole: int,
    order: Sequence[str],
    second: str,
    how: Projection,
    seed: int,
    file: Path,
) -> Path:
    """Draw two panels for each run: the same points, coloured by condition, and by dataset or instruction."""
    conditions, datasets, samples, instructions = (list(names) for names in zip(*keys, strict=True))
    groups = {"condition": conditions, second: datasets if second == "dataset" else instructions}
    plt = _pyplot()
    size = (10, 0.9 + 4.2 * len(states))
    figure, axes = plt.subplots(len(states), 2, figsize=size, layout="constrained", squeeze=False)
    for row, (run, own) in zip(axes, states.items(), strict=True):
        places = project(own, how, seed)
        for panel, (by, names) in zip(row, groups.items(), strict=True):
            for i, name in enumerate(order if by == "condition" else sorted(set(names))):
                mine = places[[other == name for other in names]]
                panel.scatter(*mine.T, s=14, alpha=0.75, linewidths=0, label=name, **_style(i))
            panel.set_title(f"{run}, by {by}" if len(states) > 1 else f"by {by}", fontsize=10)
            panel.set_xticks([])
            panel.set_yticks([])
    for panel in axes[-1]:
        panel.legend(
            loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=2, fontsize=8, frameon=False, markerscale=1.6
        )
    count = len(set(zip(datasets, samples, strict=True)))
    kept = f"{len(keys)} of {whole} states ({count} samples, drawn with seed {seed})"
    title = f"{_TITLES[how]} of {kept if len(keys) < whole else f'{whole} states'}"
    title += ", each run by itself" if len(states) > 1 else ""
    figure.suptitle(title + (f": {datasets[0]}" if second == "instruction" else ""), fontsize=11)
    return _saved(plt, figure, file)


def _degradation(found: Mapping[str, Displacement], order: Sequence[str], file: Path) -> Path:
    """Draw a panel for each run: change of score against relative distance, by dataset, condition, instruction."""
    plt = _pyplot()
    columns = min(3, len(found))
    rows = math.ceil(len(found) / columns)
    size = (1 + 4 * columns, 1.2 + 3.6 * rows)
    figure, axes = plt.subplots(
        rows, columns, figsize=size, layout="constrained", sharex=True, sharey=True, squeeze=False
    )
    handles: dict[str, Any] = {}
    for panel, (run, own) in zip(axes.flat, found.items(), strict=False):
        points = [point for point in own.points if math.isfinite(point.relative)]
        for condition in order:
            mine = [point for point in points if point.condition == condition]
            if not mine:
                continue
            style = _style(order.index(condition))  # the same style as in projections
            handles[condition] = panel.scatter(
                [point.relative for point in mine], [100 * point.change for point in mine], s=20, alpha=0.75,
                linewidths=0, **style,
            )  # fmt: skip
        panel.axhline(0, color="#8C8C8C", linewidth=0.8, zorder=0)
        panel.set_title(f"{run}\n{_trend_text(own)}", fontsize=10)
        _line(panel, points, own)
    for panel in axes.flat[len(found) :]:
        panel.set_axis_off()
    figure.supxlabel("distance to the nearest observed state, in distances between samples", fontsize=10)
    figure.supylabel("score minus clean score, points", fontsize=10)
    if handles:
        figure.legend(handles.values(), handles, loc="outside upper center", ncols=2, fontsize=8, frameon=False)
    return _saved(plt, figure, file)


def _line(panel: Any, points: Sequence[Point], own: Displacement) -> None:
    """Draw a line with the slope over all points, through their mean."""
    slope = next((trend.slope for trend in own.trends if trend.over == "all"), float("nan"))
    if math.isfinite(slope):
        x = np.array([point.relative for point in points])
        y = 100 * np.array([point.change for point in points])
        ends = np.array([x.min(), x.max()])
        panel.plot(ends, y.mean() + 100 * slope * (ends - x.mean()), color="#000000", linewidth=1)


def _trend_text(own: Displacement) -> str:
    for trend in own.trends:
        if trend.over == "centred":
            return f"rank correlation within datasets {trend.rank:+.2f}"
    return "no points"


def _style(i: int) -> dict[str, str]:
    return {"color": _COLOURS[i % len(_COLOURS)], "marker": _MARKERS[i % len(_MARKERS)]}


def _pyplot() -> Any:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def _saved(plt: Any, figure: Any, file: Path) -> Path:
    unfinished = file.with_name(f".{file.name}")
    try:
        figure.savefig(unfinished, dpi=130, format="png")
        unfinished.replace(file)
    finally:
        plt.close(figure)
        unfinished.unlink(missing_ok=True)
    return file


def _file_names(datasets: Sequence[str]) -> list[str]:
    """Names of datasets made safe for file names; a number is appended to names that would be equal."""
    plain = [re.sub(r"[^\w.-]+", "_", name) for name in datasets]
    return [f"{name}-{plain[:i].count(name)}" if name in plain[:i] else name for i, name in enumerate(plain)]

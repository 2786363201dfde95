"""Figures of a study: score by condition, against the level of noise, against time, over a setting, and by level."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from robustlm.evaluation.robustness import Estimate
from robustlm.report.comparison import draw
from robustlm.report.study import Spread, StudyResults
from robustlm.studies.spec import slug
from robustlm.utils.files import whole_file

COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#9c755f", "#edc948", "#76b7b2", "#ff9da7", "#9aa0a6")
_MARKS = "osD^vPX*<>"

Points = Sequence[tuple[float, Spread]]


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure that was drawn."""

    file: Path
    said: str
    """What it shows, in a sentence."""


def draw_study(study: StudyResults, folder: Path) -> list[Picture]:
    """Draw all figures that the study has numbers for, as PNG.

    Args:
        study: The numbers.
        folder: Where the files go.
    """
    found = []
    for data in study.data:
        end = f"-{slug(data)}" if data else ""
        on = f" on {data}" if data else ""
        error = "; lines are standard deviations over seeds" if len(study.seeds) > 1 else ""
        for name, said, make in _pictures(study, data):
            file = folder / f"{name}{end}.png"
            make(file)
            found.append(Picture(file, f"{said}{on}{error}."))
    return found


def _pictures(study: StudyResults, data: str) -> Iterator[tuple[str, str, Callable[[Path], None]]]:
    """Name, what it shows, and a function that draws it to a file, for each figure of a data set."""
    whole = {
        name: arm
        for name, arm in study.data[data].items()
        if all(one in own for own in arm.scores.values() for one in study.conditions)
    }
    if not whole:
        return
    by_condition = {name: {one: arm.score(one) for one in study.conditions} for name, arm in whole.items()}
    yield "conditions", "Mean score over datasets by condition", partial(_bars, by_condition)
    levels = study.levels()
    if len(levels) > 1:
        by_level = {name: {title: arm.level(own) for title, own in levels.items()} for name, arm in whole.items()}
        yield "levels", "Mean score by level of the conditions", partial(_bars, by_level)
    ladders = {
        title: {name: [(x, arm.score(one)) for x, one in own.items()] for name, arm in whole.items()}
        for title, own in study.ladders().items()
    }
    if ladders:
        yield "omega", "Score against the level ω of the noise", partial(_panels, ladders, "ω")
    times = {name: cost.mean for name, arm in whole.items() if (cost := arm.cost("seconds")) is not None}
    if len(times) > 1:
        panels = {one: {name: [(at, whole[name].score(one))] for name, at in times.items()} for one in study.conditions}
        yield "time", "Score against seconds of training", partial(_panels, panels, "training, s")
    for setting, own in study.sweeps(data).items():
        swept = {x: whole[arm] for x, arm in own.items() if arm in whole}
        flat = [name for name in dict.fromkeys(one for arm in swept.values() for one in arm.against) if name in whole]
        panels = {
            one: {
                setting: [(x, arm.score(one)) for x, arm in swept.items()],
                **{name: [(x, whole[name].score(one)) for x in swept] for name in flat},
            }
            for one in study.conditions
        }
        beside = f", and that of {' and '.join(flat)}" if flat else ""
        yield (
            f"sweep-{slug(setting)}",
            f"Score over {setting} by condition{beside}",
            partial(_panels, panels, setting, log=_is_wide(list(swept))),
        )


def _is_wide(values: Sequence[float]) -> bool:
    """Whether values need a logarithmic axis."""
    return min(values, default=0) > 0 and max(values) / min(values) > 50


def _bars(values: Mapping[str, Mapping[str, Spread]], file: Path) -> None:
    scores = {name: {one: found.mean for one, found in own.items()} for name, own in values.items()}
    ends = {
        name: {
            one: Estimate(found.mean / 100, (found.mean - found.deviation) / 100, (found.mean + found.deviation) / 100)
            for one, found in own.items()
        }
        for name, own in values.items()
    }
    draw(scores, file, ends)


def _panels(panels: Mapping[str, Mapping[str, Points]], label: str, file: Path, *, log: bool = False) -> None:
    """A panel for each title: scores with deviations over x, a line or a mark for each series."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.lines import Line2D

    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(0.8 + 3.6 * columns, 0.9 + 3.0 * rows), layout="constrained", squeeze=False
    )
    for at, place in enumerate(axes.flat):
        if at >= len(panels):
            place.set_axis_off()
    for place, (title, series) in zip(axes.flat, panels.items(), strict=False):
        for number, points in enumerate(series.values()):
            place.errorbar(
                [x for x, _ in points],
                [one.mean for _, one in points],
                [one.deviation for _, one in points],
                color=COLOURS[number % len(COLOURS)],
                marker=_MARKS[number % len(_MARKS)],
                markersize=5,
                linewidth=1.4,
                capsize=2,
            )
        if log:
            place.set_xscale("log")
        place.set_title(title, fontsize=9)
        place.set_xlabel(label, fontsize=8)
        place.set_ylabel("mean score (%)", fontsize=8)
        place.tick_params(labelsize=8)
        place.grid(alpha=0.25)
        place.spines[["top", "right"]].set_visible(False)
    names = list(next(iter(panels.values())))
    handles = [
        Line2D([], [], color=COLOURS[i % len(COLOURS)], marker=_MARKS[i % len(_MARKS)], label=name)
        for i, name in enumerate(names)
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(4, len(names)), frameon=False, fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(file) as unfinished:
        figure.savefig(unfinished, dpi=130, format="png")
    plt.close(figure)

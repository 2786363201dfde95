"""How far estimates from a part of the cells are from the full grid: `python -m benchmarks.budget [TABLE]`.

Takes full grids, keeps 5, 10 and 25 % of their cells in the balanced design of `data.budget`, and compares what three
estimators say of the missing ones with the full grid: means of the observed cells (`plain`), shrunk means (`shrunk`),
and PromptEval's model (`rasch`). Grids are simulated, with right and wrong answers of a known truth, or taken from a
prediction table: there, all conditions together count as the instructions of a dataset.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.intervals import Setting, table
from robustlm.datamodules.budget import balanced_cells
from robustlm.evaluation.grid import Bools, Floats, Grid, grids, ratio
from robustlm.evaluation.incomplete import estimated
from robustlm.evaluation.numbers import Settings
from robustlm.evaluation.table import read_table

SHARES = (0.05, 0.1, 0.25)
SETTINGS = (Setting(100, 50, 0.7, 0.5, 0.0), Setting(100, 50, 0.7, 0.5, 0.1), Setting(100, 50, 0.7, 0.5, 0.3))
NAMES = ("each", "worst_estimated", "low_estimated", "median_estimated", "high_estimated")
QUANTILES = {"worst_estimated": 0.0, "low_estimated": 0.05, "median_estimated": 0.5, "high_estimated": 0.95}


@dataclass(frozen=True, slots=True)
class Full:
    """A full grid and, where they are known, the true scores of its instructions."""

    title: str
    grid: Grid
    truth: Floats | None


def simulated(times: int) -> Iterable[Full]:
    """Grids of `SETTINGS`; in addition, some whose scores have a long lower tail."""
    for setting in SETTINGS:
        for at in range(times):
            grid = table(setting, np.random.default_rng((at, setting.k)))
            title = f"{setting.n} × {setting.k}, {setting.p}, rho {setting.rho}, ±{setting.apart}"
            yield Full(title, grid, setting.scores)
    for at in range(times):
        random = np.random.default_rng(at)
        high, low = table(Setting(100, 48, 0.8, 0.5), random), table(Setting(100, 2, 0.3, 0.5), random)
        both = (np.concatenate([high.part, low.part], 1), np.concatenate([high.whole, low.whole], 1))
        yield Full("100 × 50, 48 of 0.8 and 2 of 0.3", _grid(high, *both), np.array([0.8] * 48 + [0.3] * 2))


def stored(path: Path) -> Iterable[Full]:
    """Grids of a prediction table: for each dataset, the complete samples under all instructions of all conditions."""
    sets: dict[str, list[Grid]] = {}
    for grid in grids(read_table(path)):
        sets.setdefault(grid.name, []).append(grid)
    for name, own in sets.items():
        keep = np.all([grid.complete for grid in own], 0)
        part, whole = (np.concatenate([getattr(grid, a)[keep] for grid in own], 1) for a in ("part", "whole"))
        title = f"{name}: {keep.sum()} × {part.shape[1]} ({own[0].score})"
        yield Full(title, _grid(own[0], part, whole), None)


def _grid(like: Grid, part: Floats, whole: Floats) -> Grid:
    n, k = part.shape
    return replace(
        like, samples=tuple(map(str, range(n))), instructions=tuple(map(str, range(k))), part=part, whole=whole,
        present=np.ones((n, k), bool), correct=np.zeros((n, k), bool), answers=np.zeros((n, k), np.int64),
        unparseable=np.zeros((n, k), bool), options=None,
    )  # fmt: skip


def thinned(grid: Grid, share: float, seed: int) -> Grid:
    """The grid with so many of its cells left, in the balanced design."""
    kept = balanced_cells(grid.samples, grid.instructions, share, seed)
    present: Bools = np.array([[(s, i) in kept for i in grid.instructions] for s in grid.samples])
    return replace(grid, present=present, part=grid.part * present, whole=grid.whole * present)


def measure(full: Full, share: float, seed: int, draws: int = 100) -> dict[str, dict[str, float]]:
    """Errors in points by estimator and number; `covered` where the truth is known: share of 95 % intervals with it."""
    scores = full.grid.part.sum(0) / full.grid.whole.sum(0)
    wanted = {name: float(np.quantile(scores, q)) for name, q in QUANTILES.items()}
    thin = thinned(full.grid, share, seed)
    plain = np.where(thin.present.any(0), ratio(thin.part.sum(0), thin.whole.sum(0)), np.nan)
    found = {"plain": {"each": float(np.nanmean(np.abs(plain - scores)))}}
    found["plain"] |= {n: float(np.nanquantile(plain, q)) - wanted[n] for n, q in QUANTILES.items()}
    for model in ("shrunk", "rasch"):
        one = estimated(thin, Settings(draws, seed), model)
        assert one is not None
        own = np.array([value.value for value in one.by_instruction.values()])
        found[model] = {"each": float(np.abs(own - scores).mean())}
        found[model] |= {name: one.numbers[name].value - wanted[name] for name in QUANTILES}
        if full.truth is not None:
            found[model]["covered each"] = float(
                np.mean([e.low <= t <= e.high for e, t in zip(one.by_instruction.values(), full.truth, strict=True)])
            )
            for name, q in QUANTILES.items():
                truth = float(np.quantile(full.truth, q))
                found[model][f"covered {name}"] = float(one.numbers[name].low <= truth <= one.numbers[name].high)
    return found


def main() -> None:
    """Print tables in Markdown: root mean square errors in points (for `each` the mean absolute one), and coverage."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("table", nargs="?", type=Path, help="prediction table with full grids; else simulated ones")
    parser.add_argument("--times", type=int, default=10, help="designs or simulated grids of each kind (%(default)s)")
    options = parser.parse_args()
    cases: dict[str, list[tuple[Full, int]]] = {}
    if options.table:
        for full in stored(options.table):
            cases[full.title] = [(full, seed) for seed in range(options.times)]
    else:
        for seed, full in enumerate(simulated(options.times)):
            cases.setdefault(full.title, []).append((full, seed))
    print("| grid | cells | estimator | " + " | ".join(NAMES) + " | covered: each | worst | median |")
    print("|---" * (3 + len(NAMES) + 3) + "|")
    for title, own in cases.items():
        for share in SHARES:
            all_ = [measure(full, share, seed) for full, seed in own]
            for model in ("plain", "shrunk", "rasch"):
                cells = [math.sqrt(float(np.mean([one[model][name] ** 2 for one in all_]))) for name in NAMES]
                shown = [f"{100 * cell:.1f}" for cell in cells]
                for name in ("covered each", "covered worst_estimated", "covered median_estimated"):
                    known = [one[model][name] for one in all_ if name in one[model]]
                    shown.append(f"{np.mean(known):.2f}" if known else "-")
                print(f"| {title} | {100 * share:g} % | {model} | " + " | ".join(shown) + " |", flush=True)


if __name__ == "__main__":
    main()

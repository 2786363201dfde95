"""How often intervals hold the truth, and how far estimates are off: `python benchmarks/intervals.py`.

Makes tables of answers whose true scores are known: n samples under k instructions. A sample that is easy under one
instruction is easy under others, as much as `rho` says (the correlation of what lies behind right and wrong). Prints,
for each setting, the share of tables whose interval holds the truth, beside that of percentiles of the same
draws, and the mean error of `worst_instruction`, `std` and `spread` with and without chance taken out.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np

from robustlm.evaluation.components import components, shares, variance_parts
from robustlm.evaluation.grid import Draws, Floats, Grid, ratio
from robustlm.evaluation.numbers import PARTS
from robustlm.evaluation.pairing import paired_gaps
from robustlm.evaluation.robustness import Settings, estimate, sample

NORMAL = NormalDist()
SHARES = ("share_samples", "share_phrasing", "share_phrasing_debiased", "share_interaction")
"""Shares of the variance of tables with one answer a cell."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Where tables come from."""

    n: int
    k: int
    p: float
    """Mean score."""
    rho: float
    apart: float = 0.0
    """Half the distance between the best and the worst instruction; scores lie evenly between them."""
    items: int = 1
    """More than one: F1 over so many expected items a sample, at most."""

    @property
    def scores(self) -> Floats:
        """`[k]`: the share of items that are right under each instruction."""
        return np.clip(self.p + self.apart * (np.linspace(-1, 1, self.k) if self.k > 1 else np.zeros(1)), 0, 1)


SETTINGS = (
    Setting(5, 1, 0.9, 0.0), Setting(10, 1, 0.5, 0.0), Setting(10, 1, 0.95, 0.0), Setting(100, 1, 0.99, 0.0),
    Setting(1000, 1, 0.999, 0.0), Setting(10, 6, 0.95, 0.5), Setting(100, 6, 0.99, 0.0), Setting(100, 6, 0.99, 0.8),
    Setting(100, 6, 0.9, 0.5), Setting(100, 6, 0.5, 0.0), Setting(100, 6, 0.5, 0.5), Setting(30, 6, 0.8, 1.0),
    Setting(10, 20, 0.8, 0.5), Setting(100, 6, 0.7, 0.5, 0.1), Setting(20, 6, 0.5, 0.5, 0.5),
    Setting(30, 6, 0.7, 0.8, 0.1), Setting(30, 20, 0.7, 0.8, 0.1), Setting(30, 20, 0.7, 0.95, 0.2),
    Setting(500, 6, 0.7, 0.8, 0.05), Setting(100, 2, 0.7, 0.8, 0.05), Setting(10, 6, 0.95, 0.8, 0.0, 4),
    Setting(100, 6, 0.7, 0.5, 0.0, 4), Setting(100, 6, 0.98, 0.5, 0.0, 4), Setting(30, 6, 0.8, 0.5, 0.1, 4),
)  # fmt: skip


def table(setting: Setting, random: np.random.Generator, condition: str = "clean", easy: Floats | None = None) -> Grid:
    """One table of answers; `easy [n, items, 1]` is what samples bring along, drawn where not given."""
    shape = setting.n, setting.items, setting.k
    own = random.normal(size=(*shape[:2], 1)) if easy is None else easy
    behind = own * math.sqrt(setting.rho) + random.normal(size=shape) * math.sqrt(1 - setting.rho)
    with np.errstate(divide="ignore"):
        limits = np.array([NORMAL.inv_cdf(min(max(score, 1e-12), 1 - 1e-12)) for score in setting.scores])
    right = behind < limits  # [n, items, k]
    if setting.items == 1:
        part, whole = right[:, 0].astype(float), np.ones((setting.n, setting.k))
    else:  # some samples have fewer items; a wrong item is one predicted and one expected
        there = (np.arange(setting.items) < (1 + np.arange(setting.n)[:, None] % setting.items))[:, :, None]
        part, whole = 2.0 * (right & there).sum(1), 2.0 * np.broadcast_to(there.sum(1), (setting.n, setting.k))
    cells = ratio(part, whole)
    return Grid(
        "d", "d", "generation", condition, "accuracy", tuple(map(str, range(setting.n))),
        tuple(map(str, range(setting.k))), np.ones(cells.shape, bool), part, np.array(whole), cells == 1,
        (cells * 1000).astype(np.int64), np.zeros(cells.shape, bool),
    )  # fmt: skip


def measure(setting: Setting, tables: int, draws: int, seed: int = 0) -> tuple[dict[str, float], dict[str, float]]:
    """Share of intervals that hold the truth, and mean errors, by name; percentiles have ` (percentile)`.

    Tables without an interval, such as that of a drop from a score that may be 0, do not count.
    """
    random = np.random.default_rng(seed)
    scores = setting.scores
    truth = {"mean": scores.mean(), "worst_instruction": scores.min(), "std": scores.std(), "spread": np.ptp(scores)}
    truth |= {"pdr": 0.0, "difference": 0.0}
    given: dict[str, int] = defaultdict(int)
    held: dict[str, float] = defaultdict(float)
    error: dict[str, float] = defaultdict(float)
    for at in range(tables):
        settings = Settings(draws, seed=at)
        easy = random.normal(size=(setting.n, setting.items, 1))
        one = table(setting, random, "clean", easy)
        other = table(setting, random, "noisy", easy)
        found, _ = sample([one, other], settings)
        drawn, noisy = found["d", "clean"], found["d", "noisy"]
        again, _ = sample([table(setting, random, "clean", easy)], settings)
        gaps = paired_gaps(drawn, again["d", "clean"], settings.level)
        intervals = {name: drawn.estimates[name] for name in truth if name in drawn.estimates}
        intervals |= {"pdr": noisy.estimates["pdr"], "difference": gaps["mean"]}
        values = {name: drawn.numbers[name] for name in truth if name in drawn.numbers}
        values |= {"pdr": noisy.numbers["pdr"]}
        values["difference"] = again["d", "clean"].numbers["mean"] - drawn.numbers["mean"]
        for name, wanted in truth.items():
            if setting.k == 1 and name in ("std", "spread"):
                continue
            old = estimate(values[name], settings.level)
            for label, interval in ((name, intervals[name]), (f"{name} (percentile)", old)):
                if not math.isnan(interval.low):
                    given[label] += 1
                    held[label] += interval.low - 1e-9 <= wanted <= interval.high + 1e-9
        if setting.k > 1:
            for name, plain in (
                ("worst_debiased", "worst_instruction"),
                ("std_debiased", "std"),
                ("spread_debiased", "spread"),
            ):
                error[plain] += (drawn.estimates[plain].value - truth[plain]) / tables
                error[name] += (drawn.estimates[name].value - truth[plain]) / tables
            given["alike is refused"] += 1
            held["alike is refused"] += drawn.estimates["cochran_p"].value < 0.05
    return {name: held[name] / count for name, count in given.items()}, dict(error)


@dataclass(frozen=True, slots=True)
class Parts:
    """Where tables with known parts of the variance come from: what lies behind an answer is a sum of normal parts."""

    n: int
    k: int
    draws: int
    samples: float
    """Standard deviation of what a sample adds, where the model's own chance has 1."""
    instructions: float
    interaction: float


PARTS_SETTINGS = (
    Parts(20, 6, 3, 1.0, 0.3, 0.3), Parts(100, 6, 3, 1.0, 0.3, 0.3), Parts(500, 6, 3, 1.0, 0.3, 0.3),
    Parts(100, 6, 3, 1.0, 0.0, 0.0), Parts(100, 20, 3, 2.0, 0.2, 0.5), Parts(100, 6, 8, 1.0, 0.3, 0.3),
    Parts(100, 2, 3, 1.0, 0.3, 0.3), Parts(5, 6, 3, 1.0, 0.3, 0.3), Parts(10, 6, 3, 1.0, 0.3, 0.3),
    Parts(20, 2, 3, 1.0, 0.3, 0.3), Parts(100, 2, 3, 1.0, 0.0, 0.3), Parts(100, 6, 3, 0.5, 1.0, 0.3),
    Parts(30, 6, 3, 0.2, 2.0, 0.1), Parts(30, 6, 3, 5.0, 0.1, 0.5), Parts(10, 3, 3, 0.0, 0.0, 0.0),
)  # fmt: skip
_MANY = 20_000
"""Samples of the table that the truth is read from."""


def chances(setting: Parts, n: int, random: np.random.Generator) -> Floats:
    """`[n, k]`: how likely each cell is right. The instructions are the same in all tables of a setting."""
    own = np.linspace(-1.0, 1.0, setting.k)
    own = 0.5 + setting.instructions * own / own.std()
    samples = setting.samples * random.normal(size=(n, 1))
    found = own + samples + setting.interaction * random.normal(size=(n, setting.k))
    return np.array([[NORMAL.cdf(value) for value in row] for row in found])


def drawn_table(right: Floats) -> Grid:
    """The grid of answers `[n, k, draws]`, 1 where right."""
    n, k, count = right.shape
    scores = right.mean(2)
    part, cells = right[:, :, 0], np.ones((n, k))
    draws = Draws(
        np.full((n, k), count), scores, ((right - scores[:, :, None]) ** 2).sum(2), (scores > 0.5).astype(float), cells
    )
    return Grid(
        "d", "d", "generation", "clean", "accuracy", tuple(map(str, range(n))), tuple(map(str, range(k))),
        cells.astype(bool), part, cells, part == 1, (part * 1000).astype(np.int64), ~cells.astype(bool), draws=draws,
    )  # fmt: skip


def measure_parts(
    setting: Parts, tables: int, draws: int, seed: int = 0, many: int = _MANY
) -> dict[str, tuple[float, float]]:
    """Share of intervals that hold the truth and mean error, of the parts of the variance, by name."""
    random = np.random.default_rng(seed)
    sure = chances(setting, many, random)
    parts = components(sure, sure * (1 - sure), np.zeros_like(sure))[0]
    truth = dict(zip(PARTS, np.maximum(shares(parts), 0).tolist(), strict=True))
    once = (random.random(sure.shape) < sure).astype(float)
    plain = replace(drawn_table(once[:, :, None]), draws=None)
    found, _ = sample([plain], Settings(0))
    truth |= {name: found["d", "clean"].estimates[name].value for name in SHARES}
    given, held, error = defaultdict[str, int](int), defaultdict[str, int](int), defaultdict[str, float](float)
    for at in range(tables):
        cells = chances(setting, setting.n, random)
        right = (random.random((*cells.shape, setting.draws)) < cells[:, :, None]).astype(float)
        one = drawn_table(right)
        estimates = variance_parts(one, Settings(draws, seed=at))
        again, _ = sample([replace(one, draws=None)], Settings(draws, seed=at))
        estimates |= {name: again["d", "clean"].estimates[name] for name in SHARES}
        for name, wanted in truth.items():
            interval = estimates[name]
            if not math.isnan(interval.low):
                given[name] += 1
                held[name] += interval.low - 1e-9 <= wanted <= interval.high + 1e-9
                error[name] += interval.value - wanted
    return {name: (held[name] / count, error[name] / count) for name, count in given.items()}


def print_parts(tables: int, draws: int) -> None:
    """Print a table of the parts of the variance in Markdown: coverage, and mean error in points."""
    names = (*PARTS, *SHARES)
    print("| n, k, draws, sd of samples, instructions, pairs | " + " | ".join(names) + " |")
    print("|---" + "|---" * len(names) + "|")
    for one in PARTS_SETTINGS:
        found = measure_parts(one, tables, draws)
        cells = [f"{found[name][0]:.2f} ({100 * found[name][1]:+.1f})" if name in found else "-" for name in names]
        title = f"{one.n}, {one.k}, {one.draws}, {one.samples}, {one.instructions}, {one.interaction}"
        print(f"| {title} | " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Print tables in Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tables", type=int, default=500, help="of each setting (%(default)s)")
    parser.add_argument("--draws", type=int, default=300, help="of each interval (%(default)s)")
    parser.add_argument("--parts", action="store_true", help="the parts of the variance instead")
    options = parser.parse_args()
    if options.parts:
        return print_parts(options.tables, options.draws)
    names = ("mean", "difference", "pdr", "worst_instruction", "std", "spread")
    biased = ("worst_instruction", "worst_debiased", "std", "std_debiased", "spread", "spread_debiased")
    errors = []
    print("| n, k, score, rho, apart | " + " | ".join(names) + " |\n|---" + "|---" * len(names) + "|")
    for setting in SETTINGS:
        held, error = measure(setting, options.tables, options.draws)
        title = f"{setting.n}, {setting.k}, {setting.p}, {setting.rho}, ±{setting.apart}" + " (F1)" * (
            setting.items > 1
        )
        cells = [f"{held[n]:.2f} ({held[f'{n} (percentile)']:.2f})" if n in held else "-" for n in names]
        print(f"| {title} | " + " | ".join(cells) + " |", flush=True)
        if error:
            shown = " | ".join(f"{100 * error[name]:+.1f}" for name in biased)
            errors.append(f"| {title} | {shown} | {held['alike is refused']:.2f} |")
    print("\n| n, k, score, rho, apart | " + " | ".join(biased) + " | Cochran's p < 0.05 |\n|---" + "|---" * 7 + "|")
    print("\n".join(errors))


if __name__ == "__main__":
    main()

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
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from robustlm.evaluation.grid import Floats, Grid, ratio
from robustlm.evaluation.pairing import paired_gaps
from robustlm.evaluation.robustness import Settings, estimate, sample

NORMAL = NormalDist()


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


def main() -> None:
    """Print two tables in Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tables", type=int, default=500, help="of each setting (%(default)s)")
    parser.add_argument("--draws", type=int, default=300, help="of each interval (%(default)s)")
    options = parser.parse_args()
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

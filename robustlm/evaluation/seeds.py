"""How sure a difference between two ways of training is: both answer the same rows, over several seeds of training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from robustlm.evaluation.grid import Floats, counts, ratio
from robustlm.evaluation.intervals import holm
from robustlm.evaluation.record import Record
from robustlm.evaluation.resampling import sample_weights, seeded
from robustlm.evaluation.robustness import Settings

DRAWS = 10_000
"""Bootstrap draws of a difference, of which its p is a share."""

_NOTHING = 1e-9
"""Points below which a difference is rounding: draws without a difference must count as 0."""

Rows = Sequence[Record]
Tally = Mapping[str, Mapping[str, Floats]]
"""Condition → dataset → part and whole of each sample's score, `[n, 2]`, in the order of sample ids."""


@dataclass(frozen=True, slots=True)
class SeedDifference:
    """What one way of training is ahead of another under one condition, in points of the mean score over datasets."""

    mean: float
    """Mean over seeds."""
    seeds: tuple[float, ...]
    """Seed by seed."""
    low: float
    """Lower end of the interval."""
    high: float
    """Upper end."""
    p: float
    """Twice the smaller share of draws on one side of 0, those at 0 counted to both, and one draw added: the interval
    at level 1 − p ends at 0."""
    p_holm: float = math.nan
    """`p`, adjusted for its family after Holm (`with_holm`)."""


class Tallies:
    """What differences need of a prediction table: the counts of its samples, and who they are.

    Args:
        rows: The table.
    """

    def __init__(self, rows: Rows) -> None:
        found: dict[str, dict[str, dict[str, tuple[float, float]]]] = {}
        for row in rows:
            part, whole = counts(row)
            own = found.setdefault(row.condition, {}).setdefault(row.dataset, {})
            before = own.get(row.sample_id, (0.0, 0.0))  # a sample may be asked under several instructions
            own[row.sample_id] = before[0] + part, before[1] + whole
        self.samples = {
            condition: {d: tuple(sorted(one)) for d, one in sets.items()} for condition, sets in found.items()
        }
        """Sample ids by condition and dataset."""
        self.counts: Tally = {
            condition: {d: np.array([one[name] for name in sorted(one)]) for d, one in sets.items()}
            for condition, sets in found.items()
        }


def merged(parts: Mapping[str, Tallies]) -> Tallies:
    """The tallies of several tables as those of one, whose datasets are called `PART/DATASET`."""
    found = Tallies(())
    conditions = [set(one.samples) for one in parts.values()]
    shared = [name for name in next(iter(parts.values())).samples if all(name in own for own in conditions)]
    found.samples = {
        condition: {
            f"{part}/{name}": ids for part, one in parts.items() for name, ids in one.samples[condition].items()
        }
        for condition in shared
    }
    found.counts = {
        condition: {f"{part}/{name}": own for part, one in parts.items() for name, own in one.counts[condition].items()}
        for condition in shared
    }
    return found


def differences(
    ours: Sequence[Rows | Tallies],
    theirs: Sequence[Rows | Tallies],
    *,
    draws: int = DRAWS,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, SeedDifference]:
    """Differences by condition, with paired bootstrap intervals over seeds and samples.

    A draw takes seeds and, within each dataset, samples with replacement, the same for both sides: what stays is the
    difference, and the interval holds both what other seeds and what other samples would have changed. With two or
    three seeds it knows little of other seeds, and is rather too narrow. Where each seed of training was asked other
    samples, a draw takes those of each seed by themselves; a seed that is drawn twice then has the same samples twice,
    which makes the interval rather too wide.

    Args:
        ours: A prediction table, or its `Tallies`, for each seed of training.
        theirs: The tables of the other side, for the same seeds in the same order.
        draws: Bootstrap draws.
        seed: Seed of the draws.
        level: Level of the intervals.

    Raises:
        ValueError: With one of the seeds, the two sides did not answer the same rows, or the seeds have other
            conditions or datasets; or the sides have other numbers of seeds.
    """
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"{len(ours)} runs are compared with {len(theirs)}; expected one of each for every seed")
    sides = [[one if isinstance(one, Tallies) else Tallies(one) for one in side] for side in (ours, theirs)]
    first = sides[0][0]
    for one, other in zip(*sides, strict=True):
        if one.samples != other.samples or _asked(one) != _asked(first):
            raise ValueError(
                "the runs did not answer the same rows under the same conditions; only those can be compared"
            )
    alike = asked_alike(sides[0])
    settings = Settings(draws, seed, level)
    n = len(ours)
    drawn_seeds = seeded(settings, "seeds of training").multinomial(n, np.full(n, 1 / n), draws) / n
    found = {}
    for condition, sets in first.samples.items():
        by_set = []
        for name in sets:
            counted = [[one.counts[condition][name] for one in side] for side in sides]
            if alike:
                by_set.append(_gaps(counted, name, settings))
            else:
                each = [[[side[at]] for side in counted] for at in range(n)]
                parts = [_gaps(own, f"{name}\0{at}", settings) for at, own in enumerate(each)]
                by_set.append(np.concatenate(parts, 1))
        gaps = np.mean(by_set, 0)  # [1 + draws, seeds]
        means = 100 * (gaps[1:] * drawn_seeds).sum(1)
        low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
        share = min(int((means <= _NOTHING).sum()), int((means >= -_NOTHING).sum()))
        p = min(1.0, 2 * (share + 1) / (draws + 1))
        exact = 100 * gaps[0]
        found[condition] = SeedDifference(float(exact.mean()), tuple(map(float, exact)), float(low), float(high), p)
    return found


def asked_alike(tables: Sequence[Tallies]) -> bool:
    """Whether tables have the same samples."""
    return all(one.samples == tables[0].samples for one in tables)


def _asked(table: Tallies) -> dict[str, set[str]]:
    return {condition: set(sets) for condition, sets in table.samples.items()}


def _gaps(counted: Sequence[Sequence[Floats]], name: str, settings: Settings) -> Floats:
    """Differences of a dataset's score by draw and seed, `[1 + draws, S]`; in the first row no sample is drawn."""
    stacked = np.stack([np.stack(list(side)) for side in counted])  # [2, S, n, 2]
    weights = sample_weights(name, stacked.shape[2], settings)  # [1 + draws, n]
    sums = np.einsum("dn,asnc->asdc", weights, stacked, optimize=True)
    mine, other = ratio(sums[..., 0], sums[..., 1])
    gaps: Floats = (mine - other).T
    return gaps


def with_holm(families: Mapping[str, Mapping[str, SeedDifference]]) -> dict[str, dict[str, SeedDifference]]:
    """The same differences, by comparison and condition, with their p adjusted: all of them are one family."""
    places = [(name, condition) for name, own in families.items() for condition in own]
    adjusted = holm([families[name][condition].p for name, condition in places])
    found: dict[str, dict[str, SeedDifference]] = {name: {} for name in families}
    for (name, condition), p in zip(places, adjusted, strict=True):
        found[name][condition] = replace(families[name][condition], p_holm=p)
    return found

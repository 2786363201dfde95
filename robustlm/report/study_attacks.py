"""What the searches for attacks of a study came to, from the files of attacks beside its prediction tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from robustlm.conditions.manifest import read_attacks
from robustlm.evaluation.resampling import seeded
from robustlm.evaluation.robustness import Settings
from robustlm.evaluation.session import ATTACKS, PREDICTIONS
from robustlm.studies.plan import folder_of
from robustlm.studies.stored import unanswered

Key = tuple[int, str, str, str]
"""Seed, dataset, instruction and sample of an attack; the sample is empty where all rows share the instruction."""

LOWERED = {"likelihood": "likelihood of the true answers", "accuracy": "share of right answers"}
"""What a search lowers, by the name of its objective."""


@dataclass(frozen=True, slots=True)
class Searched:
    """What the search for one attack came to, on the rows searched on."""

    before: float
    """What the search lowers, without the attack, in per cent."""
    after: float
    """The same under the attack."""
    queries: int
    """Number of texts that were tried."""
    objective: str


@dataclass(frozen=True, slots=True)
class SearchGap:
    """What one arm's searches leave, less what those of another arm leave, in points."""

    mean: float
    low: float
    high: float
    """Ends of the interval over attacks."""
    attacks: int
    """Number of attacks that both arms searched for."""


@dataclass(slots=True)
class Searches:
    """The searches of a study on one data set."""

    arms: dict[str, dict[str, dict[Key, Searched]]] = field(default_factory=dict)
    """By arm, condition and key."""
    gaps: dict[str, dict[str, SearchGap]] = field(default_factory=dict)
    """By comparison (`plain − plain, random`) and condition."""

    @property
    def conditions(self) -> list[str]:
        """The conditions that were searched for."""
        return list(dict.fromkeys(condition for own in self.arms.values() for condition in own))

    @property
    def lowered(self) -> str:
        """What the searches lower, in words."""
        every = (one for own in self.arms.values() for found in own.values() for one in found.values())
        names = {one.objective for one in every}
        return LOWERED.get(names.pop(), "score") if len(names) == 1 else "score that a search lowers"


def searches_of(
    folder: Path,
    runs: Iterable[Mapping[str, object]],
    pairs: Sequence[tuple[str, str]],
    settings: Settings,
) -> dict[str, Searches]:
    """The searches of a study's runs by data set; data sets without any are left out.

    Args:
        folder: The study's folder.
        runs: Its runs, each with `arm`, `seed` and `data`.
        pairs: The arms that are compared, each with the other one.
        settings: How intervals are made.

    Raises:
        ValueError: A file of attacks cannot be read.
    """
    found: dict[str, Searches] = {}
    for run in runs:
        data, arm, seed = str(run["data"]), str(run["arm"]), cast(int, run["seed"])
        for condition, key, one in _searched(folder_of(folder, arm, data, seed), seed):
            found.setdefault(data, Searches()).arms.setdefault(arm, {}).setdefault(condition, {})[key] = one
    for searches in found.values():
        for arm, other in pairs:
            for condition in searches.conditions:
                ours, theirs = (searches.arms.get(name, {}).get(condition, {}) for name in (arm, other))
                if shared := [key for key in ours if key in theirs]:
                    each = np.array([ours[key].after - theirs[key].after for key in shared])
                    searches.gaps.setdefault(f"{arm} − {other}", {})[condition] = _gap(each, settings)
    return found


def _searched(run: Path, seed: int) -> Iterable[tuple[str, Key, Searched]]:
    tables = [file for file in sorted(run.glob(f"test*/{PREDICTIONS}")) if unanswered(file) == 0]
    file = tables[-1].with_name(ATTACKS) if tables else None
    if file is None or not file.is_file():
        return
    for (condition, dataset, instruction, sample), line in read_attacks(file).items():
        if "reused" in line:
            continue
        values = [line.get(name) for name in ("score_before", "score_after", "queries")]
        if not all(isinstance(value, int | float) for value in values):
            raise ValueError(
                f"{file}: {condition} of {dataset}, instruction {instruction}: found no score_before, score_after or "
                "queries; expected numbers, as `robustlm test` writes them"
            )
        before, after, queries = cast("list[float]", values)
        found = Searched(100 * before, 100 * after, int(queries), str(line.get("objective")))
        yield condition, (seed, dataset, instruction, sample or ""), found


def _gap(each: np.ndarray[tuple[int], np.dtype[np.float64]], settings: Settings) -> SearchGap:
    random = seeded(settings, "attacks")
    # draw by draw, since a study may have thousands of attacks
    means = [each[random.integers(0, len(each), len(each))].mean() for _ in range(settings.draws)]
    low, high = np.quantile(means, [(1 - settings.level) / 2, (1 + settings.level) / 2])
    return SearchGap(float(each.mean()), float(low), float(high), len(each))


def search_title(searches: Searches, on: str) -> str:
    """What `search_table` shows."""
    return (
        f"What the searches for attacks came to{on}: {searches.lowered} on the rows searched on, before → after, %, "
        "mean over attacks (texts tried for an attack)"
    )


def search_table(searches: Searches) -> list[list[str]]:
    """What the searches came to by arm and condition, below a line of headings."""
    conditions = searches.conditions
    return [
        ["arm", *conditions],
        *(
            [name, *(_cell(list(own.get(one, {}).values())) for one in conditions)]
            for name, own in searches.arms.items()
        ),
    ]


def _cell(found: Sequence[Searched]) -> str:
    if not found:
        return "-"
    before, after, queries = (
        float(np.mean([getattr(one, name) for one in found])) for name in ("before", "after", "queries")
    )
    return f"{before:.1f} → {after:.1f} ({queries:.0f})"


def search_gap_title(searches: Searches, on: str) -> str:
    """What `search_gap_table` shows."""
    return f"Differences{on} in the {searches.lowered} after the attack, points; intervals over attacks (their number)"


def search_gap_table(searches: Searches, mark: str = "**") -> list[list[str]]:
    """Differences by comparison and condition, below a line of headings; marked if their interval excludes 0."""
    conditions = searches.conditions
    rows = [["arm − compared with", *conditions]]
    for name, own in searches.gaps.items():
        rows.append([name, *(_gap_cell(own[one], mark) if one in own else "-" for one in conditions)])
    return rows


def _gap_cell(gap: SearchGap, mark: str) -> str:
    mark = mark if gap.low > 0 or gap.high < 0 else ""
    return f"{mark}{gap.mean:+.1f}{mark} [{gap.low:+.1f}, {gap.high:+.1f}] ({gap.attacks})"

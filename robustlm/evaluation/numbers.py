"""The robustness numbers: their names, how intervals are made, and what holds values, draws and intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from robustlm.checks.numbers import check_number, check_seed
from robustlm.evaluation.grid import Floats
from robustlm.evaluation.intervals import Moments

Resample = Literal["samples", "both"]


NUMBERS = {
    "mean": "score over all answers",
    "worst_instruction": "score of the worst instruction",
    "worst_debiased": "score of the worst instruction, less what chance takes",
    "worst_case": "score of each sample's worst answer",
    "pdr": "performance drop rate against clean",
    "std": "standard deviation over instructions",
    "std_pooled": "standard deviation over instructions and datasets together",
    "std_within": "mean over datasets of the standard deviation over instructions",
    "std_debiased": "standard deviation over instructions, less what chance adds",
    "spread": "best minus worst instruction",
    "spread_debiased": "best minus worst instruction, less what chance adds",
    "cochran_p": "how likely such differences are if all instructions are alike",
    "consistency": "pairs of instructions with equal answers",
    "sensitivity": "difference in score between two instructions",
    "posix": "change of an answer's log-likelihood a token under another instruction",
    "all_correct": "samples right under every instruction",
    "share_phrasing": "share of score variance from instructions",
    "share_samples": "share of score variance from samples",
    "share_interaction": "share of score variance from which sample meets which instruction",
    "unparseable": "answers that could not be read",
}
"""All numbers and what they are. Those of one dataset have `std`, those of all have `std_pooled` and `std_within`."""


UNBOUNDED = ("posix", "cochran_p")
"""Numbers that are no shares: not to be shown in per cent."""


SHARES = ("mean", "worst_case", "consistency", "sensitivity", "all_correct", "unparseable")
"""Numbers that are means over samples of values in [0, 1], or F1."""


DEBIASED = {"worst_instruction": "worst_debiased", "std": "std_debiased", "spread": "spread_debiased"}
"""Numbers that chance moves in one direction, and what each is called without that."""


_MOST_DRAWS = 10**6
"""More change no digit that is shown."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How intervals are made."""

    draws: int = 1000
    """Bootstrap draws; 0: no intervals."""
    seed: int = 0
    """Seed of the draws. A dataset's draws are its own, whatever other datasets a table holds."""
    level: float = 0.95
    """Share of draws within an interval."""
    resample: Resample = "samples"
    """`samples` of a dataset are drawn with replacement, the same under all conditions; `both`: instructions too."""

    def __post_init__(self) -> None:
        """Refuse what makes no interval."""
        for name in ("draws", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: found {getattr(self, name)}; expected ≥ 0")
        check_number("draws", self.draws, least=0, most=_MOST_DRAWS, whole=True)
        check_seed("seed", self.seed)
        if not 0 < self.level < 1:
            raise ValueError(f"level: found {self.level}; expected a share between 0 and 1")
        if self.resample not in ("samples", "both"):
            raise ValueError(f"resample: found {self.resample!r}; expected samples or both")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its interval; NaN where there is none."""

    value: float
    low: float
    high: float
    datasets: int = 1
    """How many datasets have this number, and are averaged in it."""


@dataclass(frozen=True, slots=True)
class Result:
    """The numbers of a dataset under one condition, or of all datasets (`name` is then `None`)."""

    name: str | None
    condition: str
    score: str
    """`f1`, `accuracy`, or `mean` over datasets."""
    numbers: dict[str, Estimate]
    by_instruction: dict[str, float]
    """Score under each instruction, of the samples that all of them were asked about."""
    worst: str | None
    """The worst instruction."""
    rows: int
    """Answers."""
    samples: int
    """Samples asked."""
    complete: int
    """Samples asked under every instruction: what all but `mean`, `pdr` and `unparseable` are made of."""
    instructions: int
    missing: int
    """Cells of samples asked that are not in the table."""


Sampled = dict[str, Floats]
"""Each number's value and then its draws, `[1 + draws]`. Names with a leading `_` are what others are made of."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """The numbers of a dataset under one condition, or of all datasets, over draws of their samples."""

    numbers: Sampled
    estimates: dict[str, Estimate]
    """By the names of `NUMBERS`, in that order."""
    samples: dict[str, int]
    """How many samples each of the `SHARES` is made of."""
    dropped: Moments = (math.nan, math.nan, math.nan)
    """Variances and covariance of the two scores that `pdr` compares: under this condition, and clean."""
    cochran: tuple[float, int] = (0.0, 0)
    """Cochran's Q and its degrees of freedom."""

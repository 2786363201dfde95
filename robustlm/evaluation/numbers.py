"""The robustness numbers: their names, the settings of intervals, and classes for values, draws and intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from robustlm.checks.numbers import check_number, check_seed
from robustlm.evaluation.baselines import Baseline
from robustlm.evaluation.grid import Floats
from robustlm.evaluation.intervals import Moments
from robustlm.evaluation.wording import Wording

Resample = Literal["samples", "both"]


NUMBERS = {
    "mean": "score over all answers",
    "worst_instruction": "score of the worst instruction",
    "worst_debiased": "score of the worst instruction, less the effect of chance",
    "worst_case": "score of each sample's worst answer",
    "pdr": "performance drop rate against clean",
    "std": "standard deviation over instructions",
    "std_pooled": "standard deviation over instructions and datasets together",
    "std_within": "mean over datasets of the standard deviation over instructions",
    "std_debiased": "standard deviation over instructions, less what chance adds",
    "spread": "best minus worst instruction",
    "spread_debiased": "best minus worst instruction, less what chance adds",
    "cochran_p": "how likely such differences are if all instructions are alike",
    "cochran_holm": "the same, adjusted for the number of tests (Holm)",
    "consistency": "pairs of instructions with equal answers",
    "sensitivity": "difference in score between two instructions",
    "posix": "change of an answer's log-likelihood a token under another instruction",
    "all_correct": "samples right under every instruction",
    "share_phrasing": "share of score variance from instructions",
    "share_phrasing_debiased": "share of score variance from instructions, less what chance adds",
    "share_samples": "share of score variance from samples",
    "share_interaction": "share of score variance from single pairs of sample and instruction",
    "majority_vote": "score of the majority vote over the draws of a question",
    "part_samples": "part of an answer's variance from samples, less chance",
    "part_phrasing": "part of an answer's variance from instructions, less chance",
    "part_interaction": "part of an answer's variance from single pairs of sample and instruction, less chance",
    "part_sampling": "part of an answer's variance from the model's own chance",
    "unparseable": "answers that could not be read",
    "mean_estimated": "mean over instructions, estimated where cells are missing",
    "worst_estimated": "score of the worst instruction, estimated where cells are missing",
    "low_estimated": "score that 5 % of the instructions are below, estimated where cells are missing",
    "median_estimated": "score that half of the instructions are below, estimated where cells are missing",
    "high_estimated": "score that 95 % of the instructions are below, estimated where cells are missing",
}
"""All numbers and what they mean. Results of one dataset have `std`; results of all datasets have `std_pooled` and
`std_within`."""


UNBOUNDED = ("posix", "cochran_p", "cochran_holm")
"""Numbers that are not shares, and so are not shown in per cent."""


SHARES = ("mean", "worst_case", "consistency", "sensitivity", "all_correct", "unparseable")
"""Numbers that are means over samples of values in [0, 1], or F1."""


VOTE = "majority_vote"
"""A share that only tables with several draws of a question have."""


PARTS = ("part_samples", "part_phrasing", "part_interaction", "part_sampling")
"""Numbers that only tables with several draws of a question have; without draws, chance is in `share_interaction`."""


DRAWN = (VOTE, *PARTS)
"""Numbers of tables with several draws of a question."""


ESTIMATED = ("mean_estimated", "worst_estimated", "low_estimated", "median_estimated", "high_estimated")
"""Numbers of a dataset in which cells are missing: they are estimated from those that were asked."""


SPLIT = ("share_phrasing", "share_samples", "share_interaction")
"""Shares of the variance of the scores of cells. Their sum is 1."""


DEBIASED = {
    "worst_instruction": "worst_debiased",
    "std": "std_debiased",
    "spread": "spread_debiased",
    "share_phrasing": "share_phrasing_debiased",
}
"""Numbers that chance biases in one direction, and the name of each number without this bias."""


_MOST_DRAWS = 10**6
"""Maximum number of draws; more draws would not change any digit that is shown."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How intervals are made."""

    draws: int = 1000
    """Number of bootstrap draws; 0: no intervals."""
    seed: int = 0
    """Seed of the draws. The draws of a dataset do not depend on the other datasets of a table."""
    level: float = 0.95
    """Share of draws within an interval."""
    resample: Resample = "samples"
    """`samples`: a dataset's samples are drawn with replacement, the same under all conditions; `both`: instructions
    are drawn too."""

    def __post_init__(self) -> None:
        """Raise `ValueError` for invalid settings."""
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
    """A number and its interval; a missing number or limit is NaN."""

    value: float
    low: float
    high: float
    datasets: int = 1
    """Number of datasets that have this number and are averaged in it."""


@dataclass(frozen=True, slots=True)
class Result:
    """The numbers of a dataset under one condition, or of all datasets (`name` is then `None`)."""

    name: str | None
    condition: str
    score: str
    """`f1`, `accuracy`, or `mean` over datasets."""
    numbers: dict[str, Estimate]
    by_instruction: dict[str, float]
    """Score under each instruction, over the samples that were asked under all of them."""
    worst: str | None
    """Id of the worst instruction."""
    rows: int
    """Number of answers."""
    samples: int
    """Number of samples asked under at least one instruction."""
    complete: int
    """Number of samples asked under every instruction. All numbers except `mean`, `pdr` and `unparseable` use only
    these."""
    instructions: int
    missing: int
    """Number of cells (sample and instruction) that are not in the table, among samples that were asked."""
    estimated: dict[str, Estimate] = field(default_factory=dict)
    """Score under each instruction, estimated from all samples; empty if no cell is missing."""
    draws: tuple[int, int] | None = None
    """Fewest and most draws of a question; null: every question has one answer."""
    worst_estimated: str | None = None
    """Id of the instruction with the lowest of these."""
    wordings: Mapping[str, Wording] = field(default_factory=dict)
    """The words of the instructions by id, for those whose words the table holds."""
    baseline: Baseline = field(default_factory=Baseline)
    """Scores of guessing, to compare `mean` with; over all datasets their means."""

    @property
    def worst_wording(self) -> Wording | None:
        """The words of the worst instruction."""
        return None if self.worst is None else self.wordings.get(self.worst)


Sampled = dict[str, Floats]
"""Arrays `[1 + draws]` by name: the value of a number, then its draws. Arrays whose names begin with `_` are used to
compute other numbers."""


@dataclass(frozen=True, slots=True)
class Drawn:
    """The numbers of a dataset under one condition, or of all datasets, over draws of their samples."""

    numbers: Sampled
    estimates: dict[str, Estimate]
    """Estimates by the names of `NUMBERS`, in that order."""
    samples: dict[str, int]
    """Number of samples that each of the `SHARES` is computed from."""
    dropped: Moments = (math.nan, math.nan, math.nan)
    """Variances and covariance of the two scores that `pdr` compares: under this condition, and clean."""
    cochran: tuple[float, int] = (0.0, 0)
    """Cochran's Q and its degrees of freedom."""

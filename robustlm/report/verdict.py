"""What a table says in short: the worst condition, the worst instruction, and whether a score is above guessing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, NamedTuple

from robustlm.conditions.condition import low_means
from robustlm.evaluation.baselines import Baseline
from robustlm.evaluation.robustness import Estimate, Result
from robustlm.evaluation.wording import Wording
from robustlm.report.number_tables import known

SIGNIFICANT = 0.05
"""Instructions differ if `cochran_holm` is below this."""

Against = Literal["above", "below", "unclear", "unknown"]
"""A score against guessing. `unclear`: guessing is inside of its interval; `unknown`: one of the two is not known."""


def reference(pooled: Mapping[str, Result], clean: str) -> Result:
    """The results under the reference condition, or under the first condition if the table does not hold it."""
    return pooled.get(clean) or next(iter(pooled.values()))


def wanted(pooled: Mapping[str, Result], clean: str) -> list[Result]:
    """The other conditions in which a high score is wanted."""
    first = reference(pooled, clean)
    return [one for one in pooled.values() if one is not first and known(one, "mean") and not low_means(one.condition)]


def worst_condition(pooled: Mapping[str, Result], clean: str) -> Result | None:
    """The condition with the largest drop from clean, or with the lowest score if no drop is known; null: no other.

    A drop compares samples that were asked under both, so a condition with harder datasets of its own is not taken for
    a worse one.
    """
    others = wanted(pooled, clean)
    dropped = [one for one in others if known(one, "pdr")]
    if dropped:
        return max(dropped, key=lambda one: one.numbers["pdr"].value)
    return min(others, key=lambda one: one.numbers["mean"].value, default=None)


class Worst(NamedTuple):
    """The instruction that works worst for a dataset."""

    result: Result
    instruction: str
    score: Estimate
    estimated: bool
    """Whether cells are missing, so that the score is estimated from those that were asked."""

    @property
    def wording(self) -> Wording | None:
        """Its words."""
        return self.result.wordings.get(self.instruction)

    @property
    def gap(self) -> float:
        """The mean over instructions minus its score."""
        return self.result.numbers["mean_estimated" if self.estimated else "mean"].value - self.score.value

    @property
    def differs(self) -> bool:
        """Whether instructions differ by more than chance, by Cochran's test, adjusted after Holm."""
        found = self.result.numbers.get("cochran_holm")
        return found is not None and found.value < SIGNIFICANT


def worst_instructions(results: Iterable[Result]) -> list[Worst]:
    """The worst instruction of each dataset with several, from the one furthest below the mean of its dataset."""
    found = []
    for one in results:
        if one.instructions < 2:
            continue
        if one.worst_estimated is not None and known(one, "worst_estimated") and known(one, "mean_estimated"):
            found.append(Worst(one, one.worst_estimated, one.numbers["worst_estimated"], True))
        elif one.worst is not None and known(one, "worst_instruction"):
            found.append(Worst(one, one.worst, one.numbers["worst_instruction"], False))
    return sorted(found, key=lambda one: (not one.differs, -one.gap))


def against_guessing(score: Estimate, guessing: Baseline) -> Against:
    """Hold a score against the better way of guessing."""
    values = [value for value in (guessing.chance, guessing.majority) if not math.isnan(value)]
    if not values or math.isnan(score.low):
        return "unknown"
    guess = max(values)
    return "above" if score.low > guess else "below" if score.high < guess else "unclear"


def not_above_guessing(results: Sequence[Result]) -> tuple[list[str], int]:
    """The datasets whose scores are not above guessing, and the number of datasets where that is known."""
    found = {str(one.name): against_guessing(one.numbers["mean"], one.baseline) for one in results}
    return [name for name, how in found.items() if how in ("below", "unclear")], sum(
        how != "unknown" for how in found.values()
    )

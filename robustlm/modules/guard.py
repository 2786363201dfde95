"""Watches a model that teaches itself: whether it still answers different rows differently."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypedDict

from torch import Tensor

from robustlm.checks.numbers import check_number

log = logging.getLogger(__name__)

_FEWEST = 8
"""Rows of a dataset from which on shares of its classes say something."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the phrasings of a row agree on."""

    chosen: int
    """The option."""
    confidence: float
    """0: all options are equally likely, or none has a strict majority of votes; 1: it has all probability."""
    decided: bool
    """Whether there is a target at all: always by probabilities, with a strict majority by votes."""
    agreeing: float
    """Share of the phrasings whose likeliest option is this one."""

    @classmethod
    def of(cls, scores: Tensor, *, majority: bool) -> Verdict:
        """The verdict of P phrasings over C ≥ 2 options.

        Args:
            scores: `[P, C]`, log-likelihoods of the options.
            majority: Count votes; otherwise take the mean of the probabilities.
        """
        count = scores.shape[1]
        likeliest = scores.argmax(1)
        votes = likeliest.bincount(minlength=count).double() / len(scores)
        shares = votes if majority else scores.double().softmax(1).mean(0)
        chosen = int(shares.argmax())
        decided = not majority or float(votes[chosen]) > 0.5
        share = (count * float(shares[chosen]) - 1) / (count - 1)
        return cls(chosen, max(share, 0.0) if decided else 0.0, decided, float(votes[chosen]))


class Seen(TypedDict):
    """A `HeldOut` as plain data."""

    agreeing: float
    shares: dict[str, dict[str, float]]
    rows: dict[str, int]


@dataclass(frozen=True, slots=True)
class HeldOut:
    """What the model says of the rows that are never trained on."""

    agreeing: float
    """Mean share of the phrasings whose answer is the row's consensus."""
    shares: Mapping[str, Mapping[str, float]]
    """For each dataset, the share of its rows with each class as the consensus; classes without a row are left out."""
    rows: Mapping[str, int]
    """Number of rows of each dataset."""

    @classmethod
    def of(cls, found: Iterable[tuple[str, str, float]]) -> HeldOut:
        """From dataset, class and agreeing share of each row."""
        counted: dict[str, Counter[str]] = {}
        agreeing = []
        for dataset, name, share in sorted(found):
            counted.setdefault(dataset, Counter())[name] += 1
            agreeing.append(share)
        rows = {dataset: sum(own.values()) for dataset, own in counted.items()}
        shares = {
            dataset: {name: count / rows[dataset] for name, count in own.items()} for dataset, own in counted.items()
        }
        return cls(sum(agreeing) / len(agreeing), shares, rows)

    def watched(self) -> list[str]:
        """The datasets with enough rows."""
        return [dataset for dataset, count in self.rows.items() if count >= _FEWEST]

    def largest(self, dataset: str) -> tuple[str, float]:
        """The commonest class of a dataset, and its share."""
        return max(self.shares[dataset].items(), key=lambda item: item[1])

    def shift(self, start: HeldOut) -> float:
        """The share of rows by which classes differ from those at the start, of the dataset where it is largest."""
        found = []
        for dataset, own in self.shares.items():
            before = start.shares[dataset]
            found.append(sum(abs(own.get(name, 0.0) - before.get(name, 0.0)) for name in {*own, *before}) / 2)
        return max(found)

    def plain(self) -> Seen:
        """As plain data, for a checkpoint."""
        return {
            "agreeing": self.agreeing,
            "shares": {dataset: dict(own) for dataset, own in self.shares.items()},
            "rows": dict(self.rows),
        }


@dataclass
class Guard:
    """Stops a run whose consensus collapses, judged on rows that are never trained on (`data.unlabelled.held_out`).

    A model that learns its own answers can win by giving every row the same one: all phrasings then agree. So two
    numbers are compared with those before the first step: the share of the commonest class, in each dataset with at
    least 8 such rows, and the share of phrasings that agree with their row's consensus.
    """

    every: int = 50
    """Optimiser steps from one look to the next; the last step is looked at too."""
    most_share: float = 0.8
    """How far the commonest class of a dataset may grow, as a share of what other classes had at the start: from a
    share s at the start, it has to stay below s + most_share · (1 − s), and below 1 in any case."""
    most_fall: float = 0.2
    """How far the share of agreeing phrasings may fall below that at the start."""

    def __post_init__(self) -> None:
        check_number("agreement.guard.every", self.every, least=1, below=2**31, whole=True)
        check_number("agreement.guard.most_share", self.most_share, above=0, most=1)
        check_number("agreement.guard.most_fall", self.most_fall, least=0, most=1)

    def problem(self, start: HeldOut, now: HeldOut) -> str | None:
        """What has collapsed, with its numbers; null: nothing."""
        found = []
        for dataset in now.watched():
            before, begun = start.largest(dataset)
            name, share = now.largest(dataset)
            limit = begun + self.most_share * (1 - begun)
            if share >= limit:
                found.append(
                    f"{share:.0%} of the {now.rows[dataset]} held-out rows of {dataset} are answered {name!r} (at the "
                    f"start {begun:.0%} {before!r}; expected below {limit:.0%}, by agreement.guard.most_share "
                    f"{self.most_share:g})"
                )
        if now.agreeing < start.agreeing - self.most_fall:
            found.append(
                f"{now.agreeing:.0%} of the phrasings of held-out rows agree with their row's consensus (at the start "
                f"{start.agreeing:.0%}; expected at least {start.agreeing - self.most_fall:.0%}, by "
                f"agreement.guard.most_fall {self.most_fall:g})"
            )
        return "; ".join(found) or None


class Watch:
    """A guard at work: what held-out rows were answered before the first step, and what they are answered now.

    Args:
        guard: The settings.
    """

    def __init__(self, guard: Guard) -> None:
        self.guard = guard
        self.start: HeldOut | None = None
        self.now: HeldOut | None = None
        self.looked: int | None = None
        """The step after which held-out rows were looked at last; null: not in this run."""

    def begin(self, found: HeldOut) -> None:
        """Take what was found before the first step, and say it."""
        self.start = self.now = found
        for dataset in found.shares:
            name, share = found.largest(dataset)
            say = log.warning if share == 1 and dataset in found.watched() else log.info
            say(
                "agreement: before training, %.0f %% of the %d held-out rows of %s are answered %r; %.0f %% of "
                "phrasings agree with their row's consensus",
                100 * share, found.rows[dataset], dataset, name, 100 * found.agreeing,
            )  # fmt: skip
        if small := sorted(set(found.rows) - set(found.watched())):
            log.warning("agreement: too few held-out rows to watch the classes of %s", ", ".join(small))

    def is_due(self, step: int, last: float) -> bool:
        """Whether to look after this step; `last` is the number of the run's last one."""
        return self.start is not None and (step % self.guard.every == 0 or step >= last)

    def check(self, step: int, found: HeldOut, kept: str) -> None:
        """Take what was found after a step.

        Args:
            step: Its number.
            found: What was found.
            kept: What became of the weights, as a sentence.

        Raises:
            ValueError: The consensus has collapsed.
        """
        assert self.start is not None
        self.now, self.looked = found, step
        problem = self.guard.problem(self.start, found)
        if problem is not None:
            raise ValueError(
                f"agreement: the consensus collapsed, and training stopped after optimiser step {step}: {problem}. "
                f"{kept}. Try a lower model.optimizer.lr or model.agreement.weight, fewer steps, or labelled rows "
                "among the others"
            )

    def curves(self) -> dict[str, float]:
        """What was found last, to log: `held_out` (share of agreeing phrasings), `largest_share`, `shift`."""
        if self.start is None or self.now is None:
            return {}
        largest = max(self.now.largest(dataset)[1] for dataset in self.now.shares)
        return {"held_out": self.now.agreeing, "largest_share": largest, "shift": self.now.shift(self.start)}

    def progress(self) -> dict[str, Seen] | None:
        """What was found, as plain data; null: nothing yet."""
        if self.start is None or self.now is None:
            return None
        return {"start": self.start.plain(), "now": self.now.plain()}

    def resume(self, progress: Mapping[str, Seen]) -> None:
        """Take back what `progress` gave."""
        self.start, self.now = HeldOut(**progress["start"]), HeldOut(**progress["now"])

"""Interfaces of a search for attacks: the model under test, and the datamodule that searches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from robustlm.batch import InstructionBatch
from robustlm.conditions.search import Objective


class Judge(Protocol):
    """Scores a model on rows."""

    def __call__(self, batch: InstructionBatch, objective: Objective) -> list[float]:
        """Score of the model on each row of an evaluation batch, in [0, 1]; higher is better."""


@dataclass(frozen=True, slots=True)
class AttackedModel:
    """A model that is loaded, restored and on its device."""

    judge: Judge
    likelihoods: bool
    """Whether the model gives likelihoods. Attacks on a model without them lower its accuracy."""
    identity: Callable[[], tuple[str, int]]
    """Returns the parts of the model that a search depends on: a digest of its weights (for a hosted model its name),
    and the maximum number of tokens in an answer. It is a callable, since a digest reads all weights."""


@runtime_checkable
class AttackSearch(Protocol):
    """A datamodule that may have to search for attacks on the model under test before it serves its first batch."""

    def search_attacks(self, model: AttackedModel) -> None:
        """Search for attacks, write them to a file, and serve the attacked rows from then on. Call on every process."""

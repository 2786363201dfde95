"""The model under test as a search for attacks sees it, and who searches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from robustlm.batch import InstructionBatch
from robustlm.conditions.search import Objective


class Judge(Protocol):
    """How well a model does on rows."""

    def __call__(self, batch: InstructionBatch, objective: Objective) -> list[float]:
        """How well it does on each row of an evaluation batch, in [0, 1]."""


@dataclass(frozen=True, slots=True)
class AttackedModel:
    """A model that is loaded, restored and on its device."""

    judge: Judge
    likelihoods: bool
    """Whether it gives likelihoods. A model without them is attacked by its accuracy."""
    identity: Callable[[], tuple[str, int]]
    """What of the model a search depends on: a digest of its weights, or its name where it is hosted, and the most
    tokens of an answer. A callable, since a digest reads all weights."""


@runtime_checkable
class AttackSearch(Protocol):
    """A datamodule that may have to search for attacks on the model under test before it serves its first batch."""

    def search_attacks(self, model: AttackedModel) -> None:
        """Search, write down what is found, and serve it from then on. Called on every process."""

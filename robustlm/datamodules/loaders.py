"""Loaders of batches: their worker processes, where training stands in them, and one for each condition of a test."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Literal

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, Dataset, Sampler

from robustlm.batch import InstructionBatch
from robustlm.checks.numbers import check_number
from robustlm.datamodules.batches import EncodedSamples, EvaluationDataset, TrainDataset
from robustlm.datamodules.sampling import EvaluationSampler, LateLoader, ResumableLoader
from robustlm.evaluation.record import Key
from robustlm.evaluation.session import EvaluationSession
from robustlm.prompts.encoding import Encoder
from robustlm.utils.parallel import usable_cores

Loader = DataLoader[InstructionBatch]
Workers = int | Literal["auto"]
"""Number of processes that prepare batches. `auto`: see `batch_loader`."""

_MOST_WORKERS = 4096
"""Guards against a typing error that would start too many processes."""
_ENOUGH_WORKERS = 4
"""Most processes that `auto` stands for."""


def check_workers(num_workers: Workers) -> None:
    """Raise `ValueError` unless this is a number of worker processes."""
    if num_workers != "auto":
        check_number("data.num_workers", num_workers, least=0, most=_MOST_WORKERS, whole=True)


def spare_workers(trainer: Trainer | None) -> int:
    """Number of cores that the training processes of this machine leave to each of them, 4 at most."""
    ranks = getattr(trainer, "num_devices", 1) if trainer else 1
    return max(0, min(usable_cores() // max(ranks, 1) - 1, _ENOUGH_WORKERS))


def batch_loader(
    dataset: Dataset[InstructionBatch],
    sampler: Sampler[int],
    kind: type[Loader],
    num_workers: Workers,
    trainer: Trainer | None,
) -> Loader:
    """Make a loader of a dataset whose items are batches.

    Args:
        dataset: Makes batches by key.
        sampler: Gives the keys.
        kind: Class of the loader.
        num_workers: Number of worker processes. `auto`: `spare_workers` for training rows in the cache, otherwise none.
        trainer: The trainer that runs the loader, if there is one.
    """
    stored = isinstance(dataset, TrainDataset) and dataset.rows.stored
    if num_workers == "auto":
        num_workers = spare_workers(trainer) if stored else 0
    return kind(
        dataset,
        batch_size=None,  # a key is a batch already
        sampler=sampler,
        num_workers=num_workers,
        # rows in memory are sent to new workers in each epoch, with the variants of that epoch
        persistent_workers=num_workers > 0 and stored,
        pin_memory=torch.cuda.is_available(),
    )


def limited(count: int, trainer: Trainer | None) -> int:
    """How many of these training batches `trainer.limit_train_batches` lets through."""
    limit = trainer.limit_train_batches if trainer else None
    if limit is None:
        return count
    return min(count, limit) if isinstance(limit, int) else math.floor(count * limit)


class TrainingPosition:
    """Where training stands within its epoch.

    Lightning restores the state of a loader only if the loader is made after the optimiser. The loaders of training are
    made before, since the schedule needs the number of steps. So the datamodule keeps the position itself.
    """

    def __init__(self) -> None:
        self._loader: ResumableLoader | None = None
        self._restored: dict[str, int] | None = None

    def begin(self, loader: ResumableLoader) -> None:
        """Follow a new loader. It continues at the position that was restored, if one was."""
        if self._restored is not None:
            loader.load_state_dict(self._restored)
            self._restored = None
        self._loader = loader

    def state(self) -> dict[str, int]:
        """The position as plain data; empty before `begin`."""
        return {} if self._loader is None else dict(self._loader.state_dict())

    def restore(self, state: Mapping[str, int]) -> None:
        """Continue at this position."""
        self._restored = dict(state)
        if self._loader is not None:  # some strategies restore the state after the loader is made
            self._loader.load_state_dict(self._restored)


class EvaluationLoaders:
    """Makes a loader for each condition, and sets the rows of those whose rows are found only later.

    Args:
        encoder: The encoder that tokenised the rows.
        session: Says which rows an interrupted evaluation has answered, and is told which are not asked again.
        batch_size: Rows in a batch.
        draws: Number of answers to each row.
        num_workers: Number of worker processes.
        trainer: The trainer that runs the loaders, if there is one.
    """

    def __init__(
        self,
        encoder: Encoder,
        session: EvaluationSession,
        *,
        batch_size: int,
        draws: int,
        num_workers: Workers,
        trainer: Trainer | None,
    ) -> None:
        self._encoder = encoder
        self._session = session
        self._batch_size = batch_size
        self._draws = draws
        self._num_workers: Workers = num_workers
        self._trainer = trainer
        self._served: dict[str, tuple[EvaluationDataset, EvaluationSampler]] = {}
        """Dataset and sampler of each condition's loader."""

    def loaders(self, conditioned: Mapping[str, EncodedSamples], pending: Collection[str] = ()) -> list[Loader]:
        """One loader for each condition.

        Args:
            conditioned: The rows by condition.
            pending: Conditions whose rows are not known yet; `settle` sets them.
        """
        asked = {condition: rows.drawn(self._draws) for condition, rows in conditioned.items()}
        found = [self._loader(name, rows, pending=name in pending) for name, rows in asked.items()]
        if found and self._all_answered():
            name, rows = next(iter(asked.items()))
            found[0] = self._loader(name, rows, pending=name in pending, again=True)
        return found

    def settle(self, found: Mapping[str, EncodedSamples]) -> None:
        """Set the rows of pending loaders, by condition."""
        asked = {condition: rows.drawn(self._draws) for condition, rows in found.items()}
        for condition, rows in asked.items():
            self._settle(condition, rows)
        if asked and self._all_answered():
            self._settle(*next(iter(asked.items())), again=True)

    def _all_answered(self) -> bool:
        """Whether no batch is left; one is then asked again, since Lightning calls no hooks without a batch."""
        return not any(len(sampler) for _, sampler in self._served.values())

    def _loader(self, condition: str, rows: EncodedSamples, *, pending: bool, again: bool = False) -> Loader:
        trainer = self._trainer
        sampler = EvaluationSampler(
            rows.lengths,
            batch_size=self._batch_size,
            rank=trainer.global_rank if trainer else 0,
            world=trainer.world_size if trainer else 1,
            groups=rows.datasets(),
            done=self._done(condition, rows),
            again=again,
            pending=pending,
        )
        self._note_skipped(condition, rows, sampler)
        dataset = EvaluationDataset(rows, self._encoder, condition, self._batch_size)
        self._served[condition] = dataset, sampler
        return batch_loader(dataset, sampler, LateLoader if pending else DataLoader, self._num_workers, trainer)

    def _settle(self, condition: str, rows: EncodedSamples, *, again: bool = False) -> None:
        dataset, sampler = self._served[condition]
        dataset.rows = rows
        sampler.settle(rows.lengths, groups=rows.datasets(), done=self._done(condition, rows), again=again)
        self._note_skipped(condition, rows, sampler)

    def _done(self, condition: str, rows: EncodedSamples) -> set[int]:
        """Which rows an interrupted evaluation has answered."""
        done = self._session.done
        return {i for i, key in enumerate(_keys(condition, rows)) if key in done} if done else set()

    def _note_skipped(self, condition: str, rows: EncodedSamples, sampler: EvaluationSampler) -> None:
        keys = _keys(condition, rows) if sampler.skipped else []
        self._session.skip(condition, {keys[row] for row in sampler.skipped})


def _keys(condition: str, rows: EncodedSamples) -> list[Key]:
    return [(condition, s.dataset or s.task, s.id, s.instruction_id, s.draw or 0) for s in rows.samples]

"""Training on rows that are read meanwhile: window by window, with the batches that rows in memory would make of each.

A window is a number of rows that follow each other. Whatever needs many rows (shuffling, batches of similar length,
groups and negatives, β, words for noise) is done within a window. Windows are cut by the rows' places, so they do not
depend on processes and workers. Every process reads all rows and trains on its own micro-batches; worker processes
share the windows among them.
"""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Literal, Protocol

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader, Dataset

from robustlm.batch import InstructionBatch
from robustlm.checks.numbers import check_number
from robustlm.datamodules.batches import EncodedSamples, TrainDataset
from robustlm.datamodules.preparation import Preparation
from robustlm.datamodules.sampling import BatchKey, KeptSampler, Order, ResumableLoader, StepSampler
from robustlm.rows.base import Row, SourceError
from robustlm.sample import Sample
from robustlm.sources.streams import Entry, RowStream, Window
from robustlm.utils.parallel import sensible_processes
from robustlm.utils.random import drawn

log = logging.getLogger(__name__)

_LISTED = 3
_ROLE = "train"


class MakesBatches(Protocol):
    """What a datamodule makes of the rows of a window."""

    def train_dataset(self, rows: EncodedSamples) -> TrainDataset:
        """The dataset that batches come from."""

    def replaying(self, dataset: TrainDataset) -> TrainDataset:
        """The dataset, whose batches also have the rows of text that their rows bring."""

    def step_order(self, rows: EncodedSamples, dataset: TrainDataset, micro_batches: int) -> Order | None:
        """The order of the rows, for steps of so many micro-batches; null: shuffled."""


@dataclass(frozen=True)
class StreamSettings:
    """What decides the batches of a stream, besides its rows.

    Raises:
        ValueError: A window has fewer rows than an optimiser step.
    """

    window: int
    """Rows of a window; made a multiple of `step_rows`, so that a window has whole steps."""
    batch_size: int
    """Rows of a micro-batch; 1 for an order of whole batches."""
    seed: int
    """Seed of the orders."""
    world: int
    """Number of processes."""
    accumulate: int
    """Micro-batches of an optimiser step on one process."""
    replays: int
    """Number of times that each micro-batch is served."""
    group_by_length: bool
    """Whether batches hold rows of similar length."""
    batch_tokens: int
    """Most tokens of a batch; 0: no limit."""

    def __post_init__(self) -> None:
        if self.window < self.step_rows:
            raise ValueError(
                f"data.stream: found windows of {self.window} rows, fewer than the {self.step_rows} rows of an "
                "optimiser step (batch_size × processes × accumulated batches); expected at least that"
            )
        object.__setattr__(self, "window", self.window - self.window % self.step_rows)

    @property
    def micro_batches(self) -> int:
        """Micro-batches of an optimiser step on all processes."""
        return self.world * self.accumulate

    @property
    def step_rows(self) -> int:
        """Rows of an optimiser step; for batches by tokens, the least number."""
        return self.batch_size * self.micro_batches

    @property
    def numbers(self) -> dict[str, int]:
        """What must not change when training goes on within a window."""
        return {
            "window_rows": self.window,
            "batch_size": self.batch_size,
            "seed": self.seed,
            "micro_batches": self.micro_batches,
            "replays": self.replays,
            "by_length": int(self.group_by_length),
            "batch_tokens": self.batch_tokens,
        }


@dataclass(frozen=True, slots=True)
class WindowKey:
    """A window of a stream."""

    turn: int
    """Number of times that the stream was read whole before."""
    number: int
    """Number of the window, from 0."""


@dataclass(frozen=True, slots=True)
class _Made:
    """What became of a window; sent by a worker process."""

    key: WindowKey
    batches: bytes = b""
    """The batches of this process, pickled: as shared tensors, thousands of them would need a file handle each."""
    digest: int = 0
    """A number for the content of the rows."""
    ended: bool = False
    """Whether the stream has no such window."""
    warning: str = ""
    """Which rows were left out."""
    error: Exception | None = None
    """What is wrong with the rows."""


class StreamedWindows(Dataset[_Made]):
    """Windows of a stream by key, each as the batches of one process.

    Args:
        stream: The rows.
        settings: What decides the batches.
        rank: Number of this process.
        make: Makes the dataset and the order of a window.
        asked: Gives samples their instructions.
        preparation: Tokenises samples.
    """

    def __init__(
        self,
        stream: RowStream,
        settings: StreamSettings,
        rank: int,
        make: MakesBatches,
        asked: Callable[[list[Sample]], list[Sample]],
        preparation: Preparation,
    ) -> None:
        self.settings = settings
        self._stream = stream
        self._rank = rank
        self._make = make
        self._asked = asked
        self._preparation = preparation
        self._turn, self._place = -1, 0
        self._rows: Iterator[Entry] = iter(())
        self._ahead: list[Entry] = []

    def first(self) -> EncodedSamples:
        """The rows of the first window, which stand for all of them where a run looks at its rows before it starts."""
        found = self._stream.window(islice(self._stream.rows(), self.settings.window))
        return self._encoded(found)[0]

    def __getitem__(self, key: WindowKey) -> _Made:
        try:
            rows = self._cut(key)
            return self._made(key, rows) if rows else _Made(key, ended=True)
        except (ValueError, OSError) as error:  # raised where its batches are due: here, it may be ahead of training
            # with its message alone: errors with further arguments cannot be sent between processes
            return _Made(key, error=(OSError if isinstance(error, OSError) else SourceError)(str(error)))

    def _cut(self, key: WindowKey) -> list[Entry]:
        """The rows of a window; none if there is no such window.

        A last window with fewer rows than an optimiser step joins the window before it.
        """
        size, step = self.settings.window, self.settings.step_rows
        start = key.number * size
        if key.turn != self._turn or start < self._place:
            self._turn, self._place, self._ahead, self._rows = key.turn, 0, [], self._stream.rows()
        while self._place < start:
            count = min(start - self._place, size)
            if self._ahead:
                count = min(count, len(self._ahead))
                del self._ahead[:count]
            else:
                count = sum(1 for _ in islice(self._rows, count))
                if not count:
                    return []
            self._place += count
        self._ahead += islice(self._rows, size + step - len(self._ahead))
        rows = self._ahead[:size]
        if len(rows) < step and key.number:  # they belong to the window before
            return []
        rest = self._ahead[size:]
        if len(rest) < step:
            rows, rest = rows + rest, []
        self._ahead, self._place = rest, start + size
        return rows

    def _made(self, key: WindowKey, rows: list[Entry]) -> _Made:
        found = self._stream.window(rows)
        encoded, warning = self._encoded(found)
        content = repr([row.data if isinstance(row, Row) else row.found for _, row in rows])
        digest = blake2b(content.encode("utf-8", "surrogatepass"), digest_size=7)
        settings = self.settings
        dataset = self._make.replaying(self._make.train_dataset(encoded))
        dataset.prepare(key.turn)
        order = self._make.step_order(encoded, dataset, settings.micro_batches)
        sampler = StepSampler(
            encoded.lengths,
            encoded.answer_tokens,
            batch_size=settings.batch_size,
            seed=drawn(settings.seed, "window", key.number) >> 1,
            world=settings.micro_batches,
            group_by_length=settings.group_by_length,
            order=order,
        )
        # batches by tokens may not grow; their number divides into steps
        steps = sampler.rounds(key.turn, whole=not settings.batch_tokens)
        if not len(steps):
            raise ValueError(
                f"data.stream: found {len(encoded)} usable rows in window {key.number}, too few for an optimiser step "
                f"of {settings.micro_batches} micro-batches (processes × accumulated batches); expected more rows"
            )
        used = sum(len(batch) for step in steps for batch in step)
        if used < len(encoded):
            warning += f"{warning and '; '}data.train: {len(encoded) - used} rows of window {key.number} fill no step"
        batches = [dataset[one] for one in self._keys(steps, encoded.answer_tokens, key.turn)]
        return _Made(key, pickle.dumps(batches), int.from_bytes(digest.digest(), "big"), warning=warning)

    def _keys(self, steps: Sequence[list[list[int]]], tokens: Sequence[int], turn: int) -> Iterator[BatchKey]:
        """The micro-batches of this process, step by step."""
        world, accumulate, replays = self.settings.world, self.settings.accumulate, self.settings.replays
        rounds = [
            step[at * world : (at + 1) * world] for step in steps for at in range(accumulate) for _ in range(replays)
        ]
        for start in range(0, len(rounds), accumulate):
            together = rounds[start : start + accumulate]
            rows = [row for batches in together for batch in batches for row in batch]
            parts = self.settings.micro_batches
            mean = float(sum(int(tokens[row]) for row in rows)) / parts
            for batches in together:
                yield BatchKey(turn, tuple(batches[self._rank]), mean, len(rows) / parts)

    def _encoded(self, found: Window) -> tuple[EncodedSamples, str]:
        """The tokens of a window, and a message about rows that are left out."""
        rows, told = self._preparation.fit_all(self._asked(found.samples))
        self._preparation.check_too_long(told, _ROLE)
        problems = [str(error) for error in found.errors] + [problem for _, problem in told.bad]
        if not problems:
            return rows, ""
        listed = "; ".join(problems[:_LISTED]) + ("; …" if len(problems) > _LISTED else "")
        return rows, f"data.train: left out {len(problems)} rows of a window of the stream: {listed}"


class WindowSampler(KeptSampler):
    """The keys of windows, without an end: after the last window of the stream, the first one follows.

    The end of the stream is known only when a window beyond it was asked for.
    """

    def __init__(self) -> None:
        self.next = WindowKey(0, 0)
        """The key to be asked for next."""

    def again(self, turn: int) -> None:
        """The stream has ended in this turn: go on with the next one, unless that has begun already."""
        if self.next.turn == turn:
            self.next = WindowKey(turn + 1, 0)

    def __len__(self) -> int:
        raise TypeError("a stream has no length")

    def set_epoch(self, epoch: int) -> None:
        """Do nothing: Lightning's epochs are not turns of the stream."""

    def __iter__(self) -> Iterator[WindowKey]:  # type: ignore[override]
        while True:
            key = self.next
            self.next = WindowKey(key.turn, key.number + 1)
            yield key


class StreamLoader(ResumableLoader):
    """Serves the batches of a stream, and can continue from a checkpoint.

    Args:
        windows: The windows.
        batches: Number of batches of the whole run.
        workers: Number of worker processes.
        pinned: Whether batches are put into pinned memory.
    """

    def __init__(self, windows: StreamedWindows, batches: int, *, workers: int = 0, pinned: bool = False) -> None:
        DataLoader.__init__(
            self,
            windows,
            batch_size=None,
            sampler=WindowSampler(),
            num_workers=workers,
            prefetch_factor=1 if workers else None,
            multiprocessing_context="fork" if workers else None,
        )
        self._settings = windows.settings
        self._batches = batches
        self._pinned = pinned
        self._served = 0
        self._place = WindowKey(0, 0)
        self._taken = self._digest = 0

    def __len__(self) -> int:
        """One batch more than the run has: `max_steps` then ends it within an epoch, so that it can be prolonged."""
        return self._batches + 1

    def __iter__(self) -> Iterator[InstructionBatch]:  # type: ignore[override]
        sampler = self.sampler
        assert isinstance(sampler, WindowSampler)
        sampler.next = self._place
        resumed = self._digest
        for made in DataLoader.__iter__(self):
            if made.error is not None:
                raise made.error
            if made.ended:
                if made.key.number == 0 or resumed:
                    raise _changed(made.key) if resumed else ValueError("data.stream: found no rows; expected some")
                sampler.again(made.key.turn)
                continue
            if resumed and made.digest != resumed:
                raise _changed(made.key)
            if made.warning:
                log.warning(made.warning)
            taken, resumed = self._taken if made.key == self._place else 0, 0
            self._place, self._taken, self._digest = made.key, taken, made.digest
            for batch in pickle.loads(made.batches)[taken:]:
                self._taken += 1
                self._served += 1
                yield batch.pin_memory() if self._pinned else batch

    def state_dict(self) -> dict[str, int]:
        """The position: batches of the run that were served, the window, and the batches of it that were served."""
        return {
            "epoch": 0,
            "batches": self._served,
            "turn": self._place.turn,
            "window": self._place.number,
            "taken": self._taken,
            "digest": self._digest,
            "accumulate": self._settings.accumulate,
            **self._settings.numbers,
        }

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue at the position in `state`.

        Raises:
            ValueError: The checkpoint is not one of a stream, or other settings would make other batches.
        """
        if "turn" not in state:
            raise ValueError(
                "data.stream: the checkpoint was trained on rows that were all known; expected no data.stream, or "
                "another checkpoint"
            )
        for name, value in self._settings.numbers.items():
            if state[name] != value:
                raise ValueError(
                    f"data.stream: the checkpoint stands within a window, in batches made with {name} {state[name]}; "
                    f"found {name} {value}; expected the same settings"
                )
        old, new = state["accumulate"], self._settings.accumulate
        counts = state["batches"], state["taken"]
        if old != new and any(count % (old * self._settings.replays) for count in counts):
            raise ValueError(
                f"data.stream: training cannot go on within an optimiser step with accumulate {old} → {new}; expected "
                "the settings of the checkpoint"
            )
        self._served, self._taken = (count // old * new for count in counts)
        self._place = WindowKey(state["turn"], state["window"])
        self._digest = state["digest"]


def _changed(key: WindowKey) -> ValueError:
    return ValueError(
        f"data.stream: the rows of window {key.number} are not those that the checkpoint was trained on; expected the "
        "same rows in the same order"
    )


def check_trainer(trainer: Trainer, *, validates: bool) -> None:
    """Raise `ValueError` if a trainer needs the number of rows, which a stream does not know.

    Args:
        trainer: The trainer of a run.
        validates: Whether there are rows for validation.
    """
    if trainer.max_steps < 1:
        raise ValueError(
            f"data.stream: found trainer.max_steps {trainer.max_steps}; expected the number of optimiser steps of the "
            "run, since the number of rows is not known"
        )
    if trainer.overfit_batches:  # type: ignore[attr-defined]
        raise ValueError("data.stream: found trainer.overfit_batches; expected none, or data.train without data.stream")
    if trainer.limit_train_batches not in (None, 1.0) and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        raise ValueError(
            f"data.stream: found trainer.limit_train_batches {trainer.limit_train_batches}; expected trainer.max_steps "
            "alone, as a run is one epoch"
        )
    if validates and trainer.val_check_interval == 1.0 and not trainer.fast_dev_run:  # type: ignore[attr-defined]
        raise ValueError(
            "data.stream: found data.validation with trainer.val_check_interval 1.0, the end of an epoch, which a "
            "stream does not have; expected a number of batches, such as 500, or a share of the run below 1"
        )


def check_stream(stream: int | None, *, rejected: str | None) -> None:
    """Raise `ValueError` if the size of windows is no number of rows, or if another setting excludes a stream.

    Args:
        stream: Rows of a window; null: no stream.
        rejected: File for rows that are left out.
    """
    check_number("data.stream", stream, least=1, below=2**31, whole=True, or_null="to read all rows first")
    if stream is not None and rejected:
        raise ValueError(
            f"data.rejected: found {rejected!r} with data.stream, which names the rows that it leaves out in the "
            "log; expected null"
        )


def stream_loader(
    windows: StreamedWindows, steps: int, num_workers: int | Literal["auto"], *, spare: int, runs_model: bool
) -> StreamLoader:
    """Make the loader of a stream.

    Args:
        windows: The windows.
        steps: Optimiser steps of the whole run.
        num_workers: Number of worker processes.
        spare: What `auto` stands for.
        runs_model: Whether batches are made with the model, which worker processes cannot run.

    Raises:
        ValueError: Worker processes are asked for that cannot make these batches.
    """
    workers = spare if num_workers == "auto" else num_workers
    if not sensible_processes() > 1 or runs_model:
        if num_workers not in (0, "auto"):
            why = "data.distortion runs the model" if runs_model else "processes cannot be forked here"
            raise ValueError(f"data.num_workers: found {workers} with data.stream, but {why}; expected 0 or auto")
        workers = 0
    batches = steps * windows.settings.accumulate
    return StreamLoader(windows, batches, workers=workers, pinned=torch.cuda.is_available())

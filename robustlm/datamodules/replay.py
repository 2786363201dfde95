"""Rows of running text beside the rows of a batch, so that tuning does not unlearn what pre-training taught."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from robustlm.batch import InstructionBatch, View
from robustlm.checks.numbers import check_number
from robustlm.datamodules.batches import TrainDataset
from robustlm.datamodules.connection import ConnectedModel, longest_row
from robustlm.datamodules.sampling import BatchKey
from robustlm.datamodules.text_files import TextFiles
from robustlm.datamodules.text_rows import TextRows
from robustlm.utils.random import drawn

log = logging.getLogger(__name__)


@dataclass
class Replay:
    """Running text that is trained beside rows with instructions, each token of it a target."""

    path: str | list[str]
    """Files of text, or folders of them: see `TextDataModule`."""
    share: float = 0.1
    """Rows of text for each row of a batch, as a mean, above 0 and up to 1. A row of a batch brings one with this
    probability, drawn anew in each epoch."""
    length: int | None = None
    """Tokens of a row of text; null: `data.max_length`."""
    held_out: int = 64
    """Rows of 512 tokens whose documents are left out. 64 leaves out the documents that `TextDataModule` holds out by
    default, so that its validation loss can be measured after tuning too; 0: none."""

    def __post_init__(self) -> None:
        if not self.path or not isinstance(self.path, str | list):
            raise ValueError(f"data.replay.path: found {self.path!r}; expected a file or folder of text, or a list")
        check_number("data.replay.share", self.share, above=0, most=1)
        check_number("data.replay.length", self.length, least=2, whole=True, or_null="for data.max_length")
        check_number("data.replay.held_out", self.held_out, least=0, below=2**31, whole=True)

    @property
    def paths(self) -> list[str]:
        """The paths as a list."""
        return [self.path] if isinstance(self.path, str) else list(self.path)


class ReplayFiles:
    """The files of a replay, as rows of tokens. Keep the object for as long as the rows are used.

    Args:
        replay: The settings.
        model: The model whose tokenizer is used.
        max_length: Tokens of a row if `replay` names no length.
        cache_dir: Folder for the tokens; null: they are made for this object alone.

    Raises:
        SourceError: There is no text, or too little.
        ValueError: The model has an encoder.
    """

    def __init__(self, replay: Replay, model: ConnectedModel, max_length: int, cache_dir: str | None) -> None:
        self.model = model
        length = replay_length(replay, model, max_length)
        self._share = replay.share
        self._files = TextFiles(replay.paths, model, length, cache_dir)
        self._rows, _ = self._files.rows(replay.held_out, name="data.replay.held_out", width=512)
        log.info("data.replay: %d rows of %d tokens of text; %g for each row", len(self._rows), length, replay.share)

    def join(self, dataset: TrainDataset, seed: int) -> None:
        """Let a dataset add rows of the text to its batches."""
        dataset.beside = ReplayedText(self._rows, self._share, seed, dataset)


def replay_length(replay: Replay | None, model: ConnectedModel, max_length: int) -> int:
    """Tokens of a row of replayed text: as `replay` says, or `max_length`, or the model's limit if it is lower."""
    length = replay.length if replay else None
    return longest_row(model, length or max_length, "data.replay.length" if length else "")


class ReplayedText:
    """Adds rows of text to batches. Which ones depends on the seed, the epoch and the ids of the batch's rows alone.

    Args:
        rows: The rows of text.
        share: See `Replay.share`.
        seed: Seed of the draws.
        dataset: Makes the batches; pads rows.
    """

    def __init__(self, rows: TextRows, share: float, seed: int, dataset: TrainDataset) -> None:
        self.rows = rows
        self.share = share
        self._seed = seed
        self._encoder = dataset.encoder

    def __call__(self, batch: InstructionBatch, key: BatchKey) -> None:
        """Add `replay` and `replay_tokens` to a batch."""
        rows = len(key.indices) if key.step_rows is None else key.step_rows
        batch.replay = self.view(key.epoch, batch.ids)
        batch.replay_tokens = self.share * rows * (self.rows.length - 1)

    def view(self, epoch: int, ids: Sequence[str]) -> View | None:
        """The rows of text that rows with these ids bring; null if there are none."""
        bring = [id for id in ids if drawn("replay", self._seed, epoch, id) < self.share * 2**64]
        chosen = [drawn("replayed row", self._seed, epoch, id) % len(self.rows) for id in bring]
        return self._encoder.view([self.rows.encoded[row] for row in chosen]) if chosen else None

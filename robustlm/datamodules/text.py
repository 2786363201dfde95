"""Running text to pre-train on: full rows of tokens with a target at every position, and held-out documents."""

from __future__ import annotations

import logging
from typing import Literal

from robustlm.checks.numbers import check_number
from robustlm.datamodules.base import InstructionDataModule
from robustlm.datamodules.batches import EncodedSamples
from robustlm.datamodules.text_files import DEFAULT_TEXT_CACHE, TextFiles
from robustlm.datamodules.text_rows import TextRows
from robustlm.sources.source import Role, Source

log = logging.getLogger(__name__)


class TextDataModule(InstructionDataModule):
    """Running text in full rows of tokens, to pre-train a decoder.

    Documents follow one another, with the tokenizer's end of sequence after each. Rows are cut from this sequence at
    equal distances, so documents in a row see each other, and a row may begin in the middle of one. Every token is a
    target once in an epoch; the rows are shuffled in each epoch. Tokens are made once, and mapped into memory.

    Args:
        train: Files of text, or folders of them: text (`.txt`, `.txt.gz`; a line with `<|endoftext|>` alone ends a
            document), or rows with the key `text` (`.jsonl`, `.jsonl.gz`).
        validation: As `train`: text whose loss is watched while training, instead of `held_out`.
        held_out: Number of rows that are kept out of training and whose loss is watched, if `validation` names no text.
            Whole documents are kept out, chosen by their text; 0: none.
        batch_size: Rows in a training batch on one device.
        eval_batch_size: Rows in an evaluation batch; null: twice `batch_size`.
        max_length: Tokens of a row.
        num_workers: Processes that prepare batches; 0 prepares them in the training process.
        seed: Seed of the order of rows.
        cache_dir: Folder for tokens; null: they are made for this run alone.
    """

    prompt_settings = ()
    prompt_files = ()

    def __init__(
        self,
        train: str | list[str] | None = None,
        validation: str | list[str] | None = None,
        held_out: int = 64,
        batch_size: int = 16,
        eval_batch_size: int | None = None,
        max_length: int = 512,
        num_workers: int | Literal["auto"] = 0,
        seed: int = 0,
        cache_dir: str | None = DEFAULT_TEXT_CACHE,
    ) -> None:
        check_number("data.held_out", held_out, least=0, below=2**31, whole=True)
        kept = held_out if train and not validation else 0
        super().__init__(
            train=_listed(train),
            validation=_listed(train) if kept else _listed(validation),
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            max_length=max_length,
            group_by_length=False,
            num_workers=num_workers,
            seed=seed,
            cache_dir=cache_dir,
        )
        self.held_out = kept
        self._files: dict[Role, TextFiles] = {}

    @property
    def bytes_per_target(self) -> float | None:
        """Mean number of bytes that a target of the validation rows stands for; null without such rows."""
        rows = self.rows.get("validation")
        return rows.bytes_per_target if isinstance(rows, TextRows) else None

    def read(self, role: Role) -> EncodedSamples:
        """The rows of a role.

        Raises:
            SourceError: There is no text, or too little for a row.
            BadRowsError: Rows hold no text.
            ValueError: No text is named, or the model cannot be trained on text.
        """
        if role == "test":
            raise ValueError(
                "data.test: running text has no instructions to test; `robustlm validate` measures its loss"
            )
        paths = [str(source) for source in self.sources[role]]
        if not paths:
            raise ValueError(
                f"data.{role}: no text is named; expected a file or folder, e.g. --data.{role} text.txt.gz"
            )
        files = TextFiles(paths, self.backbone, self.encoder.max_length, self.cache_dir)
        self._files[role] = files  # a cache for this run alone ends with it
        own, kept = files.rows(self.held_out, measured=role == "validation" and not self.held_out)
        found = own if role == "train" or kept is None else kept
        log.info("data.%s: %d rows of %d tokens, of %d", role, len(found), found.length, found.total)
        return found


def _listed(paths: str | list[str] | None) -> list[str | Source]:
    return [paths] if isinstance(paths, str) else list(paths or [])

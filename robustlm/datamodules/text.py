"""Running text to pre-train on: full rows of tokens with a target at every position, and held-out documents."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Literal

from robustlm.checks.numbers import check_number
from robustlm.datamodules.base import InstructionDataModule
from robustlm.datamodules.batches import EncodedSamples
from robustlm.datamodules.caching import library_versions, package_digest, tokenizer_parts
from robustlm.datamodules.connection import ConnectedModel
from robustlm.datamodules.text_rows import TextRows, write_tokens
from robustlm.rows.base import SourceError
from robustlm.rows.documents import text_files
from robustlm.sources.source import Role
from robustlm.utils.kept import KeptFolder, digest_of, key_for

log = logging.getLogger(__name__)

DEFAULT_TEXT_CACHE = "~/.cache/robustlm/text"
_TRAIN, _HELD_OUT = "text", "held-out"
_MUCH = 0.1
"""Share of the tokens above which holding them out is worth a warning."""


class TextFiles:
    """The tokens of running text, made once and found again by files, tokenizer and code.

    Args:
        paths: Files or folders; see `robustlm.rows.documents`.
        model: The model whose tokenizer is used.
        length: Tokens of a row.
        cache_dir: Folder of the cache; null: the tokens are made for this object alone.

    Raises:
        SourceError: There is no text at a path.
        ValueError: The model has an encoder, or its tokenizer no end of sequence.
    """

    def __init__(self, paths: list[str], model: ConnectedModel, length: int, cache_dir: str | None) -> None:
        if model.is_encoder_decoder:
            raise ValueError(f"backbone: {model.name} has an encoder; running text needs a decoder alone")
        if not getattr(model.tokenizer, "is_fast", False) or model.tokenizer.eos_token_id is None:
            raise ValueError(
                f"backbone: the tokenizer of {model.name} is no fast tokenizer with an end of sequence, which stands "
                "between two documents; set eos_token in its tokenizer_config.json, or name another by "
                "loading.tokenizer"
            )
        self._files = text_files(paths)
        self._tokenizer = model.tokenizer
        self._length = length
        self._cache = cache_dir
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def rows(self, held_out: int = 0, *, measured: bool = False) -> tuple[TextRows, TextRows | None]:
        """The rows of the text, and the rows of documents that are held out; null if there are none.

        Args:
            held_out: Number of rows that are held out.
            measured: Whether the bytes of the text are counted; those of held-out documents always are.

        Raises:
            SourceError: The text has fewer tokens than a row.
        """
        tokens = held_out * (self._length - 1) + 1 if held_out else 0
        settings: dict[str, object] = {
            "files": [[Path(file).name, digest_of(Path(file))] for file in self._files],
            "tokenizer": tokenizer_parts(self._tokenizer),
            "held_out": tokens,
            "measured": measured,
            "code": package_digest(),
            "libraries": library_versions(),
        }

        def make(folder: Path) -> None:
            write_tokens(
                folder, self._tokenizer, self._files, train=_TRAIN, held_out=_HELD_OUT, held_out_tokens=tokens,
                measured=measured,
            )  # fmt: skip

        folder = KeptFolder(self._parent(), key_for(settings), "tokens of text").made(make)
        kept = TextRows(folder, _HELD_OUT, self._length) if held_out else None
        found = TextRows(folder, _TRAIN, self._length)
        all_tokens = found.total + (kept.total if kept else 0)
        if not len(found) or (kept is not None and len(kept) < held_out):
            wanted = f"a row of data.max_length {self._length}"
            wanted = f"{held_out} rows to hold out (data.held_out) and {wanted}" if held_out else wanted
            raise SourceError(
                f"{', '.join(self._files[:3])}{' …' if len(self._files) > 3 else ''}: found {all_tokens} tokens in "
                f"whole; expected enough for {wanted}"
            )
        if kept is not None and kept.total > _MUCH * all_tokens:
            log.warning(
                "data.held_out: %d rows are %.0f %% of the text, and are not trained on",
                held_out, 100 * kept.total / all_tokens,
            )  # fmt: skip
        return found, kept

    def _parent(self) -> Path:
        if self._cache is not None:
            return Path(self._cache).expanduser()
        self._temporary = self._temporary or tempfile.TemporaryDirectory(prefix="robustlm-text-")
        return Path(self._temporary.name)


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


def _listed(paths: str | list[str] | None) -> list[str]:
    return [paths] if isinstance(paths, str) else list(paths or [])

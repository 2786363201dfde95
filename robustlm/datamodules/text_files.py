"""The tokens of running text, made once and found again."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path

from robustlm.datamodules.caching import library_versions, package_digest, tokenizer_parts
from robustlm.datamodules.connection import ConnectedModel
from robustlm.datamodules.text_rows import TextRows, write_tokens
from robustlm.rows.base import SourceError
from robustlm.rows.documents import text_files
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

    def rows(
        self, held_out: int = 0, *, name: str = "data.held_out", width: int | None = None, measured: bool = False
    ) -> tuple[TextRows, TextRows | None]:
        """The rows of the text, and the rows of documents that are held out; null if there are none.

        Args:
            held_out: Number of rows that are held out.
            name: The setting that gives this number, for messages.
            width: Tokens of a row that is held out; null: those of any row.
            measured: Whether the bytes of the text are counted; those of held-out documents always are.

        Raises:
            SourceError: The text has fewer tokens than a row.
        """
        width = width or self._length
        tokens = held_out * (width - 1) + 1 if held_out else 0
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
        kept = TextRows(folder, _HELD_OUT, width) if held_out else None
        found = TextRows(folder, _TRAIN, self._length)
        all_tokens = found.total + (0 if kept is None else kept.total)
        if not len(found) or (kept is not None and len(kept) < held_out):
            wanted = f"a row of data.max_length {self._length}"
            wanted = f"{held_out} rows of {width} tokens to hold out ({name}) and {wanted}" if held_out else wanted
            raise SourceError(
                f"{', '.join(self._files[:3])}{' …' if len(self._files) > 3 else ''}: found {all_tokens} tokens in "
                f"whole; expected enough for {wanted}"
            )
        if kept is not None and kept.total > _MUCH * all_tokens:
            log.warning(
                "%s: %d rows are %.0f %% of the text, and are not trained on",
                name, held_out, 100 * kept.total / all_tokens,
            )  # fmt: skip
        return found, kept

    def _parent(self) -> Path:
        if self._cache is not None:
            return Path(self._cache).expanduser()
        self._temporary = self._temporary or tempfile.TemporaryDirectory(prefix="robustlm-text-")
        return Path(self._temporary.name)

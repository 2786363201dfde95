"""Running text as full rows of tokens: tokenised once into a file, which is mapped into memory."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm  # type: ignore[import-untyped]

from robustlm.batch import Encoded
from robustlm.datamodules.batches import EncodedSamples
from robustlm.datamodules.connection import FastTokenizer
from robustlm.prompts.specials import Specials
from robustlm.rows.documents import documents
from robustlm.sample import Sample
from robustlm.utils.computed import Computed
from robustlm.utils.random import drawn

Unsigned = NDArray[np.uint16] | NDArray[np.uint32]
"""Numbers of tokens or bytes, as wide as they need to be."""

_AT_ONCE = 64
"""Documents that are tokenised together."""
_TOKENS, _BYTES = ".tokens", ".bytes"


class TextRows(EncodedSamples):
    """Full rows of L tokens of running text. Every token but the first of the file is a target exactly once.

    Rows overlap by one token: the last token of a row is the first of the next one, where it is no target. In an
    `Encoded`, this first token is the prompt, and the others are the answer. Tokens after the last full row are left
    out.

    Args:
        folder: Folder that `write_tokens` wrote.
        name: Name of the part of the text in that folder.
        length: L, at least 2.
    """

    stored = True

    def __init__(self, folder: Path, name: str, length: int) -> None:
        self._tokens = _Numbers(folder / f"{name}{_TOKENS}")
        self._bytes = _Numbers(folder / f"{name}{_BYTES}") if any(folder.glob(f"{name}{_BYTES}.*")) else None
        self.length = length
        self.total = len(self._tokens)
        """Number of tokens in the file."""
        count = max(0, (self.total - 1) // (length - 1))
        prompts: Sequence[int] = np.ones(count, np.int64)  # type: ignore[assignment]
        encoded = Computed(count, partial(_row, self._tokens, length))
        super().__init__(Computed(count, partial(_sample, name)), encoded, prompt_lengths=prompts)

    @property
    def lengths(self) -> Sequence[int]:
        """See `EncodedSamples.lengths`; an array."""
        found: Sequence[int] = np.full(len(self), self.length)  # type: ignore[assignment]
        return found

    @property
    def answer_tokens(self) -> Sequence[int]:
        """See `EncodedSamples.answer_tokens`; an array."""
        found: Sequence[int] = np.full(len(self), self.length - 1)  # type: ignore[assignment]
        return found

    def meanings(self) -> Tensor:
        """A number of its own for each row, int64 `[n]`: no two rows ask the same thing."""
        return torch.arange(len(self))

    @property
    def bytes_per_target(self) -> float | None:
        """Mean number of UTF-8 bytes of text that a target of the rows stands for; null: they were not counted.

        Ends of documents are targets, but no text, so they count no bytes.
        """
        if self._bytes is None:
            return None
        targets = len(self) * (self.length - 1)
        return float(self._bytes.array[1 : targets + 1].sum(dtype=np.int64)) / max(1, targets)


class _Numbers:
    """A file of unsigned numbers, mapped into memory when it is first read, in each process anew.

    Args:
        path: The file; the width of a number is in its name.
    """

    def __init__(self, path: Path) -> None:
        self._path = next(path.parent.glob(f"{path.name}.u*"))
        self._array: Unsigned | None = None

    @property
    def array(self) -> Unsigned:
        """The numbers."""
        if self._array is None:
            kind = np.dtype(self._path.suffix[1:])
            empty = not self._path.stat().st_size  # an empty file cannot be mapped
            self._array = np.empty(0, kind) if empty else np.memmap(self._path, kind, mode="r")
        return self._array

    def __len__(self) -> int:
        return len(self.array)

    def __getstate__(self) -> dict[str, object]:
        return {"_path": self._path, "_array": None}  # a pickled map would be a copy of the whole file


def _sample(name: str, row: int) -> Sample:
    return Sample(f"{name}:{row}", instruction="", target="")


def _row(tokens: _Numbers, length: int, row: int) -> Encoded:
    start = row * (length - 1)
    first, *rest = tokens.array[start : start + length].tolist()
    return Encoded(prompt_ids=[first], instruction=[False], context=[False], answer_ids=rest)


# ------------------------------------------------------------------------------------------ writing


def write_tokens(
    folder: Path, tokenizer: FastTokenizer, files: Sequence[str], *, train: str, held_out: str = "",
    held_out_tokens: int = 0, measured: bool = False,
) -> None:  # fmt: skip
    """Tokenise documents into files of a folder, with the tokenizer's end of sequence after each document.

    Args:
        folder: Where to write.
        tokenizer: A fast tokenizer. Texts of its special tokens in a document become plain pieces.
        files: The files of text.
        train: Name of the part with all documents but those that are held out.
        held_out: Name of the part that is held out.
        held_out_tokens: How many tokens are held out; 0: none. Whole documents are held out, those whose text has the
            lowest hash, so neither their order nor the order of files matters. The last one is cut.
        measured: Whether the bytes of each token of `train` are counted; those of `held_out` always are.

    Raises:
        SourceError: There is no text, or less than is to be held out.
    """
    writer = _Writer(folder, tokenizer)
    kept: dict[int, str] = {}
    if held_out_tokens:
        kept = _lowest(_known(documents(files), "choosing documents to hold out"), writer, held_out_tokens)
        writer.write(held_out, (kept[key] for key in sorted(kept)), measured=True, most=held_out_tokens)
    rest = (text for text in documents(files) if not kept or _key(text) not in kept)
    writer.write(train, _known(rest, "tokenising"), measured=measured)


def _known(texts: Iterable[str], what: str) -> Iterator[str]:
    yield from tqdm(texts, desc=what, unit=" documents", disable=None)


def _key(text: str) -> int:
    return drawn("held out", text)


def _lowest(texts: Iterable[str], writer: _Writer, tokens: int) -> dict[int, str]:
    """The documents with the lowest keys that together have at least so many tokens, by their keys."""
    found: dict[int, tuple[str, int]] = {}
    heap: list[int] = []  # negative keys: the highest key comes first
    total = 0
    for text in texts:
        key = _key(text)
        if key in found or (total >= tokens and key > -heap[0]):
            continue
        found[key] = text, writer.count(text)
        total += found[key][1]
        heapq.heappush(heap, -key)
        while total - found[-heap[0]][1] >= tokens:
            total -= found.pop(-heapq.heappop(heap))[1]
    return {key: text for key, (text, _) in found.items()}


class _Writer:
    """Writes the tokens of documents to files.

    Args:
        folder: Folder of the files.
        tokenizer: A fast tokenizer.
    """

    def __init__(self, folder: Path, tokenizer: FastTokenizer) -> None:
        self._folder = folder
        self._specials = Specials(tokenizer)
        assert tokenizer.eos_token_id is not None
        self._end = tokenizer.eos_token_id
        self._kind = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32)

    def count(self, text: str) -> int:
        """Number of tokens of a document, with its end."""
        return len(next(self._tokenised([text], measured=False))[0])

    def write(self, name: str, texts: Iterable[str], *, measured: bool, most: int | None = None) -> None:
        """Write documents; `measured`: also the bytes of each token; `most`: the most tokens that are written."""
        left = most
        with ExitStack() as files:
            tokens = files.enter_context((self._folder / f"{name}{_TOKENS}.{self._kind.str[1:]}").open("wb"))
            beside = files.enter_context((self._folder / f"{name}{_BYTES}.u4").open("wb")) if measured else None
            for ids, sizes in chain.from_iterable(self._tokenised(one, measured) for one in _groups(texts)):
                np.asarray(ids[:left], self._kind).tofile(tokens)
                if beside is not None:
                    np.asarray(sizes[:left], np.uint32).tofile(beside)
                left = None if left is None else max(0, left - len(ids))

    def _tokenised(self, texts: Sequence[str], measured: bool) -> Iterator[tuple[list[int], list[int]]]:
        """For each document its tokens and their numbers of bytes, both with the end of the document."""
        spans = [[(0, len(text))] for text in texts]
        found, places = self._specials.tokens(texts, spans, add_special_tokens=False, offsets=measured)
        for text, ids, offsets in zip(texts, found, places, strict=True):
            yield [*ids, self._end], [*_sizes(text, offsets), 0] if measured else []


def _groups(texts: Iterable[str]) -> Iterator[list[str]]:
    left = iter(texts)
    while found := list(islice(left, _AT_ONCE)):
        yield found


def _sizes(text: str, offsets: Sequence[tuple[int, int]]) -> list[int]:
    """UTF-8 bytes of the text from the end of the token before to the end of each token."""
    encoded = np.array([len(character.encode()) for character in text], np.int64)
    before = np.concatenate([np.zeros(1, np.int64), encoded.cumsum()])
    ends = before[[end for _, end in offsets]]
    found: list[int] = np.diff(ends, prepend=0).tolist()
    return found

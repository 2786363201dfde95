"""Texts at which a model's answer ends, as its generation_config and the settings name them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor
from transformers import StoppingCriteriaList

from robustlm.models.loaded import LoadedModel

_INCOMPLETE = "\ufffd"
"""What tokenizers write for a character of which bytes are missing."""
_BEFORE = 8
"""Tokens that are decoded before those that a stop may consist of."""


@dataclass(frozen=True, slots=True)
class Ends:
    """What ends an answer."""

    tokens: list[int]
    """Ids of tokens."""
    texts: list[str]
    """Texts that are no special token; decoded answers do not show special tokens."""


def ends_of(loaded: LoadedModel, stop: Sequence[str]) -> Ends:
    """What ends a model's answers: what its tokenizer and generation_config name, and further texts.

    Args:
        loaded: The model.
        stop: The further texts. One that is a special token ends an answer as a token.
    """
    special = loaded.special_tokens
    tokens = [*loaded.ends, *(special[text] for text in stop if text in special)]
    texts = [text for text in (*loaded.stop_strings, *stop) if text not in special]
    return Ends(list(dict.fromkeys(tokens)), list(dict.fromkeys(texts)))


def cut_at(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first of several stops in it, and whether there is one.

    Example:
        >>> cut_at("Oslo. User: And a river?", ["User:", "."])
        ('Oslo', True)
    """
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    return (text[: min(ends)], True) if ends else (text, False)


class Decoding(Protocol):
    """A tokenizer, as far as texts of tokens are needed."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """The text of tokens."""


class StopTexts:
    """Whether the text of an answer's tokens holds a stop; see `decoding.Stopped`.

    Only the last tokens are decoded: those that can hold a stop which ends in the last one. A find is confirmed on the
    whole answer, because tokenizers may write a text in another way in the middle of a word.

    Args:
        tokenizer: The model's tokenizer.
        stops: Texts of `ends_of`; at least one.
    """

    def __init__(self, tokenizer: Decoding, stops: Sequence[str]) -> None:
        self._decode = partial(tokenizer.decode, skip_special_tokens=True)
        self._stops = stops
        # a token may be a single byte of a character; some more tokens stand before, since a blank may be lost in front
        self._window = _BEFORE + max(len(stop.encode()) for stop in stops)

    def __call__(self, ids: Sequence[int]) -> bool:
        """Whether an answer with these tokens ends."""
        return _holds(self._decode(ids[-self._window :]), self._stops) and _holds(self._decode(ids), self._stops)

    def within(self, ids: Sequence[int]) -> bool:
        """Whether the text of these tokens holds a stop anywhere."""
        return _holds(self._decode(ids), self._stops)


def _holds(text: str, stops: Sequence[str]) -> bool:
    """Whether a text holds a stop. A last character of which bytes are missing does not count: it may change."""
    return cut_at(text.rstrip(_INCOMPLETE), stops)[1]


@contextmanager
def own_stops(loaded: LoadedModel, stops: Sequence[str], skipped: int) -> Iterator[StoppingCriteriaList]:
    """Criteria that end rows of transformers' `generate` at a stop; its own ones are off meanwhile.

    Its own criterion also takes a stop that begins in the prompt, such as `::` after a prompt that ends in a colon.

    Args:
        loaded: The model.
        stops: Texts of `ends_of`.
        skipped: Number of positions before the answers.
    """

    def ended(ids: Tensor, scores: Tensor, **_: object) -> Tensor:
        texts = loaded.tokenizer.batch_decode(ids[:, skipped:], skip_special_tokens=True)
        return torch.tensor([_holds(text, stops) for text in texts], device=ids.device)

    settings = loaded.base.generation_config
    own = getattr(settings, "stop_strings", None)
    settings.stop_strings = None
    criteria: list[Callable[..., Tensor]] = [ended] if stops else []
    try:
        yield StoppingCriteriaList(criteria)
    finally:
        settings.stop_strings = own

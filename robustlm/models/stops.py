"""Texts at which a model's answer ends, as its generation_config and the settings name them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import StoppingCriteriaList

from robustlm.models.loaded import LoadedModel


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
        return torch.tensor([cut_at(text, stops)[1] for text in texts], device=ids.device)

    settings = loaded.base.generation_config
    own = getattr(settings, "stop_strings", None)
    settings.stop_strings = None
    criteria: list[Callable[..., Tensor]] = [ended] if stops else []
    try:
        yield StoppingCriteriaList(criteria)
    finally:
        settings.stop_strings = own

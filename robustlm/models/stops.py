"""Texts at which a model's answer ends, as its generation_config names them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from transformers import StoppingCriteriaList

from robustlm.models.loaded import LoadedModel


def stop_texts(loaded: LoadedModel) -> list[str]:
    """The `stop_strings` of the model's generation_config; empty if there are none.

    Those that are a special token are not among them: they are tokens that end an answer (`LoadedModel.ends`).
    """
    return [text for text in loaded.stop_strings if text not in loaded.special_tokens]


def cut_at(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the first of several stops in it, and whether there is one.

    Example:
        >>> cut_at("Oslo. User: And a river?", ["User:", "."])
        ('Oslo', True)
    """
    ends = [at for stop in stops if (at := text.find(stop)) >= 0]
    return (text[: min(ends)], True) if ends else (text, False)


@contextmanager
def own_stops(loaded: LoadedModel, skipped: int) -> Iterator[StoppingCriteriaList]:
    """Criteria that end rows of transformers' `generate` at a stop; its own ones are off meanwhile.

    Its own criterion also takes a stop that begins in the prompt, such as `::` after a prompt that ends in a colon.

    Args:
        loaded: The model.
        skipped: Number of positions before the answers.
    """
    stops = stop_texts(loaded)

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

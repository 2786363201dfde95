"""Which models' keys and values can be kept, shared and padded, and how a model reads with them."""

from __future__ import annotations

import math
from typing import Any

import torch
import transformers
from torch import Tensor

from robustlm.batch import View
from robustlm.models.answers import logits_at
from robustlm.models.loaded import LoadedModel

_PLAIN = "DynamicLayer"
_TAKEN = frozenset({_PLAIN, "DynamicSlidingWindowLayer", "DummyLayer"})
"""Layers of a cache that rows can be taken from, by name, since transformers adds and removes such classes."""


class Reader:
    """Runs a model on ids and a cache; see `decoding.Run`.

    Args:
        loaded: A decoder-only model with a cache.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded

    def __call__(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Logits `[R, V]` after the last of ids `[R, T]`, and the cache with their keys and values."""
        end = torch.zeros_like(ids, dtype=torch.bool)
        end[:, -1] = True
        return self.at(end, ids, mask, positions, cache)

    def at(self, end: Tensor, ids: Tensor, mask: Tensor, positions: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Logits `[n, V]` at n chosen positions, and the cache; see `answers.logits_at`."""
        return logits_at(self.loaded, end, ids, mask, positions, cache)


def new_cache(loaded: LoadedModel) -> Any:
    """An empty cache of transformers."""
    return transformers.DynamicCache(config=loaded.config)


def cache_layers(loaded: LoadedModel, length: int) -> set[str]:
    """Kinds of layers of the model's cache; empty where rows of `length` tokens have to be run as a whole.

    That is so for prompt learning, which brings a cache of its own, for models without a cache or with states that no
    row can be taken from, and for models that turn keys by other angles in long rows.
    """
    if not loaded.takes_positions or not loaded.takes_cache or loaded.prompt_learning is not None:
        return set()
    if length > _unscaled(loaded.config.get_text_config()):
        return set()
    kinds = {type(layer).__name__ for layer in new_cache(loaded).layers}
    return kinds if kinds <= _TAKEN else set()


def has_plain_cache(loaded: LoadedModel, length: int) -> bool:
    """Whether the cache keeps keys and values of all positions, so that rows can be taken and padded anywhere.

    A sliding window counts padding as tokens. GPT-Neo has windows that its cache does not know of.
    """
    local = "local" in (getattr(loaded.config, "attention_layers", None) or ())
    return not local and cache_layers(loaded, length) == {_PLAIN}


def longest(view: View) -> int:
    """Tokens of the longest row."""
    return int(view.attention_mask.sum(1).max())


def _unscaled(config: Any) -> float:
    """The longest row whose rotary positions are those of shorter ones: some models scale them beyond it."""
    rope = getattr(config, "rope_parameters", None) or {}
    found = [
        one.get("original_max_position_embeddings") or config.max_position_embeddings
        for one in (rope, *rope.values())  # one for all layers, or for each kind of layer
        if isinstance(one, dict) and one.get("rope_type") in ("dynamic", "longrope")
    ]
    return min(found, default=math.inf)

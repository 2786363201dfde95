"""Which models have keys and values that can be cached, shared and padded; and runs a model with such a cache."""

from __future__ import annotations

import math

import torch
import transformers
from torch import Tensor
from transformers import PretrainedConfig

from robustlm.batch import View
from robustlm.models.answers import logits_at
from robustlm.models.decoding import Cache
from robustlm.models.loaded import LoadedModel

_PLAIN = "DynamicLayer"
_TAKEN = frozenset({_PLAIN, "DynamicSlidingWindowLayer", "DummyLayer"})
"""Class names of cache layers that support row selection. Names, since transformers adds and removes classes."""


class Reader:
    """Runs a model on ids and a cache; see `decoding.Run`.

    Args:
        loaded: A decoder-only model with a cache.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded

    def __call__(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache | None) -> tuple[Tensor, Cache]:
        """Logits `[R, V]` after the last of ids `[R, T]`, and the cache with their keys and values."""
        end = torch.zeros_like(ids, dtype=torch.bool)
        end[:, -1] = True
        return self.at(end, ids, mask, positions, cache)

    def at(
        self, end: Tensor, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache | None
    ) -> tuple[Tensor, Cache]:
        """Logits `[n, V]` at n chosen positions, and the cache; see `answers.logits_at`."""
        return logits_at(self.loaded, end, ids, mask, positions, cache)


def new_cache(loaded: LoadedModel) -> transformers.DynamicCache:
    """An empty cache of transformers."""
    return transformers.DynamicCache(config=loaded.config)


def cache_layers(loaded: LoadedModel, length: int) -> set[str]:
    """Class names of the model's cache layers; empty if rows of `length` tokens must run without a cache.

    This is the case for prompt learning, which has its own cache, for models without a cache or with states from which
    no rows can be selected, and for models that change the rotary angles of keys in long rows.
    """
    if not loaded.takes_positions or not loaded.takes_cache or loaded.prompt_learning is not None:
        return set()
    if length > _unscaled(loaded.config.get_text_config()):
        return set()
    kinds = {type(layer).__name__ for layer in new_cache(loaded).layers}
    return kinds if kinds <= _TAKEN else set()


def has_plain_cache(loaded: LoadedModel, length: int) -> bool:
    """Whether the cache keeps keys and values of all positions, so that rows can be selected and padded anywhere.

    False for sliding windows, which count padding as tokens. GPT-Neo has windows that its cache does not show.
    """
    local = "local" in (getattr(loaded.config, "attention_layers", None) or ())
    return not local and cache_layers(loaded, length) == {_PLAIN}


def longest(view: View) -> int:
    """Number of tokens in the longest row."""
    return int(view.attention_mask.sum(1).max())


def _unscaled(config: PretrainedConfig) -> float:
    """The longest row without scaled rotary positions; some models scale them in longer rows."""
    rope = getattr(config, "rope_parameters", None) or {}
    found = [
        one.get("original_max_position_embeddings") or config.max_position_embeddings
        for one in (rope, *rope.values())  # one for all layers, or for each kind of layer
        if isinstance(one, dict) and one.get("rope_type") in ("dynamic", "longrope")
    ]
    return min(found, default=math.inf)

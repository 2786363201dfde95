"""Which models have keys and values that can be cached, shared and padded; and runs a model with such a cache."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import nullcontext

import torch
import transformers
from torch import Tensor
from transformers import PretrainedConfig
from transformers.cache_utils import DynamicLayer

from robustlm.batch import View
from robustlm.models.answers import logits_at
from robustlm.models.decoding import Cache, Caches
from robustlm.models.loaded import LoadedModel
from robustlm.models.masks import known_padding

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
        places = torch.arange(1, ids.shape[0] + 1, device=ids.device) * ids.shape[1] - 1
        # transformers would look for padding at each token, and a GPU be waited for; a single token reads it as it is
        looks = ids.shape[1] > 1 or ids.device.type == "cpu"
        with nullcontext() if looks else known_padding(True):
            return self.at(places, ids, mask, positions, cache)

    def at(
        self, places: Tensor, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache | None
    ) -> tuple[Tensor, Cache]:
        """Logits `[n, V]` at n chosen positions, and the cache; see `answers.logits_at`."""
        return logits_at(self.loaded, places, ids, mask, positions, cache)


class RoomyLayer(DynamicLayer):  # type: ignore[no-untyped-call,unused-ignore]
    """Keys and values with room behind them, so that a new token is written there.

    transformers' own layer copies all keys and values for each token.

    Args:
        room: Number of positions to keep free, at least.
    """

    def __init__(self, room: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call,unused-ignore]
        self._room = room
        self._stored: list[Tensor] = []
        """Keys and values with the room behind them; `keys` and `values` are the first positions of these."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Add keys and values `[R, heads, T, D]`; returns all of them. No gradient may pass through them."""
        length, new = self.get_seq_length(), key_states.shape[-2]
        if not length:
            self.lazy_initialization(key_states, value_states)
        if not self._stored or self._stored[0].shape[-2] < length + new:
            parts = _states(self) if length else (key_states[..., :0, :], value_states[..., :0, :])
            self._store(*parts, length + new + self._room)
        for stored, states in zip(self._stored, (key_states, value_states), strict=True):
            stored[..., length : length + new, :] = states
        self._show(length + new)
        return _states(self)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows, in this order; a row may occur several times."""
        if length := self.get_seq_length():
            keys, values = _states(self)
            self._store(keys[indices], values[indices], length + self._room)
            self._show(length)

    def place(self, parts: Sequence[DynamicLayer], rows: Sequence[Tensor], length: int) -> None:
        """Take over the keys and values of several layers, whose rows are these of this one; see `Caches.join`."""
        count, (keys, values) = sum(map(len, rows)), _states(parts[0])
        self.lazy_initialization(keys, values)
        keys, values = (one.new_zeros(count, one.shape[1], 0, one.shape[3]) for one in (keys, values))
        self._store(keys, values, length + self._room)
        for part, at in zip(parts, rows, strict=True):
            for stored, states in zip(self._stored, _states(part), strict=True):
                stored[at, :, : length - states.shape[-2]] = 0  # masked, but not a number would spread all the same
                stored[at, :, length - states.shape[-2] : length] = states
        self._show(length)

    def _store(self, keys: Tensor, values: Tensor, capacity: int) -> None:
        """Copy keys and values in front of room."""
        self._stored = []
        for states in (keys, values):
            stored = states.new_empty(*states.shape[:2], capacity, states.shape[3])
            stored[..., : states.shape[2], :] = states
            self._stored.append(stored)

    def _show(self, length: int) -> None:
        self.keys, self.values = (one[..., :length, :] for one in self._stored)


def new_cache(loaded: LoadedModel, room: int | None = None) -> transformers.DynamicCache:
    """An empty cache of transformers.

    Args:
        loaded: The model.
        room: Number of tokens that will be added one by one; null: none.
    """
    cache = transformers.DynamicCache(config=loaded.config)
    if room is not None:
        cache.layers = [RoomyLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def _states(layer: DynamicLayer) -> tuple[Tensor, Tensor]:
    """Keys and values of a layer that has some."""
    assert layer.keys is not None
    assert layer.values is not None
    return layer.keys, layer.values


def _layers(cache: Cache) -> list[DynamicLayer]:
    assert isinstance(cache, transformers.DynamicCache)
    return [layer for layer in cache.layers if isinstance(layer, DynamicLayer)]


def plain_caches(loaded: LoadedModel, room: int) -> Caches:
    """Caches for groups of prompts of a model with `has_plain_cache`, with room for so many tokens when joined."""

    def join(caches: Sequence[Cache], rows: Sequence[Tensor], length: int) -> Cache:
        joined = new_cache(loaded, room)
        layers = zip(joined.layers, *(_layers(cache) for cache in caches), strict=True)
        for own, *parts in layers:
            assert isinstance(own, RoomyLayer)
            own.place(parts, rows, length)
            for part in parts:  # free at once, since all layers of both would be twice the memory
                part.reset()  # type: ignore[no-untyped-call,unused-ignore]
        return joined

    def chosen(cache: Cache, rows: Tensor) -> Cache:
        found = new_cache(loaded)
        for own, layer in zip(_layers(found), _layers(cache), strict=True):
            own.update(*(states.index_select(0, rows) for states in _states(layer)))
        return found

    return Caches(lambda: new_cache(loaded), chosen, join)


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

"""A forward pass that computes logits at answer positions only."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from robustlm.batch import View
from robustlm.models.base import AnswerOutput, Pooling
from robustlm.models.decoding import Cache
from robustlm.models.inputs import AnswerInputs, answer_inputs
from robustlm.models.last_layer import only_read
from robustlm.models.loaded import LoadedModel
from robustlm.models.masks import known_padding


@dataclass
class _HeadPass:
    """One pass through a model's head: the input of the head's hook, and its result."""

    head: nn.Module
    places: Tensor
    """Int64 `[n]`: the positions whose logits are computed, counted row by row: row · T + column."""
    pool: Callable[[Tensor], Tensor] | None
    """Pools the final hidden states `[R, T, H]` to one state per row."""
    state: Tensor | None = None
    """The result of `pool`, `[R, H]`."""


_CURRENT: ContextVar[_HeadPass | None] = ContextVar("robustlm_head_pass", default=None)
"""The pass that is running in this thread. A nested pass sets its own value and then restores the outer one, so
neither sees the other's settings. A recomputed pass in the backward thread sets its own value."""


def watch_head(head: nn.Module) -> None:
    """Prepare a loaded model's head for `answers` and `logits_at`; other calls of the head are not changed."""
    head.register_forward_pre_hook(_answers_only)


def _answers_only(head: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
    """Before the head: pool the states, and pass on only the selected positions."""
    current = _CURRENT.get()
    if current is None or current.head is not head:
        return None
    states = args[0]
    if current.pool is not None:
        current.state = current.pool(states)
    return (states.flatten(0, 1).index_select(0, current.places).unsqueeze(0), *args[1:])


@contextmanager
def _head_pass(
    loaded: LoadedModel, places: Tensor, pool: Callable[[Tensor], Tensor] | None = None
) -> Iterator[_HeadPass]:
    current = _HeadPass(loaded.base.get_output_embeddings(), places, pool)
    token = _CURRENT.set(current)
    try:
        yield current
    finally:
        _CURRENT.reset(token)


def answers(loaded: LoadedModel, view: View, embeds: Tensor, pooling: Pooling) -> AnswerOutput:
    """Run a view with input embeddings `[R, T, H]`: logits of the answer tokens, and a pooled state per row."""
    inputs = answer_inputs(loaded, view, embeds)
    pool = partial(inputs.pooled, pooling=pooling)
    read = inputs.read(pooling, every_answered=min(view.layout.counts) > 0)
    with (
        _head_pass(loaded, inputs.places, pool) as current,
        known_padding(view.layout.padded),
        only_read(loaded, read),
    ):
        logits = loaded.runner(**inputs.arguments).logits[0]
    assert current.state is not None
    return AnswerOutput(logits, view.layout.targets, view.layout.rows, current.state)


def run_layers(loaded: LoadedModel, inputs: AnswerInputs) -> None:
    """Run inputs only for hooks in the layers. The head computes the answer positions only."""
    with _head_pass(loaded, inputs.places), only_read(loaded, None):
        loaded.runner(**inputs.arguments)


def logits_at(
    loaded: LoadedModel, places: Tensor, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache | None
) -> tuple[Tensor, Cache]:
    """Logits `[n, V]` of the base model at n chosen positions, and the cache with the new keys and values.

    Args:
        loaded: The model.
        places: Int64 `[n]`: the chosen positions, row · T + column, none twice.
        ids: Int64 `[R, T]`.
        mask: Int64 `[R, C + T]`, over the positions in the cache and the ids.
        positions: Int64 `[R, T]`.
        cache: Keys and values of C positions, an object of transformers; `None`: the model creates one.
    """
    with _head_pass(loaded, places), only_read(loaded, places if ids.shape[1] > 1 else None):
        out = loaded.base(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, past_key_values=cache
        )
    return out.logits[0], out.past_key_values

"""A forward pass that gives logits at answer positions only, and computes them when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from robustlm.batch import View
from robustlm.models.base import AnswerOutput, Pooling
from robustlm.models.decoding import Cache
from robustlm.models.heads import LateLogits, WholeHead, why_whole
from robustlm.models.inputs import AnswerInputs, answer_inputs, encoded_once
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
    late: bool = False
    """Whether the head gets no position at all, since its logits are computed later."""
    state: Tensor | None = None
    """The result of `pool`, `[R, H]`."""
    states: Tensor | None = None
    """The final hidden states at `places`, `[n, H]`."""
    values: int = 0
    """Number of values in the final hidden states of all positions, R · T · H."""


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
    current.values = states.numel()
    current.states = states.flatten(0, 1).index_select(0, current.places)
    return ((current.states[:0] if current.late else current.states).unsqueeze(0), *args[1:])


@contextmanager
def _head_pass(
    loaded: LoadedModel, places: Tensor, pool: Callable[[Tensor], Tensor] | None = None, *, late: bool = False
) -> Iterator[_HeadPass]:
    current = _HeadPass(loaded.base.get_output_embeddings(), places, pool, late)
    token = _CURRENT.set(current)
    try:
        yield current
    finally:
        _CURRENT.reset(token)


def answers(
    loaded: LoadedModel,
    view: View,
    embeds: Tensor,
    pooling: Pooling,
    *,
    late: bool = False,
    prompts: Tensor | None = None,
) -> AnswerOutput:
    """Run a view with input embeddings `[R, T, H]`: logits of the answer tokens, and a pooled state per row.

    Args:
        loaded: The model.
        view: R rows of T positions.
        embeds: `[R, T, H]`.
        pooling: Which state represents a row.
        late: Whether the logits are computed when they are asked for, if the head alone makes them from the states.
        prompts: Int64 `[R]`: rows with equal numbers have the same prompt, which an encoder reads once. Null: each row
            is read by itself, as it always is in decoder-only models.
    """
    whole = _whole_head(loaded, view, embeds) if late else None
    inputs = answer_inputs(loaded, view, embeds)
    if prompts is not None and loaded.is_encoder_decoder:
        inputs.arguments = encoded_once(loaded, inputs.arguments, prompts)
    pool = partial(inputs.pooled, pooling=pooling)
    late = late and whole is None
    with (
        _head_pass(loaded, inputs.places, pool, late=late) as current,
        known_padding(inputs.sequence or view.layout.padded),
    ):
        logits: Tensor | LateLogits = loaded.runner(**inputs.arguments).logits.squeeze(0)
    assert current.state is not None
    if late:
        assert isinstance(logits, Tensor)
        assert current.states is not None
        trained = any(weight.requires_grad for weight in current.head.parameters())
        logits = LateLogits(
            partial(_logits, current.head),
            current.states,
            words=logits.shape[-1],
            values=current.values,
            trained=trained,
            linear=isinstance(current.head, nn.Linear),
        )
    return AnswerOutput(logits, view.layout.targets, view.layout.rows, current.state, whole)


def _logits(head: nn.Module, states: Tensor) -> Tensor:
    """Logits `[m, V]` of states `[m, H]`, also while a pass is running."""
    token = _CURRENT.set(None)
    try:
        found: Tensor = head(states.unsqueeze(0)).squeeze(0)  # `[0]` would copy their gradient
        return found
    finally:
        _CURRENT.reset(token)


def _whole_head(loaded: LoadedModel, view: View, embeds: Tensor) -> WholeHead | None:
    """Why the model itself must compute the logits of a pass; null if the head can do it afterwards."""
    check = loaded.head
    if check.whole is None:
        head = loaded.base.get_output_embeddings()
        reason = why_whole(head, own_hooks=1)
        if reason is None and not check.simple:
            reason = _more_than_the_head(loaded, head, view, embeds)
            check.simple = reason is None
        check.whole = None if reason is None else WholeHead(reason)
    return check.whole


@torch.no_grad()
def _more_than_the_head(loaded: LoadedModel, head: nn.Module, view: View, embeds: Tensor) -> str | None:
    """What a model does with logits beside its head, or why its head cannot run for some positions alone; else null.

    One row runs, with fixed numbers in the place of the head's output. They must come out of the model unchanged: a
    soft cap, a scale, a bias or ruled-out words would change them.
    """
    fixed: list[Tensor] = []
    width = embeds.shape[-1]

    def instead(_head: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        nonlocal width
        width = args[0].shape[-1]
        fixed.append(torch.linspace(-300.0, 300.0, out.shape[-1]).to(out).expand(1, 2, -1))
        return fixed[-1]

    one = view.part(slice(0, 1))
    with loaded.evaluating(), torch.random.fork_rng(devices=[embeds.device] if embeds.is_cuda else []):
        inputs = answer_inputs(loaded, one, embeds[:1])
        handle = head.register_forward_hook(instead)
        try:
            with _head_pass(loaded, inputs.places, late=True), known_padding(inputs.sequence or one.layout.padded):
                found = loaded.runner(**inputs.arguments).logits
        finally:
            handle.remove()
        if len(fixed) != 1:
            return f"a pass of the model runs its head {len(fixed)} times"
        if found.dtype != fixed[0].dtype or not torch.equal(found, fixed[0]):
            return "the model changes the logits after its head"
        states = torch.linspace(-1.0, 1.0, 3 * width).reshape(3, width).sin().to(embeds)
        together, alone = _logits(head, states).float(), _logits(head, states[1:2]).float()
    # a rounding of bf16 is 0.004; a head that mixes tokens differs far more
    if bool((together[1:2] - alone).abs().amax() > 0.02 * together.abs().amax()):
        return "the head's logits of a token depend on other tokens"
    return None


def run_layers(loaded: LoadedModel, inputs: AnswerInputs) -> None:
    """Run inputs only for hooks in the layers. The head computes the answer positions only."""
    with _head_pass(loaded, inputs.places), known_padding(inputs.sequence):
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
    with _head_pass(loaded, places):
        out = loaded.base(
            input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=True, past_key_values=cache
        )
    return out.logits[0], out.past_key_values

"""Hidden states of any layer, one vector per row or text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from robustlm.batch import View
from robustlm.models.answers import run_layers
from robustlm.models.base import Pooling
from robustlm.models.inputs import Arguments, answer_inputs
from robustlm.models.loaded import LoadedModel

Layer = int | Literal["middle", "last"]


def check_layer(layer: int, depth: int, name: str) -> None:
    """Raise `ValueError` for a layer that a model with `depth` layers lacks; the message names the model `name`."""
    if not -depth - 1 <= layer <= depth:
        raise ValueError(
            f"states.layer: found {layer}; {name!r} has {depth} layers, expected {-depth - 1} … {depth} (0 is the "
            f"embeddings, -1 or {depth} what the head reads)"
        )


@torch.no_grad()
def hidden_states(loaded: LoadedModel, view: View, layer: int, pooling: Pooling) -> Tensor:
    """A hidden state for each row of a view, fp32 `[R, H]`, without dropout.

    The layer's states are pooled as soon as the layer runs; states of other layers and positions are not stored.

    Args:
        loaded: The model.
        view: R rows. Without answers, the prompt's last token is the row's last.
        layer: Checked by `check_layer`.
        pooling: Which positions represent a row.

    Raises:
        ValueError: The model's layers are not found.
    """
    found: list[Tensor] = []
    with loaded.evaluating():
        inputs = answer_inputs(loaded, view, loaded.embed(view.input_ids))

        def keep(states: Tensor) -> None:
            found.append(inputs.pooled(states.float() if pooling == "mean" else states, pooling).float())

        with _watched(loaded.base.get_decoder(), layer, loaded.depth, keep):
            run_layers(loaded, inputs)
    (state,) = found
    return state


@torch.no_grad()
def text_states(loaded: LoadedModel, texts: Sequence[str], layer: Layer, name: str) -> Tensor:
    """The mean hidden state of each text, fp32 `[n, H]`; see `Backbone.text_states`.

    Args:
        loaded: The model.
        texts: n texts.
        layer: `middle`, `last`, or a number.
        name: The model's name, for messages.

    Raises:
        ValueError: There is no such layer, or the model's layers are not found.
    """
    separate = loaded.is_encoder_decoder
    stack = loaded.base.get_encoder() if separate else loaded.base.get_decoder()
    depth = int(loaded.config.get_text_config().num_hidden_layers) if separate else loaded.depth
    number = {"middle": depth // 2, "last": depth}.get(layer, layer) if isinstance(layer, str) else layer
    if isinstance(number, str) or not -depth - 1 <= number <= depth:
        expected = f"middle, last, or {-depth - 1} … {depth}"
        raise ValueError(f"layer: found {layer!r}; {name!r} has {depth} layers, expected {expected}")
    inputs, counted = _text_inputs(loaded, texts)
    found: list[Tensor] = []

    def keep(states: Tensor) -> None:
        summed = states.float().masked_fill(~counted, 0.0).sum(1)
        found.append(summed / counted.sum(1).clamp(min=1))

    with loaded.without_adapters(), loaded.evaluating(), _watched(stack, number, depth, keep):
        stack(**inputs)
    (state,) = found
    return state


def _text_inputs(loaded: LoadedModel, texts: Sequence[str]) -> tuple[Arguments, Tensor]:
    """Arguments for a decoder or encoder, and a bool `[n, T, 1]`: the tokens that count in a text's mean."""
    tokens = loaded.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    first = next((one for one in (loaded.tokenizer.bos_token_id, *loaded.ends) if one is not None), 0)
    rows = [[first, *row] for row in tokens]
    length = max(map(len, rows))
    side = slice(None, None, 1 if loaded.is_encoder_decoder else -1)  # encoders pad on the right
    ids, mask = (
        torch.tensor([([*row[side], *[0] * (length - len(row))])[side] for row in filled], device=loaded.device)
        for filled in (rows, [[1] * len(row) for row in rows])
    )
    positions = mask.cumsum(1).sub(1).clamp(min=0)
    inputs: Arguments = {"inputs_embeds": loaded.embed(ids), "attention_mask": mask}
    if loaded.takes_positions:
        inputs["position_ids"] = positions
    if loaded.takes_cache:
        inputs["use_cache"] = False
    return inputs, (mask.bool() & (positions > 0))[:, :, None]


@contextmanager
def _watched(stack: nn.Module, layer: int, depth: int, keep: Callable[[Tensor], None]) -> Iterator[None]:
    """Call `keep` with the states of a layer each time the layer runs."""
    at = layer % (depth + 1)
    if at == depth:
        handle = stack.register_forward_hook(lambda _module, _args, out: keep(out[0]))
    else:
        handle = _layers(stack, depth)[at].register_forward_pre_hook(
            lambda _module, args, kwargs: keep(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
        )
    try:
        yield
    finally:
        handle.remove()


def _layers(stack: nn.Module, depth: int) -> nn.ModuleList:
    """The layers of a decoder or encoder; layer i + 1 reads the output of layer i."""
    for module in stack.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise ValueError(
        f"states.layer: {type(stack).__name__} holds no list of {depth} layers; expected layer -1 of this model"
    )

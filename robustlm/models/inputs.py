"""The arguments of a model's `forward` and `generate`, for decoders and encoder–decoders."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from robustlm.batch import IGNORE, View
from robustlm.models.base import Pooling
from robustlm.models.loaded import LoadedModel
from robustlm.models.padding_free import RowSequence

Arguments = dict[str, Any]
"""Keyword arguments for a transformers model: tensors, flags and a cache."""


@dataclass
class AnswerInputs:
    """The model inputs of a view with R rows, for its answers. T includes the positions of a soft prompt."""

    arguments: Arguments
    """Arguments of `forward`."""
    answers: Tensor
    """Bool `[R, T]`: positions whose logits predict an answer token (decoder positions in an encoder–decoder)."""
    places: Tensor
    """Int64 `[n]`: where these positions stand in the sequences that the model reads, counted sequence by sequence."""
    tokens: Tensor
    """Bool `[R, T]`: positions with a token of the row, for pooling over all tokens."""
    encoder_decoder: bool
    sequence: RowSequence | None = None
    """The rows in one sequence, if the model reads them so; its states are then `[1, N, H]`."""

    def pooled(self, states: Tensor, pooling: Pooling) -> Tensor:
        """Pool hidden states `[R, T, H]` (of a sequence of rows, `[1, N, H]`) to one state per row, `[R, H]`."""
        if self.sequence is not None:
            states = self.sequence.spread(states)
        if pooling == "mean":
            kept = self.tokens[:, :, None].to(states.dtype)
            return (states * kept).sum(1) / kept.sum(1).clamp_min(1)
        if pooling == "max":
            return states.masked_fill(~self.tokens[:, :, None], -torch.inf).amax(1)
        answers = self.answers.long()
        if pooling == "prompt_end":  # the position whose logits predict the answer's first token
            at = answers.argmax(1) if self.encoder_decoder else _last_start(answers)
        elif self.encoder_decoder:
            at = answers.sum(1).sub(1).clamp(min=0)
        else:  # all rows of decoder-only models end at the last position
            return states[:, -1]
        return states[torch.arange(states.shape[0], device=states.device), at]


def answer_inputs(loaded: LoadedModel, view: View, embeds: Tensor) -> AnswerInputs:
    """Make the model inputs for a view's answers.

    Args:
        loaded: The model.
        view: R rows of T positions.
        embeds: Input embeddings `[R, T, H]` of the view.

    Raises:
        ValueError: A decoder-only model would have to predict a row's first token.
    """
    layout = view.layout
    if loaded.is_encoder_decoder:
        answers = view.labels != IGNORE
        places = layout.rows * answers.shape[1] + layout.columns
        return AnswerInputs(_seq2seq(loaded, view, embeds), answers, places, answers, encoder_decoder=True)
    if layout.leading:
        raise ValueError("view.labels: found an answer token at the first position of a row; expected a prompt first")
    answers = torch.zeros_like(view.labels, dtype=torch.bool)
    answers[:, :-1] = view.labels[:, 1:] != IGNORE
    arguments = _causal(loaded, view, embeds)
    extra = arguments["inputs_embeds"].shape[1] - answers.shape[1]
    answers = nn.functional.pad(answers, (extra, 0))
    places = layout.rows * answers.shape[1] + layout.columns + (extra - 1)
    tokens = nn.functional.pad(view.attention_mask.bool(), (extra, 0))
    sequence = None
    if loaded.padding_free and layout.padded:
        prefix = loaded.virtual_tokens if loaded.prompt_learning == "PREFIX_TUNING" else 0
        sequence = RowSequence.of(layout, in_front=extra, prefix=prefix)
        arguments, places = _in_one(loaded, arguments, sequence), sequence.places(places)
    return AnswerInputs(arguments, answers, places, tokens, encoder_decoder=False, sequence=sequence)


def _in_one(loaded: LoadedModel, padded: Arguments, sequence: RowSequence) -> Arguments:
    """The arguments of `forward` for the rows in one sequence, of those for padded rows."""
    positions = sequence.within + sequence.prefix
    found = {
        **padded,
        "inputs_embeds": sequence.joined(padded["inputs_embeds"]),
        "position_ids": positions[None],
        # all tokens are read; `known_padding` tells the model which ones read each other
        "attention_mask": padded["attention_mask"].new_ones(1, sequence.prefix + len(positions)),
    }
    if sequence.prefix:
        found["past_key_values"] = loaded.model.get_prompt(1)
    return found


def _causal(loaded: LoadedModel, view: View, embeds: Tensor) -> Arguments:
    mask = view.attention_mask
    inputs: Arguments = {"use_cache": False}
    kind = loaded.prompt_learning
    if kind is not None:
        mask = _widened(mask, loaded.virtual_tokens)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    if kind == "PREFIX_TUNING":
        inputs["past_key_values"] = loaded.model.get_prompt(embeds.shape[0])
        inputs["use_cache"] = True
    elif kind is not None:
        embeds = torch.cat([loaded.model.get_prompt(embeds.shape[0]).to(embeds.dtype), embeds], dim=1)
    if loaded.takes_positions:
        inputs["position_ids"] = positions[:, -embeds.shape[1] :]
    return {**inputs, "inputs_embeds": embeds, "attention_mask": mask}


def _seq2seq(loaded: LoadedModel, view: View, embeds: Tensor) -> Arguments:
    mask = view.attention_mask
    kind = loaded.prompt_learning
    inputs: Arguments = {"use_cache": False}
    if kind == "PREFIX_TUNING":
        inputs["past_key_values"] = loaded.model.get_prompt(embeds.shape[0])
        inputs["use_cache"] = True
    elif kind is not None:
        prompt = loaded.model.get_prompt(embeds.shape[0])[:, : loaded.virtual_tokens]
        embeds = torch.cat([prompt.to(embeds.dtype), embeds], dim=1)
        mask = _widened(mask, loaded.virtual_tokens)
    answers = view.labels.masked_fill(view.labels == IGNORE, _decoder_pad(loaded))
    start = answers.new_full((answers.shape[0], 1), decoder_start(loaded) or 0)
    shifted = torch.cat([start, answers[:, :-1]], dim=1)
    return {**inputs, "inputs_embeds": embeds, "attention_mask": mask, "decoder_input_ids": shifted}


def encoded_once(loaded: LoadedModel, arguments: Arguments, prompts: Tensor) -> Arguments:
    """Arguments of an encoder–decoder's `forward` with states of the encoder, which reads each prompt once.

    A trained prefix has keys and values for the encoder too, or for the decoder alone, as the model may be. Then the
    arguments are returned unchanged.

    Args:
        loaded: The model.
        arguments: Those of R rows.
        prompts: Int64 `[R]`: rows with equal numbers have the same prompt.
    """
    if loaded.prompt_learning == "PREFIX_TUNING":
        return arguments
    kinds, owner = torch.unique(prompts, return_inverse=True)
    number = torch.arange(len(prompts), device=owner.device)
    first = number.new_full((len(kinds),), len(prompts)).scatter_reduce(0, owner, number, "amin")
    embeds, mask = arguments["inputs_embeds"], arguments["attention_mask"]
    read = loaded.base.get_encoder()(inputs_embeds=embeds[first], attention_mask=mask[first])
    rest = {name: value for name, value in arguments.items() if name != "inputs_embeds"}
    return {**rest, "encoder_outputs": BaseModelOutput(last_hidden_state=read[0][owner])}


def generation_inputs(loaded: LoadedModel, view: View) -> tuple[Arguments, int]:
    """Arguments for the base model's `generate`, and the number of leading output tokens that are not generated."""
    ids, mask = view.input_ids, view.attention_mask
    kind = loaded.prompt_learning
    if kind is None:
        skipped = 1 if loaded.is_encoder_decoder else ids.shape[1]
        return {"input_ids": ids, "attention_mask": mask}, skipped
    count = loaded.virtual_tokens
    rows = ids.shape[0]
    if kind == "PREFIX_TUNING":
        past = loaded.model.get_prompt(rows)
        if loaded.is_encoder_decoder:
            start = ids.new_full((rows, count + 1), decoder_start(loaded) or 0)
            inputs = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": start}
            # a mask as wide as the ids tells generate that the cache holds the first `count` of them
            inputs["decoder_attention_mask"] = torch.ones_like(start)
            return {**inputs, "past_key_values": past}, count + 1
        # generate assumes that the cache already contains the first `count` tokens
        ids = torch.cat([ids.new_full((rows, count), ids[0, -1].item()), ids], dim=1)
        return {"input_ids": ids, "attention_mask": _widened(mask, count), "past_key_values": past}, ids.shape[1]
    embeds = loaded.embed(ids)
    prompt = loaded.model.get_prompt(rows)[:, :count].to(embeds.dtype)
    inputs = {"inputs_embeds": torch.cat([prompt, embeds], dim=1), "attention_mask": _widened(mask, count)}
    return inputs, 1 if loaded.is_encoder_decoder else 0


def decoder_start(loaded: LoadedModel) -> int | None:
    """The start token of an encoder–decoder's decoder; `None` for decoder-only models."""
    if not loaded.is_encoder_decoder:
        return None
    start = getattr(loaded.config, "decoder_start_token_id", None)
    found = start if start is not None else getattr(loaded.config, "pad_token_id", None)
    return int(found) if found is not None else 0


def _decoder_pad(loaded: LoadedModel) -> int:
    pad = getattr(loaded.config, "pad_token_id", None)
    return int(pad) if pad is not None else 0


def _widened(mask: Tensor, count: int) -> Tensor:
    """The mask with `count` attended positions added in front."""
    return torch.cat([mask.new_ones(mask.shape[0], count), mask], dim=1)


def _last_start(answers: Tensor) -> Tensor:
    """Where the last run of answer positions starts in each row, `[R]`; the last position of rows without answers.

    A row has several runs if earlier replies of a chat are trained too; its answer is the last one.
    """
    begins = answers.bool()
    begins[:, 1:] &= ~begins[:, :-1].clone()
    last = answers.shape[1] - 1
    return torch.where(begins.any(1), last - begins.flip(1).long().argmax(1), last)

"""Answers to prompts, greedy or drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
import transformers
from torch import Tensor

from robustlm.batch import View
from robustlm.models.base import Answer
from robustlm.models.caches import Reader, has_plain_cache, longest, new_cache, plain_caches
from robustlm.models.decoding import decode, prefill
from robustlm.models.inputs import decoder_start, generation_inputs
from robustlm.models.loaded import LoadedModel
from robustlm.models.sampling import Forced, Generation, Sampler, keys_of_rows, likeliest
from robustlm.models.stops import Ends, StopTexts, cut_at, ends_of, own_stops

_ROOM = 64
"""Most tokens that a cache has room for before it is copied: room that short answers leave unused is memory."""


@torch.no_grad()
def generate(loaded: LoadedModel, view: View, max_new_tokens: int, how: Generation) -> list[Answer]:
    """Answers to the prompts of a view without answers, one per row, greedy or drawn as `how` says.

    If the model's cache allows it, prefixes that prompts share run once, and finished answers leave the batch.
    Otherwise (encoder–decoders, prompt learning, sliding windows, …), `generate` of transformers is used. An
    answer ends before the first of the `stop_strings` of the model's generation_config and of `how.stop`.
    """
    with loaded.evaluating(), loaded.caching():
        plain = has_plain_cache(loaded, longest(view) + max_new_tokens)
        sampler = Sampler(how, keys_of_rows(view)) if how.temperature else None
        found = _decoded if plain else _generated
        ends = ends_of(loaded, how.stop)
        ids = found(loaded, view, max_new_tokens, sampler, ends)
    texts: list[str] = loaded.tokenizer.batch_decode(ids, skip_special_tokens=True)
    cut = [cut_at(text, ends.texts) for text in texts]
    prompts = view.attention_mask.sum(1).tolist()
    return [
        Answer(
            text.strip(),
            # an answer of full length has no end token among its tokens
            finish_reason="length" if len(answer) == max_new_tokens and not stopped else "stop",
            prompt_tokens=prompt,
            answer_tokens=len(answer),
        )
        for (text, stopped), answer, prompt in zip(cut, ids, prompts, strict=True)
    ]


def _decoded(
    loaded: LoadedModel, view: View, max_new_tokens: int, sampler: Sampler | None, ends: Ends
) -> list[list[int]]:
    run = Reader(loaded)
    room = min(max_new_tokens, _ROOM)
    cache, caches = new_cache(loaded, room), plain_caches(loaded, room)
    read = prefill(run, view.input_ids, view.attention_mask, cache, caches=caches)
    stopped = StopTexts(loaded.tokenizer, ends.texts) if ends.texts else None
    return decode(run, read, sampler or likeliest, ends=ends.tokens, max_new_tokens=max_new_tokens, stopped=stopped)


def _generated(
    loaded: LoadedModel, view: View, max_new_tokens: int, sampler: Sampler | None, ends: Ends
) -> list[list[int]]:
    tokenizer = loaded.tokenizer
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    config = cast(Any, transformers.GenerationConfig)(  # untyped in transformers
        max_new_tokens=max_new_tokens,
        do_sample=False,  # a sampler leaves greedy search only the token that it draws
        num_beams=1,
        repetition_penalty=1.0,  # otherwise the model's own settings apply, and may forbid the likeliest token
        no_repeat_ngram_size=0,
        pad_token_id=pad,
        eos_token_id=ends.tokens,
        bos_token_id=tokenizer.bos_token_id,
        decoder_start_token_id=decoder_start(loaded),
    )
    inputs, skipped = generation_inputs(loaded, view)
    forced = transformers.LogitsProcessorList([] if sampler is None else [Forced(sampler)])
    with own_stops(loaded, ends.texts, skipped) as criteria:
        generated: Tensor = loaded.base.generate(
            **inputs, generation_config=config, stopping_criteria=criteria, logits_processor=forced
        )
    found = generated[:, skipped:]
    rows = [_ended(row, ends.tokens) for row in found.tolist()]
    return [_stopped(row, StopTexts(tokenizer, ends.texts)) for row in rows] if ends.texts else rows


def _ended(ids: list[int], ends: Sequence[int]) -> list[int]:
    """The tokens before the first end token; all if there is none."""
    return ids[: next((at for at, token in enumerate(ids) if token in ends), len(ids))]


def _stopped(ids: list[int], stopped: StopTexts) -> list[int]:
    """The tokens up to the one that completes a stop; all if there is none.

    What follows is padding. A pad token before does not end an answer: the model may choose it like any other.
    """
    if not stopped.within(ids):
        return ids
    return next((ids[:count] for count in range(1, len(ids)) if stopped(ids[:count])), ids)

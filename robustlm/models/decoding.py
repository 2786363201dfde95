"""Runs many prompts through a decoder at once: shared beginnings are run once, and rows whose answer has ended leave.

It works on tensors and a callable and knows no model class. A prompt's positions count its own tokens, so padding may
stand anywhere in a row, also between what was shared and the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor


class Cache(Protocol):
    """Keys and values of R rows that were read, such as `transformers.DynamicCache` holds them."""

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows (int64 `[n]`), in this order; a row may be taken several times."""


Run = Callable[[Tensor, Tensor, Tensor, Cache | None], tuple[Tensor, Cache]]
"""Takes ids `[R, T]`, a mask `[R, C + T]` over what the cache holds and the ids, positions `[R, T]` and a cache; gives
logits `[R, V]` after the last id, and the cache with the ids' keys and values."""

_WORTH = 0.9
"""Sharing has to leave this part of the positions or less: it costs a pass more, and copies of the cache."""
_COMPACT = 0.75
"""Rows are dropped when this part of them or less goes on: a copy of the cache each time."""


@dataclass
class Prefilled:
    """R prompts that a model has read."""

    cache: Cache
    """Keys and values of all R rows."""
    mask: Tensor
    """Int64 `[R, C]`: 0 at padding in the cache."""
    logits: Tensor
    """`[R, V]` after each prompt."""


def prefill(run: Run, ids: Tensor, mask: Tensor, cache: Cache | None, *, share: bool = True) -> Prefilled:
    """Read prompts, each prefix that several have in common once.

    Args:
        run: The model.
        ids: Int64 `[R, T]`, padded on the left.
        mask: Int64 `[R, T]`, 0 at padding.
        cache: Empty; null, which cannot be shared, lets the model make one.
        share: False reads every prompt by itself.
    """
    prompts = [row[kept.bool()].tolist() for row, kept in zip(ids, mask, strict=True)]
    found = shared_prefixes(prompts) if share else None
    if found is not None:
        owner, lengths = found
        count = max(owner) + 1
        heads = [prompts[owner.index(k)][: lengths[k]] for k in range(count)]
        tails = [prompt[lengths[k] :] for prompt, k in zip(prompts, owner, strict=True)]
        head_ids, head_mask = left_padded(heads, ids)
        tail_ids, tail_mask = left_padded(tails, ids)
        if head_ids.numel() + tail_ids.numel() <= _WORTH * ids.numel():
            _, read = run(head_ids, head_mask, _positions(head_mask), cache)
            rows = torch.tensor(owner, device=ids.device)
            read.batch_select_indices(rows)
            cache = read
            ids, mask = tail_ids, torch.cat([head_mask[rows], tail_mask], dim=1)
    logits, read = run(ids, mask, _positions(mask)[:, -ids.shape[1] :], cache)
    return Prefilled(read, mask, logits)


def greedy(run: Run, start: Prefilled, *, ends: Sequence[int], max_new_tokens: int) -> list[list[int]]:
    """The likeliest token after each prompt, again and again: ids of R answers without their ends.

    Args:
        run: The model.
        start: Prompts that it has read; their cache is used up.
        ends: Tokens that end an answer.
        max_new_tokens: Longest answer.
    """
    answers: list[list[int]] = [[] for _ in start.mask]
    rows = torch.arange(len(answers), device=start.mask.device)
    cache, mask, positions, token = start.cache, start.mask, start.mask.sum(1), start.logits.argmax(-1)
    last = torch.tensor(ends, device=token.device)
    ended = torch.isin(token, last)
    for step in range(max_new_tokens):
        for row, new, over in zip(rows.tolist(), token.tolist(), ended.tolist(), strict=True):
            if not over:
                answers[row].append(new)
        left = int((~ended).sum())
        if not left or step == max_new_tokens - 1:
            break
        if left <= _COMPACT * len(rows):
            kept = (~ended).nonzero()[:, 0]
            cache.batch_select_indices(kept)
            rows, mask, positions, token, ended = (one[kept] for one in (rows, mask, positions, token, ended))
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        logits, cache = run(token[:, None], mask, positions[:, None], cache)
        positions, token = positions + 1, logits.argmax(-1)
        ended = ended | torch.isin(token, last)
    return answers


def shared_prefixes(prompts: Sequence[list[int]]) -> tuple[list[int], list[int]] | None:
    """Groups of prompts that begin alike: the group of each prompt, and how many tokens each group shares.

    Of all ways to cut the sorted prompts into groups, it is one with the fewest tokens to run. A prompt keeps a token
    of its own; one that shares nothing is a group by itself, of all its tokens but the last. `None` where nothing is
    shared or a prompt has one token alone.
    """
    count = len(prompts)
    if count < 2 or min(map(len, prompts)) < 2:
        return None
    order = sorted(range(count), key=lambda i: prompts[i])
    alike = [_alike(prompts[a], prompts[b]) for a, b in pairwise(order)]
    saved, begins = [0] * (count + 1), [0] * (count + 1)
    for end in range(1, count + 1):
        saved[end], begins[end] = saved[end - 1], end - 1
        shared = len(prompts[order[end - 1]]) - 1
        for begin in range(end - 2, -1, -1):
            shared = min(shared, alike[begin], len(prompts[order[begin]]) - 1)
            if not shared:
                break
            if (gain := saved[begin] + (end - begin - 1) * shared) > saved[end]:
                saved[end], begins[end] = gain, begin
    if not saved[count]:
        return None
    owner, lengths = [0] * count, []
    end = count
    while end:
        begin = begins[end]
        group = order[begin:end]
        lengths.append(min([*(len(prompts[i]) - 1 for i in group), *alike[begin : end - 1]]))
        for i in group:
            owner[i] = len(lengths) - 1
        end = begin
    return owner, lengths


def left_padded(rows: Sequence[Sequence[int]], like: Tensor) -> tuple[Tensor, Tensor]:
    """Ids and mask `[R, W]` of rows, 0 at padding; type and device are those of `like`."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids.to(like), mask.to(like)


def _positions(mask: Tensor) -> Tensor:
    """Of every token among its row's own; 0 at padding before the first."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def _alike(first: Sequence[int], second: Sequence[int]) -> int:
    """With how many equal tokens two prompts begin."""
    pairs = zip(first, second, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))

"""Runs many prompts through a decoder at once. Shared prefixes run once, and finished rows leave the batch.

The code uses tensors and a callable, and no model class. The positions of a prompt count only its own tokens, so
padding may be anywhere in a row, also between the shared prefix and the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor


class Cache(Protocol):
    """Keys and values of R rows, such as `transformers.DynamicCache`."""

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows (int64 `[n]`), in this order; a row may occur several times."""


Run = Callable[[Tensor, Tensor, Tensor, Cache | None], tuple[Tensor, Cache]]
"""Takes ids `[R, T]`, a mask `[R, C + T]` over the positions in the cache and the ids, positions `[R, T]` and a cache.
Returns logits `[R, V]` after the last id, and the cache with the keys and values of the ids added."""

Choose = Callable[[Tensor, Tensor, int], Tensor]
"""Takes logits `[n, V]`, the rows `[n]` they belong to, and the position of the token in the answer, from 0. Returns
the next token of each row, int64 `[n]`."""

Stopped = Callable[[Sequence[int]], bool]
"""Takes the tokens of one answer so far; true if a text in them ends it. The tokens are on the host already."""

_WORTH = 0.9
"""Prefixes are shared only if at most this part of the positions remains: it costs one more pass, and cache copies."""
_COMPACT = 0.75
"""Finished rows are dropped when at most this part of the rows remains, since each time the cache is copied."""


@dataclass
class Prefilled:
    """The state of a model after it has read R prompts."""

    cache: Cache
    """Keys and values of all R rows."""
    mask: Tensor
    """Int64 `[R, C]`: 0 at padding in the cache."""
    logits: Tensor
    """`[R, V]` after each prompt."""


def prefill(run: Run, ids: Tensor, mask: Tensor, cache: Cache | None, *, share: bool = True) -> Prefilled:
    """Read prompts; a prefix that several prompts share is read once.

    Args:
        run: The model.
        ids: Int64 `[R, T]`, padded on the left.
        mask: Int64 `[R, T]`, 0 at padding.
        cache: An empty cache. Null: the model creates one; prefixes cannot be shared then.
        share: Whether to share prefixes.
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


def decode(
    run: Run,
    start: Prefilled,
    choose: Choose,
    *,
    ends: Sequence[int],
    max_new_tokens: int,
    stopped: Stopped | None = None,
) -> list[list[int]]:
    """Decode token by token. Returns ids of R answers without their end tokens.

    Args:
        run: The model.
        start: The prompts that the model has read; their cache is modified.
        choose: Chooses the tokens of each step.
        ends: Tokens that end an answer.
        max_new_tokens: Longest answer.
        stopped: Whether an answer ends with the token that was added last. That token stays in the answer.
    """
    answers: list[list[int]] = [[] for _ in start.mask]
    rows = torch.arange(len(answers), device=start.mask.device)
    cache, mask, positions, token = start.cache, start.mask, start.mask.sum(1), choose(start.logits, rows, 0)
    last = torch.tensor(ends, device=token.device)
    ended = torch.isin(token, last)
    for step in range(max_new_tokens):
        halted = []
        for at, (row, new, over) in enumerate(zip(rows.tolist(), token.tolist(), ended.tolist(), strict=True)):
            if not over:
                answers[row].append(new)
                if stopped is not None and stopped(answers[row]):
                    halted.append(at)
        if halted:  # a copy to the device for the rows that end here, none for other tokens
            ended = ended.index_fill(0, torch.tensor(halted, device=ended.device), True)
        left = int((~ended).sum())
        if not left or step == max_new_tokens - 1:
            break
        if left <= _COMPACT * len(rows):
            kept = (~ended).nonzero()[:, 0]
            cache.batch_select_indices(kept)
            rows, mask, positions, token, ended = (one[kept] for one in (rows, mask, positions, token, ended))
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        logits, cache = run(token[:, None], mask, positions[:, None], cache)
        positions, token = positions + 1, choose(logits, rows, step + 1)
        ended = ended | torch.isin(token, last)
    return answers


def shared_prefixes(prompts: Sequence[list[int]]) -> tuple[list[int], list[int]] | None:
    """Group prompts with equal prefixes: the group of each prompt, and the number of tokens each group shares.

    Among all ways to split the sorted prompts into groups, this one has the fewest tokens to run. Each prompt keeps at
    least one token of its own. A prompt that shares nothing is its own group, with all its tokens except the last.
    `None` if nothing is shared or a prompt has only one token.
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
    """Ids and mask `[R, W]` of rows, 0 at padding, with the type and device of `like`."""
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids.to(like), mask.to(like)


def _positions(mask: Tensor) -> Tensor:
    """The position of every token in its row, counted without padding; 0 at padding before the first token."""
    return (mask.cumsum(-1) - 1).clamp(min=0)


def _alike(first: Sequence[int], second: Sequence[int]) -> int:
    """Number of equal tokens at the beginning of two prompts."""
    pairs = zip(first, second, strict=False)
    return next((at for at, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))

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

_OVER = -1
"""In place of a token of an answer that has ended."""
_WORTH = 0.9
"""Prefixes are shared only if at most this part of the positions remains: it costs one more pass, and cache copies."""
_COMPACT = 0.75
"""Finished rows are dropped when at most this part of the rows remains, since each time the cache is copied."""
_ALIKE = 0.8
"""Prompts are read together that are at least this part of the longest one among them."""
_LEAST = 16
"""Fewer prompts than this are not read by themselves, unless they are the last: small passes use a device badly."""
_WAIT_EVERY = 4
"""On a device with a queue of its own, the host waits for it once in so many tokens. It costs at most as many passes
less one after the last answer has ended. A CPU has no queue, and waits at each token."""


@dataclass
class Prefilled:
    """The state of a model after it has read R prompts."""

    cache: Cache
    """Keys and values of all R rows."""
    mask: Tensor
    """Int64 `[R, C]`: 0 at padding in the cache."""
    logits: Tensor
    """`[R, V]` after each prompt."""


@dataclass(frozen=True, slots=True)
class Caches:
    """Makes caches for prompts that are read in several groups."""

    new: Callable[[], Cache]
    """An empty one."""
    join: Callable[[Sequence[Cache], Sequence[Tensor], int], Cache]
    """Takes caches of groups, the rows of each (int64), and a length; returns the cache of all rows. Each row is padded
    on the left to the length."""


def prefill(
    run: Run,
    ids: Tensor,
    mask: Tensor,
    cache: Cache | None,
    *,
    share: bool = True,
    caches: Caches | None = None,
) -> Prefilled:
    """Read prompts; a prefix that several prompts share is read once.

    Prompts that share nothing and differ much in length are read in groups of similar length, without the padding of
    the longest one.

    Args:
        run: The model.
        ids: Int64 `[R, T]`, padded on the left.
        mask: Int64 `[R, T]`, 0 at padding.
        cache: An empty cache. Null: the model creates one; prefixes cannot be shared then.
        share: Whether to share prefixes.
        caches: Makes caches of groups; null: all prompts are read in one pass.
    """
    prompts = _prompts(ids, mask)
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
            caches = None
    groups = _groups(list(map(len, prompts))) if caches is not None else []
    if caches is not None and len(groups) > 1:
        return _grouped(run, prompts, groups, ids, caches)
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
    wait_every: int | None = None,
) -> list[list[int]]:
    """Decode token by token. Returns ids of R answers without their end tokens.

    Args:
        run: The model.
        start: The prompts that the model has read; their cache is modified.
        choose: Chooses the tokens of each step.
        ends: Tokens that end an answer.
        max_new_tokens: Longest answer.
        stopped: Whether an answer ends with the token that was added last. That token stays in the answer.
        wait_every: Number of tokens after which the host waits for the device, and looks which answers have ended. The
            answers do not depend on it. Null: 1 on a CPU, otherwise a few.
    """
    answers: list[list[int]] = [[] for _ in start.mask]
    kept, device = list(range(len(answers))), start.mask.device
    every = wait_every or (1 if device.type == "cpu" else _WAIT_EVERY)
    rows = torch.arange(len(answers), device=device)
    cache, mask, positions, token = start.cache, start.mask, start.mask.sum(1), choose(start.logits, rows, 0)
    last = torch.tensor(ends).to(device, non_blocking=True)
    ended = torch.isin(token, last)
    waiting = [token.masked_fill(ended, _OVER)]
    for step in range(1, max_new_tokens + 1):
        if len(waiting) == every or step == max_new_tokens:
            new = torch.stack(waiting, dim=1).tolist()  # the host waits here alone
            over = [_add(answers[row], tokens, stopped) for row, tokens in zip(kept, new, strict=True)]
            waiting, left = [], [at for at, one in enumerate(over) if not one]
            if not left or step == max_new_tokens:
                break
            ended = torch.tensor(over).to(device, non_blocking=True)
            if len(left) <= _COMPACT * len(kept):
                at = torch.tensor(left).to(device, non_blocking=True)
                cache.batch_select_indices(at)
                rows, mask, positions, token, ended = (one[at] for one in (rows, mask, positions, token, ended))
                kept = [kept[one] for one in left]
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        logits, cache = run(token[:, None], mask, positions[:, None], cache)
        positions, token = positions + 1, choose(logits, rows, step)
        ended = ended | torch.isin(token, last)
        waiting.append(token.masked_fill(ended, _OVER))
    return answers


def _add(answer: list[int], tokens: Sequence[int], stopped: Stopped | None) -> bool:
    """Add tokens to an answer up to its end; returns whether it has ended."""
    for token in tokens:
        if token == _OVER:
            return True
        answer.append(token)
        if stopped is not None and stopped(answer):
            return True
    return False


def _prompts(ids: Tensor, mask: Tensor) -> list[list[int]]:
    """The tokens of each row without padding; the host waits for the device once."""
    width = ids.shape[1]
    pairs = torch.cat([ids, mask], dim=1).tolist()
    return [[token for token, kept in zip(row[:width], row[width:], strict=True) if kept] for row in pairs]


def _groups(lengths: Sequence[int]) -> list[list[int]]:
    """Rows by length, cut into groups of similar length; each holds at least `_LEAST` rows, but the last."""
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    groups: list[list[int]] = []
    for row in order:
        if groups and (len(groups[-1]) < _LEAST or lengths[row] >= _ALIKE * lengths[groups[-1][0]]):
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _grouped(
    run: Run, prompts: Sequence[list[int]], groups: Sequence[list[int]], like: Tensor, caches: Caches
) -> Prefilled:
    """Read each group by itself, and join their caches."""
    found, rows, logits = [], [], []
    for group in groups:
        ids, mask = left_padded([prompts[row] for row in group], like)
        said, cache = run(ids, mask, _positions(mask), caches.new())
        found.append(cache)
        logits.append(said)
        rows.append(torch.tensor(group, device=like.device))
    width = max(map(len, prompts))
    whole = left_padded(prompts, like)[1]
    back = torch.cat(rows).argsort()
    return Prefilled(caches.join(found, rows, width), whole, torch.cat(logits)[back])


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

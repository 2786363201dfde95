"""Runs many prompts through a decoder at once. Shared prefixes run once, and finished rows leave the batch.

The code uses tensors and a callable, and no model class. The positions of a prompt count only its own tokens, so
padding may be anywhere in a row, also between the shared prefix and the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor, nn


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
    chosen: Callable[[Cache, Tensor], Cache]
    """Takes a cache and rows (int64); returns a new cache of these rows, in this order. A row may occur several
    times."""
    join: Callable[[Sequence[Cache], Sequence[Tensor], int], Cache]
    """Takes caches of groups, the rows of each (int64), and a length; returns the cache of all rows. Each row is padded
    on the left to the length."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the prompts of a batch, of similar length, and what the model has read of them."""

    rows: list[int]
    """Their numbers among the prompts."""
    begun: list[int]
    """For each of them, the number of its first tokens that the cache holds."""
    mask: Tensor
    """Int64 `[n, C]`: 0 at padding in the cache."""
    cache: Cache
    """Keys and values of the first tokens of these rows alone; empty if nothing is shared."""


@dataclass(frozen=True, slots=True)
class _Plan:
    """In which order prompts are read."""

    prefixes: tuple[list[int], list[int]] | None
    """See `shared_prefixes`; null: prompts share nothing, or too little."""
    groups: list[list[int]]
    """The prompts of each pass."""

    def begun(self, row: int) -> int:
        """Number of tokens of a prompt that are in its shared prefix."""
        if self.prefixes is None:
            return 0
        owner, lengths = self.prefixes
        return lengths[owner[row]]

    def heads(self, prompts: Sequence[list[int]]) -> list[list[int]]:
        """The shared prefixes."""
        assert self.prefixes is not None
        owner, lengths = self.prefixes
        return [prompts[owner.index(k)][:length] for k, length in enumerate(lengths)]


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

    What remains of prompts that differ much in length is read in groups of similar length, without the padding of the
    longest one.

    Args:
        run: The model.
        ids: Int64 `[R, T]`, padded on the left.
        mask: Int64 `[R, T]`, 0 at padding.
        cache: An empty cache. Null: the model creates one; prefixes cannot be shared then.
        share: Whether to share prefixes.
        caches: Makes caches of groups; null: all prompts are read in one pass.
    """
    prompts = _prompts(ids, mask)
    if caches is None:
        every = [list(range(len(prompts)))]
        plan = _plan(prompts, [0] * len(prompts), share=share, groups_of=lambda _: every)
    else:
        plan = _plan(prompts, [0] * len(prompts), share=share, groups_of=_groups)
        if len(plan.groups) > 1:
            return _grouped(run, prompts, plan, ids, caches)
    if plan.prefixes is not None:
        head_ids, head_mask = left_padded(plan.heads(prompts), ids)
        _, cache = run(head_ids, head_mask, _positions(head_mask), cache)
        rows = torch.tensor(plan.prefixes[0], device=ids.device)
        cache.batch_select_indices(rows)
        ids, tail_mask = left_padded([prompt[plan.begun(row) :] for row, prompt in enumerate(prompts)], ids)
        mask = torch.cat([head_mask[rows], tail_mask], dim=1)
    logits, read = run(ids, mask, _positions(mask)[:, -ids.shape[1] :], cache)
    return Prefilled(read, mask, logits)


def parts(
    run: Run, prompts: Sequence[list[int]], behind: Sequence[int], like: Tensor, caches: Caches, *, most: int
) -> Iterator[Part]:
    """Read what prompts share, and cut them into parts of similar length for whoever reads the rest.

    Args:
        run: The model.
        prompts: Their tokens. The last token of a prompt is never in its shared prefix.
        behind: For each prompt, how many more tokens will be read behind it.
        like: A tensor of the type and on the device of ids.
        caches: Makes caches of parts.
        most: Most prompts of a part.
    """
    plan = _plan(prompts, behind, share=True, groups_of=lambda lengths: _groups(lengths, most))
    yield from _parts(run, prompts, plan, like, caches)


def _plan(
    prompts: Sequence[list[int]],
    behind: Sequence[int],
    *,
    share: bool,
    groups_of: Callable[[Sequence[int]], list[list[int]]],
) -> _Plan:
    """What is read in which passes: prefixes are shared if enough positions are saved."""
    whole = [len(prompt) + more for prompt, more in zip(prompts, behind, strict=True)]
    alone = _Plan(None, groups_of(whole))
    found = shared_prefixes(prompts) if share else None
    if found is None:
        return alone
    owner, lengths = found
    rest = [length - lengths[k] for length, k in zip(whole, owner, strict=True)]
    shared = _Plan(found, groups_of(rest))
    positions = len(lengths) * max(lengths) + _padded(shared.groups, rest)
    return shared if positions <= _WORTH * _padded(alone.groups, whole) else alone


def _padded(groups: Sequence[Sequence[int]], lengths: Sequence[int]) -> int:
    """Number of positions of all passes, with padding."""
    return sum(len(group) * max(lengths[row] for row in group) for group in groups)


def _parts(run: Run, prompts: Sequence[list[int]], plan: _Plan, like: Tensor, caches: Caches) -> Iterator[Part]:
    """The prompts of each pass, after the shared prefixes have been read."""
    if plan.prefixes is None:
        for group in plan.groups:
            yield Part(group, [0] * len(group), like.new_zeros(len(group), 0), caches.new())
        return
    ids, mask = left_padded(plan.heads(prompts), like)
    _, read = run(ids, mask, _positions(mask), caches.new())
    for group in plan.groups:
        rows = torch.tensor([plan.prefixes[0][row] for row in group], device=like.device)
        yield Part(group, [plan.begun(row) for row in group], mask[rows], caches.chosen(read, rows))


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


def _groups(lengths: Sequence[int], most: int | None = None) -> list[list[int]]:
    """Rows by length, cut into groups of similar length.

    Each group holds at least `_LEAST` rows, except the last one and where `most` is less.
    """
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    groups: list[list[int]] = []
    for row in order:
        alike = bool(groups) and (len(groups[-1]) < _LEAST or lengths[row] >= _ALIKE * lengths[groups[-1][0]])
        if alike and len(groups[-1]) != most:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


def _grouped(run: Run, prompts: Sequence[list[int]], plan: _Plan, like: Tensor, caches: Caches) -> Prefilled:
    """Read each group by itself, and join their caches."""
    found, rows, masks, logits = [], [], [], []
    for part in _parts(run, prompts, plan, like, caches):
        ids, tails = left_padded([prompts[row][at:] for row, at in zip(part.rows, part.begun, strict=True)], like)
        mask = torch.cat([part.mask, tails], dim=1)
        said, cache = run(ids, mask, _positions(mask)[:, -ids.shape[1] :], part.cache)
        found.append(cache)
        masks.append(mask)
        logits.append(said)
        rows.append(torch.tensor(part.rows, device=like.device))
    width = max(mask.shape[1] for mask in masks)
    whole = torch.cat([nn.functional.pad(mask, (width - mask.shape[1], 0)) for mask in masks])
    back = torch.cat(rows).argsort()
    return Prefilled(caches.join(found, rows, width), whole[back], torch.cat(logits)[back])


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

"""Log-likelihoods of options after their prompts."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from robustlm.batch import IGNORE, View
from robustlm.losses import answer_cross_entropy
from robustlm.models.answers import answers
from robustlm.models.base import OptionScores
from robustlm.models.caches import Reader, cache_layers, has_plain_cache, longest, new_cache, plain_caches
from robustlm.models.decoding import prefill
from robustlm.models.loaded import LoadedModel


@torch.no_grad()
def option_scores(loaded: LoadedModel, options: View, rows: Tensor, pass_rows: int) -> OptionScores:
    """Log-likelihood of every option under teacher forcing, without dropout.

    End of sequence counts, as in training: the score is for exactly this answer, not for all answers that begin with
    it. So options that differ in one token differ in the scores of that token, of the following tokens and of the end.

    Args:
        loaded: The model.
        options: O rows, each a prompt with one option as its answer. Options of the same row have the same prompt.
        rows: Int64 `[O]`: the row each option belongs to.
        pass_rows: Most options in one forward pass; options of similar length run together.
    """
    with loaded.evaluating():
        shares = len(rows) > len(torch.unique(rows)) and bool(cache_layers(loaded, longest(options)))
        sums = torch.empty(len(rows), 2, dtype=torch.float64)
        for chosen in _passes(options, rows, pass_rows):
            part = options.select(chosen, encoder_decoder=loaded.is_encoder_decoder)
            found = _shared(loaded, part, rows[chosen]) if shares else _alone(loaded, part)
            sums[chosen.cpu()] = found.cpu().double()
    dtype = torch.float64 if loaded.dtype == torch.float64 else torch.float32
    lengths = (options.labels != IGNORE).sum(1).cpu()
    return OptionScores(sums[:, 0].to(dtype), lengths, rows.cpu(), sums[:, 1].to(dtype))


def _alone(loaded: LoadedModel, options: View) -> Tensor:
    """Log-likelihood of options and of their last token, `[O, 2]`; each runs with its whole prompt."""
    said = answers(loaded, options, loaded.embed(options.input_ids), "last")
    last = _last(said.rows)
    return -torch.stack(
        [
            answer_cross_entropy(said.logits, said.targets, said.rows, len(options)),
            answer_cross_entropy(said.logits[last], said.targets[last], said.rows[last], len(options)),
        ],
        dim=1,
    )


def _last(rows: Tensor) -> Tensor:
    """Bool `[n]`: whether a token is the last of its row; tokens are in the order of rows."""
    return torch.cat([rows[1:] != rows[:-1], rows.new_ones(1).bool()])


def _shared(loaded: LoadedModel, options: View, rows: Tensor) -> Tensor:
    """As `_alone`, for decoder-only models: a prompt runs once for all options of its row."""
    answered = options.labels != IGNORE
    prompted = options.attention_mask.bool() & ~answered
    heads, owner = torch.unique(rows, return_inverse=True)
    first = torch.stack([(rows == head).nonzero()[0, 0] for head in heads])
    prompts, mask = _packed(options.input_ids[first], prompted[first], left=True)
    tokens, given = _packed(options.labels, answered, left=False)

    plain = has_plain_cache(loaded, longest(options))
    run = Reader(loaded)
    room = tokens.shape[1]
    caches = plain_caches(loaded, room) if plain else None
    read = prefill(run, prompts, mask, new_cache(loaded, room) if plain else None, share=plain, caches=caches)
    mask, cache = read.mask, read.cache
    lengths = mask.sum(1)
    start = read.logits[owner]
    scores = -answer_cross_entropy(start, tokens[:, 0], torch.arange(len(owner), device=owner.device), len(owner))
    ends = scores  # of options whose first token is their last
    keep = given[:, 1:].bool()
    if keep.any():
        cache.batch_select_indices(owner)
        positions = lengths[owner][:, None] + torch.arange(keep.shape[1], device=owner.device)
        seen = torch.cat([mask[owner], given[:, :-1]], dim=1)
        rest, _ = run.at(keep.flatten().nonzero()[:, 0], tokens[:, :-1], seen, positions, cache)
        targets, at = tokens[:, 1:][keep], keep.nonzero()[:, 0]
        scores = scores - answer_cross_entropy(rest, targets, at, len(owner))
        last = _last(at)
        longer = -answer_cross_entropy(rest[last], targets[last], at[last], len(owner))
        ends = torch.where(keep.any(1), longer, ends)
    return torch.stack([scores, ends], dim=1)


def _passes(options: View, rows: Tensor, size: int) -> Iterator[Tensor]:
    """The options of each forward pass: options of a row stay together, and rows of similar length."""
    lengths = options.attention_mask.sum(1)
    own = rows.to(lengths.device)
    most = torch.zeros(int(rows.max()) + 1, dtype=lengths.dtype, device=lengths.device)
    most = most.scatter_reduce(0, own, lengths, "amax")[own]
    order = most.argsort(descending=True, stable=True)
    # options of a row stay together, because the sort is stable and rows ascend
    yield from torch.split(order, size)


def _packed(ids: Tensor, kept: Tensor, *, left: bool) -> tuple[Tensor, Tensor]:
    """Move the kept tokens of each row to one side of `[R, W]`; also returns their mask. 0 at padding."""
    rows = [row[own] for row, own in zip(ids, kept, strict=True)]
    width = max(len(row) for row in rows)
    found = ids.new_zeros(len(rows), width)
    mask = ids.new_zeros(len(rows), width)
    for i, row in enumerate(rows):
        at = slice(width - len(row), width) if left else slice(0, len(row))
        found[i, at], mask[i, at] = row, 1
    return found, mask

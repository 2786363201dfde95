"""Log-likelihoods of options after their prompts."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from robustlm.batch import IGNORE, View
from robustlm.losses import answer_cross_entropy
from robustlm.models.answers import answers
from robustlm.models.base import AnswerOutput, OptionScores
from robustlm.models.caches import Reader, cache_layers, has_plain_cache, longest, new_cache, plain_caches
from robustlm.models.decoding import prefill
from robustlm.models.loaded import LoadedModel
from robustlm.models.parallel import Question, keeps_apart, scored


@torch.no_grad()
def option_scores(loaded: LoadedModel, options: View, rows: Tensor, pass_rows: int) -> OptionScores:
    """Log-likelihood of every option under teacher forcing, without dropout.

    End of sequence counts, as in training: the score is for exactly this answer, not for all answers that begin with
    it. So options that differ in one token differ in the scores of that token, of the following tokens and of the end.

    Args:
        loaded: The model.
        options: O rows, each a prompt with one option as its answer. Options of the same row have the same prompt.
        rows: Int64 `[O]`: the row each option belongs to.
        pass_rows: Most rows in one forward pass; rows of similar length run together. A row is a prompt with all its
            options where the model can read them so, otherwise one option.
    """
    with loaded.evaluating():
        sums = torch.empty(len(rows), 2, dtype=torch.float64)
        left = torch.arange(len(rows), device=options.input_ids.device)
        several = len(rows) > len(torch.unique(rows))
        cached = several and bool(cache_layers(loaded, longest(options)))
        if cached and has_plain_cache(loaded, longest(options)) and keeps_apart(loaded):
            questions = questions_of(options)
            narrow = [question for question in questions if question.narrow]
            if narrow:
                found, numbers = scored(loaded, narrow, pass_rows)
                sums[numbers] = found
            wide = sorted(number for question in questions if not question.narrow for number in question.numbers)
            left = left[wide]
        of = rows.to(left.device)
        for chosen in _passes(options, of, left, pass_rows):
            part = options.select(chosen, encoder_decoder=loaded.is_encoder_decoder)
            run = _shared if cached else _encoded_once if several and loaded.is_encoder_decoder else _alone
            sums[chosen.cpu()] = run(loaded, part, of[chosen]).cpu().double()
    dtype = torch.float64 if loaded.dtype == torch.float64 else torch.float32
    lengths = (options.labels != IGNORE).sum(1).cpu()
    return OptionScores(sums[:, 0].to(dtype), lengths, rows.cpu(), sums[:, 1].to(dtype))


def questions_of(options: View) -> list[Question]:
    """The options of each prompt. Options without a token, or with earlier replies in their labels, are refused.

    Raises:
        ValueError: The labels of an option are not the end of its row.
    """
    found: dict[tuple[int, ...], Question] = {}
    lines = zip(options.input_ids.tolist(), options.attention_mask.tolist(), options.labels.tolist(), strict=True)
    for number, (ids, mask, labels) in enumerate(lines):
        answer = [label for label in labels if label != IGNORE]
        row = [token for token, read in zip(ids, mask, strict=True) if read]
        if not answer or len(answer) == len(row) or labels[-len(answer) :] != answer:
            raise ValueError(f"options: the answer of row {number} is not the end of a row with a prompt before it")
        prompt = row[: -len(answer)]
        question = found.setdefault(tuple(prompt), Question(prompt))
        question.numbers.append(number)
        question.answers.append(answer)
    return list(found.values())


def _alone(loaded: LoadedModel, options: View, rows: Tensor) -> Tensor:
    """Log-likelihood of options and of their last token, `[O, 2]`; each runs with its whole prompt."""
    return _summed(answers(loaded, options, loaded.embed(options.input_ids), "last"), len(options))


def _encoded_once(loaded: LoadedModel, options: View, rows: Tensor) -> Tensor:
    """As `_alone`, for encoder–decoders: the encoder reads a prompt once for all options of its row."""
    said = answers(loaded, options, loaded.embed(options.input_ids), "last", prompts=rows)
    return _summed(said, len(options))


def _summed(said: AnswerOutput, count: int) -> Tensor:
    """Log-likelihood of each of the options and of its last token, `[O, 2]`."""
    last = _last(said.rows)
    return -torch.stack(
        [
            answer_cross_entropy(said.logits, said.targets, said.rows, count),
            answer_cross_entropy(said.logits[last], said.targets[last], said.rows[last], count),
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


def _passes(options: View, rows: Tensor, chosen: Tensor, size: int) -> Iterator[Tensor]:
    """The options of each forward pass, of those that are chosen, and which ascend.

    Options of a row stay together, and rows of similar length.
    """
    if not len(chosen):
        return
    lengths = options.attention_mask.sum(1)
    most = torch.zeros(int(rows.max()) + 1, dtype=lengths.dtype, device=lengths.device)
    most = most.scatter_reduce(0, rows, lengths, "amax")[rows[chosen]]
    order = most.argsort(descending=True, stable=True)
    # options of a row stay together, because the sort is stable and rows ascend
    yield from torch.split(chosen[order], size)


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

"""Scores all options of a prompt in the prompt's own row: one pass reads the prompt and every option behind it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile

import torch
from torch import Tensor

from robustlm.models.caches import Reader, new_cache, plain_caches
from robustlm.models.decoding import Part, left_padded, parts
from robustlm.models.loaded import LoadedModel
from robustlm.models.masks import known_padding
from robustlm.models.probing import tolerance
from robustlm.models.segments import Segments

log = logging.getLogger(__name__)

_NARROW = 64
"""Options of so many tokens in all may always stand behind their prompt. More may, if the prompt is as long: each of
their tokens computes attention over all of them, and masks it."""
_LEAK = 0.05
"""How much a continuation may change another one, as a share of what it changes without a mask between them."""


@dataclass
class Question:
    """A prompt and its options."""

    prompt: list[int]
    """Its tokens."""
    numbers: list[int] = field(default_factory=list)
    """The number of each option."""
    answers: list[list[int]] = field(default_factory=list)
    """The tokens of each option, at least one."""

    @property
    def common(self) -> int:
        """Number of tokens with which all options begin; the last token of an option is not among them."""
        alike = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*self.answers, strict=False))
        return min(len(list(alike)), *(len(answer) - 1 for answer in self.answers))

    @property
    def width(self) -> int:
        """Number of tokens that are read behind the prompt."""
        common = self.common
        return common + sum(len(answer) - 1 - common for answer in self.answers)

    @property
    def narrow(self) -> bool:
        """Whether the options may stand behind the prompt."""
        return self.width <= max(_NARROW, len(self.prompt))


@dataclass
class _Row:
    """A row of a pass: the rest of a prompt, the tokens with which all options begin, and the rest of each option."""

    ids: list[int]
    positions: list[int]
    segments: list[int]
    """The number of the option that a token belongs to, from 1; 0 for tokens that all options read."""
    asked: list[tuple[int, int, int]] = field(default_factory=list)
    """What is asked of the logits: the place in the row, the token whose likelihood is taken, and the option."""

    @classmethod
    def of(cls, question: Question, begun: int) -> _Row:
        """The row of a question whose prompt's first `begun` tokens are read already."""
        common, (first, *_) = question.common, question.answers
        ids = question.prompt[begun:] + first[:common]
        row = cls(ids, list(range(begun, begun + len(ids))), [0] * len(ids))
        end, after = len(row.ids) - 1, begun + len(ids)
        for segment, (number, answer) in enumerate(zip(question.numbers, question.answers, strict=True), start=1):
            own = answer[common:-1]
            places = [*range(end - common, end + 1), *range(len(row.ids), len(row.ids) + len(own))]
            row.asked += [(place, token, number) for place, token in zip(places, answer, strict=True)]
            row.ids += own
            row.positions += range(after, after + len(own))
            row.segments += [segment] * len(own)
        return row


@torch.no_grad()
def scored(loaded: LoadedModel, questions: Sequence[Question], pass_rows: int) -> tuple[Tensor, Tensor]:
    """Log-likelihoods of options and of their last token, `[O, 2]` (fp64), and the numbers of these options, `[O]`.

    Args:
        loaded: A model with `has_plain_cache` that `keeps_apart` continuations.
        questions: Prompts with their options.
        pass_rows: Most prompts in one pass.
    """
    like = torch.zeros(1, dtype=torch.long, device=loaded.device)
    prompts, behind = [question.prompt for question in questions], [question.width for question in questions]
    order = torch.tensor([number for question in questions for number in question.numbers])
    found = torch.zeros(int(order.max()) + 1, 2, dtype=torch.float64)
    caches = plain_caches(loaded, 0)
    for part in parts(Reader(loaded), prompts, behind, like, caches, most=pass_rows):
        rows = [_Row.of(questions[row], begun) for row, begun in zip(part.rows, part.begun, strict=True)]
        values, numbers, last = _read(loaded, part, rows, like)
        found[:, 0].index_add_(0, numbers, values)
        found[:, 1].index_add_(0, numbers[last], values[last])
    return found[order], order


def _read(loaded: LoadedModel, part: Part, rows: Sequence[_Row], like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-likelihoods `[m]` (fp64) of all tokens that are asked, their options, and whether a token is its last."""
    ids, mask = left_padded([row.ids for row in rows], like)
    positions, _ = left_padded([row.positions for row in rows], like)
    segments, _ = left_padded([row.segments for row in rows], like)
    width = ids.shape[1]
    asked = torch.tensor(
        [
            (at * width + width - len(row.ids) + place, token, number)
            for at, row in enumerate(rows)
            for place, token, number in row.asked
        ]
    )
    numbers = asked[:, 2]
    last = torch.cat([numbers[1:] != numbers[:-1], numbers.new_ones(1).bool()])  # options are asked one by one
    places, tokens = asked[:, 0].to(like.device), asked[:, 1].to(like.device)
    places, at = torch.unique(places, return_inverse=True)
    apart = Segments(torch.cat([torch.zeros_like(part.mask), segments], dim=1))
    with known_padding(apart):
        logits, _ = Reader(loaded).at(places, ids, torch.cat([part.mask, mask], dim=1), positions, part.cache)
    if not apart.asked:
        raise ValueError(f"{type(loaded.base).__name__} makes its attention mask itself; options cannot share a row")
    wide = torch.promote_types(logits.dtype, torch.float32)
    return logits.log_softmax(-1, dtype=wide)[at, tokens].double().cpu(), numbers, last


def keeps_apart(loaded: LoadedModel) -> bool:
    """Whether a model can read several continuations of a prompt in one row; found out once, on a few tokens.

    Models differ in how they make masks and positions, and no list of them would be complete. So the model itself reads
    a prompt with two continuations, with a part of the prompt in a cache. It must find what it finds for each
    continuation alone without a cache, find it whatever the other continuation says, and take distances from the
    positions that it is given. A model that does not is answered for in other ways, and the log says so.
    """
    check = loaded.segments
    if check.kept_apart is None:
        try:
            with loaded.evaluating(), torch.autocast(loaded.device.type, enabled=False):
                reason = _mixed(loaded)
        except Exception as error:  # code of any model; it says in many ways that it cannot read such a mask
            reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        if reason is not None:
            log.warning("options do not share a row with their prompt, which takes more time: %s", reason)
        check.kept_apart = reason is None
    return check.kept_apart


@torch.no_grad()
def _mixed(loaded: LoadedModel) -> str | None:
    """What differs if continuations share a row; null if nothing does."""
    name = type(loaded.base).__name__
    if _ignores_positions(loaded):  # such as those with ALiBi; its error is too small to be seen on a few tokens
        return f"{name} takes distances from places in the row, and not from the positions that it is given"
    size: int = loaded.base.get_input_embeddings().weight.shape[0]
    prompts = [[(7 * at + start) % size for at in range(length)] for length, start in ((9, 3), (6, 40))]
    ends, others = [[[2, 5, 3], [4, 1]], [[6, 2], [3, 5, 1, 4]]], [[[8, 9, 7], [4, 1]], [[9, 8], [3, 5, 1, 4]]]
    questions, changed = (
        [
            Question(prompt, [0, 1], [[token % size for token in end] for end in two])
            for prompt, two in zip(prompts, given, strict=True)
        ]
        for given in (ends, others)
    )
    together, second = _probed(loaded, questions)
    wanted = torch.cat([_alone(loaded, one.prompt, answer) for one in questions for answer in one.answers])
    distance, limit = float((together - wanted).norm() / wanted.norm()), tolerance(loaded.dtype)
    if distance > limit:
        return f"{name} gives them other likelihoods there (by {distance:.2g}, expected {limit:g})"
    kept = (_probed(loaded, changed)[0] - together)[second].norm()
    mixed = (_probed(loaded, changed, apart=False)[0] - _probed(loaded, questions, apart=False)[0])[second].norm()
    if kept > _LEAK * mixed:
        return f"{name} lets one change the likelihood of another (by {kept:.2g} nats; {mixed:.2g} without a mask)"
    return None


def _probed(loaded: LoadedModel, questions: Sequence[Question], *, apart: bool = True) -> tuple[Tensor, Tensor]:
    """Log-likelihoods of all tokens of continuations in shared rows, and whether they are of a second continuation.

    Args:
        loaded: The model.
        questions: Prompts of more than four tokens, of which the first four are read into a cache.
        apart: Whether continuations are kept apart.
    """
    like = torch.zeros(1, dtype=torch.long, device=loaded.device)
    ids, mask = left_padded([question.prompt[:4] for question in questions], like)
    _, cache = Reader(loaded)(ids, mask, mask.cumsum(1) - 1, new_cache(loaded))
    rows = [_Row.of(question, 4) for question in questions]
    if not apart:
        rows = [replace(row, segments=[0] * len(row.ids)) for row in rows]
    values, numbers, _ = _read(loaded, Part([0, 1], [4, 4], mask, cache), rows, like)
    return values, numbers == 1


def _alone(loaded: LoadedModel, prompt: list[int], answer: list[int]) -> Tensor:
    """Log-likelihoods of the tokens of a continuation that has a row of its own, without a cache."""
    row = torch.tensor([prompt + answer], device=loaded.device)
    logits = loaded.base(input_ids=row, use_cache=False).logits[0, -len(answer) - 1 : -1]
    wide = torch.promote_types(logits.dtype, torch.float32)
    found: Tensor = logits.log_softmax(-1, dtype=wide).gather(1, row[0, -len(answer) :, None])[:, 0]
    return found.double().cpu()


def _ignores_positions(loaded: LoadedModel) -> bool:
    """Whether a model computes the same, bit by bit, if the second half of a row stands further away."""
    size: int = loaded.base.get_input_embeddings().weight.shape[0]
    ids = torch.tensor([[(5 * at + 2) % size for at in range(8)]], device=loaded.device)
    near = torch.arange(8, device=loaded.device)[None]
    far = near + 9 * (near >= 4)
    found = [loaded.base(input_ids=ids, position_ids=at, use_cache=False).logits[0, -1] for at in (near, far)]
    return torch.equal(*found)

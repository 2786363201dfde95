"""Answers drawn at a temperature, each from random numbers of its own.

A token is chosen by one uniform number: the first token, in the order of the vocabulary, at which the summed
probabilities exceed it. The number is a hash of the seed, of what is asked and of the position in the answer. So an
answer does not depend on the other rows of its batch, on the batch size or on the number of processes, except where
rounding moves a probability across the number.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from robustlm.batch import View
from robustlm.checks.numbers import check_number, check_seed
from robustlm.models.wide import wide
from robustlm.utils.random import drawn

_DRAWN = 8
"""Steps whose random numbers are drawn at once for a device other than the CPU."""
_BITS = 48
"""Bits of a uniform number: few enough that its product with a sum of probabilities stays below that sum."""


@dataclass
class Generation:
    """How a local model chooses the tokens of an answer (the likeliest, or one drawn at a temperature) and ends it."""

    temperature: float = 0.0
    """Temperature of sampling; 0 takes the likeliest token."""
    top_p: float | None = None
    """Share of probability that sampling draws from: the likeliest tokens that reach it; null: all tokens."""
    top_k: int | None = None
    """Number of likeliest tokens that sampling draws from; null: all tokens."""
    seed: int = 0
    """Seed of sampling."""
    stop: list[str] = field(default_factory=list)
    """Texts that end an answer, beside the `stop_strings` of the model's generation_config. The answer is the text
    before the first of them."""

    def __post_init__(self) -> None:
        check_number("generation.temperature", self.temperature, least=0)
        check_number("generation.top_p", self.top_p, above=0, most=1, or_null="for all tokens")
        check_number("generation.top_k", self.top_k, least=1, whole=True, or_null="for all tokens")
        check_seed("generation.seed", self.seed)
        if not isinstance(self.stop, list) or not all(isinstance(text, str) and text for text in self.stop):
            raise ValueError(f"generation.stop: found {self.stop!r}; expected a list of texts that are not empty")
        if not self.temperature:
            for name in ("top_p", "top_k"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"generation.{name}: found {getattr(self, name)} with temperature 0, which takes the likeliest "
                        "token; expected null, or a temperature above 0"
                    )

    @property
    def described(self) -> str | None:
        """The settings in one text; null if the likeliest token is taken and no text ends an answer."""
        parts = []
        if self.temperature:
            parts += [f"temperature {self.temperature:g}, top_p {self.top_p}, top_k {self.top_k}, seed {self.seed}"]
        if self.stop:
            parts += [f"stop {json.dumps(sorted(set(self.stop)), ensure_ascii=False)}"]
        return ", ".join(parts) or None


def likeliest(logits: Tensor, rows: Tensor, step: int) -> Tensor:
    """The likeliest token of each row, int64 `[n]`; see `decoding.Choose`."""
    return logits.argmax(-1)


class Sampler:
    """Draws the next token of each row; see `decoding.Choose`.

    Args:
        how: Temperature, limits and seed.
        keys: What is asked, as a number for each of R rows; the random numbers of a row depend on it.
    """

    def __init__(self, how: Generation, keys: Sequence[int]) -> None:
        self._how = how
        self._keys = keys
        self._block = -1
        self._numbers = torch.empty(0)

    def __call__(self, logits: Tensor, rows: Tensor, step: int) -> Tensor:
        """Tokens, int64 `[n]`.

        Args:
            logits: `[n, V]`.
            rows: Int64 `[n]`: which of the R rows these are.
            step: Position of the token in the answer, from 0.
        """
        sums = self._kept(wide(logits) / self._how.temperature).cumsum(-1)
        at = rows if rows.device == sums.device else rows.to(sums.device)
        wanted = self._uniform(step, sums.device)[at, None] * sums[:, -1:]
        return (sums <= wanted).sum(-1).to(logits.device)

    def _uniform(self, step: int, device: torch.device) -> Tensor:
        """A number in [0, 1) for each of the R rows, fp64. Those of several steps are moved to a device at once."""
        steps = 1 if device.type == "cpu" else _DRAWN
        block, at = divmod(step, steps)
        if block != self._block or self._numbers.device != device:
            seed, first = self._how.seed, block * steps
            numbers = [
                [(drawn("token", seed, key, first + one) >> (64 - _BITS)) / 2**_BITS for key in self._keys]
                for one in range(steps)
            ]
            found = torch.tensor(numbers, dtype=torch.float64)
            self._numbers = found if device.type == "cpu" else found.to(device, non_blocking=True)
            self._block = block
        return self._numbers[at]

    def _kept(self, scaled: Tensor) -> Tensor:
        """Probabilities `[n, V]` of the tokens that are drawn from, 0 for others; they need not sum to 1."""
        how = self._how
        if how.top_k is not None and how.top_k < scaled.shape[-1]:
            least = scaled.topk(how.top_k).values[:, -1:]
            scaled = scaled.masked_fill(scaled < least, -torch.inf)
        shares = scaled.softmax(-1)
        if how.top_p is None or how.top_p == 1:
            return shares
        ordered, places = shares.sort(dim=-1, descending=True, stable=True)
        beyond = ordered.cumsum(-1) - ordered >= how.top_p
        return shares.masked_fill(torch.zeros_like(beyond).scatter(-1, places, beyond), 0.0)


class Forced:
    """A logits processor of transformers: leaves only the token that a `Sampler` draws, so greedy search takes it.

    Args:
        choose: Draws the tokens.
    """

    def __init__(self, choose: Sampler) -> None:
        self._choose = choose
        self._step = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores `[R, V]` of one step; called once in each step, with all rows."""
        token = self._choose(scores, torch.arange(len(scores)), self._step)
        self._step += 1
        return torch.full_like(scores, -torch.inf).scatter(-1, token[:, None], 0.0)


def keys_of_rows(view: View) -> Sequence[int]:
    """What the random numbers of each row depend on: the key that the view gives, otherwise the prompt."""
    if view.keys:
        return view.keys
    prompts = zip(view.input_ids, view.attention_mask.bool(), strict=True)
    return [drawn("prompt", *ids[kept].tolist()) for ids, kept in prompts]

"""What a model gives back: logits at answer positions, pooled states, scores of options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Pooling = Literal["last", "prompt_end", "mean", "max"]
"""Which final hidden state stands for a row: that of the last token of prompt + answer, of the prompt's last token, or
the mean or maximum over all tokens, padding left out. An encoder–decoder's are the states of its decoder, so
`prompt_end` is the state that has read the prompt and no answer."""


@dataclass
class Answers:
    """What a model says at the answer positions of a view with R rows."""

    logits: Tensor
    """`[n, V]`: at the n answer tokens of all rows, row by row."""
    targets: Tensor
    """Int64 `[n]`: the trained tokens there."""
    rows: Tensor
    """Int64 `[n]`: the row each belongs to."""
    state: Tensor
    """`[R, H]`: the row's final hidden states (after the last norm), pooled as asked."""


@dataclass
class OptionScores:
    """How likely a model finds each of O options, each after its prompt; tensors on the CPU."""

    log_likelihood: Tensor
    """fp32 (or fp64) `[O]`: summed over the option's tokens, end of sequence among them."""
    tokens: Tensor
    """Int64 `[O]`: how many those are."""
    rows: Tensor
    """Int64 `[O]`: the row each option belongs to."""

    def best(self, row: int) -> int:
        """Which of a row's options has the highest log-likelihood a token; the first of equals."""
        mean = (self.log_likelihood / self.tokens)[self.rows == row].tolist()
        return max(range(len(mean)), key=mean.__getitem__)

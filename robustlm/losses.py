"""Losses as pure functions on tensors."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def answer_cross_entropy(logits: Tensor, targets: Tensor, rows: Tensor, count: int) -> Tensor:
    """Cross-entropy of answer tokens, summed within each row.

    Args:
        logits: `[n, V]`, any floating dtype; computed on in fp32 (fp64 stays).
        targets: Int64 `[n]`, the tokens that the logits should give.
        rows: Int64 `[n]`, the row each answer token belongs to.
        count: Number of rows R.

    Returns:
        `[R]`, fp32 (or fp64): zero, still differentiable, for rows without answer tokens.
    """
    wide = logits if logits.dtype == torch.float64 else logits.float()
    tokens = F.cross_entropy(wide, targets, reduction="none")
    return tokens.new_zeros(count).index_add(0, rows, tokens)

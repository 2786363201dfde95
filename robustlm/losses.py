"""Losses as pure functions on tensors."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Direction = Literal["forward", "reverse", "js"]
"""Kind of divergence between the answers to a paraphrase (P) and to the reference (Q): KL(P‖Q), KL(Q‖P), or JS."""


def answer_cross_entropy(logits: Tensor, targets: Tensor, rows: Tensor, count: int) -> Tensor:
    """Cross-entropy of answer tokens, summed within each row.

    Args:
        logits: `[n, V]`, any floating dtype; the computation is in fp32 (fp64 for fp64 inputs).
        targets: Int64 `[n]`, the true tokens.
        rows: Int64 `[n]`, the row each answer token belongs to.
        count: Number of rows R.

    Returns:
        `[R]`, fp32 (or fp64). Rows without answer tokens get zero, which is still differentiable.
    """
    return row_sums(token_cross_entropy(logits, targets), rows, count)


def token_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy `[n]` of each answer token; arguments as in `answer_cross_entropy`."""
    return F.cross_entropy(_wide(logits), targets, reduction="none")


def row_sums(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """Sums `[count]` of values `[n]` within rows; `rows`, Int64 `[n]`, gives the row of each value."""
    return values.new_zeros(count).index_add(0, rows, values)


def divergence(
    logits: Tensor,
    reference: Tensor,
    direction: Direction = "forward",
    *,
    temperature: float = 1.0,
    detach_reference: bool = False,
) -> Tensor:
    """Divergence between two predictions of each token ([ALIGN] fig. 7 uses `forward`: the paraphrase comes first).

    Args:
        logits: `[n, V]` under the paraphrase; the computation is in fp32 (fp64 for fp64 inputs).
        reference: `[n, V]` under the reference instruction.
        direction: `forward`: KL(paraphrase‖reference); `reverse`: KL(reference‖paraphrase); `js`: the mean of the KL
            divergences of both distributions from their average.
        temperature: Divides both logits; the divergence is multiplied by its square, so that gradients keep their
            size (Hinton et al., 2015).
        detach_reference: Whether the reference is a fixed target, without gradient from this loss.

    Returns:
        `[n]`, fp32 (or fp64), in nats, ≥ 0.
    """
    if detach_reference:
        reference = reference.detach()
    log_p, log_q = _log_softmax(logits, temperature), _log_softmax(reference, temperature)
    if direction == "js":
        middle = torch.logaddexp(log_p, log_q) - math.log(2)
        found = (_kl(log_p, middle) + _kl(log_q, middle)) / 2
    elif direction == "forward":
        found = _kl(log_p, log_q)
    else:
        found = _kl(log_q, log_p)
    return found * temperature**2


def cosine_similarity(anchors: Tensor, candidates: Tensor) -> Tensor:
    """Cosine similarities `[n, m]` of states `[n, H]` and `[m, H]`, in fp32 (fp64 for fp64 inputs)."""
    return F.normalize(_wide(anchors), dim=-1) @ F.normalize(_wide(candidates), dim=-1).T


def info_nce(similarity: Tensor, positives: Tensor, temperature: float) -> Tensor:
    """Contrastive loss of each anchor for finding its own candidate ([CoIN] § 3.3, L_ctr).

    Args:
        similarity: `[n, m]` of anchors and candidates; −∞ for pairs that are not compared.
        positives: Int64 `[n]`, the candidate that belongs to each anchor.
        temperature: τ, by which the similarities are divided.

    Returns:
        `[n]`: −log of the softmax weight of the positive. Zero for anchors without any other candidate.
    """
    return F.cross_entropy(similarity / temperature, positives, reduction="none")


def balance(reference: Tensor, loss: Tensor, limit: float) -> Tensor:
    """The weight that scales a loss to the size of another one: min(limit, reference / loss), a detached scalar.

    The formula in [CoIN] § 3.3 has a maximum, but its text describes an upper bound, and its published code uses the
    minimum.
    """
    ratio = reference.detach() / loss.detach().clamp_min(torch.finfo(loss.dtype).tiny)
    return ratio.clamp(max=limit)


def _log_softmax(logits: Tensor, temperature: float) -> Tensor:
    found = F.log_softmax(_wide(logits) / temperature, dim=-1)
    return found.clamp_min(-1e30)  # −∞ from padded vocabularies: 0 · (−∞ − −∞) would be NaN


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()

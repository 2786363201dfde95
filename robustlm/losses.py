"""Losses as pure functions on tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Direction = Literal["forward", "reverse", "js"]
"""Kind of divergence between the answers to a paraphrase (P) and to the reference (Q): KL(P‖Q), KL(Q‖P), or JS."""
_LEAST = -1e30
"""Smallest log-probability in a divergence."""


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


Take = Callable[[int, int, Tensor], None]
"""Receives a gradient `[n, V]`: the number of the loss, the number of the logits, and a buffer that is overwritten
after the call."""


@dataclass(frozen=True)
class AnswerLoss:
    """`token_cross_entropy`, and a form of it that needs no memory beside the logits."""

    buffers: ClassVar[int] = 1
    """Tensors as large as the logits that `spend` holds at once, the logits included."""

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The cross-entropy `[n]` of each token, differentiable; the arguments are those of `token_cross_entropy`."""
        logits, targets = tensors
        return (token_cross_entropy(logits, targets),)

    def spend(self, logits: Sequence[Tensor], beside: Sequence[Tensor], take: Take) -> tuple[Tensor, ...]:
        """The same losses without a graph. The logits (fp32 or fp64) are overwritten by their gradient."""
        (scores,), (targets,) = logits, beside
        at = targets[:, None]
        top = scores.amax(-1, keepdim=True)
        own = scores.gather(1, at) - top
        scores.sub_(top).exp_()
        total = scores.sum(-1, keepdim=True)
        scores.div_(total)
        take(0, 0, _less_one(scores, at))
        return ((total.log() - own)[:, 0],)


@dataclass(frozen=True)
class PairLosses:
    """Losses of pairs of predictions that share their softmax: `divergence`, and the cross-entropy of both predictions.

    As `AnswerLoss`, it also has a form that overwrites the logits. The losses are the divergence alone, or with
    `answers` the cross-entropies of logits and reference and then the divergence.
    """

    direction: Direction = "forward"
    """See `divergence`."""
    temperature: float = 1.0
    """See `divergence`; 1 with `answers`."""
    detach_reference: bool = False
    """See `divergence`; it concerns the divergence alone."""
    answers: bool = False
    """Whether both predictions are also compared with the true tokens."""

    @property
    def buffers(self) -> int:
        """Tensors as large as the logits that `spend` holds at once, both logits included."""
        return 4 if self.direction == "js" else 3

    def __call__(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """The losses `[n]`, differentiable.

        Args:
            tensors: Logits and reference, `[n, V]` each; with `answers` also the true tokens of both, int64 `[n]` each.
        """
        logits, reference, *targets = tensors
        apart = divergence(
            logits, reference, self.direction, temperature=self.temperature, detach_reference=self.detach_reference
        )
        both = zip((logits, reference), targets, strict=False)
        return (*(token_cross_entropy(scores, true) for scores, true in both), apart)

    def spend(self, logits: Sequence[Tensor], beside: Sequence[Tensor], take: Take) -> tuple[Tensor, ...]:
        """The same losses without a graph. Both logits (fp32 or fp64) are overwritten."""
        for scores in logits:
            if self.temperature != 1:
                scores.div_(self.temperature)
            scores.sub_(scores.logsumexp(-1, keepdim=True)).clamp_min_(_LEAST)
        places = [true[:, None] for true in beside]
        losses = [-scores.gather(1, at)[:, 0] for scores, at in zip(logits, places, strict=False)]

        def answered(number: int, shares: Tensor) -> None:
            """Take the gradient of a cross-entropy; `shares` is the softmax `[n, V]`, which is the same afterwards."""
            if places:
                at = places[number]
                own = shares.gather(1, at)
                take(number, number, _less_one(shares, at))
                shares.scatter_(1, at, own)

        def told(number: int, gradient: Tensor) -> None:
            if not (self.detach_reference and number == 1):
                take(len(losses), number, gradient.mul_(self.temperature) if self.temperature != 1 else gradient)

        apart = _spent_js(logits, answered, told) if self.direction == "js" else self._spent_kl(logits, answered, told)
        return (*losses, apart * self.temperature**2)

    def _spent_kl(
        self, logs: Sequence[Tensor], answered: Callable[[int, Tensor], None], told: Callable[[int, Tensor], None]
    ) -> Tensor:
        """KL(P‖Q) of log-probabilities, or KL(Q‖P) in the direction `reverse`; both are overwritten."""
        first, second = (0, 1) if self.direction == "forward" else (1, 0)
        log_p, log_q = logs[first], logs[second]
        shares = log_p.exp()
        answered(first, shares)
        found: Tensor = torch.linalg.vecdot(shares, log_p.sub_(log_q))
        told(first, log_p.sub_(found[:, None]).mul_(shares))
        others = log_q.exp_()
        answered(second, others)
        told(second, others.sub_(shares))
        return found


def _spent_js(
    logs: Sequence[Tensor], answered: Callable[[int, Tensor], None], told: Callable[[int, Tensor], None]
) -> Tensor:
    """The Jensen–Shannon divergence of log-probabilities, which are overwritten."""
    middle = torch.logaddexp(*logs).sub_(math.log(2))
    shares = torch.empty_like(middle)
    parts: list[Tensor] = []
    for number, log_p in enumerate(logs):
        torch.exp(log_p, out=shares)
        answered(number, shares)
        parts.append(torch.linalg.vecdot(shares, log_p.sub_(middle)))
        told(number, log_p.sub_(parts[-1][:, None]).mul_(shares).div_(2))
    return (parts[0] + parts[1]) / 2


def _less_one(shares: Tensor, at: Tensor) -> Tensor:
    """Subtract 1 at one place of each line, in place: softmax − one-hot, the gradient of a cross-entropy."""
    return shares.scatter_add_(1, at, shares.new_full((), -1.0).expand_as(at))


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
    return found.clamp_min(_LEAST)  # −∞ from padded vocabularies: 0 · (−∞ − −∞) would be NaN


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)


def _wide(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()

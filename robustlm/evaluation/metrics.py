"""Scores of answers: counts are summed over batches and processes, and divided once at the end."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.text import rouge_score, squad

from robustlm.tasks.base import Answer
from robustlm.utils.words import split_words


class MultisetF1(Metric):
    """Micro-averaged F1, precision and recall over multisets of items.

    Within each answer an item counts as often as it occurs: if an item is predicted m times and expected n
    times, min(m, n) are true positives. Order does not matter. A malformed piece of a prediction counts as a
    predicted item without a match, and a malformed piece of a gold answer as an expected item without a match.

    With P predicted items, G gold items and T true positives, summed over all answers: precision T/P, recall
    T/G, F1 2T/(P + G). Where nothing is expected and nothing predicted anywhere (P = G = 0) all three are 1.
    Where only one of P and G is 0, nothing can match and all three are 0. With no answers they are NaN.

    Example:
        >>> metric = MultisetF1()
        >>> predicted = Answer((("LOC", "Oslo"), ("LOC", "Oslo")), malformed=1)
        >>> metric.update([predicted], [Answer((("LOC", "Oslo"), ("PER", "Ada")))])
        >>> {name: round(value.item(), 2) for name, value in metric.compute().items()}
        {'f1': 0.4, 'precision': 0.33, 'recall': 0.5}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    tp: Tensor
    n_pred: Tensor
    n_gold: Tensor
    n_answers: Tensor

    def __init__(self) -> None:
        super().__init__()
        for state in ("tp", "n_pred", "n_gold", "n_answers"):
            _add_count(self, state)

    def update(self, preds: Sequence[Answer], golds: Sequence[Answer]) -> None:
        """Count one batch of answers. Raises `ValueError` for lists of different lengths."""
        _check_lengths(preds, golds)
        for pred, gold in zip(preds, golds, strict=True):
            self.tp += (Counter(pred.items) & Counter(gold.items)).total()
            self.n_pred += len(pred.items) + pred.malformed
            self.n_gold += len(gold.items) + gold.malformed
        self.n_answers += len(preds)

    def compute(self) -> dict[str, Tensor]:
        """Scalars (fp32) `f1`, `precision` and `recall`."""
        agreed = (self.n_pred == 0) & (self.n_gold == 0)

        def ratio(part: Tensor, whole: Tensor) -> Tensor:
            value = torch.where(agreed, 1.0, part / whole.clamp(min=1))
            return torch.where(self.n_answers == 0, torch.nan, value)

        return {
            "f1": ratio(2 * self.tp, self.n_pred + self.n_gold),
            "precision": ratio(self.tp, self.n_pred),
            "recall": ratio(self.tp, self.n_gold),
        }


class ExactMatch(Metric):
    """Share of answers that have exactly the gold items, as multisets, and no malformed piece.

    Without answers it is NaN.

    Example:
        >>> metric = ExactMatch()
        >>> metric.update([Answer((("yes",),)), Answer(())], [Answer((("yes",),)), Answer((("no",),))])
        >>> metric.compute()
        tensor(0.5000)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    correct: Tensor
    n_answers: Tensor

    def __init__(self) -> None:
        super().__init__()
        _add_count(self, "correct")
        _add_count(self, "n_answers")

    def update(self, preds: Sequence[Answer], golds: Sequence[Answer]) -> None:
        """Count one batch of answers. Raises `ValueError` for lists of different lengths."""
        _check_lengths(preds, golds)
        self.correct += sum(map(_equal, preds, golds))
        self.n_answers += len(preds)

    def compute(self) -> Tensor:
        """Scalar (fp32)."""
        return self.correct / self.n_answers


class UnparseableRate(Metric):
    """Share of answers in which at least one piece could not be read; NaN without answers.

    Example:
        >>> metric = UnparseableRate()
        >>> metric.update([Answer(()), Answer((), malformed=2)])
        >>> metric.compute()
        tensor(0.5000)
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    unparseable: Tensor
    n_answers: Tensor

    def __init__(self) -> None:
        super().__init__()
        _add_count(self, "unparseable")
        _add_count(self, "n_answers")

    def update(self, preds: Sequence[Answer]) -> None:
        """Count one batch of answers."""
        self.unparseable += sum(not pred.parsed for pred in preds)
        self.n_answers += len(preds)

    def compute(self) -> Tensor:
        """Scalar (fp32)."""
        return self.unparseable / self.n_answers


class Overlap(Metric):
    """Means of `overlap` over free-text answers; NaN without answers.

    Example:
        >>> metric = Overlap()
        >>> metric.update(["Oslo", "Rome"], ["in Oslo", "Rome"])
        >>> {name: round(value.item(), 2) for name, value in metric.compute().items()}
        {'token_f1': 0.83, 'rouge_l': 0.83}
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    token_f1: Tensor
    rouge_l: Tensor
    n_answers: Tensor

    def __init__(self) -> None:
        super().__init__()
        for state in ("token_f1", "rouge_l"):
            self.add_state(state, default=torch.tensor(0.0), dist_reduce_fx="sum")
        _add_count(self, "n_answers")

    def update(self, preds: Sequence[str], golds: Sequence[str]) -> None:
        """Count one batch of answers. Raises `ValueError` for lists of different lengths."""
        _check_lengths(preds, golds)
        for pred, gold in zip(preds, golds, strict=True):
            token_f1, rouge_l = overlap(pred, gold)
            self.token_f1 += token_f1
            self.rouge_l += rouge_l
        self.n_answers += len(preds)

    def compute(self) -> dict[str, Tensor]:
        """Scalars (fp32)."""
        return {"token_f1": self.token_f1 / self.n_answers, "rouge_l": self.rouge_l / self.n_answers}


@lru_cache(maxsize=4096)
def overlap(pred: str, gold: str) -> tuple[float, float]:
    """Overlap of a free-text answer with the true one, as two measures in [0, 1].

    Both are computed by torchmetrics. The token F1 of SQuAD (Rajpurkar et al. 2016) compares words between white space,
    and ignores case, punctuation and articles. The F-measure of ROUGE-L (Lin 2004) uses the longest common subsequence
    of words, and ignores case and punctuation; in scripts without blanks each character is a word.

    Args:
        pred: The answer.
        gold: The true answer.

    Returns:
        Token F1 and ROUGE-L.
    """
    f1 = squad({"prediction_text": pred, "id": ""}, {"answers": {"answer_start": [0], "text": [gold]}, "id": ""})["f1"]
    rouge = rouge_score(pred, gold, rouge_keys="rougeL", normalizer=_bare, tokenizer=split_words)
    return float(f1) / 100, float(rouge["rougeL_fmeasure"])


def _bare(text: str) -> str:
    # the normaliser of torchmetrics would drop all letters except a to z
    return _NO_WORD.sub(" ", text.lower())


_NO_WORD = re.compile(r"[\W_]+")


def _add_count(metric: Metric, name: str) -> None:
    metric.add_state(name, default=torch.tensor(0), dist_reduce_fx="sum")


def _check_lengths(preds: Sequence[object], golds: Sequence[object]) -> None:
    if len(preds) != len(golds):
        raise ValueError(f"found {len(preds)} predictions for {len(golds)} gold answers; expected one for each")


def _equal(pred: Answer, gold: Answer) -> bool:
    return pred.parsed and gold.parsed and Counter(pred.items) == Counter(gold.items)

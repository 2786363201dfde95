"""Contrast of answers under clean and noisy instructions, after CoIPO (Yang et al., 2026, arXiv 2603.03314)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from robustlm.batch import Layout
from robustlm.checks.choices import check_choice
from robustlm.checks.numbers import check_number
from robustlm.losses import balance, divergence
from robustlm.modules.passes import Passes

Form = Literal["mended", "released"]
"""How the difference of divergences becomes a loss."""

_FLOOR = 1e-10
"""What the released code adds to the variant's probabilities before their logarithm."""


@dataclass
class Preference:
    """Trains a row's answers under a noisy instruction to be its own clean answers, and not those of another row.

    For a pair of rows a and b, with clean answer distributions P and those under a variant Q::

        s = KL(P_a‖Q_a) − KL(P_b‖Q_a) + KL(P_b‖Q_b) − KL(P_a‖Q_b)
        released:  exp(s − max(0, s))        mended:  log(1 + exp(s))

    `released` is the loss of the code that was released with CoIPO (github.com/vegetable-yx/CoIPO, commit 7b6f879). It
    is exp(s) where s < 0, and 1 with no gradient where s > 0: the pairs whose noisy answers are nearest to another
    row's get no gradient, though they are the worst ones. `mended` is our form: almost equal for s far below 0, and
    with a slope that grows to 1 above. Both are weighed as in that code, by min(λ, L_answers / L). We read the code
    and the abstract, not the equations of the paper.

    What differs from that code in both forms: our P and Q are those that predict the answer tokens, where that code
    reads the logits one position later. L_answers is the mean over both views, there the sum. `mended` pairs each row
    with the next one that has another answer, and leaves out rows without one; it compares the answer tokens that both
    rows have. `released` pairs rows 0 and 1, 2 and 3, …, and continues the shorter answer by uniform distributions.
    """

    name: ClassVar[str] = "preference"
    needs_variants: ClassVar[str] = "a preference compares"

    form: Form = "mended"
    """`mended`: log(1 + exp(s)), with a gradient for the worst pairs; `released`: exp(s − max(0, s))."""
    weight: float | None = None
    """A fixed weight; null: min(weight_limit, L_answers / L_preference), which makes both losses equally large."""
    weight_limit: float = 1000.0
    """λ, the upper limit of the balanced weight."""

    def __post_init__(self) -> None:
        check_choice("preference.form", self.form, get_args(Form))
        check_number("preference.weight_limit", self.weight_limit, above=0)
        if self.weight is not None and not 0 <= self.weight < math.inf:
            raise ValueError(
                f"preference.weight: found {self.weight}; expected a finite number ≥ 0, or null to balance"
            )

    def losses(self, passes: Passes, answers: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted loss of this micro-batch: the mean over pairs of rows and over variants.

        Args:
            passes: With the views `raw` (B rows) and `variant` (K rows for each raw row).
            answers: The answer loss for balancing, a scalar.

        Returns:
            The loss, 0 with a gradient of 0 if no rows make a pair; and values to log: `loss` (unweighted), `weight`,
            `margin` (mean of −s), `worst` (share of pairs with s > 0) and `pairs` (their number).
        """
        margins = self.margins(passes)
        found = torch.exp(margins - margins.relu()) if self.form == "released" else F.softplus(margins)
        count, everyone, ranks = self._counts(passes, len(margins))
        # DDP averages over ranks; with this factor the average is the mean over the pairs of all ranks
        loss = found.sum() * ranks / everyone.clamp(min=1)
        weight = self._weight(passes, answers, loss)
        mean = 1 / max(count, 1)
        curves = {
            "loss": loss.detach(),
            "weight": weight,
            "margin": -margins.detach().sum() * mean,
            "worst": (margins.detach() > 0).sum() * mean,
            "pairs": torch.full((), float(count)),
        }
        return weight * loss, curves

    def weigh(self, weights: dict[str, float]) -> dict[str, float]:
        """Return the weights unchanged, since `losses` already weighs this loss."""
        return weights

    def margins(self, passes: Passes) -> Tensor:
        """The s of each pair of rows, for each of their K variants: `[pairs · K]`; low values are good."""
        raw, variant = passes.view("raw").layout, passes.view("variant").layout
        passes.reference_places("variant")  # raises unless rows and their variants have the same answers
        many = len(variant.counts) // len(raw.counts)
        released = self.form == "released"
        pairs = _neighbours(raw) if released else _unlike(raw)
        cells = _Cells(raw.counts, variant.counts, longest=released)
        for number, (a, b) in enumerate(pairs):
            for k in range(many):
                at = number * many + k
                for own, other in ((a, b), (b, a)):
                    cells.add(own * many + k, own, at, 1.0)
                    cells.add(own * many + k, other, at, -1.0)
        device = passes.view("raw").labels.device
        noisy, clean, of, share, noisy_there, clean_there = cells.tensors(device)
        apart = _floored if released else _exact
        tokens = passes.by_pairs(
            apart, "variant", noisy, clean, beside=[noisy_there, clean_there] if released else [],
        )  # fmt: skip
        return tokens.new_zeros(len(pairs) * many).index_add(0, of, tokens * share.to(tokens.dtype))

    def _counts(self, passes: Passes, own: int) -> tuple[int, Tensor, int]:
        """The number of pairs of this rank, of all ranks, and the number of ranks."""
        here = torch.full((1,), float(own)).to(passes.view("raw").labels.device, non_blocking=True)
        every = passes.gathered(here)[0]
        return own, every.sum(), len(every)

    def _weight(self, passes: Passes, answers: Tensor, loss: Tensor) -> Tensor:
        if self.weight is not None:
            return loss.new_full((), self.weight)
        both = torch.stack([answers.detach().to(loss.dtype), loss.detach()])[None]
        both = passes.gathered(both)[0].mean(0)  # all ranks use the same weight
        return balance(both[0], both[1], self.weight_limit)


class _Cells:
    """Pairs of a noisy and a clean answer token whose distributions are compared."""

    def __init__(self, clean: Sequence[int], noisy: Sequence[int], *, longest: bool) -> None:
        self._counts = noisy, clean
        self._begins = tuple(list(accumulate(counts, initial=0)) for counts in self._counts)
        self._longest = longest
        self._found: list[tuple[int, int, int, float, bool, bool]] = []

    def add(self, noisy: int, clean: int, pair: int, sign: float) -> None:
        """The tokens of a noisy row and of a clean one, which count for a pair with this sign."""
        rows = noisy, clean
        counts = [counted[row] for counted, row in zip(self._counts, rows, strict=True)]
        begins = [begin[row] for begin, row in zip(self._begins, rows, strict=True)]
        length = max(counts) if self._longest else min(counts)
        for at in range(length):
            there = [at < count for count in counts]
            places = [begin + at if has else 0 for begin, has in zip(begins, there, strict=True)]
            self._found.append((places[0], places[1], pair, sign / length, there[0], there[1]))

    def tensors(self, device: torch.device) -> tuple[Tensor, ...]:
        """Places of noisy and clean tokens, pairs, signs over lengths, and which of the tokens exist; each `[m]`."""
        columns = list(zip(*self._found, strict=True)) if self._found else [()] * 6
        kinds = (torch.long, torch.long, torch.long, torch.float64, torch.bool, torch.bool)
        return tuple(
            torch.tensor(column, dtype=kind).to(device, non_blocking=True)
            for column, kind in zip(columns, kinds, strict=True)
        )


def _neighbours(raw: Layout) -> list[tuple[int, int]]:
    """Rows 0 and 1, 2 and 3, and so on; a last row alone has no partner."""
    return [(row, row + 1) for row in range(0, len(raw.counts) - 1, 2)]


def _unlike(raw: Layout) -> list[tuple[int, int]]:
    """Each row that has no partner yet, and the next one without a partner and with another answer."""
    begins = list(accumulate(raw.counts, initial=0))
    own = [raw.tokens[begin : begin + count] for begin, count in zip(begins, raw.counts, strict=False)]
    left, found = list(range(len(own))), []
    while left:
        row = left.pop(0)
        partner = next((one for one in left if own[one] != own[row] and own[one] and own[row]), None)
        if partner is not None:
            left.remove(partner)
            found.append((row, partner))
    return found


def _exact(noisy: Tensor, clean: Tensor) -> Tensor:
    """KL(clean‖noisy) of each token, from logits `[m, V]`."""
    return divergence(noisy, clean, "reverse")


def _floored(noisy: Tensor, clean: Tensor, noisy_there: Tensor, clean_there: Tensor) -> Tensor:
    """KL(clean‖noisy + 10⁻¹⁰) of each token; uniform distributions where an answer has ended."""
    wide = torch.float64 if noisy.dtype == torch.float64 else torch.float32
    log_q, log_p = (
        F.log_softmax(logits.to(wide).where(there[:, None], 0.0), -1)
        for logits, there in ((noisy, noisy_there), (clean, clean_there))
    )
    log_p = log_p.clamp_min(-1e30)  # −∞ from padded vocabularies: 0 · −∞ would be NaN
    return F.kl_div((log_q.exp() + _FLOOR).log(), log_p, reduction="none", log_target=True).sum(-1)

"""R-Drop: answers that do not depend on dropout. Liang et al., NeurIPS 2021."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from torch import Tensor

from robustlm.checks.choices import check_choice
from robustlm.checks.numbers import check_number
from robustlm.losses import divergence
from robustlm.modules.passes import Passes

Dropped = Literal["raw", "variant"]
"""The view that runs twice."""


@dataclass
class RDrop:
    """Runs one view a second time under other dropout masks, and trains both answers to be equal (eq. 4 of the paper).

    With P and Q the answer distributions of the two passes::

        L = CE(P) + CE(Q) + weight · (KL(P‖Q) + KL(Q‖P)) / 2

    CE(P) is the view's own answer loss (`answer`), the rest is the loss `rdrop`. It needs dropout: a model and a tuning
    without any are refused before the first step. Cost with LoRA, plain tuning = 1: 2.0.
    """

    name: ClassVar[str] = "rdrop"

    weight: float = 1.0
    """α, the weight of the divergence; the paper uses 0.1 to 5."""
    view: Dropped = "raw"
    """The view that runs twice: `raw` (rows under their own instructions) or `variant` (noisy or paraphrased)."""

    def __post_init__(self) -> None:
        check_number("rdrop.weight", self.weight, least=0)
        check_choice("rdrop.view", self.view, get_args(Dropped))

    @property
    def needs_variants(self) -> str | None:
        """See `Term.needs_variants`."""
        return "rdrop.view: variant runs" if self.view == "variant" else None

    def losses(self, passes: Passes, answers: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of the second pass and the weighted divergence, both per answer token; and each one to log."""
        del answers
        view = passes.view(self.view)
        once, again = passes.answers(self.view), passes.run(view, masks=1)
        count = passes.token_count(self.view)
        second = passes.answer_loss(self.view, again) / count
        apart = passes.by_token(_symmetric, once, again).sum() / count
        return second + self.weight * apart, {"answer": second.detach(), "divergence": apart.detach()}

    def weigh(self, weights: dict[str, float]) -> dict[str, float]:
        """Return the weights unchanged."""
        return weights


def _symmetric(once: Tensor, again: Tensor) -> Tensor:
    return (divergence(once, again) + divergence(again, once)) / 2

"""All methods together. Each has its own slot, and they share the forward passes."""

from __future__ import annotations

import copy
from typing import Any

from robustlm.adversaries import Adversary
from robustlm.modules.alignment import Alignment
from robustlm.modules.anit import ANIT
from robustlm.modules.base import TrainOn, filled
from robustlm.modules.contrastive import Contrast
from robustlm.modules.terms import Term


class RobustTuning(ANIT):
    """Combines noise or paraphrases with an optional adversary, contrast of states and alignment of answers.

    L = (1 − λ)·(L_answers + a·L_adversarial) + λ·L_KL + w·L_contrast. With one slot filled, this is the method of that
    slot (`ANIT`, `ContrastiveTuning`, `AlignmentTuning`); with no slot filled, it is `InstructionTuning`. The raw and
    the variant view run once each; all losses share these passes.

    Args:
        adversary: The strategy that perturbs the variants' embeddings; null for none.
        adversarial_weight: a.
        perturb: Positions that are perturbed: `prompt` (instruction and context), `instruction`, or `all` positions.
        contrast: Contrast between the states of raw and variant rows; null for none.
        alignment: Divergence between the answers of raw and variant rows; null for none.
        kwargs: Arguments of `InstructionTuning`.
    """

    def __init__(
        self,
        *args: Any,
        adversary: Adversary | None = None,
        contrast: Contrast | None = None,
        alignment: Alignment | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, adversary=adversary, **kwargs)
        self.contrast = copy.copy(contrast)
        self.alignment = copy.copy(alignment)
        self.pooling = contrast.pooling if contrast else "last"
        self.weigh_terms()

    @property
    def terms(self) -> tuple[Term, ...]:
        """The filled slots among contrast and alignment."""
        return filled(self.contrast, self.alignment)

    @property
    def holds_variants(self) -> bool:
        """True with a contrast or an alignment: both read states or answers of the variants."""
        return bool(self.terms)

    @property
    def answer_views(self) -> TrainOn:
        """By default both views for a contrast or an alignment, else variants for an adversary, else raw rows."""
        return self.train_on or ("both" if self.terms else "variant" if self.adversary else "raw")

"""All methods together, each in a slot of its own, over the same forward passes."""

from __future__ import annotations

import copy
from typing import Any

from robustlm.adversaries import NRM, PGD, Adversary
from robustlm.modules.alignment import Alignment
from robustlm.modules.anit import ANIT
from robustlm.modules.base import TrainOn, filled
from robustlm.modules.contrastive import Contrast
from robustlm.modules.terms import Term


class RobustTuning(ANIT):
    """Noise or paraphrases, an adversary on them, a contrast of states and an alignment of answers, as you choose.

    L = (1 − λ)·(L_answers + a·L_adversarial) + λ·L_KL + w·L_contrast. Each slot alone is the method of its own name
    (`ANIT`, `ContrastiveTuning`, `PrefixAlignment`); with all of them empty this is `InstructionTuning`. The raw and
    the variant view are run once each, whatever looks at them.

    Args:
        adversary: What perturbs the variants' embeddings; null for none.
        adversarial_weight: a.
        perturb: Where the perturbation lands: `prompt` (instruction and context), `instruction`, or `all` positions.
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
        if (contrast or alignment) and isinstance(adversary, NRM | PGD) and adversary.low_memory:
            raise ValueError(
                f"adversary.low_memory: {type(adversary).__name__} would free the pass over the variants early, but "
                f"the {'contrast' if contrast else 'alignment'} holds that pass to the end of the step: nothing would "
                "be saved, and the pass run twice; expected false, or chunk_rows to hold fewer rows at a time"
            )
        self.contrast = copy.copy(contrast)
        self.alignment = copy.copy(alignment)
        self.pooling = contrast.pooling if contrast else "last"
        self.weigh_terms()

    @property
    def terms(self) -> tuple[Term, ...]:
        """The slots that are filled."""
        return filled(self.contrast, self.alignment)

    @property
    def holds_variants(self) -> bool:
        """Contrast and alignment compare states and answers of the variants."""
        return bool(self.terms)

    @property
    def answer_views(self) -> TrainOn:
        """As each slot's own method has it: both views for a contrast or an alignment, variants for an adversary."""
        return self.train_on or ("both" if self.terms else "variant" if self.adversary else "raw")

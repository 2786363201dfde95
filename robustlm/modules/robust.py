"""All methods together, each in a slot of its own, over the same forward passes."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor

from robustlm.adversaries import NRM, PGD, Adversary
from robustlm.modules.alignment import Alignment
from robustlm.modules.anit import ANIT
from robustlm.modules.base import TrainOn
from robustlm.modules.contrastive import Contrast
from robustlm.modules.passes import Passes


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
        if alignment is not None:
            adversarial = self.weights["adversarial"] * (1 - alignment.weight)
            self.weights |= {"adversarial": adversarial, "answer": 1 - alignment.weight, "alignment": alignment.weight}

    @property
    def holds_variants(self) -> bool:
        """Contrast and alignment compare states and answers of the variants."""
        return self.contrast is not None or self.alignment is not None

    @property
    def answer_views(self) -> TrainOn:
        """As each slot's own method has it: both views for a contrast or an alignment, variants for an adversary."""
        compared = self.contrast or self.alignment
        return self.train_on or ("both" if compared else "variant" if self.adversary else "raw")

    def check_data(self, datamodule: Any) -> None:
        """Refuse data without variants for the slots that compare them, whatever `train_on` says."""
        super().check_data(datamodule)
        if self.contrast is not None:
            self.check_variants(datamodule, "a contrast compares")
        if self.alignment is not None:
            self.check_variants(datamodule, "an alignment compares")

    def losses(self, passes: Passes) -> dict[str, Tensor]:
        """The terms of the slots that are filled."""
        terms = self.supervised(passes)
        if self.contrast is not None:
            answers = terms["answer"] if "answer" in terms else terms["adversarial"]
            terms["contrast"], logs = self.contrast.losses(passes, answers)
            self.log_dict({f"contrast/{name}": value for name, value in logs.items()}, batch_size=1)
        if self.alignment is not None:
            terms["alignment"] = self.alignment.loss(passes)
        return terms

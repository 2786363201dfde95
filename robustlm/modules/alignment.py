"""Alignment of answers under paraphrased and reference instructions [ALIGN]: Sun et al., ICLR 2024."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

from torch import Tensor

from robustlm.checks.numbers import COLDEST, check_number
from robustlm.losses import Direction, divergence
from robustlm.models.loading import Loading
from robustlm.models.tuning import PrefixTuning, Tuning
from robustlm.modules.base import InstructionTuning, TrainOn
from robustlm.modules.passes import Passes
from robustlm.optim.config import AdamW, Optimizer, Schedule


@dataclass
class Alignment:
    """The distribution over answers is the same under every phrasing ([ALIGN] fig. 7)."""

    weight: float = 0.5
    """λ in (1 − λ)·L_answers + λ·L_KL, in [0, 1]."""
    direction: Direction = "forward"
    """`forward` KL(paraphrase‖reference) (the paper), `reverse` KL(reference‖paraphrase), `js` Jensen–Shannon."""
    detach_reference: bool = False
    """Take the reference's distribution as a fixed target."""
    temperature: float = 1.0
    """Softens both distributions."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"alignment.weight: found {self.weight}; expected a share in [0, 1]")
        check_number("alignment.temperature", self.temperature, above=0, least=COLDEST)
        if self.direction not in get_args(Direction):
            known = ", ".join(get_args(Direction))
            raise ValueError(f"alignment.direction: found {self.direction!r}; expected one of {known}")

    def loss(self, passes: Passes) -> Tensor:
        """L_KL: the mean over answer tokens and over the variants of a sample, a scalar."""
        variant = passes.answers("variant")
        tokens = divergence(
            variant.logits,
            passes.reference_logits("variant"),
            self.direction,
            temperature=self.temperature,
            detach_reference=self.detach_reference,
        )
        return tokens.sum() / passes.token_count("variant")


class PrefixAlignment(InstructionTuning):
    """Tuning, of a prefix unless told otherwise, with a KL term between paraphrased and reference instructions.

    L = (1 − λ)·L_answers + λ·L_KL ([ALIGN] fig. 7), L_answers over the reference and its paraphrases. The raw view is
    the reference, the variants are the N − 1 paraphrases. Full tuning, with and without the term: `tuning`,
    `alignment: null`.

    Args:
        backbone: Hub name or folder of a transformers model, or of a PEFT adapter.
        loading: How the model is loaded: type, attention, 4-bit, checkpointing, from scratch.
        tuning: What is trained: `PrefixTuning` (the paper), `PromptTuning`, `FullTuning`, `LoRA`.
        optimizer: `AdamW` or `Muon`.
        schedule: Warm-up and decay of the learning rate.
        alignment: Weight and kind of the divergence; null trains on the answers alone.
        kwargs: Arguments of `InstructionTuning`.
    """

    own_views: ClassVar[TrainOn] = "both"

    def __init__(
        self,
        backbone: str,
        loading: Loading = Loading(),  # noqa: B008 - read only
        tuning: Tuning | None = PrefixTuning(),  # noqa: B008
        optimizer: Optimizer = AdamW(),  # noqa: B008
        schedule: Schedule = Schedule(),  # noqa: B008
        alignment: Alignment | None = Alignment(),  # noqa: B008
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, loading, tuning, optimizer, schedule, **kwargs)
        self.alignment = copy.copy(alignment)
        if alignment is not None:
            self.weights |= {"answer": 1 - alignment.weight, "alignment": alignment.weight}

    def check_data(self, datamodule: Any) -> None:
        """Refuse data without paraphrases to align."""
        super().check_data(datamodule)
        if self.alignment is not None:
            self.check_variants(datamodule, "an alignment compares")

    def losses(self, passes: Passes) -> dict[str, Tensor]:
        """[ALIGN] fig. 7."""
        terms = super().losses(passes)
        return terms if self.alignment is None else {**terms, "alignment": self.alignment.loss(passes)}

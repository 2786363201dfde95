"""Alignment of answers under paraphrased and reference instructions [ALIGN]: Sun et al., ICLR 2024."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

from torch import Tensor

from robustlm.batch import InstructionBatch
from robustlm.checks.choices import check_choice
from robustlm.checks.numbers import COLDEST, check_number
from robustlm.losses import Direction
from robustlm.models.loading import Loading
from robustlm.models.tuning import PrefixTuning, Tuning
from robustlm.modules.base import InstructionTuning, TrainOn, filled
from robustlm.modules.passes import Passes
from robustlm.modules.terms import Term
from robustlm.utils.public import old_names


@dataclass
class Alignment:
    """Trains the distribution over answers to be the same under every phrasing ([ALIGN] fig. 7)."""

    name: ClassVar[str] = "alignment"
    needs_variants: ClassVar[str] = "an alignment compares"

    weight: float = 0.5
    """λ in (1 − λ)·L_answers + λ·L_KL, in [0, 1]."""
    direction: Direction = "forward"
    """`forward` KL(paraphrase‖reference) (the paper), `reverse` KL(reference‖paraphrase), `js` Jensen–Shannon."""
    detach_reference: bool = False
    """Treat the reference's distribution as a fixed target, without gradient."""
    temperature: float = 1.0
    """Temperature of both distributions; larger values make them softer."""

    def __post_init__(self) -> None:
        if not 0 <= self.weight <= 1:
            raise ValueError(f"alignment.weight: found {self.weight}; expected a share in [0, 1]")
        check_number("alignment.temperature", self.temperature, above=0, least=COLDEST)
        check_choice("alignment.direction", self.direction, get_args(Direction))

    def announce(self, passes: Passes) -> None:
        """Let the answer losses of both views share their logits with the divergence; see `expect_divergence`."""
        passes.expect_divergence(self.direction, temperature=self.temperature, detach_reference=self.detach_reference)

    def loss(self, passes: Passes) -> Tensor:
        """L_KL: the mean over answer tokens and over the variants of a sample, a scalar."""
        tokens = passes.divergence(
            "variant", self.direction, temperature=self.temperature, detach_reference=self.detach_reference
        )
        return tokens.sum() / passes.token_count("variant")

    def losses(self, passes: Passes, answers: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """L_KL, without additional logged values; see `Term.losses`."""
        del answers
        return self.loss(passes), {}

    def weigh(self, weights: dict[str, float]) -> dict[str, float]:
        """(1 − λ) for all other losses, λ for this one."""
        others = {name: factor * (1 - self.weight) for name, factor in ({"answer": 1.0} | weights).items()}
        return {**others, self.name: self.weight}


class AlignmentTuning(InstructionTuning):
    """Tuning (by default of a prefix) with a KL term between paraphrased and reference instructions.

    L = (1 − λ)·L_answers + λ·L_KL ([ALIGN] fig. 7), where L_answers covers the reference and its paraphrases. The raw
    view is the reference, the variants are the N − 1 paraphrases. Set `tuning` to `FullTuning` for full tuning, and
    `alignment` to null to drop the KL term.

    Args:
        backbone: Hub name or folder of a transformers model, or of a PEFT adapter.
        loading: How the model is loaded: type, attention, 4-bit, checkpointing, from scratch.
        tuning: What is trained: `PrefixTuning` (as in the paper), `PromptTuning`, `FullTuning`, `LoRA`.
        args: Further arguments of `InstructionTuning`, in its order.
        alignment: Weight and kind of the divergence; null trains only on the answers.
        kwargs: Further arguments of `InstructionTuning`, by name.
    """

    own_views: ClassVar[TrainOn] = "both"

    def __init__(
        self,
        backbone: str,
        loading: Loading = Loading(),  # noqa: B008 - read only
        tuning: Tuning | None = PrefixTuning(),  # noqa: B008
        *args: Any,
        alignment: Alignment | None = Alignment(),  # noqa: B008
        **kwargs: Any,
    ) -> None:
        super().__init__(backbone, loading, tuning, *args, **kwargs)
        self.alignment = copy.copy(alignment)
        self.weigh_terms()

    @property
    def terms(self) -> tuple[Term, ...]:
        """The alignment term ([ALIGN] fig. 7), if there is one."""
        return filled(self.alignment)

    def passes(self, batch: InstructionBatch) -> Passes:
        """See `InstructionTuning.passes`. The answer losses share their logits with the divergence."""
        found = super().passes(batch)
        if self.alignment is not None and self.answer_views == "both":
            self.alignment.announce(found)
        return found


__getattr__ = old_names(__name__)

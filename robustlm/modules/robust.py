"""All methods together. Each has its own slot, and they share the forward passes."""

from __future__ import annotations

import copy
from typing import Any

from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from robustlm.adversaries import Adversary, FreeAT
from robustlm.batch import InstructionBatch
from robustlm.modules.alignment import Alignment
from robustlm.modules.anit import ANIT
from robustlm.modules.base import VIEWS, TrainingData, TrainOn, filled
from robustlm.modules.contrastive import Contrast
from robustlm.modules.passes import Passes
from robustlm.modules.preference import Preference
from robustlm.modules.rdrop import RDrop
from robustlm.modules.selection import Selection
from robustlm.modules.sharpness import SAM
from robustlm.modules.terms import Term


class RobustTuning(ANIT):
    """Combines noise or paraphrases with optional further methods, each in a slot of its own.

    L = (1 − λ)·(L_answers + a·L_adversarial + L_rdrop) + λ·L_KL + w·L_contrast + v·L_preference. With one slot filled,
    this is the method of that slot (`ANIT`, `ContrastiveTuning`, `AlignmentTuning`, …); with no slot filled, it is
    `InstructionTuning`. The raw and the variant view run once each; all losses share these passes.

    Args:
        adversary: The strategy that perturbs the variants' embeddings; null for none.
        adversarial_weight: a.
        perturb: Positions that are perturbed: `prompt` (instruction and context), `instruction`, or `all` positions.
        contrast: Contrast between the states of raw and variant rows; null for none.
        alignment: Divergence between the answers of raw and variant rows; null for none.
        selection: Choice of one of the `data.variants` variants of each row (the hardest); null trains on all of them.
        preference: Contrast between the answers of a row and of another row, under variants; null for none.
        rdrop: A second pass under other dropout masks, and the divergence of its answers; null for none.
        sam: Take the losses at the worst weights nearby; null: at the weights. Not together with an adversary.
        kwargs: Arguments of `InstructionTuning`.
    """

    def __init__(
        self,
        *args: Any,
        adversary: Adversary | None = None,
        contrast: Contrast | None = None,
        alignment: Alignment | None = None,
        selection: Selection | None = None,
        preference: Preference | None = None,
        rdrop: RDrop | None = None,
        sam: SAM | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, adversary=adversary, **kwargs)
        self.contrast = copy.copy(contrast)
        self.alignment = copy.copy(alignment)
        self.selection = copy.copy(selection)
        self.preference = copy.copy(preference)
        self.rdrop = copy.copy(rdrop)
        self.sam = copy.copy(sam)
        if self.sam is not None and self.adversary is not None:
            raise ValueError(
                f"sam: found together with adversary {type(self.adversary).__name__}, which finds its perturbation at "
                "other weights than those that SAM trains at; expected one of them to be null"
            )
        if self.selection is not None and isinstance(self.adversary, FreeAT):
            raise ValueError(
                "selection: found together with adversary FreeAT, whose perturbation grows while the same rows come "
                "again; a selection may change them; expected another adversary, or selection null"
            )
        self.pooling = contrast.pooling if contrast else "last"
        self.weigh_terms()

    @property
    def terms(self) -> tuple[Term, ...]:
        """The filled slots among contrast, preference, R-Drop and alignment."""
        return filled(self.contrast, self.preference, self.rdrop, self.alignment)

    @property
    def holds_variants(self) -> bool:
        """True if a term reads states or answers of the variants."""
        return any(term.needs_variants is not None for term in self.terms)

    @property
    def answer_views(self) -> TrainOn:
        """The views whose answers are trained.

        By default both views for a contrast, a preference or an alignment; else variants for an adversary, a selection
        or R-Drop on variants; else raw rows.
        """
        if self.train_on is not None:
            return self.train_on
        if filled(self.contrast, self.preference, self.alignment):
            return "both"
        return "variant" if self.adversary or self.selection or self.holds_variants else "raw"

    def check_data(self, datamodule: TrainingData) -> None:
        """Also refuse data without a choice of variants for a selection."""
        super().check_data(datamodule)
        if self.selection is not None:
            self.check_variants(datamodule, "a selection chooses from")
            many = getattr(datamodule, "variants", None)
            if many == 1:
                raise ValueError(
                    "data.variants: found 1; expected 2 or more, since model.selection chooses one variant of each row"
                )

    def check_sharded(self) -> None:
        """Also refuse SAM, which takes the gradients of the weights itself."""
        super().check_sharded()
        if self.sam is not None:
            raise ValueError(
                "sam: found with FSDP2, which divides weights among devices; expected null, or trainer.strategy ddp"
            )

    def on_train_start(self) -> None:
        """Also refuse R-Drop without dropout.

        Raises:
            ValueError: Neither the model nor its adapter has dropout.
        """
        super().on_train_start()
        if self.rdrop is not None and not self._drops():
            raise ValueError(
                "rdrop: neither the model nor its adapter has dropout, so both passes would be equal; expected "
                "model.tuning.dropout > 0, or rdrop null"
            )

    def _drops(self) -> bool:
        layers = (one for one in self.backbone.modules() if isinstance(one, _DropoutNd))
        text = self.backbone.config.get_text_config()
        return any(one.p > 0 for one in layers) or getattr(text, "attention_dropout", 0.0) > 0

    def passes(self, batch: InstructionBatch) -> Passes:
        """The forward passes over a batch; with a selection, over one variant of each row."""
        found = super().passes(batch)
        if self.alignment is not None and self.answer_views == "both":
            self.alignment.announce(found)
        if self.selection is None:
            return found
        others = filled(self.contrast, self.preference, self.alignment) or (self.rdrop and self.rdrop.view == "raw")
        keeps = bool(others) or "raw" in VIEWS[self.answer_views]
        chosen, curves = self.selection.apply(found, self.loss_scale, keep_raw=keeps)
        self.log_dict({f"selection/{name}": value for name, value in curves.items()}, batch_size=1)
        return found.over(chosen, keep=("raw",))

    def step_losses(self, passes: Passes) -> dict[str, Tensor]:
        """The losses of a step; with SAM, those at the worst weights nearby."""
        if self.sam is None:
            return super().step_losses(passes)
        trained, plain = [p for p in self.parameters() if p.requires_grad], super().step_losses
        each = iter((passes, passes.over(passes.batch)))
        self.updating = True  # no checkpoint may be written while weights are moved
        try:
            losses, gap = self.sam.losses(lambda: plain(next(each)), self.weights, trained, self.loss_scale)
        finally:
            self.updating = False
        self.log("sam/gap", gap, batch_size=1)
        return losses

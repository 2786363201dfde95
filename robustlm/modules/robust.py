"""All methods together. Each has its own slot, and they share the forward passes."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.modules.dropout import _DropoutNd

from robustlm.adversaries import Adversary, FreeAT
from robustlm.batch import InstructionBatch
from robustlm.modules.agreement import Agreement
from robustlm.modules.alignment import Alignment
from robustlm.modules.anit import ANIT
from robustlm.modules.base import VIEWS, TrainingData, TrainOn, filled
from robustlm.modules.contrastive import Contrast
from robustlm.modules.guard import HeldOut, Seen, Watch
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
        agreement: Answers for rows without one (`data.unlabelled`), by a vote over their phrasings; null: every row
            must bring an answer. Not together with a contrast or a preference, which compare true answers.
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
        agreement: Agreement | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, adversary=adversary, **kwargs)
        self.contrast = copy.copy(contrast)
        self.alignment = copy.copy(alignment)
        self.selection = copy.copy(selection)
        self.preference = copy.copy(preference)
        self.rdrop = copy.copy(rdrop)
        self.sam = copy.copy(sam)
        self.agreement = copy.copy(agreement)
        guard = None if self.agreement is None else self.agreement.guard
        self._watch = None if guard is None else Watch(guard)
        if self.agreement is not None:
            self._check_agreement()
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

    def _check_agreement(self) -> None:
        """Refuse slots that need true answers, or rows that do not change between two visits."""
        for name, why in (("contrast", "compares states by their answers"), ("preference", "compares answers of rows")):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"agreement: found together with {name}, which {why} and needs true ones; expected one of them to "
                    "be null"
                )
        if isinstance(self.adversary, FreeAT):
            raise ValueError(
                "agreement: found together with adversary FreeAT, whose perturbation grows while the same rows come "
                "again; their answers may change meanwhile; expected another adversary, or agreement null"
            )
        if self.selection is not None and self.selection.choice == "gradient":
            raise ValueError(
                "agreement: found together with selection.choice gradient, which ranks tokens before a row has its "
                "answer; expected another choice, or agreement null"
            )

    @property
    def answers_rows(self) -> bool:
        """Whether an agreement answers rows that bring no answer."""
        return self.agreement is not None

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

        By default both views for a contrast, a preference or an alignment; else variants for an adversary, a selection,
        an agreement or R-Drop on variants; else raw rows.
        """
        if self.train_on is not None:
            return self.train_on
        if filled(self.contrast, self.preference, self.alignment):
            return "both"
        varied = self.adversary or self.selection or self.agreement or self.holds_variants
        return "variant" if varied else "raw"

    def check_data(self, datamodule: TrainingData) -> None:
        """Also refuse data that do not suit a selection or an agreement."""
        super().check_data(datamodule)
        if self.agreement is not None:
            self._check_unlabelled(self.agreement, datamodule)
        if self.selection is not None:
            self.check_variants(datamodule, "a selection chooses from")
            many = getattr(datamodule, "variants", None)
            if many == 1:
                raise ValueError(
                    "data.variants: found 1; expected 2 or more, since model.selection chooses one variant of each row"
                )

    def _check_unlabelled(self, agreement: Agreement, datamodule: TrainingData) -> None:
        self.check_variants(datamodule, "an agreement asks under")
        settings = getattr(datamodule, "unlabelled", None)
        if settings is None:
            raise ValueError(
                "data.unlabelled: found null; expected settings such as {held_out: 64}, since model.agreement answers "
                "rows of data.train that bring no answer"
            )
        if (agreement.guard is None) != (settings.held_out == 0):
            guard = "null" if agreement.guard is None else "a guard"
            raise ValueError(
                f"data.unlabelled.held_out: found {settings.held_out} with model.agreement.guard: {guard}; expected "
                "rows for a guard, and 0 without one"
            )

    def check_sharded(self) -> None:
        """Also refuse SAM, which takes the gradients of the weights itself, and passes that ranks may not share."""
        super().check_sharded()
        if self.agreement is not None:
            raise ValueError(
                "agreement: found with FSDP2, whose ranks would wait for those without a row to vote on; expected "
                "null, or trainer.strategy ddp"
            )
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
        if self._watch is not None and self._watch.start is None:  # a resumed run knows it from its checkpoint
            self._watch.begin(self._look())

    def _drops(self) -> bool:
        layers = (one for one in self.backbone.modules() if isinstance(one, _DropoutNd))
        text = self.backbone.config.get_text_config()
        return any(one.p > 0 for one in layers) or getattr(text, "attention_dropout", 0.0) > 0

    def passes(self, batch: InstructionBatch) -> Passes:
        """The forward passes over a batch whose rows all have an answer; with a selection, over one variant each."""
        if self.agreement is not None and batch.unanswered is not None:
            batch, voted = self.agreement.apply(self.backbone, batch)
            self.log_dict({f"agreement/{name}": value for name, value in voted.items()}, batch_size=1)
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

    # --- the guard of the agreement ----------------------------------------------------------------------------

    def _look(self) -> HeldOut:
        """What the held-out rows of all ranks are answered."""
        assert self.agreement is not None
        batches = getattr(getattr(self.trainer, "datamodule", None), "held_out_batches", None)
        if batches is None:
            raise ValueError(
                "agreement.guard: found one without a datamodule that holds rows out; expected "
                "NoisyInstructionDataModule or ParaphraseDataModule with data.unlabelled, or null"
            )
        own: list[tuple[str, str, float]] = []
        with torch.no_grad(), self.trainer.precision_plugin.val_step_context():
            for batch in batches():
                rows = batch.to(self.device).unanswered
                found = self.agreement.verdicts(self.backbone, rows, len(batch.variant))
                own += [
                    (dataset, names[one.chosen], one.agreeing)
                    for one, (dataset, names) in zip(found, rows.classes, strict=True)
                ]
        every: list[list[tuple[str, str, float]]] = [own]
        if self.trainer.world_size > 1:
            every = [[] for _ in range(self.trainer.world_size)]
            torch.distributed.all_gather_object(every, own)
        return HeldOut.of(row for one in every for row in one)

    def after_step(self) -> None:
        """Also let the guard look.

        Raises:
            ValueError: The consensus has collapsed.
        """
        super().after_step()
        step = self.trainer.global_step + 1
        if self._watch is not None and self._watch.is_due(step, self.trainer.estimated_stepping_batches):
            self._watch.check(step, self._look(), self._kept())

    def on_train_end(self) -> None:
        """Also look at held-out rows after a last step that was not known before (`trainer.max_time`)."""
        super().on_train_end()
        step = self.trainer.global_step
        if self._watch is not None and step and self._watch.looked != step:
            kept = "No adapter is exported; the last checkpoint may hold these weights"
            self._watch.check(step, self._look(), kept)

    def _kept(self) -> str:
        """What becomes of the weights of a step that collapsed, as a sentence."""
        found = [
            path
            for one in self.trainer.checkpoint_callbacks
            for name in ("best_model_path", "last_model_path")
            if (path := getattr(one, name, ""))
        ]
        before = f"the best checkpoint before is {found[0]}" if found else "no checkpoint was written before"
        return f"The weights of this step are not kept; {before}"

    def training_step(self, batch: InstructionBatch, batch_idx: int) -> Tensor:
        """As in `InstructionTuning`; also logs what the guard has seen last."""
        if self._watch is not None:
            self.log_dict({f"agreement/{name}": one for name, one in self._watch.curves().items()}, batch_size=1)
        return super().training_step(batch, batch_idx)

    def progress(self) -> dict[str, object]:
        """Also what the guard has seen."""
        seen = None if self._watch is None else self._watch.progress()
        return super().progress() if seen is None else {**super().progress(), "agreement": seen}

    def resume(self, progress: dict[str, object]) -> None:
        """Also restore what the guard has seen."""
        super().resume(progress)
        if self._watch is not None and "agreement" in progress:
            self._watch.resume(cast("dict[str, Seen]", progress["agreement"]))

"""Contrastive instruction tuning [CoIN]: Yan et al., ACL Findings 2024."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from robustlm.checks.choices import check_choice
from robustlm.checks.numbers import COLDEST, check_number
from robustlm.losses import balance, cosine_similarity, info_nce
from robustlm.models.base import Pooling
from robustlm.modules.base import InstructionTuning, TrainOn, filled
from robustlm.modules.passes import Passes
from robustlm.modules.terms import Term


@dataclass
class Contrast:
    """Trains a sample's state under one phrasing to be nearest to its state under another ([CoIN] § 3.3)."""

    name: ClassVar[str] = "contrast"
    needs_variants: ClassVar[str] = "a contrast compares"

    temperature: float = 0.05
    """τ, by which the cosine similarities are divided."""
    pooling: Pooling = "last"
    """Which final hidden state represents a row: `last`, `prompt_end`, `mean`, `max`."""
    symmetric: bool = False
    """Also compare each variant with all raw rows, and take the mean of both losses."""
    weight: float | None = None
    """A fixed weight; null: min(weight_limit, L_answers / L_contrast), which makes both losses equally large."""
    weight_limit: float = 1000.0
    """λ, the upper limit of the balanced weight."""
    mask_false_negatives: bool = True
    """Exclude candidates whose sample has the same request and the same target."""
    gather: bool = True
    """Also compare with the rows of all other ranks; gradients flow to those ranks too."""

    def __post_init__(self) -> None:
        check_number("contrast.temperature", self.temperature, above=0, least=COLDEST)
        check_number("contrast.weight_limit", self.weight_limit, above=0)
        if self.weight is not None and not 0 <= self.weight < math.inf:
            raise ValueError(f"contrast.weight: found {self.weight}; expected a finite number ≥ 0, or null to balance")
        check_choice("contrast.pooling", self.pooling, get_args(Pooling))

    def losses(self, passes: Passes, answers: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted loss of this micro-batch.

        Args:
            passes: With the views `raw` (B rows), `variant` (K rows for each raw row), and optionally `negative`.
            answers: The answer loss for balancing, a scalar.

        Returns:
            w·L_ctr, and values to log: `infonce` (L_ctr), `weight` (w), `accuracy` (share of anchors whose nearest
            candidate is their own partner) and `candidates` (mean number of candidates per anchor).
        """
        raw, variant = passes.answers("raw").state, passes.answers("variant").state
        many = len(variant) // len(raw)
        keys = passes.batch.keys
        variants, first = self._collect(passes, variant)
        begin = first // many  # index of this rank's first sample among the samples of all ranks
        everyone = torch.arange(len(variants) // many, device=raw.device)
        samples = everyone if keys is None else self._collect(passes, keys)[0]  # no keys: all samples differ
        own = begin + torch.arange(len(raw), device=raw.device).repeat_interleave(many)
        at = first + torch.arange(len(variant), device=raw.device)
        negatives = self._negatives(passes)
        found = [
            self._compare(
                raw.repeat_interleave(many, 0), own, variants, everyone.repeat_interleave(many), at, samples, negatives
            )
        ]
        if self.symmetric:
            raws, _ = self._collect(passes, raw)
            found.append(self._compare(variant, own, raws, everyone, own, samples, negatives))
        rows, hits, seen = (torch.stack(parts).to(found[0][0].dtype).mean(0) for parts in zip(*found, strict=True))
        # DDP averages over ranks; with this factor the average is the mean over the anchors of all ranks
        loss = rows.sum() * self._ranks(passes) / len(variants)
        weight = self._weight(passes, answers, loss)
        logs = {"infonce": loss.detach(), "weight": weight, "accuracy": hits.mean(), "candidates": seen.mean()}
        return weight * loss, logs

    def weigh(self, weights: dict[str, float]) -> dict[str, float]:
        """Return the weights unchanged, since `losses` already weighs this loss."""
        return weights

    def _compare(
        self,
        anchors: Tensor,
        own: Tensor,
        candidates: Tensor,
        whose: Tensor,
        positives: Tensor,
        samples: Tensor,
        negatives: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """For each anchor (`[n]` each): its loss, whether its partner is nearest, and its number of candidates.

        Args:
            anchors: States `[n, H]`.
            own: Int64 `[n]`, the sample of each anchor.
            candidates: States `[m, H]`.
            whose: Int64 `[m]`, the sample of each candidate.
            positives: Int64 `[n]`, each anchor's partner among the candidates.
            samples: Int64 `[S]`, the key of each sample of all ranks.
            negatives: Further candidates `[k, H]` and their keys `[k]`; they belong to no sample.
        """
        excluded = own[:, None] == whose  # exclude other variants of the same sample
        keys = samples[whose]
        if negatives is not None:
            candidates, keys = torch.cat([candidates, negatives[0]]), torch.cat([keys, negatives[1]])
            excluded = torch.cat([excluded, excluded.new_zeros(len(own), len(negatives[1]))], dim=1)
        if self.mask_false_negatives:
            excluded = excluded | (samples[own][:, None] == keys)
        excluded[torch.arange(len(own), device=own.device), positives] = False
        similarity = cosine_similarity(anchors, candidates).masked_fill(excluded, -torch.inf)
        losses = info_nce(similarity, positives, self.temperature)
        return losses, similarity.argmax(1) == positives, (~excluded).sum(1)

    def _collect(self, passes: Passes, values: Tensor) -> tuple[Tensor, int]:
        return passes.gathered(values) if self.gather else (values, 0)

    def _ranks(self, passes: Passes) -> int:
        return len(passes.gathered(torch.zeros(1, device=passes.batch.raw.input_ids.device))[0]) if self.gather else 1

    def _negatives(self, passes: Passes) -> tuple[Tensor, Tensor] | None:
        """States `[k, H]` and keys `[k]` of the explicit negatives of all ranks; `None` if there are none."""
        if passes.batch.negative is None:
            return None
        states, keys = passes.answers("negative").state, passes.batch.negative_keys
        if keys is None:
            keys = -1 - torch.arange(len(states), device=states.device)  # keys that no sample has
        return self._collect(passes, states)[0], self._collect(passes, keys)[0]

    def _weight(self, passes: Passes, answers: Tensor, loss: Tensor) -> Tensor:
        if self.weight is not None:
            return loss.new_full((), self.weight)
        both = torch.stack([answers.detach().to(loss.dtype), loss.detach()])[None]
        both = self._collect(passes, both)[0].mean(0)  # all ranks use the same weight
        return balance(both[0], both[1], self.weight_limit)


class ContrastiveTuning(InstructionTuning):
    """Tuning with an in-batch contrast between the states of a sample under two phrasings.

    L = L_answers + min(λ, L_answers / L_contrast) · L_contrast ([CoIN] § 3.3), where L_answers covers raw and variant
    rows.

    Args:
        contrast: Temperature, pooling, weight and candidates of the contrast; null trains only on the answers.
        kwargs: Arguments of `InstructionTuning`.
    """

    own_views: ClassVar[TrainOn] = "both"

    def __init__(self, *args: Any, contrast: Contrast | None = Contrast(), **kwargs: Any) -> None:  # noqa: B008
        super().__init__(*args, **kwargs)
        self.contrast = copy.copy(contrast)
        self.pooling = contrast.pooling if contrast else "last"

    @property
    def terms(self) -> tuple[Term, ...]:
        """The contrast ([CoIN] § 3.3), if there is one."""
        return filled(self.contrast)

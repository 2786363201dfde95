"""Contrastive instruction tuning [CoIN]: Yan et al., ACL Findings 2024."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from robustlm.checks.numbers import COLDEST, check_number
from robustlm.losses import balance, cosine_similarity, info_nce
from robustlm.models.base import Pooling
from robustlm.modules.base import InstructionTuning, TrainOn, filled
from robustlm.modules.passes import Passes
from robustlm.modules.terms import Term


@dataclass
class Contrast:
    """A sample's state under one phrasing is nearest to its state under another ([CoIN] § 3.3)."""

    name: ClassVar[str] = "contrast"
    needs_variants: ClassVar[str] = "a contrast compares"

    temperature: float = 0.05
    """τ, divides the cosine similarities."""
    pooling: Pooling = "last"
    """Which final hidden state stands for a row: `last`, `prompt_end`, `mean`, `max`."""
    symmetric: bool = False
    """Also look for the raw row of each variant among the raw rows, and take the mean of both losses."""
    weight: float | None = None
    """A fixed weight; null: min(weight_limit, L_answers / L_contrast), which makes both losses equally large."""
    weight_limit: float = 1000.0
    """λ, the largest that the balanced weight gets."""
    mask_false_negatives: bool = True
    """Leave out candidates whose sample is asked the same thing and has the same target."""
    gather: bool = True
    """Also compare with the rows of all other ranks, with gradient."""

    def __post_init__(self) -> None:
        check_number("contrast.temperature", self.temperature, above=0, least=COLDEST)
        check_number("contrast.weight_limit", self.weight_limit, above=0)
        if self.weight is not None and not 0 <= self.weight < math.inf:
            raise ValueError(f"contrast.weight: found {self.weight}; expected a finite number ≥ 0, or null to balance")
        if self.pooling not in get_args(Pooling):
            known = ", ".join(get_args(Pooling))
            raise ValueError(f"contrast.pooling: found {self.pooling!r}; expected one of {known}")

    def losses(self, passes: Passes, answers: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted loss of this micro-batch.

        Args:
            passes: With the views `raw` (B rows) and `variant` (K for each), and `negative` where there is one.
            answers: The answer loss it is balanced with, a scalar.

        Returns:
            w·L_ctr, and what is worth a curve: `infonce` (L_ctr), `weight` (w), `accuracy` (share of the anchors
            whose own partner is the nearest candidate) and `candidates` (how many an anchor is compared with).
        """
        raw, variant = passes.answers("raw").state, passes.answers("variant").state
        many = len(variant) // len(raw)
        keys = passes.batch.keys
        variants, first = self._collect(passes, variant)
        begin = first // many  # the number that this rank's first sample has among those of all ranks
        everyone = torch.arange(len(variants) // many, device=raw.device)
        samples = everyone if keys is None else self._collect(passes, keys)[0]  # no keys: no one is alike
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
        # the mean over the anchors of all ranks, written as the mean over ranks that DDP takes
        loss = rows.sum() * self._ranks(passes) / len(variants)
        weight = self._weight(passes, answers, loss)
        logs = {"infonce": loss.detach(), "weight": weight, "accuracy": hits.mean(), "candidates": seen.mean()}
        return weight * loss, logs

    def weigh(self, weights: dict[str, float]) -> dict[str, float]:
        """As they are: `losses` weighs this loss by itself."""
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
        """Losses of anchors `[n]`, whether each finds its partner, and the number of candidates.

        Args:
            anchors: States `[n, H]`.
            own: Int64 `[n]`, the sample of each anchor.
            candidates: States `[m, H]`.
            whose: Int64 `[m]`, the sample of each candidate.
            positives: Int64 `[n]`, each anchor's partner among the candidates.
            samples: Int64 `[S]`, the key of each sample of all ranks.
            negatives: More candidates `[k, H]` and their keys `[k]`, no sample's own.
        """
        excluded = own[:, None] == whose  # other variants of the sample itself are neither partner nor stranger
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
        """States `[k, H]` and keys `[k]` of explicit negatives, of all ranks."""
        if passes.batch.negative is None:
            return None
        states, keys = passes.answers("negative").state, passes.batch.negative_keys
        if keys is None:
            keys = -1 - torch.arange(len(states), device=states.device)  # like no sample's
        return self._collect(passes, states)[0], self._collect(passes, keys)[0]

    def _weight(self, passes: Passes, answers: Tensor, loss: Tensor) -> Tensor:
        if self.weight is not None:
            return loss.new_tensor(self.weight)
        both = torch.stack([answers.detach().to(loss.dtype), loss.detach()])[None]
        both = self._collect(passes, both)[0].mean(0)  # all ranks weigh alike
        return balance(both[0], both[1], self.weight_limit)


class ContrastiveTuning(InstructionTuning):
    """Tuning with an in-batch contrast between the states of a sample under two phrasings.

    L = L_answers + min(λ, L_answers / L_contrast) · L_contrast ([CoIN] § 3.3), L_answers over raw and variant rows.

    Args:
        contrast: Temperature, pooling, weight and candidates of the contrast; null trains on the answers alone.
        kwargs: Arguments of `InstructionTuning`.
    """

    own_views: ClassVar[TrainOn] = "both"

    def __init__(self, *args: Any, contrast: Contrast | None = Contrast(), **kwargs: Any) -> None:  # noqa: B008
        super().__init__(*args, **kwargs)
        self.contrast = copy.copy(contrast)
        self.pooling = contrast.pooling if contrast else "last"

    @property
    def terms(self) -> tuple[Term, ...]:
        """[CoIN] § 3.3."""
        return filled(self.contrast)

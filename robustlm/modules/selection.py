"""Choice of one variant of each row: the hardest of K, the one whose edits a gradient ranks first, or a random one."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, get_args

import torch
from torch import Tensor

from robustlm.adversaries.geometry import uniform
from robustlm.batch import InstructionBatch
from robustlm.checks.choices import check_choice
from robustlm.checks.numbers import COLDEST, check_number
from robustlm.models.precision import automatic
from robustlm.modules.passes import Passes

Choice = Literal["hardest", "soft", "gradient", "random"]
"""How one of the K variants of a row is chosen."""


@dataclass
class Selection:
    """Trains each row on one of its K variants, after the worst-of-K discrete adversary of arXiv 2606.10610.

    With L_k the answer loss of variant k, computed by a pass without gradient over all K variants, and g_t the gradient
    of the raw row's answer loss at the embedding of its token t::

        hardest:   k* = argmax_k L_k
        soft:      k* ~ softmax(L / temperature), L in nats per answer token
        gradient:  k* = argmax_k Σ_t ‖g_t‖ over the tokens t that variant k changes; no pass over the variants
        random:    k* uniform, without any pass

    All other losses of the step (an adversary, a contrast, an alignment) then see the chosen variant alone. `random` is
    the control: it trains on the same variants, without the choice. `soft` draws one variant instead of weighing all
    K, so its expected gradient is the mean of the K gradients with those weights, at the cost of one. We had no access
    to the paper, so this is not its code or its equation.

    Cost with LoRA, plain tuning = 1: 1 + K/2 in passes, since a pass without gradient is half of a plain step; less in
    time, since that pass may run in bfloat16. Prompts begin with the instruction, so variants of a row share no prefix.
    `gradient` costs one pass over the raw rows, forward and backward, whatever K is: 2 in all, or half a step more than
    without it where other losses of the step use the raw rows too.
    """

    choice: Choice = "hardest"
    """`hardest`: the variant with the highest loss; `soft`: drawn with the softmax of the losses; `gradient`: the one
    that changes the tokens with the largest gradients; `random`: drawn uniformly."""
    temperature: float = 1.0
    """Temperature of `soft`, in nats per answer token: low values come near `hardest`, high ones near `random`."""
    bf16: bool = True
    """Run the pass without gradient in bfloat16 where the device computes it in hardware. The choice between variants
    with almost equal losses may then be another one; losses and gradients of the training pass are not touched."""

    def __post_init__(self) -> None:
        check_choice("selection.choice", self.choice, get_args(Choice))
        check_number("selection.temperature", self.temperature, above=0, least=COLDEST)

    def apply(
        self, passes: Passes, loss_scale: float = 1.0, *, keep_raw: bool = False
    ) -> tuple[InstructionBatch, dict[str, Tensor]]:
        """The batch with one variant for each row.

        The device chooses, so the host does not wait for it. Only for a model that runs rows without padding, the host
        waits once, since the shapes of its passes depend on the choice.

        Args:
            passes: With the view `variant`, K rows for each raw row.
            loss_scale: Scale of fp16 gradients.
            keep_raw: Whether other losses use the raw rows, so that `gradient` keeps their pass in `passes`.

        Returns:
            The batch with B variants, with their β and with the seeds of each row's first variant; and values to log:
            `gained` (score of the chosen variant minus the mean over K) and `spread` (highest score minus lowest),
            where a score is the loss in nats per answer token, or under `gradient` the sum of the gradients' norms.
            Nothing is logged for `random`.

        Raises:
            ValueError: `gradient` without `batch.touched`.
        """
        batch, view = passes.batch, passes.view("variant")
        count, many = len(batch.raw), len(view) // len(batch.raw)
        seeds = torch.randint(2**62, (len(view),)) if batch.seeds is None else batch.seeds
        device = view.input_ids.device
        curves: dict[str, Tensor] = {}
        if self.choice == "random":
            which = _drawn(seeds, torch.device("cpu")).reshape(count, many).argmax(1).to(device, non_blocking=True)
        else:
            found = self._losses(passes) if self.choice != "gradient" else _salience(passes, loss_scale, keep_raw)
            losses = found.reshape(count, many)
            scores = losses
            if self.choice == "soft":  # the largest sum of a logit and Gumbel noise is a draw from the softmax
                gumbel = -(-_drawn(seeds, device).log()).log()
                scores = losses / self.temperature + gumbel.reshape(count, many)
            which = scores.argmax(1)
            chosen = losses.gather(1, which[:, None])[:, 0]
            curves["gained"] = (chosen - losses.mean(1)).mean()
            curves["spread"] = (losses.amax(1) - losses.amin(1)).mean()
        at = torch.arange(0, len(view), many, device=device) + which
        return (
            replace(
                batch,
                variant=view.one_of(many, which, measured=passes.backbone.padding_free),
                beta=None if batch.beta is None else batch.beta.index_select(0, at),
                touched=None,
                seeds=seeds[::many],
            ),
            curves,
        )

    def _losses(self, passes: Passes) -> Tensor:
        """Answer loss of each variant, in nats per answer token, without gradient: `[B·K]`."""
        view = passes.view("variant")
        kind = view.input_ids.device.type
        lower = self.bf16 and not torch.is_autocast_enabled(kind) and _computes_bf16(kind)
        with torch.no_grad(), torch.autocast(kind, torch.bfloat16) if lower else nullcontext():
            sums = passes.row_losses("variant", weighed=False)
        counts = torch.tensor(view.layout.counts).to(sums.device, non_blocking=True)
        return sums / counts.clamp(min=1)


def _salience(passes: Passes, loss_scale: float, keep: bool) -> Tensor:
    """For each variant, the norms of the raw row's gradient at the tokens that the variant changes, summed: `[B·K]`."""
    touched = passes.batch.touched
    if touched is None:
        raise ValueError(
            "selection.choice: found gradient, but batches do not say which tokens their variants change; expected "
            "NoisyInstructionDataModule with data.variants of 2 or more, or another choice"
        )
    norms: Tensor = torch.linalg.vector_norm(passes.embedding_gradient("raw", loss_scale, keep=keep), dim=-1)
    many = len(touched) // len(norms)
    found: Tensor = touched.reshape(len(norms), many, -1) * norms[:, None]
    return found.sum(-1).flatten()


def _drawn(seeds: Tensor, device: torch.device) -> Tensor:
    """A number between 0 and 1 for each seed, exclusive: fp32 `[n]`, a function of the seed alone."""
    place = torch.zeros(len(seeds), 1, 1, device=device)
    return (uniform(place, torch.ones(len(seeds), 1, dtype=torch.bool, device=device), seeds).flatten() + 1) / 2


@cache
def _computes_bf16(kind: str) -> bool:
    return automatic(kind)[0] == "bf16-mixed"

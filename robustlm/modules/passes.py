"""The forward passes of one step. Each runs once, and all losses share it."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate
from typing import Literal

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from robustlm.adversaries import Problem
from robustlm.batch import InstructionBatch, Scope, View
from robustlm.losses import AnswerLoss, Direction, PairLosses, row_sums
from robustlm.models.base import AnswerOutput, LanguageModel, Pooling
from robustlm.models.heads import FEWEST, ChunkLogits, LateLogits, Spending, by_token, chunk_length, spent

ViewName = Literal["raw", "variant", "negative", "replay"]


class Passes:
    """The forward passes that losses read: views of the batch run on demand, and their results are kept.

    Args:
        backbone: A loaded model.
        batch: The rows of this micro-batch.
        pooling: Which hidden state represents a row.
        all_gather: Stacks a tensor over ranks, `[W, …]`, with gradient; null if there is one process.
        chunk_rows: Views with more rows run in chunks of this many rows, and run again in the backward pass.
        chunk_logits: Most logits that a loss computes at once; see `heads.chunk_length`.
    """

    def __init__(
        self,
        backbone: LanguageModel,
        batch: InstructionBatch,
        *,
        pooling: Pooling = "last",
        all_gather: Callable[[Tensor], Tensor] | None = None,
        chunk_rows: int | None = None,
        chunk_logits: ChunkLogits = "auto",
    ) -> None:
        self.backbone = backbone
        self.batch = batch
        self.pooling: Pooling = pooling
        self._all_gather = all_gather
        self._chunk_rows = chunk_rows
        self._chunk_logits = chunk_logits
        self._answers: dict[str, AnswerOutput] = {}
        self._embeds: dict[str, Tensor] = {}
        self._row_losses: dict[str, Tensor] = {}
        self._expected: PairLosses | None = None
        self._apart: Tensor | None = None
        self._positions = 0
        self._tokens: Tensor | int = 0
        self._rng = _RandomState(batch.raw.input_ids.device)

    def over(self, batch: InstructionBatch, keep: Sequence[ViewName] = ()) -> Passes:
        """Passes over another batch, with the same settings and dropout masks; counts of positions go on.

        Args:
            batch: The other batch.
            keep: Views that are the same in both batches; their passes are not run again.
        """
        found = copy.copy(self)
        found.batch = batch
        found._answers = {name: one for name, one in self._answers.items() if name in keep}
        found._embeds = {name: one for name, one in self._embeds.items() if name in keep}
        found._row_losses = {name: one for name, one in self._row_losses.items() if name in keep}
        found._apart = None
        return found

    # --- views -------------------------------------------------------------------------------------------------

    def view(self, name: ViewName) -> View:
        """The view with the name `raw`, `variant`, `negative` or `replay`.

        Raises:
            ValueError: The datamodule does not produce this view.
        """
        view = getattr(self.batch, name)
        if view is None:
            raise ValueError(
                f"this objective needs a {name!r} view, but the datamodule emits none; NoisyInstructionDataModule "
                "emits 'variant', ContrastiveDataModule with negatives > 0 also 'negative'"
            )
        assert isinstance(view, View)
        return view

    def answers(self, name: ViewName) -> AnswerOutput:
        """Answer logits and states of a view; the view runs at the first call only."""
        if name not in self._answers:
            self._answers[name] = self.run(self.view(name), self._embeds.get(name))
        return self._answers[name]

    def run(self, view: View, inputs_embeds: Tensor | None = None, *, masks: int = 0) -> AnswerOutput:
        """One forward pass.

        Args:
            view: The rows to run.
            inputs_embeds: `[R, T, H]`; replaces the view's own embeddings.
            masks: Number of the set of dropout masks. Passes of a step with the same number use the same masks.
        """
        self._count(view)
        with self._rng.replayed(masks):
            if self._chunk_rows is None or len(view) <= self._chunk_rows or not torch.is_grad_enabled():
                return self._run(view, inputs_embeds, self._many_logits(view))
            return self._in_chunks(view, inputs_embeds, self._chunk_rows)

    def _run(self, view: View, embeds: Tensor | None, late: bool) -> AnswerOutput:
        extra = {"late": True} if late else {}
        answers: AnswerOutput = self.backbone(view, embeds, self.pooling, **extra)
        return answers

    def _many_logits(self, view: View) -> bool:
        """Whether losses may compute the logits of a view in chunks."""
        words = getattr(self.backbone.config.get_text_config(), "vocab_size", None)
        if self._few is None or words is None or len(view.layout.targets) * words <= self._few:
            return False
        return "late" in inspect.signature(type(self.backbone).forward).parameters

    @property
    def _few(self) -> int | None:
        """Number of logits that are always computed at once; null: any number."""
        return FEWEST if self._chunk_logits == "auto" else self._chunk_logits

    def _count(self, view: View) -> None:
        # lengths of rows that were chosen on the device are not known to the host
        tokens = sum(view.layout.lengths) if view.layout.lengths else view.attention_mask.sum()
        self._tokens = self._tokens + tokens
        self._positions += sum(view.layout.lengths) if self.backbone.padding_free else view.input_ids.numel()

    @property
    def padding(self) -> Tensor | float:
        """The share of positions that were padding, in all passes so far; of an encoder–decoder, in its encoder.

        A tensor on the device if variants were chosen there, otherwise a number.
        """
        return 1 - self._tokens / self._positions if self._positions else 0.0

    def _in_chunks(self, view: View, embeds: Tensor | None, size: int) -> AnswerOutput:
        """The same answers, but memory holds the activations of only one chunk at a time.

        Each chunk runs without a graph in the forward pass, and again, with the same dropout masks, in the backward
        pass. So losses over all rows of a batch that is too large for memory (a contrast with many candidates) have
        their exact gradient. This is gradient caching (Gao et al., 2021), for every objective.
        """
        first: list[AnswerOutput | None] = []
        late = self._many_logits(view)

        def part(embeds: Tensor, at: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            found = self._run(view.part(at), embeds, late)
            if not first:
                first.append(found)
            scores = found.logits if found.late is None else found.late.states
            return scores, found.targets, found.rows + at.start, found.state

        embeds = self.backbone.embed(view.input_ids) if embeds is None else embeds
        slices = [slice(start, start + size) for start in range(0, len(view), size)]
        parts = [checkpoint(part, embeds[at], at, use_reentrant=False) for at in slices]
        scores, targets, rows, state = (torch.cat(pieces) for pieces in zip(*parts, strict=True))
        like, first[:] = first[0], [None]  # so that its graph is not kept, nor that of a chunk that runs again
        assert like is not None
        logits = scores if like.late is None else like.late.at(scores, like.late.values // size * len(view))
        return AnswerOutput(logits, targets, rows, state, like.whole)

    # --- what losses are made of -------------------------------------------------------------------------------

    def token_count(self, *names: ViewName) -> Tensor:
        """The divisor for summed losses of views (scalar, fp32); see `InstructionBatch.step_tokens`."""
        views, raw = [self.view(name) for name in names], self.batch.raw
        if self.batch.step_tokens is None:
            return torch.stack([(view.labels >= 0).sum() for view in views]).sum().clamp(min=1).float()
        rows = sum(len(view) for view in views)
        # explicit fp32: under bf16-true, the default type would round the count
        tokens = self.batch.step_tokens * rows / len(raw)
        return torch.full((), tokens, device=raw.labels.device, dtype=torch.float32)

    def row_losses(self, name: ViewName, *, weighed: bool = True) -> Tensor:
        """Answer cross-entropy `[R]` of a view, summed over each row's tokens and weighed; computed once.

        Args:
            name: Name of the view.
            weighed: Whether each row's loss is multiplied by its weight (`InstructionBatch.weights`).
        """
        if not weighed and self.batch.weights is not None:
            return self._summed(self.answers(name), len(self.view(name)))
        if name not in self._row_losses and not self._paired(name):
            self._row_losses[name] = self._weighed(name, self._summed(self.answers(name), len(self.view(name))))
        return self._row_losses[name]

    def expect_divergence(
        self, direction: Direction = "forward", *, temperature: float = 1.0, detach_reference: bool = False
    ) -> None:
        """Announce a later call of `divergence` for the variants, in a step that trains answers of both views.

        The answers' cross-entropies and the divergence then come from the same logits: the head runs once for each view
        and not twice. The numbers are the same.
        """
        self._expected = PairLosses(direction, temperature, detach_reference)

    def _paired(self, name: ViewName) -> bool:
        """Compute the row losses of both views and their divergence together, if it is expected; whether it was."""
        expected = self._expected
        if expected is None or expected.temperature != 1 or name not in ("raw", "variant"):
            return False
        if self._row_losses.keys() & {"raw", "variant"} or len(self.view("variant")) != len(self.view("raw")):
            return False
        pair = replace(expected, answers=True)
        self.reference_places("variant")  # checks that token i of one view is token i of the other
        views: tuple[ViewName, ViewName] = ("variant", "raw")
        both = [self.answers(one) for one in views]
        lates = [one.late for one in both if one.late is not None]
        length = chunk_length(lates, self._chunk_logits, pair.buffers) if len(lates) == 2 else None
        if length is None or any(late.trained for late in lates):
            return False
        *answers, self._apart = spent(pair, lates, [one.targets for one in both], length)
        for one, output, losses in zip(views, both, answers, strict=True):
            self._row_losses[one] = self._weighed(one, row_sums(losses, output.rows, len(self.view(one))))
        return True

    def _summed(self, answers: AnswerOutput, rows: int) -> Tensor:
        """Answer cross-entropy `[R]`, summed over each row's answer tokens."""
        (losses,) = self._spent(AnswerLoss(), answers, beside=[answers.targets])
        return row_sums(losses, answers.rows, rows)

    def _spent(self, loss: Spending, *answers: AnswerOutput, beside: Sequence[Tensor] = ()) -> tuple[Tensor, ...]:
        """As `by_token`, for losses `[n]` that may overwrite their logits."""
        lates = [one.late for one in answers if one.late is not None]
        length = None
        if len(lates) == len(answers):
            length = chunk_length(lates, self._chunk_logits, self._buffers(loss, lates))
        if length is not None:
            return spent(loss, lates, beside, length)
        return loss(*self._whole(answers), *beside)

    def _buffers(self, loss: Spending, lates: Sequence[LateLogits]) -> int | None:
        """How many tensors like its logits a loss holds; null if it does not overwrite them, as with a trained head."""
        return None if any(late.trained for late in lates) else loss.buffers

    def _whole(self, answers: Sequence[AnswerOutput]) -> list[Tensor]:
        """All logits of outputs."""
        logits = [one.logits for one in answers]
        for one in answers:
            if one.whole is not None:
                one.whole.tell()
        return logits

    def answer_loss(self, name: ViewName, answers: AnswerOutput) -> Tensor:
        """The weighed and summed answer cross-entropy of another pass over a view, a scalar."""
        return self._weighed(name, self._summed(answers, len(self.view(name)))).sum()

    def _weighed(self, name: ViewName, losses: Tensor) -> Tensor:
        """Row losses `[R]` of a view times the rows' weights; only the batch's own rows and their variants have any."""
        if self.batch.weights is None or name not in ("raw", "variant"):
            return losses
        return losses * self.batch.weights.to(losses.dtype).repeat_interleave(len(losses) // len(self.batch.raw))

    def by_token(self, loss: Callable[..., Tensor], *answers: AnswerOutput, beside: Sequence[Tensor] = ()) -> Tensor:
        """A loss `[n]` of each answer token, without more than a chunk of the n × V logits at a time.

        Args:
            loss: Maps logits `[m, V]`, one tensor for each of `answers`, and parts `[m]` of `beside` to losses `[m]`.
                A token's loss depends on the token's logits alone.
            answers: Outputs for the same n tokens, of one or several passes.
            beside: Tensors `[n]`.
        """
        lates = [one.late for one in answers if one.late is not None]
        length = chunk_length(lates, self._chunk_logits) if len(lates) == len(answers) else None
        if length is not None:
            return by_token(loss, lates, beside, length)
        return loss(*self._whole(answers), *beside)

    def divergence(
        self, name: ViewName, direction: Direction = "forward", *, temperature: float = 1.0,
        detach_reference: bool = False,
    ) -> Tensor:  # fmt: skip
        """Divergence `[n]` of each answer token of a view from the same token of the raw view; see `losses.divergence`.

        Raises:
            ValueError: The answers of a row and its variants are not the same tokens.
        """
        loss = PairLosses(direction, temperature, detach_reference)
        if self._apart is not None and name == "variant" and loss == self._expected:
            return self._apart
        places = self.reference_places(name)
        first, second = self.answers(name), self.answers("raw")
        lates = [one.late for one in (first, second) if one.late is not None]
        if len(lates) < 2 or chunk_length(lates, self._chunk_logits, self._buffers(loss, lates)) is None:
            _ = first.logits, second.logits  # computed once, for this loss and others
        (found,) = self._spent(loss, first, second.take(places))
        return found

    def by_pairs(
        self,
        loss: Callable[..., Tensor],
        name: ViewName,
        own: Tensor | None,
        raw: Tensor,
        *,
        beside: Sequence[Tensor] = (),
    ) -> Tensor:
        """A loss `[m]` of pairs of answer tokens, one of a view and one of the raw view; see `by_token`.

        Args:
            loss: Maps logits `[m, V]` of the view and of the raw view, and parts `[m]` of `beside`, to losses `[m]`.
            name: Name of the view.
            own: Int64 `[m]`: places among the answer tokens of the view; null: all of them, in order.
            raw: Int64 `[m]`: places among those of the raw view.
            beside: Tensors `[m]`.
        """
        first, second = self.answers(name), self.answers("raw")
        lates = [one for one in (first.late, second.late) if one is not None]
        lates = lates if own is None else [one.take(own) for one in lates[:1]] + lates[1:]
        if len(lates) < 2 or chunk_length(lates, self._chunk_logits) is None:
            _ = first.logits, second.logits  # computed once, for this loss and others
        return self.by_token(loss, first if own is None else first.take(own), second.take(raw), beside=beside)

    def keep_row_losses(self, name: ViewName, losses: Tensor) -> None:
        """Store row losses `[R]` of a view that an adversary has computed as its clean term."""
        self._row_losses.setdefault(name, losses)

    def cross_entropy(self, *names: ViewName) -> Tensor:
        """Answer cross-entropy of views: their part of the mean over all answer tokens of the optimiser step."""
        return torch.stack([self.row_losses(name).sum() for name in names]).sum() / self.token_count(*names)

    def reference_logits(self, name: ViewName) -> Tensor:
        """Raw logits `[n, V]`, repeated so that line i matches line i of the logits of a view.

        Raises:
            ValueError: The answers of a row and its variants are not the same tokens.
        """
        return self.answers("raw").logits.index_select(0, self.reference_places(name))

    def reference_places(self, name: ViewName) -> Tensor:
        """Int64 `[n]`: for each answer token of a view, the place of the same token in the raw view."""
        raw, other = self.view("raw").layout, self.view(name).layout
        many = len(other.counts) // len(raw.counts)
        if tuple(count for count in raw.counts for _ in range(many)) != other.counts:
            raise ValueError(
                f"rows of the {name!r} view have answers of another length than their raw rows; an alignment compares "
                "answers token by token, so both views must hold the same answer tokens"
            )
        starts = accumulate(raw.counts, initial=0)
        places = [
            start + within for start, count in zip(starts, raw.counts, strict=False) for _ in range(many)
            for within in range(count)
        ]  # fmt: skip
        if tuple(raw.tokens[place] for place in places) != other.tokens:
            raise ValueError(
                f"rows of the {name!r} view have other answer tokens than their raw rows; an alignment compares "
                "answers token by token, so both views must hold the same answer tokens"
            )
        return torch.tensor(places).to(self.view("raw").labels.device, non_blocking=True)

    def gathered(self, values: Tensor) -> tuple[Tensor, int]:
        """Rows `[n, …]` of all ranks, with gradient, and the index of this rank's first row; ranks may differ in n."""
        if self._all_gather is None:
            return values, 0
        counts = self._all_gather(torch.tensor(len(values), device=values.device)).flatten().tolist()
        if len(counts) == 1:
            return values, 0
        longest = max(counts)
        padded = torch.cat([values, values.new_zeros(longest - len(values), *values.shape[1:])])
        stacked = self._all_gather(padded)
        return torch.cat([own[:count] for own, count in zip(stacked, counts, strict=True)]), sum(counts[: self._rank])

    @property
    def _rank(self) -> int:
        return torch.distributed.get_rank() if torch.distributed.is_initialized() else 0

    def forget(self) -> None:
        """Let the passes and losses so far go, with their graphs. What asks for them later runs them again."""
        self._answers.clear()
        self._row_losses.clear()
        self._apart = None

    def embedding_gradient(self, name: ViewName, loss_scale: float = 1.0, *, keep: bool) -> Tensor:
        """Gradient of a view's summed row losses at its embeddings, `[R, T, H]` (fp32 or better).

        Args:
            name: Name of the view.
            loss_scale: Scale of fp16 gradients.
            keep: Keep the pass with its graph for other losses. Otherwise it is freed.
        """
        own = self.backbone.embed(self.view(name).input_ids)
        self._embeds[name] = own if own.requires_grad else own.requires_grad_()
        loss = self.row_losses(name).sum() * loss_scale
        (found,) = torch.autograd.grad(loss, [own], retain_graph=keep)
        if not keep:
            for kept in (self._answers, self._embeds, self._row_losses):
                kept.pop(name)
            self._apart = None
        return found.to(torch.promote_types(found.dtype, torch.float32)) / loss_scale

    def problem(
        self,
        name: ViewName,
        scope: Scope,
        loss_scale: float = 1.0,
        *,
        held: bool = False,
        release: Callable[[], None] | None = None,
    ) -> Problem:
        """A view in the form that an adversary takes. Row losses are summed over each row's answer tokens.

        The clean pass is shared: the problem's `clean_loss()` returns the `row_losses` of this object.

        Args:
            name: Name of the view.
            scope: Positions that may be perturbed.
            loss_scale: Scale of fp16 gradients.
            held: Whether other losses of the step use this view's pass, so that it must not be freed. Create the
                problem before those losses run: a pass that ran earlier has no gradient at its embeddings, and would
                run once more for adversaries that need it.
            release: Runs the backward pass of those losses, where it may run early.
        """
        view = self.view(name)
        rows = len(view)
        device = view.input_ids.device
        beta, seeds = (self.batch.beta, self.batch.seeds) if name == "variant" else (None, None)
        own = self.backbone.embed(view.input_ids)
        held = held and name not in self._answers
        if held:
            self._embeds[name] = own if own.requires_grad else own.requires_grad_()

        def loss(embeds: Tensor) -> Tensor:
            return self._weighed(name, self._summed(self.run(view, embeds), rows))

        return Problem(
            embeds=own,
            mask=view.perturbable(scope),
            loss=loss,
            beta=beta if beta is not None else torch.zeros(rows, device=device),
            seeds=seeds if seeds is not None else torch.randint(2**62, (rows,)),
            scale=self.backbone.embedding_scale,
            parameters=self.backbone.trained,
            loss_scale=loss_scale,
            held=held,
            release=release if held else None,
            clean=lambda: self.row_losses(name),
        )


class _RandomState:
    """A saved state of the random generators, from which several passes start."""

    def __init__(self, device: torch.device) -> None:
        self._devices = [device] if device.type == "cuda" else []
        self._cpu = torch.get_rng_state()
        self._cuda = [torch.cuda.get_rng_state(d) for d in self._devices]

    @contextmanager
    def replayed(self, number: int = 0) -> Iterator[None]:
        """Inside this context, equal numbers give equal random draws. The state outside does not change."""
        with torch.random.fork_rng(devices=self._devices):
            torch.set_rng_state(self._cpu)
            for device, state in zip(self._devices, self._cuda, strict=True):
                torch.cuda.set_rng_state(state, device)
            if number:
                torch.manual_seed(int(torch.randint(2**62, (1,))) + number)
            yield

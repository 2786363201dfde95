"""The forward passes of one step, each run once and shared by all losses."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from robustlm.adversaries import Problem
from robustlm.backbone import Answers, Backbone
from robustlm.batch import InstructionBatch, Scope, View
from robustlm.losses import answer_cross_entropy


class Passes:
    """What losses see of a step: views of the batch, run on demand and kept.

    Args:
        backbone: A loaded model.
        batch: The rows of this micro-batch.
    """

    def __init__(self, backbone: Backbone, batch: InstructionBatch) -> None:
        self.backbone = backbone
        self.batch = batch
        self._answers: dict[str, Answers] = {}
        self._rng = _RandomState(batch.raw.input_ids.device)

    def view(self, name: str) -> View:
        """The view called `raw`, `variant` or `negative`.

        Raises:
            ValueError: The datamodule emits no such view.
        """
        view = getattr(self.batch, name)
        if view is None:
            raise ValueError(
                f"this objective needs a {name!r} view, but the datamodule emits none; NLUDataModule emits 'variant'"
            )
        assert isinstance(view, View)
        return view

    def answers(self, name: str) -> Answers:
        """Answer logits and last states of a view, run once."""
        if name not in self._answers:
            self._answers[name] = self.run(self.view(name))
        return self._answers[name]

    def run(self, view: View, inputs_embeds: Tensor | None = None) -> Answers:
        """One forward pass. All passes of a step see the same dropout masks."""
        with self._rng.replayed():
            answers: Answers = self.backbone(view, inputs_embeds)
        return answers

    def token_count(self, name: str) -> Tensor:
        """What summed losses of a view are divided by: see `InstructionBatch.step_tokens` (scalar, fp32)."""
        view, raw = self.view(name), self.batch.raw
        if self.batch.step_tokens is None:
            return (view.labels >= 0).sum().clamp(min=1).float()
        return torch.tensor(self.batch.step_tokens * len(view) / len(raw), device=view.labels.device)

    def cross_entropy(self, name: str) -> Tensor:
        """Answer cross-entropy of a view: its share of the mean over all answer tokens of the optimiser step."""
        answers = self.answers(name)
        rows = answer_cross_entropy(answers.logits, answers.targets, answers.rows, len(self.view(name)))
        return rows.sum() / self.token_count(name)

    def problem(self, name: str, scope: Scope, loss_scale: float = 1.0) -> Problem:
        """A view as an adversary sees it; row losses are summed over each row's answer tokens.

        Args:
            name: Of the view.
            scope: Positions that may be perturbed.
            loss_scale: What fp16 gradients are scaled by.
        """
        view = self.view(name)
        rows = len(view)
        device = view.input_ids.device
        beta, seeds = (self.batch.beta, self.batch.seeds) if name == "variant" else (None, None)

        def loss(embeds: Tensor) -> Tensor:
            answers = self.run(view, embeds)
            return answer_cross_entropy(answers.logits, answers.targets, answers.rows, rows)

        return Problem(
            embeds=self.backbone.embed(view.input_ids),
            mask=view.perturbable(scope),
            loss=loss,
            beta=beta if beta is not None else torch.zeros(rows, device=device),
            seeds=seeds if seeds is not None else torch.randint(2**62, (rows,)),
            scale=self.backbone.embedding_scale,
            parameters=self.backbone.trained,
            loss_scale=loss_scale,
        )


class _RandomState:
    """The generators' state at one moment, to be lived through several times."""

    def __init__(self, device: torch.device) -> None:
        self._devices = [device] if device.type == "cuda" else []
        self._cpu = torch.get_rng_state()
        self._cuda = [torch.cuda.get_rng_state(d) for d in self._devices]

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Random numbers drawn inside are the same every time; the state outside stays as it is."""
        with torch.random.fork_rng(devices=self._devices):
            torch.set_rng_state(self._cpu)
            for device, state in zip(self._devices, self._cuda, strict=True):
                torch.cuda.set_rng_state(state, device)
            yield

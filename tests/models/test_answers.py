"""A forward pass keeps what it is told and what it finds to itself."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from robustlm.models.answers import _CURRENT
from robustlm.models.tuning import FullTuning
from tests.tiny import SAMPLES, load, view_of


def test_a_forward_inside_another_one_changes_neither(llama: str) -> None:
    """The inner pass, of other rows and another pooling, runs while the outer one is in its layers."""
    backbone = load(llama, None)
    outer, inner = view_of(backbone, SAMPLES), view_of(backbone, SAMPLES[:1])
    alone = backbone(outer, pooling="mean"), backbone(inner, pooling="max")
    found: list[Any] = []

    def nested(*_: Any) -> None:
        handle.remove()
        found.append(backbone(inner, pooling="max"))

    handle = backbone.base.get_decoder().register_forward_pre_hook(nested)
    found.insert(0, backbone(outer, pooling="mean"))
    assert len(found) == 2
    for ours, wanted in zip(found, alone, strict=True):
        assert torch.equal(ours.logits, wanted.logits)
        assert torch.equal(ours.state, wanted.state)


def test_nothing_stays_of_a_forward(llama: str) -> None:
    backbone = load(llama, None)
    before = set(vars(backbone))
    backbone(view_of(backbone, SAMPLES))
    assert _CURRENT.get() is None
    assert set(vars(backbone)) == before
    view = view_of(backbone, SAMPLES)
    whole = backbone.base(input_ids=view.input_ids, attention_mask=view.attention_mask).logits
    assert whole.shape[:2] == view.input_ids.shape, "the head sees all positions where nobody asks for answers"


def test_a_forward_that_fails_leaves_no_settings(llama: str) -> None:
    backbone = load(llama, None)
    view = view_of(backbone, SAMPLES)
    wanted = backbone(view)

    def fail(*_: Any) -> None:
        raise RuntimeError("no memory")

    handle = backbone.base.get_decoder().register_forward_hook(fail)
    try:
        backbone(view, pooling="max")
    except RuntimeError:
        handle.remove()
    assert _CURRENT.get() is None
    assert torch.equal(backbone(view).state, wanted.state)


def test_two_models_in_one_pass(llama: str) -> None:
    """A copy of the model that is run within a pass of the first one keeps its own head."""
    backbone = load(llama, None)
    other = copy.deepcopy(backbone)
    view = view_of(backbone, SAMPLES)
    wanted = backbone(view)
    shapes: list[Any] = []

    def ask(*_: Any) -> None:
        said = other.base(input_ids=view.input_ids, attention_mask=view.attention_mask)
        shapes.append(said.logits.shape[:2])

    handle = backbone.base.get_decoder().register_forward_pre_hook(ask)
    assert torch.equal(backbone(view).logits, wanted.logits)
    handle.remove()
    assert shapes == [view.input_ids.shape]


def test_passes_that_are_run_again_in_the_backward_pass(llama: str) -> None:
    """Two passes with other rows and poolings, recomputed after both were run, have the gradients of plain ones."""
    backbone = load(llama, FullTuning(), shake=0)
    views = view_of(backbone, SAMPLES), view_of(backbone, SAMPLES[1:])
    gradients = []
    for again in (False, True):
        total = torch.zeros(())
        for view, pooling in zip(views, ("mean", "prompt_end"), strict=True):

            def run(embeds: torch.Tensor, view: Any = view, pooling: Any = pooling) -> torch.Tensor:
                said = backbone(view, embeds, pooling)
                summed: torch.Tensor = said.logits.logsumexp(-1).sum() + said.state.square().sum()
                return summed

            embeds = backbone.embed(view.input_ids)
            total = total + (checkpoint(run, embeds, use_reentrant=False) if again else run(embeds))
        gradients.append(torch.autograd.grad(total, backbone.trained))
    for ours, wanted in zip(*gradients, strict=True):
        assert torch.equal(ours, wanted)


def test_the_hook_is_one_of_the_head_alone(llama: str) -> None:
    backbone = load(llama, None)
    hooked = [m for m in backbone.model.modules() if m._forward_pre_hooks]
    assert hooked == [backbone.base.get_output_embeddings()]
    assert isinstance(hooked[0], nn.Linear)

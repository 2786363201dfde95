"""Adapters of very low rank compute what peft's own layers compute."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robustlm.models.low_rank import _Widening, widen
from robustlm.models.tuning import LoRA
from tests.tiny import SAMPLES, load, view_of


@pytest.mark.parametrize("kind", ["llama", "gemma", "t5"])
def test_a_step_is_that_of_the_plain_layers(kind: str, request: pytest.FixtureRequest) -> None:
    backbone = load(request.getfixturevalue(kind), LoRA(r=2, dropout=0.0))
    names = set(backbone.model.state_dict())
    view = view_of(backbone, SAMPLES)
    layers = [one for one in backbone.modules() if isinstance(one, _Widening)]
    assert layers

    def step() -> list[torch.Tensor]:
        own = backbone.embed(view.input_ids).detach().requires_grad_()
        loss = backbone(view, own).logits.logsumexp(-1).sum()
        return [loss.detach(), *torch.autograd.grad(loss, [own, *backbone.trained])]

    found = step()
    for layer in layers:
        layer.__class__ = nn.Linear  # type: ignore[assignment]
    assert set(backbone.model.state_dict()) == names
    for one, known in zip(found, step(), strict=True):
        torch.testing.assert_close(one, known, rtol=1e-5, atol=1e-5 * float(known.abs().max()))


def test_higher_ranks_and_other_models_keep_their_layers(llama: str) -> None:
    assert widen(load(llama, LoRA(r=12, dropout=0.0)).model) == 0
    assert widen(load(llama, None).model) == 0


def test_mixed_precision_and_passes_without_gradient_are_those_of_a_linear_layer() -> None:
    own, plain = _Widening(4, 9, bias=False), nn.Linear(4, 9, bias=False)
    plain.weight.data.copy_(own.weight)
    x = torch.randn(2, 3, 4)
    with torch.no_grad():
        assert torch.equal(own(x), plain(x))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(own(x), plain(x))

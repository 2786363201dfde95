"""The last MLP at the positions that are read: values and gradients are those of all positions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustlm.models.answers import answers
from robustlm.models.backbone import Backbone
from robustlm.models.base import Pooling
from robustlm.models.last_layer import last_mlp, watch_last
from robustlm.models.tuning import FullTuning, LoRA, PrefixTuning, PromptTuning, Tuning
from tests.tiny import SAMPLES, load, view_of

TUNINGS: dict[str, Tuning] = {
    "lora": LoRA(r=2, dropout=0.0),
    "full": FullTuning(),
    "prefix": PrefixTuning(tokens=2),
    "prompt": PromptTuning(tokens=2),
}


def tokens_of_last_mlp(backbone: Backbone) -> list[int]:
    """A list to which each pass adds the number of positions at which the last MLP runs."""
    seen: list[int] = []
    mlp = backbone.base.get_decoder().layers[-1].mlp
    act = next(one for name, one in mlp.named_children() if name.startswith("act"))
    act.register_forward_hook(lambda _m, _a, out: seen.append(out.flatten(0, -2).shape[0]))
    return seen


def outputs(backbone: Backbone, pooling: Pooling, narrow: bool | None) -> list[Tensor]:
    """Logits and states of a pass, with the gradients of a function of both."""
    view = view_of(backbone, SAMPLES)
    embeds = backbone.embed(view.input_ids).detach().requires_grad_()
    found = answers(backbone.parts, view, embeds, pooling, narrow=narrow)
    loss = found.logits.logsumexp(-1).sum() + (found.state * torch.arange(found.state.shape[1])).sin().sum()
    gradients = torch.autograd.grad(loss, [embeds, *backbone.trained], allow_unused=True)
    return [found.logits, found.state, *(one for one in gradients if one is not None)]


@pytest.mark.parametrize("kind", ["llama", "gemma"])
@pytest.mark.parametrize("name", TUNINGS)
@pytest.mark.parametrize("pooling", ["last", "prompt_end"])
def test_values_and_gradients(kind: str, name: str, pooling: Pooling, request: pytest.FixtureRequest) -> None:
    backbone = load(request.getfixturevalue(kind), TUNINGS[name])
    exact = kind != "gemma"  # whose attention is not computed in float64
    if exact:
        backbone.model.double()
    most = 1e-10 if exact else 1e-5
    seen = tokens_of_last_mlp(backbone)
    wanted, found = outputs(backbone, pooling, narrow=False), outputs(backbone, pooling, narrow=True)
    assert len(wanted) == len(found) > 3
    for one, known in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, known, rtol=most, atol=most * float(known.detach().abs().max()))
    view = view_of(backbone, SAMPLES)
    extra = 2 if name == "prompt" else 0
    assert seen == [len(view) * (view.input_ids.shape[1] + extra), len(view.layout.targets) + len(view)]


def test_when_a_pass_reads_some_positions_alone(llama: str) -> None:
    """Training passes do, after a first look; evaluation, other poolings and other settings do not."""
    backbone = load(llama, TUNINGS["lora"])
    view = view_of(backbone, SAMPLES)
    everywhere, read = view.input_ids.numel(), len(view.layout.targets) + len(view)
    seen = tokens_of_last_mlp(backbone)
    modes = [one.training for one in backbone.modules()]
    backbone(view)
    assert len(seen) == 3, "one row both ways, then the pass"
    assert seen[-1] == read
    assert backbone.parts.last.alone
    assert [one.training for one in backbone.modules()] == modes
    backbone(view)
    assert seen[3:] == [read]
    backbone(view, None, "mean")
    with torch.no_grad():
        backbone(view)
    backbone.base(input_ids=view.input_ids)
    backbone.base.get_decoder().layers[-1].gradient_checkpointing = True
    backbone(view)
    assert seen[4:] == [everywhere] * 4


class _Mixing(nn.Module):
    """An MLP that reads other positions too."""

    def __init__(self, mlp: nn.Module) -> None:
        super().__init__()
        self.mlp = mlp

    def forward(self, states: Tensor) -> Any:
        return self.mlp(states) + states.mean(1, keepdim=True)


class _Pair(_Mixing):
    """An MLP that gives more than one tensor, as mixtures of experts do."""

    def forward(self, states: Tensor) -> Any:
        return self.mlp(states), states


def test_an_mlp_that_reads_other_positions_runs_everywhere(llama: str, caplog: pytest.LogCaptureFixture) -> None:
    plain = load(llama, None)
    layer = plain.base.get_decoder().layers[-1]
    layer.mlp = _Mixing(layer.mlp)
    watch_last(plain.base.get_decoder())
    view = view_of(plain, SAMPLES)
    wanted = answers(plain.parts, view, plain.embed(view.input_ids), "last", narrow=False).logits
    with caplog.at_level("INFO", "robustlm"):
        found = plain(view, plain.embed(view.input_ids).requires_grad_()).logits
    assert plain.parts.last.alone is False
    assert "since its MLP reads other positions" in caplog.text
    assert torch.equal(found, wanted)


def test_an_mlp_that_gives_more_than_a_tensor_runs_everywhere(llama: str, caplog: pytest.LogCaptureFixture) -> None:
    backbone = load(llama, None)
    layer = backbone.base.get_decoder().layers[-1]
    own = layer.mlp
    layer.mlp = _Pair(own)
    watch_last(backbone.base.get_decoder())
    layer.mlp.register_forward_hook(lambda _m, _a, out: out[0])
    view = view_of(backbone, SAMPLES)
    with caplog.at_level("INFO", "robustlm"):
        backbone(view, backbone.embed(view.input_ids).requires_grad_())
    assert backbone.parts.last.alone is False
    assert "since its MLP cannot run at some alone" in caplog.text


def test_models_without_such_a_layer(t5: str) -> None:
    backbone = load(t5, TUNINGS["lora"])
    backbone(view_of(backbone, SAMPLES))
    assert backbone.parts.last.alone is None
    assert last_mlp(nn.Linear(2, 2)) is None

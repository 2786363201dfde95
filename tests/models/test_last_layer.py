"""The last layer runs only where it is read, and gives what the whole layer gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from robustlm.batch import Encoded, View, collate
from robustlm.models import last_layer
from robustlm.models.backbone import Backbone
from robustlm.models.base import Pooling
from robustlm.models.tuning import FullTuning, LoRA, PrefixTuning, PromptTuning, Tuning
from tests.tiny import SAMPLES, load, view_of

TUNINGS: dict[str, Tuning] = {
    "lora": LoRA(r=2, dropout=0.0),
    "full": FullTuning(),
    "prefix": PrefixTuning(tokens=3),
    "prompt": PromptTuning(tokens=3),
}


def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the last layer run at every position."""
    monkeypatch.setattr(last_layer, "_parts", lambda loaded: [])


def positions_of(part: nn.Module, found: list[int]) -> Any:
    def count(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        found.append(args[0].shape[0] * args[0].shape[1])

    return part.register_forward_pre_hook(count)


def everything(backbone: Backbone, view: View, pooling: Pooling) -> list[Tensor]:
    """Logits, states, and gradients of weights and of embeddings."""
    backbone.zero_grad()
    embeds = backbone.embed(view.input_ids).detach().requires_grad_()
    found = backbone(view, embeds, pooling)
    torch.autograd.backward(found.logits.logsumexp(-1).sum() + found.state.sin().sum())
    gradients = [p.grad for p in backbone.trained if p.grad is not None]
    assert embeds.grad is not None
    assert gradients
    return [found.logits.detach(), found.state.detach(), embeds.grad, *(one.clone() for one in gradients)]


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("pooling", ["last", "prompt_end", "mean", "max"])
def test_values_and_gradients_are_those_of_the_whole_layer(
    llama: str, tuning: str, pooling: Pooling, monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = load(llama, TUNINGS[tuning], dtype="float64")
    view = view_of(backbone, SAMPLES)
    narrow: list[int] = []
    handle = positions_of(backbone.base.get_decoder().layers[-1].mlp, narrow)
    found = everything(backbone, view, pooling)
    handle.remove()
    if pooling in ("last", "prompt_end"):
        assert narrow == [len(view.layout.targets) + (len(SAMPLES) if pooling == "last" else 0)]
        assert narrow[0] < view.input_ids.numel()
    whole(monkeypatch)
    for ours, wanted in zip(found, everything(backbone, view, pooling), strict=True):
        torch.testing.assert_close(ours, wanted)


FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "gemma2": {"num_key_value_heads": 2, "head_dim": 8},
    "gpt_neox": {},
    "gpt2": {},
    "opt": {},
    "mixtral": {"num_local_experts": 2, "num_key_value_heads": 2},
}
NARROWED = {"qwen3": 3, "gemma2": 3, "gpt_neox": 2, "gpt2": 2, "opt": 0, "mixtral": 2}
"""How many parts of each kind run only where they are read; OPT's MLP is no module, Mixtral's has a router."""


@pytest.mark.parametrize("kind", FAMILIES)
def test_families_with_other_layers(kind: str, tokenizer: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = transformers.AutoConfig.for_model(
        kind, vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=128, pad_token_id=0, **FAMILIES[kind],
    )  # fmt: skip
    config.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    # in float64, transformers' attention of Gemma 2 gives NaN for padding, and Mixtral has no kernel
    dtype = "float32" if kind in ("gemma2", "mixtral") else "float64"
    backbone = load(str(tmp_path), FullTuning(), scratch=True, dtype=dtype)
    assert len(last_layer._parts(backbone.parts)) == NARROWED[kind]
    view = view_of(backbone, SAMPLES)
    found = everything(backbone, view, "last")
    whole(monkeypatch)
    for ours, wanted in zip(found, everything(backbone, view, "last"), strict=True):
        exact = dtype == "float64"
        torch.testing.assert_close(ours, wanted, rtol=1e-7 if exact else 1e-4, atol=1e-7 if exact else 1e-5)


def test_all_positions_run_where_the_result_could_differ(llama: str, t5: str) -> None:
    """Active dropout draws for each position, checkpointed layers run again, a row without an answer has no place."""
    seen: list[int] = []

    def positions(backbone: Backbone, ask: Callable[[], Any]) -> int:
        handle = positions_of(backbone.base.get_decoder().layers[-1].mlp, seen)
        ask()
        handle.remove()
        return seen[-1]

    random = load(llama, LoRA(r=2, dropout=0.5))
    view = view_of(random, SAMPLES)
    every = view.input_ids.numel()
    assert positions(random, lambda: random(view)) < every
    random.train()
    assert positions(random, lambda: random(view)) == every
    checkpointed = load(llama, LoRA(r=2, dropout=0.0), gradient_checkpointing=True)
    checkpointed.train()
    assert positions(checkpointed, lambda: checkpointed(view)) == every
    bare = view_of(checkpointed, SAMPLES, with_answer=False)
    checkpointed.eval()
    assert positions(checkpointed, lambda: checkpointed(bare, pooling="prompt_end")) == bare.input_ids.numel()
    assert last_layer._parts(load(t5, None).parts) == []


def test_a_pass_inside_another_one_is_whole_where_it_asks_for_all(llama: str) -> None:
    backbone = load(llama, None)
    outer, inner = view_of(backbone, SAMPLES), view_of(backbone, SAMPLES[:1])
    wanted = backbone(outer), backbone(inner, pooling="mean"), backbone.hidden_states(inner, -1, "mean")
    found: list[Any] = []

    def nested(*_: Any) -> None:
        handle.remove()
        found.extend([backbone(inner, pooling="mean"), backbone.hidden_states(inner, -1, "mean")])

    handle = backbone.base.get_decoder().layers[-1].register_forward_pre_hook(nested)
    said = backbone(outer)
    assert torch.equal(said.logits, wanted[0].logits)
    assert torch.equal(found[0].state, wanted[1].state)
    assert torch.equal(found[1], wanted[2])
    assert last_layer._CURRENT.get() is None


def test_a_view_of_one_row_without_padding(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load(llama, LoRA(r=2, dropout=0.0), dtype="float64")
    view = collate([Encoded([5, 6, 7], [True] * 3, [False] * 3, [8, 2])], pad_id=0)
    found = everything(backbone, view, "last")
    whole(monkeypatch)
    for ours, wanted in zip(found, everything(backbone, view, "last"), strict=True):
        torch.testing.assert_close(ours, wanted)

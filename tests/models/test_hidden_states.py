"""A state a row, against what transformers and peft give for each row alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from robustlm.batch import IGNORE
from robustlm.models.backbone import Backbone, Loading
from robustlm.models.base import Pooling
from robustlm.models.hosted import HostedBackbone
from robustlm.models.tuning import LoRA
from tests.models.test_backbone import KINDS, TUNINGS
from tests.tiny import SAMPLES, load, view_of


def library(backbone: Backbone, sample: Any) -> tuple[tuple[Tensor, ...], int, int]:
    """Every layer's states `[T, H]` of one row with its answer, as peft or transformers run it; prompt, answer tokens.

    States of soft prompts are cut off.
    """
    view = view_of(backbone, [sample])
    answers = int((view.labels != IGNORE).sum())
    with torch.no_grad():
        out = backbone.model(
            input_ids=view.input_ids,
            attention_mask=view.attention_mask,
            labels=view.labels,
            output_hidden_states=True,
        )
    if backbone.is_encoder_decoder:
        return tuple(states[0] for states in out.decoder_hidden_states), 1, answers
    width = view.input_ids.shape[1]
    return tuple(states[0, -width:] for states in out.hidden_states), width - answers, answers


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_states_are_those_of_rows_alone(kind: str, tuning: str, models: dict[str, str]) -> None:
    backbone = load(models[kind], TUNINGS[tuning])
    assert backbone.depth == 2
    together, prompts = view_of(backbone, SAMPLES), view_of(backbone, SAMPLES, with_answer=False)
    for layer in range(-3, 3):
        found = {how: backbone.hidden_states(together, layer, how) for how in ("prompt_end", "last", "mean", "max")}
        asked = backbone.hidden_states(prompts, layer)
        for i, sample in enumerate(SAMPLES):
            states, prompt, answers = library(backbone, sample)
            assert len(states) == 3
            own = states[layer]
            end = own[: prompt + answers - backbone.is_encoder_decoder]
            wanted = {"prompt_end": own[prompt - 1], "last": end[-1], "mean": end.mean(0), "max": end.amax(0)}
            for how, state in wanted.items():
                assert torch.allclose(found[how][i], state, atol=1e-4), (layer, how)
            assert torch.allclose(asked[i], own[prompt - 1], atol=1e-4)
    assert not torch.allclose(backbone.hidden_states(together, -2), backbone.hidden_states(together, -1), atol=1e-2)


def test_states_know_no_dropout_and_leave_the_model_as_it_was(llama: str) -> None:
    backbone = load(llama, LoRA(r=4, dropout=0.9))
    view = view_of(backbone, SAMPLES)
    wanted = backbone.hidden_states(view)
    backbone.train()
    again = backbone.hidden_states(view)
    assert torch.equal(wanted, again)
    assert not again.requires_grad
    assert backbone.model.training
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in backbone.base.modules()]
    assert sum(hooks) == 1  # the head's own


def test_low_precision_states_are_kept_in_fp32(llama: str) -> None:
    backbone = load(llama, None, dtype="bfloat16")
    exact = load(llama, None)
    view = view_of(backbone, SAMPLES)
    poolings: tuple[Pooling, ...] = ("prompt_end", "mean")
    for pooling in poolings:
        found, wanted = backbone.hidden_states(view, -1, pooling), exact.hidden_states(view, -1, pooling)
        assert found.dtype == torch.float32
        assert torch.allclose(found, wanted, atol=0.2)


def test_a_layer_that_is_not_there_is_named_before_weights_are_loaded(llama: str, t5: str) -> None:
    for model in (llama, t5):
        backbone = Backbone(model, Loading(), None)
        for layer in (3, -4):
            with pytest.raises(ValueError, match=rf"states\.layer: found {layer}; .* has 2 layers, expected -3 … 2"):
                backbone.check_layer(layer)
        for layer in (-3, 2):
            backbone.check_layer(layer)
        assert not backbone.loaded
    with pytest.raises(ValueError, match="hosted elsewhere and shows no hidden states"):
        HostedBackbone("openai:a").check_layer(-2)


TEXTS = ["Find the words.", "Name the sentiment of the text, please. Which one is it?", "words", ""]


def texts_alone(backbone: Backbone, base: Any, layer: int) -> list[Tensor]:
    """Mean states of `TEXTS`, each run alone by transformers, after a first token that does not count."""
    found = []
    tokenizer = backbone.tokenizer
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    stack = base.get_encoder() if backbone.is_encoder_decoder else base
    for text in TEXTS:
        ids = [first, *tokenizer(text, add_special_tokens=False)["input_ids"]]
        with torch.no_grad():
            states = stack(input_ids=torch.tensor([ids]), output_hidden_states=True).hidden_states
        found.append(states[layer][0, 1:].mean(0) if len(ids) > 1 else torch.zeros(states[0].shape[-1]))
    return found


@pytest.mark.parametrize("tuning", TUNINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_states_of_texts_are_those_of_the_base_model_alone(kind: str, tuning: str, models: dict[str, str]) -> None:
    backbone = load(models[kind], TUNINGS[tuning], shake=0.0 if tuning == "full" else 0.5)
    base = load(models[kind], None).base
    assert backbone.keeps_base == (tuning != "full")
    for layer, number in (("middle", 1), ("last", 2), (0, 0), (-1, 2)):
        found = backbone.text_states(TEXTS, layer)  # type: ignore[arg-type]
        assert found.dtype == torch.float32
        assert torch.allclose(found, torch.stack(texts_alone(backbone, base, number)), atol=1e-4)
        batches = [backbone.text_states(some, layer) for some in (TEXTS[:1], TEXTS[1:], TEXTS[::-1])]  # type: ignore[arg-type]
        assert torch.allclose(torch.cat(batches[:2]), found, atol=1e-5), "whatever pads there are"
        assert torch.allclose(batches[2].flip(0), found, atol=1e-5)


@pytest.mark.parametrize("tuning", TUNINGS)
def test_states_of_texts_leave_the_model_and_its_random_numbers_alone(tuning: str, llama: str) -> None:
    backbone = load(llama, TUNINGS[tuning], gradient_checkpointing=not tuning.startswith("prefix"))
    backbone.train()
    before = {name: (weight.requires_grad, weight.detach().clone()) for name, weight in backbone.named_parameters()}
    torch.manual_seed(3)
    random = torch.get_rng_state()
    assert not backbone.text_states(TEXTS).requires_grad
    assert torch.equal(torch.get_rng_state(), random)
    assert all(module.training for module in backbone.modules())
    for name, weight in backbone.named_parameters():
        assert (weight.requires_grad, weight.grad) == (before[name][0], None)
        assert torch.equal(weight, before[name][1])
    assert torch.equal(backbone.text_states(TEXTS), backbone.text_states(TEXTS)), "without dropout"


@pytest.mark.parametrize("layer", [3, -4, "first"])
def test_a_layer_of_texts_that_the_model_lacks_is_refused(layer: Any, llama: str) -> None:
    with pytest.raises(ValueError, match=rf"layer: found {layer!r}; .* has 2 layers, expected middle, last, or -3 … 2"):
        load(llama, None).text_states(TEXTS, layer)

"""Rows in one sequence give what padded rows give, for every kind of model that is not refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from robustlm.batch import Layout
from robustlm.models import padding_free
from robustlm.models.backbone import Backbone, Loading
from robustlm.models.tuning import FullTuning, LoRA, PrefixTuning, PromptTuning, Tuning
from tests.tiny import SAMPLES, load, view_of

CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256},
    "gemma2": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    | {"head_dim": 8, "intermediate_size": 64, "sliding_window": 6, "initializer_range": 0.3},
    "mistral": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    | {"intermediate_size": 64, "sliding_window": 6, "initializer_range": 0.3},
    "lfm2": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    | {"intermediate_size": 64, "layer_types": ["conv", "full_attention"], "initializer_range": 0.3},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 2},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Callable[[str], str]:
    """Folders of models with random weights."""

    def make(kind: str) -> str:
        folder = tmp_path_factory.mktemp(kind)
        torch.manual_seed(0)
        ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": int(tokenizer.eos_token_id)}
        config = transformers.AutoConfig.for_model(kind, vocab_size=len(tokenizer), **ids, **CONFIGS[kind])
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return str(folder)

    return make


def outputs(name: str, tuning: Tuning | None, *, free: bool, double: bool = True, **loading: Any) -> list[Tensor]:
    """Logits, states of each pooling, gradients, and hidden states of a layer."""
    backbone = load(name, tuning, padding_free=free, **loading)
    if double:
        backbone.double()
    view = view_of(backbone, SAMPLES)
    assert view.layout.padded
    found: list[Tensor] = []
    for pooling in ("last", "prompt_end", "mean", "max"):
        embeds = backbone.embed(view.input_ids).detach().requires_grad_()
        out = backbone(view, embeds, pooling)
        backbone.zero_grad()
        (out.logits.log_softmax(-1).gather(1, out.targets[:, None]).sum() + out.state.square().sum()).backward()
        found += [out.logits.detach(), out.state.detach(), embeds.grad]
        found += [p.grad.clone() for p in backbone.trained if p.grad is not None]
        found.append(backbone.hidden_states(view, 1, pooling))
    return found


def assert_alike(ours: list[Tensor], theirs: list[Tensor], limit: float) -> None:
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert float((one - other).abs().max()) <= limit * max(1.0, float(other.abs().max()))


@pytest.mark.parametrize(
    ("kind", "tuning", "loading"),
    [
        ("llama", LoRA(r=2, dropout=0.0), {}),
        ("llama", FullTuning(), {"gradient_checkpointing": True}),
        ("llama", PromptTuning(tokens=3), {}),
        ("llama", PrefixTuning(tokens=3), {}),
        ("llama", LoRA(r=2, dropout=0.0), {"attention": "eager"}),
        ("llama", PrefixTuning(tokens=3), {"attention": "eager"}),
        ("gemma2", FullTuning(), {"attention": "eager"}),
        ("mistral", LoRA(r=2, dropout=0.0), {}),
        ("gpt2", FullTuning(), {}),
    ],
)
@pytest.mark.parametrize("together", [False, True])
def test_a_sequence_of_rows_gives_what_padded_rows_give(
    kind: str,
    tuning: Tuning,
    loading: dict[str, Any],
    together: bool,
    llama: str,
    made: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`together`: the attention of GPUs without flash attention."""
    if together and loading.get("attention") == "eager":
        pytest.skip("eager attention has one way")
    if together:
        monkeypatch.setattr(padding_free, "_one_by_one", padding_free._together)
    name = llama if kind == "llama" else made(kind)
    double = loading.get("attention") != "eager"  # transformers' own eager attention is not finite in float64
    ours, theirs = (outputs(name, tuning, free=free, double=double, **loading) for free in (True, False))
    assert_alike(ours, theirs, 1e-9 if double else 1e-5)


def test_flash_attention_gets_the_starts_of_rows(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Variable-length flash attention needs a GPU; here, a loop over the rows that it is told stands for it."""
    calls = []
    plain = padding_free.ALL_ATTENTION_FUNCTIONS["sdpa"]

    def flash(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: object, **kwargs: Any) -> Any:
        assert mask is None
        if "cu_seq_lens_q" not in kwargs:
            return plain(module, query, key, value, mask, **kwargs)
        calls.append(kwargs)
        assert kwargs["cu_seq_lens_q"].dtype == torch.int32
        lengths = kwargs["cu_seq_lens_q"].diff().tolist()
        assert max(lengths) == kwargs["max_length_q"] == kwargs["max_length_k"]
        parts = zip(*(one.split(lengths, 2) for one in (query, key, value)), strict=True)
        found = [
            torch.nn.functional.scaled_dot_product_attention(*part, is_causal=True, scale=kwargs["scaling"])
            for part in parts
        ]
        return torch.cat(found, 2).transpose(1, 2), None

    ours = outputs(llama, LoRA(r=2, dropout=0.0), free=False)
    attend = padding_free._apart(flash, joined=True)
    monkeypatch.setitem(padding_free.ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", attend)
    assert_alike(outputs(llama, LoRA(r=2, dropout=0.0), free=True), ours, 1e-9)
    assert calls


def test_a_view_without_padding_runs_as_it_is(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load(llama, None, padding_free=True)
    view = view_of(backbone, [SAMPLES[0]] * 3)
    backbone(view)
    monkeypatch.setattr(padding_free.RowSequence, "of", None)
    assert len(backbone(view).state) == 3


def test_rows_in_one_sequence_do_not_depend_on_each_other(llama: str) -> None:
    """Exactly: a row's numbers are the same beside any rows of the same lengths."""
    backbone = load(llama, None, padding_free=True)
    view = view_of(backbone, SAMPLES)
    other = replace(view, input_ids=view.input_ids.clone())
    other.input_ids[:2] = (other.input_ids[:2] + 1) % 200
    ours, theirs = backbone(view), backbone(other)
    assert torch.equal(ours.state[2], theirs.state[2])
    assert not torch.equal(ours.state[0], theirs.state[0])


def test_every_row_of_padding_can_be_anywhere(llama: str) -> None:
    """Padding on the left, on the right and within a row is left out alike."""
    backbone = load(llama, None, padding_free=True)
    view = view_of(backbone, SAMPLES)
    rows = [one[mask.bool()] for one, mask in zip(view.input_ids, view.attention_mask, strict=True)]
    moved = view_of(backbone, SAMPLES)
    for i, row in enumerate(rows):
        width, at = view.input_ids.shape[1], torch.arange(len(row))
        at = at if i == 0 else at + (at > 2) * (width - len(row))
        labels = view.labels[i][view.attention_mask[i].bool()]
        for name, own, empty in (("input_ids", row, 0), ("labels", labels, -100), ("attention_mask", 1, 0)):
            line = torch.full((width,), empty)
            line[at] = own
            getattr(moved, name)[i] = line
    padded = load(llama, None)
    assert torch.allclose(backbone(moved).logits, padded(view).logits, atol=1e-5)


def test_what_cannot_run_in_one_sequence_is_refused(t5: str, made: Callable[[str], str]) -> None:
    with pytest.raises(ValueError, match=r"loading\.padding_free: found true with .*encoder–decoder \(t5\).*expected"):
        Backbone(t5, Loading(padding_free=True))
    for kind, why in (
        ("lfm2", "changes with the row before it .*recurrent layers; expected false"),
        ("mamba", "counts positions itself; expected false"),
        ("bloom", "counts positions itself; expected false"),
    ):
        backbone = load(made(kind), None, padding_free=True)
        with pytest.raises(ValueError, match=rf"loading\.padding_free: found true.*{why}"):
            backbone(view_of(backbone, SAMPLES))


def test_a_model_that_does_not_know_such_masks_is_refused(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load(llama, None, padding_free=True)
    plain = padding_free.ALL_ATTENTION_FUNCTIONS["sdpa"]

    def sliced(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> Any:
        return plain(module, query, key, value, None if mask is None else mask[:, :, :, : key.shape[2]], **kwargs)

    monkeypatch.setitem(padding_free.ALL_ATTENTION_FUNCTIONS._global_mapping, "sdpa", sliced)
    with pytest.raises(ValueError, match=r"cannot run rows in one sequence \(TypeError: .*expected false"):
        backbone(view_of(backbone, SAMPLES))


def test_wrong_positions_are_found(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proof that is never missed is no proof."""
    backbone = load(llama, None, padding_free=True)
    of = padding_free.RowSequence.of

    def counted_on(*args: Any, **kwargs: Any) -> Any:
        found = of(*args, **kwargs)
        return replace(found, within=found.within * 3)

    monkeypatch.setattr(padding_free.RowSequence, "of", counted_on)
    with pytest.raises(ValueError, match=r"another result in a sequence than alone"):
        backbone(view_of(backbone, SAMPLES))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_small_leak_is_found(dtype: str, llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that read a hundredth of each other are not apart."""
    backbone = load(llama, None, padding_free=True, attention="eager", dtype=dtype)
    kept = padding_free.RowSequence.mask

    def leaky(self: Any, make: Callable[..., object], arguments: dict[str, object], *, dense: bool) -> object:
        mask = kept(self, make, arguments, dense=dense)
        assert isinstance(mask, Tensor)
        later = torch.ones_like(mask[0, 0], dtype=torch.bool).triu(1)
        return mask.clamp(min=-4.6).masked_fill(later, torch.finfo(mask.dtype).min)

    monkeypatch.setattr(padding_free.RowSequence, "mask", leaky)
    with pytest.raises(ValueError, match="a row changes with the row before it"):
        backbone(view_of(backbone, SAMPLES))


def test_option_scores_are_the_same(llama: str) -> None:
    found = []
    for free in (False, True):
        backbone = load(llama, None, padding_free=free)
        view = view_of(backbone, SAMPLES)
        found.append(backbone.option_scores(view, torch.arange(3), 8).log_likelihood)
    assert torch.allclose(*found, atol=1e-4)


def test_the_layout_of_a_range_of_rows(llama: str) -> None:
    view = view_of(load(llama, None), SAMPLES)
    part = view.part(slice(1, 3)).layout
    alone = Layout.of(view.labels[1:3], view.attention_mask[1:3])
    for name in ("kept", "within", "starts"):
        assert torch.equal(getattr(part, name), getattr(alone, name)), name
    assert (part.lengths, part.width, part.padded) == (alone.lengths, alone.width, alone.padded)

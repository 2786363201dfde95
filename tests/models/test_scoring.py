"""Options that share their prompt's row, or the encoder's states, score as each does alone."""

from __future__ import annotations

import logging
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from robustlm.batch import Encoded, View, collate
from robustlm.models import decoding, parallel, scoring
from robustlm.models.backbone import Backbone
from robustlm.models.tuning import LoRA, PrefixTuning, Tuning
from tests.tiny import load

END, TURN = 2, 9
KINDS: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "gpt_neox": {},
    "gpt2": {"n_positions": 256},
    "falcon": {"alibi": False, "new_decoder_architecture": False},
}


def made(kind: str, tokenizer: Any, folder: Path) -> str:
    torch.manual_seed(3)
    config = transformers.AutoConfig.for_model(
        kind, vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=256, initializer_range=0.3, bos_token_id=None,
        eos_token_id=END, pad_token_id=0, **KINDS[kind],
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def rows_of(options: Sequence[Sequence[int]], *, seed: int = 0) -> tuple[list[Encoded], Tensor]:
    """Six prompts of uneven length, of which most share a beginning; each with all options but some of the last."""
    draw, rows, owner = random.Random(seed), [], []
    head = [draw.randrange(10, 200) for _ in range(12)]
    for number in range(6):
        own = [draw.randrange(10, 200) for _ in range(draw.choice((3, 8, 20)))]
        prompt = own if number == 4 else head + own
        for option in options[: len(options) - number % 2]:
            rows.append(Encoded(prompt, [True] * len(prompt), [False] * len(prompt), list(option)))
            owner.append(number)
    return rows, torch.tensor(owner)


def compared(backbone: Backbone, rows: Sequence[Encoded], owner: Tensor, close: float) -> None:
    """Against the forward of training, in which each option has a prompt of its own."""
    view = collate(rows, pad_id=0, encoder_decoder=backbone.is_encoder_decoder)
    wanted = backbone.option_scores(view, torch.arange(len(rows)), 1000)
    assert wanted.ends is not None
    for pass_rows in (3, 100):
        found = backbone.option_scores(view, owner, pass_rows)
        assert found.tokens.tolist() == wanted.tokens.tolist()
        torch.testing.assert_close(found.log_likelihood, wanted.log_likelihood, rtol=close, atol=close)
        torch.testing.assert_close(found.ends, wanted.ends, rtol=close, atol=close)
        bare, plain = found.without_ends(), wanted.without_ends()
        torch.testing.assert_close(bare.log_likelihood, plain.log_likelihood, rtol=2 * close, atol=2 * close)


OPTIONS = {
    "begin alike": [[20, 21, 22, END], [20, 21, 23, 24, END], [20, 21, END]],
    "one token, and equal ones": [[20, END], [21, END], [20, END]],
    "end of turn": [[20, 21, TURN], [22, TURN], [20, 23, TURN]],
    "nothing but the end": [[END], [20, END]],
    "many": [[20, 30 + at, 40 + at // 2, 50 + at % 3, END] for at in range(30)],
}


@pytest.mark.parametrize("kind", KINDS)
def test_options_in_one_row_score_as_alone(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    backbone = load(made(kind, tokenizer, tmp_path), None, dtype="float64")
    assert parallel.keeps_apart(backbone.parts)
    for seed, options in enumerate(OPTIONS.values()):
        compared(backbone, *rows_of(options, seed=seed), 1e-9)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("tuning", [None, LoRA(r=4), PrefixTuning(tokens=3)], ids=["none", "lora", "prefix"])
def test_in_fp32(llama: str, tuning: Tuning | None, attention: str) -> None:
    backbone = load(llama, tuning, attention=attention)
    for options in OPTIONS.values():
        if len(options) < 9:
            compared(backbone, *rows_of(options), 1e-5)


@pytest.mark.parametrize("tuning", [None, LoRA(r=4), PrefixTuning(tokens=3)], ids=["none", "lora", "prefix"])
def test_an_encoder_reads_a_prompt_once(models: dict[str, str], tuning: Tuning | None) -> None:
    backbone = load(models["t5"], tuning)
    rows, owner = rows_of(OPTIONS["begin alike"])
    compared(backbone, rows, owner, 1e-5)
    read: list[int] = []
    handle = backbone.base.get_encoder().register_forward_hook(lambda _, __, out: read.append(len(out[0])))
    backbone.option_scores(collate(rows, pad_id=0, encoder_decoder=True), owner, 100)
    handle.remove()
    assert sum(read) == (len(rows) if isinstance(tuning, PrefixTuning) else 6)


def test_what_is_read(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt, its shared beginning and what all options begin with are read once; many options run by themselves."""
    backbone = load(llama, None)
    rows, owner = rows_of(OPTIONS["begin alike"])
    backbone.option_scores(collate(rows, pad_id=0), owner, 100)
    seen: list[int] = []
    backbone.base.get_input_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0].numel()))
    backbone.option_scores(collate(rows, pad_id=0), owner, 100)
    questions = scoring.questions_of(collate(rows, pad_id=0))
    assert len(seen) == 2
    assert sum(seen) <= sum(len(one.prompt) + one.width for one in questions) < 0.5 * sum(map(len, rows))

    monkeypatch.setattr(scoring, "scored", lambda *_: pytest.fail("too many options for a row"))
    compared(backbone, *rows_of(OPTIONS["many"]), 1e-5)


@pytest.mark.parametrize("options", ["begin alike", "one token, and equal ones", "many"])
def test_prompts_are_read_in_groups_behind_their_shared_beginnings(
    options: str, llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where options have rows of their own, their prompts share prefixes and are read in groups, both at once."""
    backbone = load(llama, None, dtype="float64")
    draw = random.Random(7)
    heads = [[draw.randrange(10, 200) for _ in range(length)] for length in (12, 18)]
    rows, owner = [], []
    for number, length in enumerate((20, 3, 8, 21, 3, 8, 4, 30)):
        own = [draw.randrange(10, 200) for _ in range(length)]
        prompt = own if number == 6 else heads[number % 2] + own
        rows += [Encoded(prompt, [True] * len(prompt), [False] * len(prompt), list(one)) for one in OPTIONS[options]]
        owner += [number] * len(OPTIONS[options])
    monkeypatch.setattr(decoding, "_LEAST", 2)
    monkeypatch.setattr(scoring, "keeps_apart", lambda _: False)
    read, plans = decoding._grouped, list[tuple[bool, int]]()

    def noted(run: Any, prompts: Any, plan: Any, *more: Any) -> decoding.Prefilled:
        plans.append((plan.prefixes is not None, len(plan.groups)))
        return read(run, prompts, plan, *more)

    monkeypatch.setattr(decoding, "_grouped", noted)
    compared(backbone, rows, torch.tensor(owner), 1e-9)
    assert any(shared and groups > 1 for shared, groups in plans), plans


def test_a_model_that_mixes_options_is_found_out(
    llama: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rows, owner = rows_of(OPTIONS["begin alike"])
    for broken in (
        lambda self, make, arguments: make(**arguments),  # options read each other
        lambda self, make, arguments: 1 / 0,
    ):
        backbone = load(llama, None)
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
            patch.setattr(parallel.Segments, "mask", broken)
            compared(backbone, rows, owner, 1e-5)
        assert backbone.parts.segments.kept_apart is False
        assert caplog.text.count("options do not share a row with their prompt") == 1
        caplog.clear()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_that_takes_distances_from_places_in_the_row_is_found_out(
    dtype: str, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """ALiBi adds a distance to each score, and Falcon counts it along the row, whatever the positions are."""
    monkeypatch.setitem(KINDS, "falcon", {"alibi": True, "new_decoder_architecture": False})
    backbone = load(made("falcon", tokenizer, tmp_path), None, dtype=dtype)
    with caplog.at_level(logging.WARNING):
        compared(backbone, *rows_of(OPTIONS["begin alike"]), 1e-5 if dtype == "float32" else 0.2)
    assert backbone.parts.segments.kept_apart is False
    assert "FalconForCausalLM takes distances from places in the row" in caplog.text


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_small_leak_is_found_out(dtype: str, llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Options that read a tenth of each other move their likelihoods by little, but by more than they may."""
    backbone = load(llama, None, dtype=dtype, attention="eager")
    kept = parallel.Segments.mask

    def leaky(self: parallel.Segments, make: Any, arguments: dict[str, object]) -> Tensor:
        own = make(**{**arguments, "allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})
        return torch.maximum(kept(self, make, arguments), own - 2.3)

    monkeypatch.setattr(parallel.Segments, "mask", leaky)
    assert not parallel.keeps_apart(backbone.parts)


def test_labels_that_are_no_end_of_a_row_are_refused(llama: str) -> None:
    rows, owner = rows_of(OPTIONS["begin alike"])
    view: View = collate(rows, pad_id=0)
    labels = view.labels.clone()
    labels[3, -len(rows[3].prompt_ids) :][0] = 7
    labels[3, -1] = -100
    with pytest.raises(ValueError, match="answer of row 3 is not the end of a row"):
        load(llama, None).option_scores(
            View(view.input_ids, view.attention_mask, labels, view.instruction_mask, view.context_mask), owner, 100
        )

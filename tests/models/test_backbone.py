"""The backbone's contract, held against transformers and peft themselves."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import transformers
from torch import Tensor

from robustlm.adversaries import NRM
from robustlm.batch import IGNORE, InstructionBatch
from robustlm.losses import answer_cross_entropy
from robustlm.models.backbone import Backbone, Loading
from robustlm.models.base import AnswerOutput, OptionScores
from robustlm.models.caches import Reader, has_plain_cache
from robustlm.models.tuning import FullTuning, LoRA, PrefixTuning, PromptTuning, Tuning
from robustlm.modules.passes import Passes
from tests.tiny import SAMPLES, load, view_of

TUNINGS: dict[str, Tuning | None] = {
    "none": None,
    "lora": LoRA(r=4, dropout=0.0),
    "prefix": PrefixTuning(tokens=3),
    "prefix_plain": PrefixTuning(tokens=3, projection=False),
    "prompt": PromptTuning(tokens=3),
    "full": FullTuning(),
}
KINDS = ("llama", "t5", "gemma")


@pytest.fixture(params=[f"{kind}-{tuning}" for kind in KINDS for tuning in TUNINGS])
def backbone(request: pytest.FixtureRequest, models: dict[str, str]) -> Backbone:
    kind, tuning = request.param.split("-")
    return load(models[kind], TUNINGS[tuning])


def losses(answers: AnswerOutput, count: int) -> Tensor:
    return answer_cross_entropy(answers.logits, answers.targets, answers.rows, count)


def test_batch_is_its_rows_and_the_library_agrees(backbone: Backbone) -> None:
    together = backbone(view_of(backbone, SAMPLES))
    found = losses(together, len(SAMPLES))
    at = 0
    for i, sample in enumerate(SAMPLES):
        view = view_of(backbone, [sample])
        alone = backbone(view)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = backbone.model(input_ids=view.input_ids, attention_mask=view.attention_mask, labels=view.labels)
        count = len(alone.targets)
        assert torch.allclose(found[i], losses(alone, 1)[0], atol=1e-5, rtol=1e-5)
        assert torch.allclose(theirs.loss * count, losses(alone, 1)[0], atol=1e-5, rtol=1e-5)
        assert torch.allclose(together.logits[at : at + count], alone.logits, atol=1e-4)
        assert torch.allclose(together.state[i], alone.state[0], atol=1e-4)
        assert together.rows[at : at + count].tolist() == [i] * count
        at += count


def greedy(backbone: Backbone, view: Any, steps: int) -> list[int]:
    """The answer of one row by a full forward pass for each token, with the very code that trains."""
    eos = backbone.tokenizer.eos_token_id
    ids: list[int] = []
    for _ in range(steps):
        probe = torch.tensor([[*ids, eos]])
        if backbone.is_encoder_decoder:
            asked = type(view)(view.input_ids, view.attention_mask, probe, view.instruction_mask, view.context_mask)
        else:
            sequence = torch.cat([view.input_ids, probe], 1)
            labels = torch.full_like(sequence, IGNORE)
            labels[:, view.input_ids.shape[1] :] = probe
            no = torch.zeros_like(sequence, dtype=torch.bool)
            asked = type(view)(sequence, torch.ones_like(sequence), labels, no, no)
        with torch.no_grad():
            ids.append(int(backbone(asked).logits[-1].argmax()))
        if ids[-1] == eos:
            break
    return ids


PAIRS = [(0, "yes no"), (0, "yes"), (0, "no hello world and more of it"), (1, "é"), (2, "good"), (2, "bad"), (2, "bad")]


def test_option_scores_are_log_softmax_in_a_plain_loop(backbone: Backbone) -> None:
    exact = "gemma" not in backbone.config.model_type  # whose attention is of fp32 always
    if exact:
        backbone.model.double()
    samples = [replace(SAMPLES[row], target=text) for row, text in PAIRS]
    rows = torch.tensor([row for row, _ in PAIRS])
    wanted, counts = [], []
    for sample in samples:
        view = view_of(backbone, [sample])
        answer = view.labels[view.labels != IGNORE]
        extra = {"labels": view.labels} if backbone.is_encoder_decoder else {}
        with torch.no_grad():
            out = backbone.model(input_ids=view.input_ids, attention_mask=view.attention_mask, **extra)
        logits = out.logits[0].double()
        said = logits[-len(answer) :] if backbone.is_encoder_decoder else logits[-len(answer) - 1 : -1]
        wanted.append(sum(float(torch.log_softmax(at, -1)[token]) for at, token in zip(said, answer, strict=True)))
        counts.append(len(answer))
        assert int(answer[-1]) == backbone.tokenizer.eos_token_id
    together = view_of(backbone, samples)
    for pass_rows in (1, 3, len(samples), 100):
        found = backbone.option_scores(together, rows, pass_rows)
        assert found.log_likelihood.tolist() == pytest.approx(wanted, abs=1e-9 if exact else 1e-4)
        assert found.tokens.tolist() == counts
    mean = [a / b for a, b in zip(wanted, counts, strict=True)]
    assert found.best(0) == max(range(3), key=mean.__getitem__)
    assert found.best(1) == 0
    assert found.best(2) == max(range(2), key=mean[4:6].__getitem__)


def test_option_scores_leave_modes_as_they_are(llama: str) -> None:
    backbone = load(llama, LoRA(r=4, dropout=0.9))
    view, rows = view_of(backbone, SAMPLES), torch.arange(len(SAMPLES))
    wanted = backbone.option_scores(view, rows, 2)
    assert not backbone.model.training
    backbone.train()
    again = backbone.option_scores(view, rows, 2)
    assert backbone.model.training
    assert torch.equal(wanted.log_likelihood, again.log_likelihood)
    assert not again.log_likelihood.requires_grad


def test_of_equal_options_the_first_is_best() -> None:
    scores = OptionScores(
        torch.tensor([-2.0, -1.0, -2.0, -4.0]), torch.tensor([2, 1, 2, 2]), torch.tensor([0, 0, 0, 1])
    )
    assert scores.best(0) == 0
    assert scores.best(1) == 0


def test_generation(backbone: Backbone) -> None:
    steps = 6
    texts = backbone.generate(view_of(backbone, SAMPLES, with_answer=False), steps)
    for text, sample in zip(texts, SAMPLES, strict=True):
        view = view_of(backbone, [sample], with_answer=False)
        assert backbone.generate(view, steps) == [text]
        ids = greedy(backbone, view, steps)
        assert backbone.tokenizer.decode(ids, skip_special_tokens=True).strip() == text
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs = backbone.model.generate(
                input_ids=view.input_ids, attention_mask=view.attention_mask, max_new_tokens=steps, do_sample=False
            )
        theirs = theirs[0, (1 if backbone.is_encoder_decoder else view.input_ids.shape[1]) :]
        if len(theirs):  # soft prompts are given as embeddings, of which peft returns new tokens alone
            assert backbone.tokenizer.decode(theirs, skip_special_tokens=True).strip() == text


def test_who_finds_the_answers(models: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours where keys and values of all positions are kept; a window, an encoder or a prefix go to transformers."""
    for kind in KINDS:
        for name, tuning in TUNINGS.items():
            backbone = load(models[kind], tuning)
            theirs = Mock(wraps=backbone.base.generate)
            monkeypatch.setattr(backbone.base, "generate", theirs)
            backbone.generate(view_of(backbone, SAMPLES, with_answer=False), 2)
            ours = kind == "llama" and name in ("none", "lora", "full")
            assert theirs.called != ours, (kind, name)


def test_what_prompts_share_is_run_once(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load(llama, None)
    asked = [replace(SAMPLES[i % 3], id=str(i), instruction="Find " + "all the words in " * 6) for i in range(9)]
    view = view_of(backbone, asked, with_answer=False)
    alone = [backbone.generate(view_of(backbone, [one], with_answer=False), 3) for one in asked]
    widths: list[tuple[int, ...]] = []
    run = Reader.__call__
    monkeypatch.setattr(
        Reader, "__call__", lambda self, ids, *a: (widths.append(tuple(ids.shape)), run(self, ids, *a))[1]
    )
    assert [[text] for text in backbone.generate(view, 3)] == alone
    assert sum(rows * width for rows, width in widths) < 0.7 * view.input_ids.numel()


SMALL = {"num_hidden_layers": 2, "num_attention_heads": 4, "hidden_size": 32, "initializer_range": 0.3}
LIMIT = 60
LLAMA = {**SMALL, "intermediate_size": 64, "max_position_embeddings": 512}
ODD: dict[str, tuple[str, dict[str, Any]]] = {
    "long factors": ("llama", {**LLAMA, "rope_parameters": {
        "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
        "original_max_position_embeddings": LIMIT}}),
    "windows the cache does not know of": ("gpt_neo", {
        "num_layers": 2, "num_heads": 4, "hidden_size": 32, "attention_types": [[["global", "local"], 1]],
        "window_size": 24, "initializer_range": 0.3}),
    "no cache": ("openai-gpt", {"n_layer": 2, "n_head": 4, "n_embd": 32, "initializer_range": 0.3}),
    "states": ("lfm2", {
        **LLAMA, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"], "conv_L_cache": 3}),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_models_whose_keys_cannot_be_kept_anyhow(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    """Prompts that share a beginning, and rows of options, are answered as each is alone."""
    name, settings = ODD[kind]
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(
        name, **settings, vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    backbone = load(str(tmp_path), None)
    head = "Find all the words in the text, " * 3
    asked = [replace(SAMPLES[i % 3], id=str(i), instruction=head + "and say " * (i % 4)) for i in range(8)]
    view = view_of(backbone, asked, with_answer=False)
    assert view.attention_mask.sum(1).min() > LIMIT > len(backbone.tokenizer(head).input_ids)
    found = backbone.generate(view, 6)
    assert found == [backbone.generate(view_of(backbone, [one], with_answer=False), 6)[0] for one in asked]

    options = view_of(backbone, [replace(one, target=target) for one in asked for target in ("yes", "no no", "hello")])
    rows = torch.arange(8).repeat_interleave(3)
    scores = backbone.option_scores(options, rows, 24).log_likelihood
    for at in range(24):
        view = view_of(backbone, [replace(asked[at // 3], target=("yes", "no no", "hello")[at % 3])])
        alone = backbone.option_scores(view, torch.zeros(1, dtype=torch.long), 1).log_likelihood
        torch.testing.assert_close(scores[at : at + 1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scaling", [
    {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4,
     "original_max_position_embeddings": LIMIT},
    {"rope_type": "dynamic", "factor": 4.0},
    {"rope_type": "linear", "factor": 4.0},
])  # fmt: skip
def test_keys_are_kept_as_long_as_no_longer_row_turns_them_otherwise(llama: str, scaling: dict[str, Any]) -> None:
    backbone = load(llama, None)
    backbone.config.max_position_embeddings = LIMIT
    backbone.config.rope_parameters = {"rope_theta": 1e4, **scaling}
    assert has_plain_cache(backbone.parts, LIMIT)
    assert has_plain_cache(backbone.parts, LIMIT + 1) == (scaling["rope_type"] == "linear")


def test_a_turn_of_a_chat_model_ends_where_its_settings_say(llama: str) -> None:
    """Chat models name ends of turns in their generation settings, beside the tokenizer's end of sequence."""
    backbone = load(llama, None)
    view = view_of(backbone, SAMPLES[:1], with_answer=False)
    whole = greedy(backbone, view, 6)
    stop = whole[2]
    backbone.base.generation_config.eos_token_id = [stop, 1]
    first = backbone.tokenizer.decode(whole[: whole.index(stop)], skip_special_tokens=True).strip()
    assert backbone.generate(view, 6) == [first]


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_ends_before_a_stop_string_of_the_models_settings(kind: str, models: dict[str, str]) -> None:
    backbone = load(models[kind], None)
    view = view_of(backbone, SAMPLES, with_answer=False)
    whole = backbone.generate(view, 8)
    stop = max(whole, key=len)[-2:] or "x"  # the tiny T5 answers nothing; with a stop, its `generate` once failed
    backbone.base.generation_config.stop_strings = [stop, ""]
    answers = backbone.respond(view, 8)
    assert [one.text for one in answers] == [text.partition(stop)[0].strip() for text in whole]
    assert all(one.finish_reason == "stop" for one, text in zip(answers, whole, strict=True) if stop in text)
    assert not any(whole) or any(one.text != text for one, text in zip(answers, whole, strict=True))
    special = backbone.tokenizer.eos_token
    backbone.base.generation_config.stop_strings = special
    assert backbone.parts.ends == list(dict.fromkeys([backbone.tokenizer.eos_token_id, *backbone.parts.ends]))
    assert backbone.generate(view, 8) == whole


@pytest.mark.parametrize("kind", KINDS)
def test_the_likeliest_token_is_taken_whatever_a_models_settings_say(kind: str, models: dict[str, str]) -> None:
    backbone = load(models[kind], None)
    view = view_of(backbone, SAMPLES, with_answer=False)
    expected = backbone.generate(view, 8)
    settings = backbone.base.generation_config
    settings.repetition_penalty, settings.no_repeat_ngram_size, settings.do_sample, settings.num_beams = 9.0, 1, True, 3
    assert backbone.generate(view, 8) == expected


def test_generation_is_quiet_and_keeps_the_mode(models: dict[str, str]) -> None:
    for kind in KINDS:
        for tuning in TUNINGS.values():
            backbone = load(models[kind], tuning)
            backbone.model.train()
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                backbone.generate(view_of(backbone, SAMPLES, with_answer=False), 2)
            assert backbone.model.training


def test_logits_are_those_of_answer_positions_and_no_others_exist(backbone: Backbone) -> None:
    view = view_of(backbone, SAMPLES)
    widths = []
    head = backbone.base.get_output_embeddings()
    handle = head.register_forward_pre_hook(lambda _, args: widths.append(tuple(args[0].shape[:-1])))
    answers = backbone(view)
    handle.remove()
    count = int((view.labels != IGNORE).sum())
    assert answers.logits.shape == (count, backbone.base.config.get_text_config().vocab_size)
    assert widths == [(1, count)]
    if backbone.parts.prompt_learning:
        return  # peft does not pass positions on, so its logits under padding are others
    keys = {"input_ids": view.input_ids, "attention_mask": view.attention_mask, "labels": view.labels}
    if not backbone.is_encoder_decoder:
        del keys["labels"]
        keys["position_ids"] = (view.attention_mask.cumsum(1) - 1).clamp(min=0)
    full = backbone.base(**keys).logits
    kept = view.labels != IGNORE
    if not backbone.is_encoder_decoder:
        kept = kept.roll(-1, 1)
    assert torch.equal(full[kept].argmax(-1), answers.logits.argmax(-1))
    assert torch.allclose(full[kept], answers.logits, atol=1e-5)


def test_final_logits_are_capped(gemma: str) -> None:
    backbone = load(gemma, None)
    assert backbone(view_of(backbone, SAMPLES)).logits.abs().max() <= 2.0
    backbone.base.config.final_logit_softcapping = None
    assert backbone(view_of(backbone, SAMPLES)).logits.abs().max() > 2.0


def test_embeddings_are_another_way_in_to_the_bit(backbone: Backbone) -> None:
    view = view_of(backbone, SAMPLES)
    by_ids, by_embeds = backbone(view), backbone(view, backbone.embed(view.input_ids))
    assert torch.equal(by_ids.logits, by_embeds.logits)
    assert torch.equal(by_ids.state, by_embeds.state)


def test_last_state_is_the_final_hidden_state_of_the_last_token(models: dict[str, str]) -> None:
    for kind in KINDS:
        backbone = load(models[kind], LoRA(r=4))
        for sample in SAMPLES:
            view = view_of(backbone, [sample])
            out = backbone.model(
                input_ids=view.input_ids,
                attention_mask=view.attention_mask,
                labels=view.labels,
                output_hidden_states=True,
            )
            states = out.decoder_hidden_states if backbone.is_encoder_decoder else out.hidden_states
            found = backbone(view).state
            wanted = states[-1][:, -1]
            if kind == "t5":
                # head input of a tied T5 is scaled
                wanted = wanted * (32**-0.5 if backbone.config.tie_word_embeddings else 1)
            assert torch.allclose(found, wanted, atol=1e-5)


def test_embedding_scale_is_in_the_space_of_embeddings(models: dict[str, str]) -> None:
    for kind in KINDS:
        backbone = load(models[kind], LoRA())
        table = backbone.embed(torch.arange(backbone.config.get_text_config().vocab_size))
        norms = table.norm(dim=1)
        assert torch.allclose(backbone.embedding_scale, norms[norms > 0].mean(), rtol=1e-5)


def test_embedding_scale_follows_a_trained_table(llama: str) -> None:
    frozen, trained = load(llama, LoRA()), load(llama, FullTuning())
    for backbone, factor in ((frozen, 1), (trained, 2)):
        before = backbone.embedding_scale.clone()
        backbone.base.get_input_embeddings().weight.data.mul_(2)
        assert torch.allclose(backbone.embedding_scale, before * factor)


def test_everything_is_in_train_mode_after_loading(models: dict[str, str]) -> None:
    for kind in KINDS:
        for tuning in (LoRA(dropout=0.5), PrefixTuning(tokens=2), PromptTuning(tokens=2), FullTuning()):
            backbone = Backbone(models[kind], Loading(), tuning)
            backbone.load()
            assert all(module.training for module in backbone.modules())
    backbone = Backbone(models["llama"], Loading(), FullTuning())  # has attention dropout of its own
    backbone.load()
    view = view_of(backbone, SAMPLES)
    assert not torch.equal(backbone(view).logits, backbone(view).logits)


def gradients(backbone: Backbone, adversary: NRM | None) -> list[Tensor]:
    view = view_of(backbone, SAMPLES)
    backbone.zero_grad()
    torch.manual_seed(3)
    passes = Passes(backbone, InstructionBatch(raw=view, ids=[s.id for s in SAMPLES]))
    if adversary is None:
        loss = passes.cross_entropy("raw")
    else:
        problem = passes.problem("raw", "prompt")
        problem.seeds = torch.arange(len(SAMPLES))
        outcome = adversary.attack(problem)
        assert outcome.clean is not None
        loss = (outcome.clean + outcome.adversarial).sum()
    loss.backward()
    return [p.grad.clone() if p.grad is not None else torch.zeros_like(p) for p in backbone.trained]


@pytest.mark.parametrize("tuning", ["lora", "prompt", "full"])
@pytest.mark.parametrize("kind", KINDS)
def test_checkpointing_gives_the_same_gradients(kind: str, tuning: str, models: dict[str, str]) -> None:
    chosen = LoRA(r=4, dropout=0.3) if tuning == "lora" else TUNINGS[tuning]
    for adversary in (None, NRM(), NRM(low_memory=True), NRM(ascent="clean")):
        plain, saving = (load(models[kind], chosen, gradient_checkpointing=on) for on in (False, True))
        for backbone in (plain, saving):
            backbone.train()
        assert saving.base.is_gradient_checkpointing
        wanted = gradients(plain, adversary)
        assert any(g.abs().max() > 0 for g in wanted)
        for ours, theirs in zip(wanted, gradients(saving, adversary), strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_checkpointing_does_recompute_and_generation_still_caches(llama: str) -> None:
    backbone = load(llama, LoRA(r=4), gradient_checkpointing=True)
    backbone.train()
    calls = []
    backbone.base.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    backbone(view_of(backbone, SAMPLES)).logits.sum().backward()
    assert len(calls) == 2
    plain = load(llama, LoRA(r=4))
    view = view_of(backbone, SAMPLES, with_answer=False)
    assert backbone.generate(view, 5) == plain.generate(view, 5)
    assert backbone.base.is_gradient_checkpointing


@pytest.mark.parametrize("tuning", ["lora", "prefix", "prefix_plain", "prompt"])
@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_an_adapter_folder_is_a_backbone(kind: str, tuning: str, models: dict[str, str], tmp_path: Path) -> None:
    first = load(models[kind], TUNINGS[tuning])
    first.model.save_pretrained(tmp_path)
    wanted = first(view_of(first, SAMPLES)).logits
    texts = first.generate(view_of(first, SAMPLES, with_answer=False), 5)
    for again in (LoRA(), None):
        second = Backbone(str(tmp_path), Loading(), again)
        second.load()
        second.eval()
        assert second.base_name == models[kind]
        logits = second(view_of(second, SAMPLES)).logits
        assert torch.allclose(logits, wanted, atol=1e-5)
        assert second.generate(view_of(second, SAMPLES, with_answer=False), 5) == texts
        assert bool(second.trained) is (again is not None)
        assert all(p.requires_grad is ("lora" in n or "prompt_encoder" in n) for n, p in second.named_parameters()) or (
            again is None
        )
    second = Backbone(str(tmp_path), Loading(), LoRA())  # goes on from there, and saves what it became
    second.load()
    loss = losses(second(view_of(second, SAMPLES)), len(SAMPLES)).sum()
    loss.backward()
    assert all(p.grad is not None for p in second.trained)
    for p in second.trained:
        p.data.sub_(0.01 * p.grad.sign())
    second.eval()
    moved = second(view_of(second, SAMPLES)).logits
    assert not torch.allclose(moved, wanted, atol=1e-3)
    second.model.save_pretrained(tmp_path / "again")
    third = load(str(tmp_path / "again"), None)
    assert torch.allclose(third(view_of(third, SAMPLES)).logits, moved, atol=1e-5)


def test_a_prefix_adapter_refuses_checkpointing(llama: str, tmp_path: Path) -> None:
    load(llama, PrefixTuning(tokens=2)).model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="checkpointing"):
        Backbone(str(tmp_path), Loading(gradient_checkpointing=True), LoRA()).load()
    with pytest.raises(ValueError, match="checkpointing"):
        Backbone(llama, Loading(gradient_checkpointing=True), PrefixTuning(tokens=2))


def test_an_adapter_finds_a_base_beside_it(llama: str, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    shutil.copytree(llama, adapter / "base")
    load(llama, LoRA(r=4)).model.save_pretrained(adapter)
    config = adapter / "adapter_config.json"
    config.write_text(config.read_text().replace(llama, "./base"))
    backbone = Backbone(str(adapter), Loading(), None)
    backbone.load()
    assert backbone.base_name == str(adapter / "./base")


@pytest.mark.parametrize("tuning", [*TUNINGS])
@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_bfloat16(kind: str, tuning: str, models: dict[str, str]) -> None:
    single = load(models[kind], TUNINGS[tuning], shake=0.0)
    half = load(models[kind], TUNINGS[tuning], shake=0.0, dtype="bfloat16")
    assert half.base.dtype == torch.bfloat16
    view = view_of(half, SAMPLES)
    answers = half(view)
    found, wanted = losses(answers, len(SAMPLES)), losses(single(view), len(SAMPLES))
    assert found.dtype == torch.float32
    assert torch.allclose(found, wanted, rtol=0.05)
    if half.trained:
        found.sum().backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in half.trained)
    assert len(half.generate(view_of(half, SAMPLES, with_answer=False), 3)) == len(SAMPLES)


def test_frozen_embeddings(llama: str) -> None:
    backbone = load(llama, FullTuning(freeze_embeddings=True))
    assert not backbone.base.get_input_embeddings().weight.requires_grad
    assert len(backbone.trained) == len(list(backbone.parameters())) - 1


def test_soft_prompt_from_text(llama: str) -> None:
    backbone = load(llama, PromptTuning(tokens=4, init="text", text="find the words"), shake=0.0)
    ids = backbone.tokenizer("find the words")["input_ids"]
    rows = backbone.embed(torch.tensor((ids * 4)[:4]))
    assert torch.equal(backbone.model.prompt_encoder["default"].embedding.weight, rows)


def test_what_is_no_model(llama: str, tmp_path: Path) -> None:
    for name in ("", str(tmp_path / "none"), str(tmp_path), "./nowhere"):
        with pytest.raises(ValueError, match="backbone"):
            Backbone(name)
    other = tmp_path / "small"
    shutil.copytree(llama, other)
    config = other / "config.json"
    config.write_text(config.read_text().replace('"vocab_size": 300', '"vocab_size": 200'))
    with pytest.raises(ValueError, match="tokens"):
        Backbone(str(other))

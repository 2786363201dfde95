"""Drawn answers: from the right distribution, and the same whatever batch, path or process they are drawn in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from robustlm.batch import View
from robustlm.models import generation
from robustlm.models.backbone import Backbone
from robustlm.models.backends import language_model
from robustlm.models.caches import Reader
from robustlm.models.sampling import Generation, Sampler
from robustlm.models.stops import StopTexts, ends_of
from tests.tiny import SAMPLES, load, view_of

HOT = Generation(temperature=2.0, seed=3)


def naive(logits: list[float], how: Generation) -> list[float]:
    """The probabilities by a loop: the k likeliest, then the likeliest of those until their share reaches p."""
    exps = torch.tensor([value / how.temperature for value in logits], dtype=torch.float64).exp().tolist()
    order = sorted(range(len(exps)), key=lambda token: -exps[token])
    order = order[: how.top_k or len(order)]
    total = sum(exps[token] for token in order)
    kept: list[int] = []
    for token in order:
        if sum(exps[one] for one in kept) / total >= (1 if how.top_p is None else how.top_p):
            break
        kept.append(token)
    whole = sum(exps[token] for token in kept)
    return [exps[token] / whole if token in kept else 0.0 for token in range(len(exps))]


@pytest.mark.parametrize(
    "how",
    [Generation(1.0), Generation(0.5), Generation(1.5, top_k=3), Generation(1.0, top_p=0.7), Generation(2.0, 0.6, 4)],
)
def test_tokens_are_drawn_as_often_as_a_loop_says(how: Generation) -> None:
    logits = [0.3, 2.0, -1.0, 1.2, 0.9, -30.0]
    times = 20_000
    rows = torch.arange(times)
    found = Sampler(how, range(times))(torch.tensor([logits]).expand(times, -1), rows, 0)
    shares = torch.bincount(found, minlength=len(logits)) / times
    expected = naive(logits, how)
    for share, wanted in zip(shares.tolist(), expected, strict=True):
        assert (
            abs(share - wanted) <= 4 * (wanted * (1 - wanted) / times) ** 0.5
        )  # four standard errors; 0 is never drawn


def test_a_device_without_float64_draws_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    class Narrow(torch.Tensor):
        """Logits of a device that refuses float64, as MPS does."""

        @property
        def device(self) -> Any:
            return torch.device("mps")

        def cpu(self, *_: Any, **__: Any) -> torch.Tensor:
            return self.as_subclass(torch.Tensor)

        def detach(self) -> Narrow:
            return self

        def double(self, *_: Any, **__: Any) -> torch.Tensor:
            raise TypeError("MPS has no float64")

    logits, rows = torch.randn(40, 30, generator=torch.Generator().manual_seed(0)), torch.arange(40)
    how = replace(HOT, top_k=9, top_p=0.9)
    drawn = Sampler(how, range(40))(logits, rows, 0)
    moved: list[torch.device] = []
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, device: moved.append(device) or tensor)
    assert Sampler(how, range(40))(logits.as_subclass(Narrow), rows, 0).tolist() == drawn.tolist()
    assert moved == [torch.device("mps")], "tokens go back to where the logits are"


def test_draws_differ_by_seed_key_and_step() -> None:
    logits = torch.zeros(200, 50)
    rows = torch.arange(200)
    first = Sampler(HOT, range(200))(logits, rows, 0)
    assert first.tolist() == Sampler(HOT, range(200))(logits, rows, 0).tolist()
    for other in (
        Sampler(HOT, range(200))(logits, rows, 1),
        Sampler(replace(HOT, seed=4), range(200))(logits, rows, 0),
        Sampler(HOT, range(200, 400))(logits, rows, 0),
    ):
        assert (first == other).float().mean() < 0.1  # by chance 1 of 50


def keyed(view: View) -> View:
    view.keys = tuple(range(10, 10 + len(view)))
    return view


def hot(folder: str) -> Backbone:
    backbone = load(folder, None)
    backbone.generation = HOT
    return backbone


@pytest.mark.parametrize("family", ["llama", "gemma", "t5"])
def test_answers_do_not_depend_on_the_batch(models: dict[str, str], family: str) -> None:
    """Llama decodes here; the windows of Gemma and the decoder of T5 go through `generate` of transformers."""
    backbone = hot(models[family])
    view = keyed(view_of(backbone, SAMPLES * 3, with_answer=False))
    whole = backbone.generate(view, 12)
    assert len(set(whole)) > 3  # equal prompts have other answers, by their keys
    other = backbone.is_encoder_decoder
    for rows in ([0], [4], [8, 1], [7, 6, 5, 4, 3]):
        part = view.select(torch.tensor(rows), encoder_decoder=other)
        assert backbone.generate(part, 12) == [whole[row] for row in rows]
    assert load(models[family], None).generate(view, 12) != whole


def test_both_ways_to_decode_draw_the_same(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = hot(llama)
    view = keyed(view_of(backbone, SAMPLES * 2, with_answer=False))
    ours = backbone.respond(view, 10)
    monkeypatch.setattr(generation, "has_plain_cache", lambda loaded, length: False)
    assert backbone.respond(view, 10) == ours


def test_without_keys_an_answer_depends_on_its_prompt(llama: str) -> None:
    backbone = hot(llama)
    view = view_of(backbone, SAMPLES, with_answer=False)
    assert backbone.generate(view, 8)[1:] == backbone.generate(view.select(torch.tensor([1, 2])), 8)


def test_settings_are_checked_and_described() -> None:
    assert Generation().described is None
    assert HOT.described == "temperature 2, top_p None, top_k None, seed 3"
    assert Generation(stop=["b", "a\n"]).described == 'stop ["a\\n", "b"]'
    assert replace(HOT, stop=["b"]).described == f'{HOT.described}, stop ["b"]'
    for bad, said in (
        ({"temperature": -1}, "generation.temperature"),
        ({"temperature": 1, "top_p": 0}, "generation.top_p"),
        ({"temperature": 1, "top_k": 0}, "generation.top_k"),
        ({"stop": ["\n", ""]}, "generation.stop: found .* expected a list of texts that are not empty"),
        ({"stop": "end"}, "generation.stop: found 'end'; expected a list"),
        ({"top_k": 5}, "found 5 with temperature 0, which takes the likeliest token"),
    ):
        with pytest.raises(ValueError, match=said):
            Generation(**bad)  # type: ignore[arg-type]


def test_a_hosted_model_says_which_setting_it_takes(caplog: pytest.LogCaptureFixture) -> None:
    language_model("openai:m", generation=HOT)
    assert "these settings have no effect: model.generation.temperature (2.0), model.generation.seed (3)" in caplog.text
    language_model("openai:m", generation=Generation(stop=["\n"]))
    assert "no effect: model.generation.stop (['\\n'])" in caplog.text


@pytest.mark.parametrize("family", ["llama", "gemma", "t5"])
def test_answers_end_before_a_stop_beside_those_of_the_model(models: dict[str, str], family: str) -> None:
    backbone = hot(models[family])
    view = keyed(view_of(backbone, SAMPLES * 3, with_answer=False))
    whole = backbone.generate(view, 12)
    own, more = max(whole, key=len)[-2:], max(whole, key=len)[2:4]
    backbone.base.generation_config.stop_strings = [own]
    ended = [text.partition(own)[0].strip() for text in whole]
    assert backbone.generate(view, 12) == ended
    backbone.generation = replace(HOT, stop=[more])
    answers = backbone.respond(view, 12)
    assert [one.text for one in answers] == [text.partition(more)[0].strip() for text in ended]
    assert [one.text for one in answers] != ended
    assert all(one.finish_reason == "stop" for one, text in zip(answers, whole, strict=True) if more in text)


def test_an_answer_runs_no_further_than_its_stop(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our own decoding ends a row with the token that completes the stop, as `generate` of transformers does."""
    backbone = hot(llama)
    view = keyed(view_of(backbone, SAMPLES * 3, with_answer=False))
    limit = 40
    whole = backbone.respond(view, limit)
    stop = max((one.text for one in whole), key=len)[3:6]
    steps: list[int] = []
    read = Reader.__call__

    def counted(self: Reader, ids: torch.Tensor, *rest: Any) -> Any:
        steps.append(len(ids) if ids.shape[1] == 1 else 0)
        return read(self, ids, *rest)

    monkeypatch.setattr(Reader, "__call__", counted)
    backbone.generation = replace(HOT, stop=[stop])
    ours = backbone.respond(view, limit)
    assert sum(stop in one.text for one in whole) >= 1
    for one, full in zip(ours, whole, strict=True):
        assert one.text == full.text.partition(stop)[0].strip()
        assert one.answer_tokens is not None
        assert full.answer_tokens is not None
        assert one.answer_tokens < full.answer_tokens if stop in full.text else one == full
    most = max(one.answer_tokens or 0 for one in ours)
    assert sum(count > 0 for count in steps) <= most, "no step after the last row has ended"
    monkeypatch.setattr(generation, "has_plain_cache", lambda loaded, length: False)
    assert backbone.respond(view, limit) == ours


@pytest.mark.parametrize("plain", [True, False], ids=["decoded here", "generate of transformers"])
def test_a_pad_token_that_is_drawn_does_not_end_an_answer(
    plain: bool, llama: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that have ended are padded, so `generate` took a drawn pad token for the end if there were stop texts."""
    backbone = hot(llama)
    view = view_of(backbone, SAMPLES, with_answer=False)
    pad, words = backbone.tokenizer.pad_token_id, backbone.tokenizer("one two", add_special_tokens=False)["input_ids"]
    assert pad not in backbone.parts.ends
    said = [words[0], pad, *words[1:], pad]
    monkeypatch.setattr(Sampler, "__call__", lambda self, logits, rows, step: torch.full((len(rows),), said[step]))
    monkeypatch.setattr(generation, "has_plain_cache", lambda loaded, length: plain)
    for stop, text, reason in (("missing", "one two", "length"), (" tw", "one", "stop")):
        backbone.generation = replace(HOT, stop=[stop])
        answers = backbone.respond(view, len(said))
        assert {(one.text, one.finish_reason) for one in answers} == {(text, reason)}
        assert reason == "stop" or {one.answer_tokens for one in answers} == {len(said)}


def test_stops_are_found_where_they_end(llama: str) -> None:
    """At every token: exactly when the text of all tokens so far holds the stop."""
    tokenizer = load(llama, None).tokenizer
    text = "Oslo. User: Ünïcode, and a river? \n\nUser: the end 🙂 of it."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    for stop in ("User:", "\n\n", "🙂", " of", "Oslo", "missing", text[:30]):
        stopped = StopTexts(tokenizer, ["never said", stop])
        found = [stopped(ids[:n]) for n in range(1, len(ids) + 1)]
        whole = [stop in tokenizer.decode(ids[:n], skip_special_tokens=True) for n in range(1, len(ids) + 1)]
        assert found.index(True) == whole.index(True) if any(whole) else not any(found)


def test_a_stop_that_is_a_special_token_ends_an_answer_as_a_token(llama: str) -> None:
    """Decoded answers do not show special tokens, so their text would never be found there."""
    backbone = load(llama, None)
    token = next(text for text in backbone.parts.special_tokens if text != backbone.tokenizer.eos_token)
    found = ends_of(backbone.parts, [token, "x", "x"])
    assert found.tokens == [*backbone.parts.ends, backbone.parts.special_tokens[token]]
    assert found.texts == ["x"]

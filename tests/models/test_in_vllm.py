"""The model in vLLM, against a module with the part of vLLM's documented interface that is used."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest
import torch

from robustlm.batch import IGNORE, View
from robustlm.models.backbone import Backbone
from robustlm.models.backends import language_model
from robustlm.models.in_vllm import VllmBackbone
from robustlm.models.requests import Hosting
from robustlm.utils.errors import UserError
from tests.tiny import SAMPLES, load, view_of


@dataclass
class SamplingParams:
    max_tokens: int = 16
    temperature: float = 1.0
    prompt_logprobs: int | None = None
    top_p: float = 1.0
    seed: int | None = None
    stop: list[str] | None = None


@dataclass
class Logprob:
    logprob: float


@dataclass
class CompletionOutput:
    text: str
    token_ids: list[int]
    finish_reason: str


@dataclass
class RequestOutput:
    outputs: list[CompletionOutput]
    prompt_logprobs: list[dict[int, Logprob] | None] | None


@dataclass
class LLM:
    """Answers with the model of transformers."""

    model: str
    tensor_parallel_size: int = 1
    asked: list[SamplingParams] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.inner = load(self.model, None)

    def generate(
        self, prompts: list[dict[str, list[int]]], sampling_params: SamplingParams, use_tqdm: bool = True
    ) -> list[RequestOutput]:
        self.asked.append(sampling_params)
        return [self._one(prompt["prompt_token_ids"], sampling_params) for prompt in prompts]

    def _one(self, ids: list[int], how: SamplingParams) -> RequestOutput:
        rows = torch.tensor([ids])
        none = torch.zeros_like(rows).bool()
        view = View(rows, torch.ones_like(rows), torch.full_like(rows, IGNORE), none, none)
        (said,) = self.inner.respond(view, how.max_tokens)
        tokens = list(range(said.answer_tokens or 0))
        known: list[dict[int, Logprob] | None] | None = None
        if how.prompt_logprobs is not None:
            with torch.no_grad():
                likely = self.inner.model(input_ids=rows).logits[0].log_softmax(-1)
            known = [None, *({id: Logprob(float(at[id]))} for at, id in zip(likely, ids[1:], strict=False))]
        return RequestOutput([CompletionOutput(said.text, tokens, said.finish_reason or "")], known)


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("vllm")
    module.LLM, module.SamplingParams = LLM, SamplingParams  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)


def test_answers_and_scores_are_those_of_the_model_itself(vllm: None, llama: str) -> None:
    local = load(llama, None)
    hosting = Hosting(engine={"tensor_parallel_size": 2}, stop=["\n"])
    there = language_model(f"vllm:{llama}", hosting=hosting)
    assert isinstance(there, VllmBackbone)
    assert not there.loaded
    there.load()
    assert there.loaded
    view = view_of(local, SAMPLES, with_answer=False)
    assert there.respond(view, 6) == local.respond(view, 6)
    assert there.generate(view, 6) == local.generate(view, 6)
    options, rows = view_of(local, SAMPLES), torch.arange(3)
    mine, its = local.option_scores(options, rows, 8), there.option_scores(options, rows, 8)
    assert its.log_likelihood.tolist() == pytest.approx(mine.log_likelihood.tolist(), abs=1e-4)
    assert mine.ends is not None
    assert its.ends is not None
    assert its.ends.tolist() == pytest.approx(mine.ends.tolist(), abs=1e-4)
    assert its.tokens.tolist() == mine.tokens.tolist()
    engine: Any = there._engine
    assert (engine.model, engine.tensor_parallel_size) == (llama, 2)
    assert engine.asked[0] == SamplingParams(max_tokens=6, temperature=0, stop=["\n"])
    assert engine.asked[-1] == SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0)
    with pytest.raises(ValueError, match="runs in vLLM: it can be tested by generation, but not be tuned"):
        there.check_tunable()
    assert there.identity != VllmBackbone(f"vllm:{llama}").identity


def test_without_vllm_the_error_says_what_to_install(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    model = VllmBackbone(f"vllm:{llama}")
    with pytest.raises(RuntimeError, match="is not loaded"):
        model.generate(view_of(Backbone(llama), SAMPLES, with_answer=False), 3)
    with pytest.raises(UserError, match=r"pip install 'robustlm\[vllm\]'"):
        model.load()


def test_models_that_vllm_does_not_run_are_refused(t5: str) -> None:
    with pytest.raises(ValueError, match="is an encoder–decoder; expected a decoder-only model in vLLM"):
        VllmBackbone(f"vllm:{t5}")

"""The model in vLLM, against a module with the part of vLLM's documented interface that is used."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from robustlm.batch import IGNORE, View
from robustlm.cli import main
from robustlm.models.backbone import Backbone
from robustlm.models.backends import language_model
from robustlm.models.in_vllm import VllmBackbone
from robustlm.models.requests import Hosting, seed_of
from robustlm.utils.errors import UserError
from tests.tiny import SAMPLES, load, view_of, write_rows


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
        self,
        prompts: list[dict[str, list[int]]],
        sampling_params: SamplingParams | list[SamplingParams],
        use_tqdm: bool = True,
    ) -> list[RequestOutput]:
        each = sampling_params if isinstance(sampling_params, list) else [sampling_params] * len(prompts)
        self.asked += each if isinstance(sampling_params, list) else [sampling_params]
        return [self._one(prompt["prompt_token_ids"], how) for prompt, how in zip(prompts, each, strict=True)]

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


def test_each_row_gets_a_seed_of_its_own_whatever_its_batch_is(vllm: None, llama: str) -> None:
    def seeds(rows: list[int], hosting: Hosting) -> list[int | None]:
        there = VllmBackbone(f"vllm:{llama}", hosting)
        there.load()
        view = view_of(load(llama, None), SAMPLES, with_answer=False).select(torch.tensor(rows), encoder_decoder=False)
        view.keys = tuple(10 + row for row in rows)
        there.respond(view, 3)
        engine: Any = there._engine
        return [asked.seed for asked in engine.asked]

    whole = seeds([0, 1, 2], Hosting(temperature=0.8, seed=7))
    assert whole == [seed_of(7, key) for key in (10, 11, 12)]
    assert len(set(whole)) == 3
    assert seeds([2, 0], Hosting(temperature=0.8, seed=7)) == [whole[2], whole[0]]
    assert not set(seeds([0, 1, 2], Hosting(temperature=0.8, seed=8))) & set(whole)
    assert seeds([0, 1, 2], Hosting(temperature=0.8)) == [None]  # one object for all rows
    assert seeds([0, 1, 2], Hosting(temperature=0, seed=7)) == [7]  # nothing is drawn


def test_each_draw_of_an_evaluation_gets_a_seed_of_its_own(
    vllm: None, llama: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [{"id": f"r{i}", "sentence": f"a film {i}", "label": "good" if i else "bad"} for i in range(2)]
    rows = write_rows(tmp_path / "rows.jsonl", made)
    asked: list[tuple[tuple[int, ...], int | None]] = []

    def evaluated(name: str, *more: str) -> set[tuple[tuple[int, ...], int | None]]:
        before = len(asked)
        main([
            "test", "--model=InstructionTuning", f"--model.backbone=vllm:{llama}", "--model.tuning=null",
            "--model.max_new_tokens=2", "--model.hosting.temperature=0.8", "--model.hosting.seed=7",
            "--data=RobustnessDataModule", f"--data.test={rows}", "--data.prompts=2", "--data.draws=3",
            "--data.conditions=[clean]", f"--trainer.default_root_dir={tmp_path / name}", "--trainer.accelerator=cpu",
            "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", *more,
        ])  # fmt: skip
        return set(asked[before:])

    own = LLM.generate

    def recorded(self: LLM, prompts: Any, sampling_params: Any, use_tqdm: bool = True) -> list[RequestOutput]:
        given = zip(prompts, sampling_params, strict=True)
        asked.extend((tuple(prompt["prompt_token_ids"]), one.seed) for prompt, one in given)
        return own(self, prompts, sampling_params, use_tqdm)

    monkeypatch.setattr(LLM, "generate", recorded)
    found = evaluated("a", "--data.eval_batch_size=4")
    assert len(asked) == len({seed for _, seed in found}) == 2 * 2 * 3
    assert all(seed is not None for _, seed in found)
    assert len({prompt for prompt, _ in found}) == 2 * 2
    assert evaluated("b", "--data.eval_batch_size=5") == found


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

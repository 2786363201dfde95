"""The measurements of `python -m benchmarks.gpu.evaluation`, which the worker process runs."""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from importlib.util import find_spec
from typing import Any

import torch

from benchmarks.gpu.runner import Check, Finding, Note, Settings, Skip, known
from benchmarks.gpu.speed_checks import Bench
from robustlm.batch import Encoded, View, collate

ROUNDS = 3
BATCHES, LENGTHS = "generate, batch", "tokens of each answer"
WAYS = {BATCHES: 20, "robustlm": 15, "continuous batching": 20, "generate, one by one": 30}
"""Ways to generate answers, and the seconds that each may take."""
ENDS = 0.03
"""Share of the vocabulary that ends an answer: a random model then says 33 tokens on average."""
KINDS = ("prompts that share an instruction", "unlike prompts")
OPTIONS_EACH, OPTION_TOKENS = 4, 4


@dataclass
class Way:
    """What one way of answering took."""

    seconds: float
    lengths: list[int]
    """Tokens of each answer."""


class Evaluations:
    """What the measurements share: a model, prompts of two kinds, and what plain `generate` takes for them.

    Args:
        settings: Of the run.
    """

    def __init__(self, settings: Settings) -> None:
        for name, least, most in (("prompts", 8, 4096), ("tokens", 4, 512)):
            if not least <= settings.extra[name] <= most:
                raise ValueError(f"--{name}: found {settings.extra[name]}; expected {least} to {most}")
        self.bench = Bench(replace(settings, extra={"rows": 2, "rounds": 1}))
        self.count = 8 if settings.tiny else settings.extra["prompts"]
        self.longest = 6 if settings.tiny else settings.extra["tokens"]
        self.plain: dict[str, Way] = {}
        self._settings = settings

    def plain_of(self, kind: str) -> Way | None:
        """What plain `generate` took for prompts of a kind, also in an earlier process; null if it was not measured."""
        if kind not in self.plain:
            stored = known(self._settings, f"{BATCHES}: {kind}")
            if stored is not None:
                self.plain[kind] = Way(stored["seconds"], [int(one) for one in stored[LENGTHS].split()])
        return self.plain.get(kind)

    @cached_property
    def ends(self) -> list[int]:
        """Tokens that end an answer."""
        vocab = self.bench.size.vocab
        found = random.Random(1).sample(range(vocab), round(ENDS * vocab))
        generation = self.bench.backbone.base.generation_config
        own = generation.eos_token_id
        generation.eos_token_id = sorted({*found, *([own] if isinstance(own, int) else own or [])})
        return self.bench.backbone.parts.ends

    @cached_property
    def rows(self) -> dict[str, list[list[int]]]:
        """The prompts of each kind; those that share something share three quarters of their tokens."""
        size, draw = self.bench.size, random.Random(0)
        most = size.tokens - size.answer

        def tokens(count: int) -> list[int]:
            return [draw.randrange(4, size.vocab) for _ in range(count)]

        shared = tokens(3 * most // 4)
        alike = [[*shared, *tokens(draw.randint(most // 8, most // 4))] for _ in range(self.count)]
        return dict(
            zip(KINDS, (alike, [tokens(draw.randint(most // 8, most)) for _ in range(self.count)]), strict=True)
        )

    def view(self, prompts: list[list[int]]) -> View:
        """The prompts as a batch on the device."""
        rows = [Encoded(ids, [True] * len(ids), [False] * len(ids), []) for ids in prompts]
        return collate(rows, pad_id=0, with_answer=False).to(self.bench.device)

    def timed(self, answer: Callable[[], list[int]], note: Note) -> Way:
        """The median time of a way; the first time warms up."""
        seconds: list[float] = []
        for number in range(2 if self.bench.tiny else 1 + ROUNDS):
            self.bench.wait()
            began = time.perf_counter()
            lengths = answer()
            self.bench.wait()
            if number:
                seconds.append(time.perf_counter() - began)
            note({"seconds": seconds})
        return Way(statistics.median(seconds), lengths)


def _ours(bench: Evaluations, prompts: list[list[int]]) -> list[int]:
    found = bench.bench.backbone.respond(bench.view(prompts), bench.longest)
    return [one.answer_tokens or 0 for one in found]


@torch.inference_mode()
def _plain(bench: Evaluations, prompts: list[list[int]]) -> list[int]:
    view = bench.view(prompts)
    base: Any = bench.bench.backbone.base
    out = base.generate(
        input_ids=view.input_ids, attention_mask=view.attention_mask, max_new_tokens=bench.longest, do_sample=False,
        pad_token_id=0, eos_token_id=bench.ends,
    )  # fmt: skip
    ends = set(bench.ends)
    said = out[:, view.input_ids.shape[1] :].tolist()
    return [next((at for at, token in enumerate(row) if token in ends), len(row)) for row in said]


def _one_by_one(bench: Evaluations, prompts: list[list[int]]) -> list[int]:
    return [length for prompt in prompts for length in _plain(bench, [prompt])]


def _continuous(bench: Evaluations, prompts: list[list[int]]) -> list[int]:
    import transformers

    base: Any = bench.bench.backbone.base
    config: Any = transformers.GenerationConfig(  # type: ignore[no-untyped-call,unused-ignore]
        max_new_tokens=bench.longest, do_sample=False, pad_token_id=0, eos_token_id=bench.ends
    )
    found = base.generate_batch(inputs=prompts, generation_config=config)
    ends = set(bench.ends)
    lengths = {tuple(one.prompt_ids): sum(t not in ends for t in one.generated_tokens) for one in found.values()}
    return [lengths[tuple(prompt)] for prompt in prompts]


def generation_check(bench: Evaluations, kind: str, way: str, note: Note) -> Finding:
    """Answers a second of one way, and how many answers are as long as those of plain `generate` in batches."""
    answer = {"robustlm": _ours, BATCHES: _plain, "generate, one by one": _one_by_one,
              "continuous batching": _continuous}[way]  # fmt: skip
    if way == "continuous batching" and bench.bench.device != "cuda":
        raise Skip("the continuous batching of transformers needs a CUDA GPU for its kernels")
    prompts = bench.rows[kind]
    if way == "generate, one by one":
        prompts = prompts[: max(2, bench.count // 8)]
    bench.bench.checkpoint(False)
    assert bench.ends
    with bench.bench.backbone.parts.evaluating():
        found = bench.timed(lambda: answer(bench, prompts), note)
        if way == BATCHES:
            bench.plain[kind] = found
    figures: dict[str, Any] = {
        "prompts": len(prompts),
        "tokens of prompts": sum(map(len, prompts)),
        "tokens of answers": sum(found.lengths),
        "seconds": found.seconds,
        "answers/s": len(prompts) / found.seconds,
        "new tokens/s": sum(found.lengths) / found.seconds,
    }
    plain = bench.plain_of(kind)
    if way == BATCHES:
        figures[LENGTHS] = " ".join(map(str, found.lengths))  # others are compared with it, also in a later call
    elif plain is not None:
        figures["÷ generate in batches"] = figures["answers/s"] / (len(plain.lengths) / plain.seconds)
        pairs = list(zip(found.lengths, plain.lengths, strict=False))
        figures["answers as long as those of generate, %"] = 100 * statistics.mean(a == b for a, b in pairs)
    if not sum(found.lengths):
        return Finding("fail", "no tokens were generated", figures)
    return Finding("pass", figures=figures)


def vllm_check(bench: Evaluations, note: Note) -> Finding:
    """Time vLLM on the same prompts, with random weights; answers are as long as those of plain `generate`."""
    if find_spec("vllm") is None:
        raise Skip("vLLM is not installed")
    if bench.bench.device != "cuda":
        raise Skip("vLLM is measured on a GPU alone")
    plain = {kind: found for kind in KINDS if (found := bench.plain_of(kind)) is not None}
    if set(plain) != set(KINDS):
        raise Skip("plain `generate` was not measured before, which gives the lengths of answers")
    import vllm

    from benchmarks.step import lay_out

    bench.bench.release()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        lay_out(folder, bench.bench.size)
        model = vllm.LLM(folder, load_format="dummy", dtype="bfloat16", gpu_memory_utilization=0.6)
        for kind, prompts in bench.rows.items():
            limits = [
                vllm.SamplingParams(temperature=0, ignore_eos=True, max_tokens=max(1, length))
                for length in plain[kind].lengths
            ]
            asked: Any = [{"prompt_token_ids": ids} for ids in prompts]
            found = bench.timed(
                lambda asked=asked, limits=limits: [  # type: ignore[misc]
                    len(one.outputs[0].token_ids) for one in model.generate(asked, limits, use_tqdm=False)
                ],
                note,
            )
            row = {"prompts": kind, "seconds": found.seconds, "answers/s": len(prompts) / found.seconds}
            rows.append(row | {"÷ generate in batches": plain[kind].seconds / found.seconds})
            note({"rows": rows})
    return Finding("pass", figures={"rows": rows})


def options_check(bench: Evaluations, note: Note) -> Finding:
    """Prompts answered by the likeliest of four options, against answers that are generated."""
    draw = random.Random(1)
    bench.bench.checkpoint(False)
    assert bench.ends
    rows = []
    for kind, prompts in bench.rows.items():
        encoded = [
            Encoded(ids, [True] * len(ids), [False] * len(ids),
                    [draw.randrange(4, bench.bench.size.vocab) for _ in range(OPTION_TOKENS)])
            for ids in prompts for _ in range(OPTIONS_EACH)
        ]  # fmt: skip
        view = collate(encoded, pad_id=0).to(bench.bench.device)
        owner = torch.arange(len(prompts), device=bench.bench.device).repeat_interleave(OPTIONS_EACH)

        def score(view: View = view, owner: Any = owner) -> list[int]:
            found = bench.bench.backbone.option_scores(view, owner, 4 * bench.count)
            if not bool(found.log_likelihood.isfinite().all()):
                raise ValueError("a log-likelihood is not finite")
            return found.tokens.tolist()

        chosen = bench.timed(score, note)
        with bench.bench.backbone.parts.evaluating():
            said = bench.timed(partial(_ours, bench, prompts), note)
        rows.append(
            {
                "prompts": kind,
                "options": f"{OPTIONS_EACH} of {OPTION_TOKENS} tokens",
                "chosen answers/s": len(prompts) / chosen.seconds,
                "generated answers/s": len(prompts) / said.seconds,
                "÷ generated": said.seconds / chosen.seconds,
            }
        )
    return Finding("pass", figures={"rows": rows})


def checks(settings: Settings) -> list[Check]:
    """All measurements. Those of plain `generate` come first, because others are divided by them."""
    bench = Evaluations(settings)
    found = []
    for kind in KINDS:
        for way, share in WAYS.items():
            run = partial(generation_check, bench, kind, way)
            found.append(Check(f"{way}: {kind}", share, run))
    found.append(Check("options", 20, partial(options_check, bench)))
    found.append(Check("vLLM", 90, partial(vllm_check, bench)))
    # the first check makes the model
    return [replace(found[0], seconds=found[0].seconds + 60), *found[1:]]

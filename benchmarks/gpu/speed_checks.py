"""The measurements of `python -m benchmarks.gpu.speed`, which the worker process runs."""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib.util import find_spec
from typing import Any

import torch
from lightning.pytorch.plugins import HalfPrecision
from torch import Tensor

from benchmarks.gpu import lab
from benchmarks.gpu.machine import peak_of
from benchmarks.gpu.runner import Check, Finding, Note, Settings, Skip
from benchmarks.step import ALL, BOTH, METHODS, PLAIN, Method, Size, lay_out, random_batch
from robustlm.batch import Encoded, InstructionBatch, View, collate
from robustlm.models.backbone import Backbone, Loading
from robustlm.models.tuning import LoRA
from robustlm.modules import InstructionTuning
from robustlm.optim.config import parameter_groups

EIGHT_B = Size(
    vocab=128_256, hidden=4096, layers=32, rows=4, tokens=512, answer=64, rank=16,
    mlp=14_336, heads=32, kv_heads=8, tied=False,
)  # fmt: skip
TINY = Size(
    vocab=2_100, hidden=64, layers=2, rows=2, tokens=48, answer=8, rank=4, mlp=128, heads=4, kv_heads=2, tied=False
)
ONE_B = Size(
    vocab=32_000, hidden=2048, layers=22, rows=16, tokens=4320, answer=20, rank=8,
    mlp=5632, heads=32, kv_heads=4, tied=False,
)  # fmt: skip
"""The model that is compared with TRL's trainer: small enough for three of it at once."""
BUILTIN_ROWS = 32
NAMES = (PLAIN, "FGM", "NRM", "NRM, ascent: clean", BOTH, "CoIN", "KL", ALL)
WARM_UP = 2
LEAST_ROUNDS = 3


@dataclass
class Timed:
    """What the rounds of one method gave."""

    seconds: list[float] = field(default_factory=list)
    peak: float = 0.0
    """Most memory that a step held, in GiB, weights included; 0 on a CPU."""
    trouble: str = ""
    """Why it is left out of further rounds."""

    @property
    def median(self) -> float:
        """Seconds of a step; NaN where none was timed."""
        return statistics.median(self.seconds) if self.seconds else math.nan


@dataclass(frozen=True, slots=True)
class Weights:
    """How many weights a token meets, for counting operations."""

    linear: int
    """Of the frozen layers that have an adapter."""
    adapter: int
    head: int
    hidden: int
    layers: int


def operations(weights: Weights, view: View, method: Method) -> float:
    """Floating-point operations that a step needs, a multiplication and an addition being two.

    For every token, a pass forward multiplies with each weight of the layers and adapters once, and for every answer
    token with the head; so does a pass backward, which hands gradients on through frozen weights. Gradients of weights
    are taken for adapters alone, and not in a pass that only looks for a perturbation. Causal attention of a row of T
    tokens takes 2·T²·hidden operations a layer forward (half of a full square, twice), and twice as many backward.
    Not counted: norms, activations, rotary positions, the optimiser, padding, and what checkpointing runs again.
    """
    assert method.passes is not None
    lengths = view.attention_mask.sum(1).double()
    tokens, squares = float(lengths.sum()), float((lengths**2).sum())
    answers = float((view.labels >= 0).sum())
    products = 2 * (weights.linear + weights.adapter) * tokens + 2 * weights.head * answers
    attention = 2 * weights.hidden * weights.layers * squares
    forward = method.passes // 2
    backward = method.passes - forward  # where the numbers differ, a kept pass is gone back through twice
    of_weights = 2 * weights.adapter * tokens * (backward - method.ascents)
    return forward * (products + attention) + backward * (products + 2 * attention) + of_weights


class Bench:
    """What the measurements share: one model, on which every method works.

    Args:
        settings: Of the run.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("torch finds no CUDA GPU; use --tiny for a rehearsal on the CPU")
        for name, most in (("rows", 64), ("rounds", 1000)):
            if not 1 <= settings.extra[name] <= most:
                raise ValueError(f"--{name}: found {settings.extra[name]}; expected 1 to {most}")
        lab.quiet()
        self.device = settings.device
        self.tiny = settings.tiny
        self.size = TINY if settings.tiny else replace(EIGHT_B, rows=settings.extra["rows"])
        self.rounds = min(settings.extra["rounds"], LEAST_ROUNDS) if settings.tiny else settings.extra["rounds"]
        self.matmul = math.nan
        self.precision = HalfPrecision("bf16-true")

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    @cached_property
    def modules(self) -> dict[str, InstructionTuning]:
        """A module a method, over one model: random weights made on the device in bf16, trained by LoRA."""
        folder = lab.scratch_folder() / "speed"
        lay_out(str(folder), self.size)
        loading = Loading(scratch=True, dtype="bfloat16")
        lora = LoRA(r=self.size.rank, alpha=self.size.rank)
        found = {m.name: m.build(str(folder), loading, lora) for m in METHODS if m.name in NAMES}
        plain = found[PLAIN]
        with torch.device(self.device):
            plain.configure_model()
        places = {p.device.type for p in plain.parameters()}
        if places != {self.device}:
            raise RuntimeError(f"weights lie on {sorted(places)}; expected {self.device}")
        self.precision.convert_module(plain)  # the adapters, which peft makes in float32, too
        for module in found.values():
            module.backbone = plain.backbone
        return found

    @cached_property
    def backbone(self) -> Backbone:
        """The one model."""
        found = self.modules[PLAIN].backbone
        assert isinstance(found, Backbone)
        return found

    @cached_property
    def optimizer(self) -> torch.optim.Optimizer:
        """Over the adapters."""
        return torch.optim.AdamW(parameter_groups(self.backbone.base), lr=1e-5)

    @cached_property
    def weights(self) -> Weights:
        """Counted on the model itself."""
        base = self.backbone.base
        linear = [m.weight.numel() for n, m in base.named_modules() if n.endswith(".base_layer")]
        if len(linear) != 7 * self.size.layers:
            raise RuntimeError(f"{len(linear)} layers have an adapter; expected 7 in each of {self.size.layers}")
        adapter = sum(p.numel() for p in self.backbone.trained)
        head = base.get_output_embeddings().weight.numel()
        return Weights(sum(linear), adapter, head, self.size.hidden, self.size.layers)

    def checkpoint(self, on: bool) -> None:
        """Switch gradient checkpointing, as `loading.gradient_checkpointing` does when a model is loaded."""
        base = self.backbone.base
        if on:
            base.gradient_checkpointing_enable({"use_reentrant": False})
            base.enable_input_require_grads()
        elif self.backbone.loading.gradient_checkpointing:
            base.gradient_checkpointing_disable()
            base.disable_input_require_grads()
        self.backbone.loading.gradient_checkpointing = on

    def step(self, module: InstructionTuning, batch: InstructionBatch) -> float:
        """One optimiser step; its loss."""
        with self.precision.forward_context():
            loss = module.training_step(batch, 0)
        torch.autograd.backward(loss)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return float(loss.detach())

    @property
    def peak(self) -> float | None:
        """TFLOP/s by the data sheet, where this GPU is known."""
        return peak_of(self.device)


def matmul_check(bench: Bench, note: Note) -> Finding:
    """What the device reaches in a large bf16 product: the bound to read all other figures against."""
    width = 128 if bench.tiny else 8192
    a, b = (torch.randn(width, width, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    seconds = []
    for number in range(13):
        bench.wait()
        began = time.perf_counter()
        a @ b
        bench.wait()
        if number >= 3:
            seconds.append(time.perf_counter() - began)
    bench.matmul = 2 * width**3 / statistics.median(seconds) / 1e12
    figures = {"width": width, "TFLOP/s": bench.matmul, "TFLOP/s by the data sheet": bench.peak or "not known"}
    return Finding("pass", figures=figures)


def model_check(bench: Bench, note: Note) -> Finding:
    """How long the model takes to be there, and how much memory."""
    began = time.perf_counter()
    everything = sum(p.numel() for p in bench.backbone.model.parameters())
    bench.wait()
    figures: dict[str, Any] = {
        "seconds": time.perf_counter() - began,
        "weights, M": everything / 1e6,
        "trained, M": bench.weights.adapter / 1e6,
    }
    if bench.device == "cuda":
        figures["GiB"] = torch.cuda.memory_allocated() / 2**30
    return Finding("pass", figures=figures)


def steps_check(
    bench: Bench,
    make: Callable[[Bench], InstructionBatch],
    checkpointing: bool,
    equal: bool,
    seconds: float,
    note: Note,
) -> Finding:
    """Median times of the methods' steps, interleaved: all in every round, in an order shuffled each round.

    Args:
        bench: The model.
        make: Makes the batch.
        checkpointing: Whether activations are recomputed.
        equal: Whether all rows have one length, raw and variant, so that operations can be counted from one view.
        seconds: How long rounds are begun.
        note: Takes the table after every round.
    """
    modules = bench.modules
    bench.checkpoint(checkpointing)
    batch = make(bench).to(bench.device)
    times = {name: Timed() for name in NAMES}
    began, shuffle = time.monotonic(), random.Random(1).shuffle
    order = list(NAMES)
    number = 0
    for number in range(WARM_UP + bench.rounds):
        spent = time.monotonic() - began
        if number > WARM_UP and spent * (number + 1) / number > seconds:  # another round like those before is too long
            break
        shuffle(order)
        for name in order:
            if not times[name].trouble:
                _time(bench, modules[name], batch, times[name], timed=number >= WARM_UP)
        note({"rows": _rows(bench, batch, times, equal)})
    rounds = max((len(one.seconds) for one in times.values()), default=0)
    figures = {
        "rows × tokens": f"{len(batch)} × {batch.raw.input_ids.shape[1]}",
        "tokens without padding": int(batch.raw.attention_mask.sum()),
        "answer tokens": int((batch.raw.labels >= 0).sum()),
        "gradient checkpointing": checkpointing,
        "rounds": rounds,
        "rows": _rows(bench, batch, times, equal),
    }
    faults = [f"{name}: {one.trouble}" for name, one in times.items() if one.trouble not in ("", OUT)]
    if rounds < min(LEAST_ROUNDS, bench.rounds):
        faults.append(f"{rounds} rounds were timed, fewer than {LEAST_ROUNDS}")
    full = [name for name, one in times.items() if one.trouble == OUT]
    reason = "; ".join(faults) or (f"{OUT}: {', '.join(full)}" if full else "")
    return Finding("fail" if faults else "pass", reason, figures)


OUT = "out of memory"
"""A figure as any other: how much fits is what the table is asked."""


def _time(bench: Bench, module: InstructionTuning, batch: InstructionBatch, into: Timed, *, timed: bool) -> None:
    cuda = bench.device == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    bench.wait()
    began = time.perf_counter()
    try:
        loss = bench.step(module, batch)
    except torch.OutOfMemoryError:
        into.trouble = OUT
    else:
        bench.wait()
        if timed:
            into.seconds.append(time.perf_counter() - began)
        if not math.isfinite(loss):
            into.trouble = f"its loss is {loss}"
        into.peak = max(into.peak, torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0)
        return
    # outside the handler, whose traceback holds the tensors of the step
    bench.optimizer.zero_grad()
    gc.collect()
    torch.cuda.empty_cache()


def _rows(bench: Bench, batch: InstructionBatch, times: dict[str, Timed], equal: bool) -> list[dict[str, Any]]:
    """The table: a row a method."""
    plain = times[PLAIN].median
    tokens = int(batch.raw.attention_mask.sum())
    by_name = {method.name: method for method in METHODS}
    rows: list[dict[str, Any]] = []
    for name, one in times.items():
        method = by_name[name]
        assert method.passes is not None
        row: dict[str, Any] = {
            "method": name,
            "ms a step": 1e3 * one.median,
            "tokens/s": tokens / one.median,
            "÷ plain": one.median / plain,
            "by count of passes": method.passes / 2,
            "peak GiB": one.peak,
        }
        if one.seconds:
            row["fastest–slowest ms"] = f"{1e3 * min(one.seconds):.4g}–{1e3 * max(one.seconds):.4g}"
        if equal:
            rate = operations(bench.weights, batch.raw, method) / one.median / 1e12
            row["TFLOP/s"] = rate
            row["MFU, %"] = 100 * rate / bench.peak if bench.peak else "–"
            row["% of a large product"] = 100 * rate / bench.matmul
        if one.trouble:
            row["trouble"] = one.trouble
        rows.append(row)
    return rows


def _equal_rows(bench: Bench) -> InstructionBatch:
    return random_batch(bench.size)


def _builtin_rows(bench: Bench) -> InstructionBatch:
    return lab.make_batch(4 if bench.tiny else BUILTIN_ROWS, negatives=False)


# --- evaluation ------------------------------------------------------------------------------------------------


def _prompts(bench: Bench, answers: Sequence[Sequence[int]]) -> list[Encoded]:
    """Prompts of which the first half, the instruction, is the same in all; one for each answer given."""
    size, draw = bench.size, random.Random(0)
    count = size.tokens - size.answer
    shared = [draw.randrange(4, size.vocab) for _ in range(count // 2)]
    rows = []
    for answer in answers:
        own = [draw.randrange(4, size.vocab) for _ in range(count - len(shared))]
        inside = [True] * len(shared) + [False] * len(own)
        rows.append(Encoded([*shared, *own], inside, [not one for one in inside], list(answer)))
    return rows


def generation_check(bench: Bench, note: Note) -> Finding:
    """Greedy answers as an evaluation finds them: what prompts share is run once, ended answers leave the batch."""
    count, longest = (3, 6) if bench.tiny else (32, 64)
    bench.checkpoint(False)
    view = collate(_prompts(bench, [[]] * count), pad_id=0, with_answer=False).to(bench.device)
    run: list[int] = []

    def count_tokens(_module: Any, args: tuple[Tensor, ...]) -> None:
        run.append(args[0].numel() if args[0].shape[1] == 1 else 0)

    handle = bench.backbone.base.get_input_embeddings().register_forward_pre_hook(count_tokens)
    seconds, tokens = [], 0
    try:
        for number in range(4):
            run.clear()
            bench.wait()
            began = time.perf_counter()
            bench.backbone.generate(view, longest)
            bench.wait()
            if number:
                seconds.append(time.perf_counter() - began)
            tokens = count + sum(run)  # the first one of each row comes with its prompt
            note({"seconds": seconds, "tokens": tokens})
    finally:
        handle.remove()
    if tokens <= count:
        return Finding("fail", f"{tokens} tokens were generated for {count} prompts; expected about {count * longest}")
    time_taken = statistics.median(seconds)
    figures = {
        "prompts": f"{count} × {view.input_ids.shape[1]} tokens, the first half shared",
        "tokens generated": tokens,
        "seconds": time_taken,
        "new tokens/s": tokens / time_taken,
        "answers/s": count / time_taken,
    }
    return Finding("pass", figures=figures)


def options_check(bench: Bench, note: Note) -> Finding:
    """Scores of four options of four tokens for each prompt."""
    count, many, length = (3 if bench.tiny else 32), 4, 4
    bench.checkpoint(False)
    draw = random.Random(1)
    prompts = _prompts(bench, [[]] * count)
    rows = [
        replace(prompt, answer_ids=[draw.randrange(4, bench.size.vocab) for _ in range(length)])
        for prompt in prompts
        for _ in range(many)
    ]
    view = collate(rows, pad_id=0).to(bench.device)
    owner = torch.arange(count, device=bench.device).repeat_interleave(many)
    seconds = []
    for number in range(4):
        bench.wait()
        began = time.perf_counter()
        scores = bench.backbone.option_scores(view, owner, 64)
        bench.wait()
        if number:
            seconds.append(time.perf_counter() - began)
        note({"seconds": seconds})
    if not bool(scores.log_likelihood.isfinite().all()):
        return Finding("fail", "scores are not finite")
    time_taken = statistics.median(seconds)
    figures = {
        "options": f"{count} × {many} of {length} tokens, prompts of {bench.size.tokens - bench.size.answer}",
        "seconds": time_taken,
        "options/s": count * many / time_taken,
    }
    return Finding("pass", figures=figures)


def data_check(bench: Bench, note: Note) -> Finding:
    """Batches a second that one process prepares of the built-in corpus: reading, noise, tokens, padding."""
    if find_spec("Levenshtein") is None:
        raise Skip("python-Levenshtein is not installed, and robustlm.datamodules needs it")
    from robustlm.datamodules import NoisyInstructionDataModule
    from robustlm.sources.source import Source

    count = 64 if bench.tiny else 6000
    data = NoisyInstructionDataModule(train=[Source("builtin:quickstart", limit=count)], batch_size=BUILTIN_ROWS)
    data.connect(Backbone("builtin:tiny"))
    began = time.perf_counter()
    data.setup("fit")
    read = time.perf_counter() - began
    began = time.perf_counter()
    rows = sum(len(batch) for batch in data.train_dataloader())
    made = time.perf_counter() - began
    figures = {"rows": rows, "read and tokenised, rows/s": count / read, "in noisy batches, rows/s": rows / made}
    figures["samples"] = figures.pop("rows")
    return Finding("pass", figures=figures)


def trl_check(bench: Bench, note: Note) -> Finding:
    """Plain tuning against TRL's trainer on short answers, as `python -m benchmarks.trl` compares them."""
    if find_spec("trl") is None:
        raise Skip("TRL is not installed")
    from benchmarks import trl

    rounds = LEAST_ROUNDS if bench.tiny else bench.rounds
    size = TINY if bench.tiny else ONE_B
    ways = (trl.OURS, "TRL, grouped", "TRL, padding-free")
    if bench.device == "cuda":  # the processes that are compared need the memory
        torch.cuda.empty_cache()
    found = trl.measure(
        trl.CASES["short"], size, "bf16", variants=ways, rounds=rounds, rows=60 * size.rows, device=bench.device
    )
    own = found[trl.OURS].per_token()
    rows = [
        {
            "trainer": name,
            "tokens/s": 1e6 / one.per_token(),
            "robustlm's tokens/s ÷": one.per_token() / own,
            "peak GiB": one.peak() / 1024,
        }
        for name, one in found.items()
    ]
    return Finding("pass", figures={"frozen / trained weights": found[trl.OURS].dtypes, "rows": rows})


def checks(settings: Settings) -> list[Check]:
    """All measurements, those first that others are read against."""
    bench = Bench(settings)
    plan: list[tuple[str, float, Callable[..., Finding]]] = [
        ("large bf16 product", 10, matmul_check),
        ("model", 60, model_check),
    ]
    for name, make, checkpointing, equal, share in (
        ("steps", _equal_rows, False, True, 90),
        ("steps, gradient checkpointing", _equal_rows, True, True, 100),
        ("steps on the built-in rows", _builtin_rows, False, False, 40),
    ):
        run = partial(steps_check, make=make, checkpointing=checkpointing, equal=equal, seconds=0.9 * share)
        plan.append((name, share, run))
    plan += [("generation", 40, generation_check), ("option scores", 20, options_check), ("data", 20, data_check)]
    plan += [("TRL on short answers", 40, trl_check)]
    return [Check(name, share, partial(run, bench)) for name, share, run in plan]

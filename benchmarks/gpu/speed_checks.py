"""The measurements of `python -m benchmarks.gpu.speed`, which the worker process runs."""

from __future__ import annotations

import gc
import math
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib.util import find_spec
from typing import Any

import torch
from lightning.pytorch.plugins import HalfPrecision

from benchmarks.gpu import lab
from benchmarks.gpu.machine import peak_of
from benchmarks.gpu.runner import Check, Finding, Note, Settings, Skip, known
from benchmarks.step import ALL, BOTH, METHODS, PLAIN, Method, Size, lay_out, random_batch
from robustlm.batch import InstructionBatch, View
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
PRODUCT = "large bf16 product"
MFU_GOAL, TRL_GOAL = 45.0, 1.2
"""Goals: MFU of a plain step of 8 billion weights, in %, and tokens a second ÷ those of TRL's trainer."""
NAMES = (PLAIN, "FGM", "NRM", "NRM, ascent: clean", BOTH, "CoIN", "KL", ALL)
OURS = "robustlm"
"""Name of the way with the library's defaults in `benchmarks.loops`, which needs python-Levenshtein."""
SHORT = ("padding-free", "TRL, grouped", "TRL, padding-free", "TRL, packed")
UNEVEN = (
    "rows of any length", "padding-free", "padding-free, rows of any length", "padding-free, by tokens",
    "padding-free, FlashAttention-2",
)  # fmt: skip
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


def weights_of(size: Size) -> Weights:
    """The weights of a Llama of this size with LoRA on all linear layers."""
    assert size.mlp is not None
    assert size.heads is not None
    keys = size.hidden // size.heads * (size.kv_heads or size.heads)
    layers = [(size.hidden, size.hidden)] * 2 + [(size.hidden, keys)] * 2 + [(size.hidden, size.mlp)] * 3
    linear = sum(one * other for one, other in layers)
    adapter = size.rank * sum(one + other for one, other in layers)
    head = size.vocab * size.hidden
    return Weights(linear * size.layers, adapter * size.layers, head, size.hidden, size.layers)


def operations(weights: Weights, view: View, method: Method) -> float:
    """`operations_of` the rows of a view."""
    lengths = view.attention_mask.sum(1).double()
    return operations_of(
        weights, float(lengths.sum()), float((lengths**2).sum()), float((view.labels >= 0).sum()), method
    )


def operations_of(weights: Weights, tokens: float, squares: float, answers: float, method: Method) -> float:
    """Floating-point operations that a step needs, a multiplication and an addition being two.

    For every token, a pass forward multiplies with each weight of the layers and adapters once, and for every answer
    token with the head; so does a pass backward, which hands gradients on through frozen weights. Gradients of weights
    are taken for adapters alone, and not in a pass that only looks for a perturbation. Causal attention of a row of T
    tokens takes 2·T²·hidden operations a layer forward (half of a full square, twice), and twice as many backward.
    Not counted: norms, activations, rotary positions, the optimiser, padding, and what checkpointing runs again.

    Args:
        weights: Of the model.
        tokens: Of all rows, without padding.
        squares: Sum of the squared lengths of rows.
        answers: Tokens that are trained.
        method: What is trained.
    """
    assert method.passes is not None
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
        self._settings = settings
        self._matmul: float | None = None
        self.precision = HalfPrecision("bf16-true")

    @property
    def matmul(self) -> float:
        """TFLOP/s of a large product, also if it was measured in an earlier process; NaN if it was not."""
        if self._matmul is None:
            self._matmul = float((known(self._settings, PRODUCT) or {}).get("TFLOP/s", math.nan))
        return self._matmul

    @matmul.setter
    def matmul(self, found: float) -> None:
        self._matmul = found

    def release(self) -> None:
        """Free the memory of the model; it is made again when it is needed."""
        for name in ("modules", "backbone", "optimizer", "weights"):
            self.__dict__.pop(name, None)
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()

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
    rows = _rows(bench, batch, times, equal)
    figures: dict[str, Any] = {
        "rows × tokens": f"{len(batch)} × {batch.raw.input_ids.shape[1]}",
        "tokens without padding": int(batch.raw.attention_mask.sum()),
        "answer tokens": int((batch.raw.labels >= 0).sum()),
        "gradient checkpointing": checkpointing,
        "rounds": rounds,
        "rows": rows,
    }
    if equal:
        figures[f"goal: MFU of a plain step of at least {MFU_GOAL:g} %"] = _held(rows[0]["MFU, %"], MFU_GOAL)
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


def _held(found: float | str, goal: float) -> str:
    """A figure beside its goal. A text, or NaN: there is no figure."""
    if isinstance(found, str) or math.isnan(found):
        return "not known here"
    return f"{found:.4g}: {'reached' if found >= goal else 'missed'}"


# --- training loops in processes of their own -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Comparison:
    """Training loops that take turns, each in a process of its own."""

    variants: tuple[str, ...]
    """Names of `benchmarks.loops.WAYS` and of TRL's variants; others are compared with the first one."""
    case: str
    """Lengths of rows: `equal`, or a name of `benchmarks.trl.CASES`."""
    size: Size
    precision: str


def compared_check(bench: Bench, comparison: Comparison, seconds: float, note: Note) -> Finding:
    """Tokens a second, MFU and memory of whole training loops, interleaved.

    Args:
        bench: The device; its model gives up its memory.
        comparison: What is compared.
        seconds: How long rounds are measured; at least three rounds are.
        note: Takes the table after every round.
    """
    if find_spec("Levenshtein") is None:
        raise Skip("python-Levenshtein is not installed, and robustlm.datamodules needs it")
    theirs = [name for name in comparison.variants if name.startswith("TRL")]
    if theirs and find_spec("trl") is None:
        raise Skip("TRL is not installed")
    from benchmarks import loops, trl

    left = {}
    if find_spec("flash_attn") is None:
        left = {name: "flash-attn is not installed" for name in comparison.variants if "Flash" in name}
    bench.release()
    equal = comparison.case == "equal"
    size = comparison.size
    prompt = size.tokens - size.answer
    case = loops.Case((prompt, prompt), (size.answer, size.answer)) if equal else trl.CASES[comparison.case]
    if bench.tiny:
        size, case = replace(TINY, tokens=96), loops.Case((40, 40), (8, 8)) if equal else loops.Case((20, 40), (1, 8))
    found = loops.measure(
        case,
        size,
        comparison.precision,
        variants=[name for name in comparison.variants if name not in left],
        rounds=min(bench.rounds, LEAST_ROUNDS) if bench.tiny else bench.rounds,
        rows=(12 if bench.tiny else 60) * size.rows,
        device=bench.device,
        least=LEAST_ROUNDS,
        seconds=seconds,
        forked=bench.device == "cpu",
        note=lambda results: note({"rows": _compared(bench, size, results, left)}),
    )
    rows = _compared(bench, size, found, left)
    figures: dict[str, Any] = {
        "frozen / trained weights": next((one.dtypes for one in found.values() if one.dtypes), ""),
        "rounds": max((len(one.steps) for one in found.values()), default=0),
        "rows": rows,
    }
    if equal:
        shares = [row["MFU, %"] for row in rows if isinstance(row.get("MFU, %"), float)]
        figures[f"goal: MFU of at least {MFU_GOAL:g} % by the best way"] = _held(max(shares, default=""), MFU_GOAL)
    if theirs:
        rates = {name: 1 / one.per_token() for name, one in found.items() if one.steps}
        best = max((rate for name, rate in rates.items() if name in theirs), default=math.nan)
        own = {name: rate / best for name, rate in rates.items() if name not in theirs}
        figures[f"goal: tokens/s of at least {TRL_GOAL:g} × the best of TRL"] = "; ".join(
            f"{name} {_held(ratio, TRL_GOAL)}" for name, ratio in own.items()
        )
    faults = [f"{name}: {one.trouble}" for name, one in found.items() if one.trouble not in ("", OUT)]
    reasons = [*faults, *(f"{name}: {OUT}" for name, one in found.items() if one.trouble == OUT)]
    reasons += [f"{name}: {why}" for name, why in left.items()]
    return Finding("fail" if faults else "pass", "; ".join(reasons), figures)


def _compared(bench: Bench, size: Size, found: Mapping[str, Any], left: Mapping[str, str]) -> list[dict[str, Any]]:
    """The table: a row a variant."""
    weights = weights_of(size)
    plain = next(method for method in METHODS if method.name == PLAIN)
    first = next(iter(found.values())).per_token()
    rows: list[dict[str, Any]] = []
    for name, one in found.items():
        row: dict[str, Any] = {"variant": name}
        if one.steps:
            rates = [
                operations_of(weights, step.tokens, step.squares, step.answer_tokens, plain) / step.seconds / 1e12
                for step in one.steps
            ]
            rate, times = statistics.median(rates), [1e3 * step.seconds for step in one.steps]
            row |= {
                "tokens/s": 1e6 / one.per_token(),
                "÷ the first": first / one.per_token(),
                "peak GiB": one.peak() / 1024,
                "TFLOP/s": rate,
                "MFU, %": 100 * rate / bench.peak if bench.peak else "–",
                "ms a step": statistics.median(times),
                "fastest–slowest ms": f"{min(times):.4g}–{max(times):.4g}",
                "loss": statistics.mean(step.loss for step in one.steps),
            }
        rows.append(row | ({"trouble": one.trouble} if one.trouble else {}))
    return rows + [{"variant": name, "trouble": why} for name, why in left.items()]


def checks(settings: Settings) -> list[Check]:
    """All measurements in the order of their value; those that others are read against come first."""
    bench = Bench(settings)

    def steps(make: Callable[[Bench], InstructionBatch], share: float, *, checkpointing: bool, equal: bool) -> Any:
        return partial(steps_check, make=make, checkpointing=checkpointing, equal=equal, seconds=0.9 * share)

    def compared(variants: Sequence[str], case: str, size: Size, precision: str, share: float) -> Any:
        found = Comparison((OURS, *variants), case, size, precision)
        return partial(compared_check, comparison=found, seconds=0.3 * share)  # processes take the rest to start

    plan: list[tuple[str, float, Callable[..., Finding]]] = [
        (PRODUCT, 10, matmul_check),
        ("model", 40, model_check),
        ("steps", 80, steps(_equal_rows, 80, checkpointing=False, equal=True)),
        ("compiled layers", 90, compared(["compiled"], "equal", bench.size, "bf16-true", 90)),
        ("TRL on short answers", 70, compared(SHORT, "short", ONE_B, "bf16", 70)),
        ("rows of uneven length", 70, compared(UNEVEN, "mixed", replace(ONE_B, rows=8), "bf16", 70)),
        ("losses and FSDP2", 60, compared(["all logits at once", "FSDP2"], "equal", bench.size, "bf16-true", 60)),
        ("steps, gradient checkpointing", 100, steps(_equal_rows, 80, checkpointing=True, equal=True)),
        ("steps on the built-in rows", 40, steps(_builtin_rows, 36, checkpointing=False, equal=False)),
        ("data", 20, data_check),
    ]
    return [Check(name, share, partial(run, bench)) for name, share, run in plan]

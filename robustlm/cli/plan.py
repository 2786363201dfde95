"""`robustlm plan`: what memory and time a run needs on GPUs that need not be there."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jsonargparse

from robustlm.checks.numbers import check_number
from robustlm.cli.arguments import flag_value
from robustlm.datamodules import InstructionDataModule
from robustlm.modules import InstructionTuning
from robustlm.planning.gpus import find
from robustlm.planning.plan import CONTEXT, MARGIN, Memory, Plan
from robustlm.planning.rows import Shape
from robustlm.planning.shapes import write_shape
from robustlm.planning.strategies import sharding_of

_MOST_TOKENS = 10**7
_DAY = 86_400


@dataclass(frozen=True)
class Target:
    """The settings of a trainer that belong to the machine of the run, and not to this one."""

    strategy: Any
    devices: int
    precision: str

    @classmethod
    def taken_from(cls, trainer: jsonargparse.Namespace) -> Target:
        """Take these settings out of a trainer's config, which then describes a trainer that every machine can make.

        Raises:
            ValueError: The number of devices is not a number.
        """
        strategy = trainer.get("strategy")
        plain = strategy.as_dict() if isinstance(strategy, jsonargparse.Namespace) else strategy
        found = cls(
            plain,
            _count("trainer.devices", trainer.get("devices")) * _count("trainer.num_nodes", trainer.get("num_nodes")),
            "bf16-mixed" if trainer.get("precision") == "auto" else str(trainer.get("precision") or "32-true"),
        )
        local = {"strategy": "auto", "devices": 1, "num_nodes": 1, "precision": None, "accelerator": "cpu"}
        for name, value in {**local, "plugins": None, "logger": False, "enable_progress_bar": False}.items():
            trainer[name] = value
        return found


def _count(name: str, value: object) -> int:
    if value in (None, "auto"):
        return 1
    if isinstance(value, list | tuple):
        return len(value)
    found = int(str(value)) if isinstance(value, int) or str(value).isdigit() else value
    check_number(name, found, least=1, most=10**6, whole=True)
    return int(str(found))


def with_shape(args: Sequence[str], folder: Path) -> list[str]:
    """The arguments, with the folder of a config as `model.backbone` if `--shape` is given.

    Raises:
        ValueError: `model.backbone` is given too, or the shape is none.
    """
    given, shape = flag_value(args, "shape")
    if not given or shape in (None, "null"):
        return list(args)
    if flag_value(args, "model.backbone")[0]:
        raise ValueError("shape: found --model.backbone too; expected one of them")
    return [*args, "--model.backbone", str(write_shape(str(shape), folder))]


@dataclass(frozen=True)
class _Lengths:
    """What rows a plan counts with."""

    longest: tuple[int, int]
    """Tokens of prompt and answer, for memory."""
    mean: tuple[int, int]
    """The same, for operations."""
    count: int | None
    """Rows of the corpus, if known."""
    said: str
    open: float = 0.0
    """Share of the rows without an answer."""
    options: int = 2
    """Most options of such a row."""


def show_plan(
    model: InstructionTuning,
    datamodule: InstructionDataModule,
    target: Target,
    trainer: Mapping[str, Any],
    gpu: str,
    gpu_memory: float | None,
    gpu_tflops: float | None,
    shape: str | None,
    prompt: int | None,
    answer: int | None,
    rows: int | None,
    mfu: float,
) -> None:
    """Print the plan; see `CheckingTrainer.plan` for the arguments.

    Raises:
        ValueError: A setting is wrong, or the model cannot be built without its weights.
    """
    check_number("mfu", mfu, above=0, most=1)
    check_number("rows", rows, least=1, whole=True, or_null="for those of data.train")
    kind = find(gpu, gpu_memory, gpu_tflops)
    sharding = sharding_of(target.strategy, target.devices)
    model.check_data(datamodule)
    lengths = _lengths(model, datamodule, shape, prompt, answer)
    accumulated = int(trainer.get("accumulate_grad_batches") or 1)
    budget = datamodule.batch_tokens
    batch = Shape(
        rows=datamodule.batch_size if budget is None else _rows_within(budget, lengths.longest),
        prompt=lengths.longest[0],
        answer=lengths.longest[1],
        views=datamodule.views,
        variants=getattr(datamodule, "variants", 1),
        negatives=getattr(datamodule, "negatives", 0),
        replay=math.ceil(datamodule.replay.share * datamodule.batch_size) if datamodule.replay else 0,
        replay_length=(datamodule.replay and datamodule.replay.length) or datamodule.max_length,
        open=lengths.open,
        options=lengths.options,
        encoder_decoder=model.backbone.is_encoder_decoder,
    )
    plan = Plan(
        model,
        batch,
        kind,
        sharding,
        target.precision,
        accumulated,
        bool(trainer.get("gradient_clip_val")),
        batch_tokens=budget,
    )
    mean = replace(batch, prompt=lengths.mean[0], answer=lengths.mean[1])
    if budget is not None:
        mean = replace(mean, rows=_rows_within(budget, lengths.mean))
    usual = replace(plan, shape=mean)
    weights = plan.step.weights
    name = f"shape {shape}" if shape else model.backbone.name
    print(f"model       {name}: {weights.frozen + weights.trained:,} weights, {weights.trained:,} of them trained")
    print(f"run         {_method(model)}, {target.precision}, {sharding.name} on {sharding.devices} × {kind.name}")
    within = "" if budget is None else f" of the longest ({mean.rows} on average) in {budget:,} tokens"
    print(f"batch       {batch.rows} rows{within} on each GPU, {lengths.said}; {usual.rows} rows a step")
    _show_memory(plan)
    _show_time(usual if lengths.mean != lengths.longest else plan, trainer, rows or lengths.count, mfu)
    print(
        f"\nassumed     {_size(CONTEXT)} of kernels and libraries on each GPU (transformers, Model training anatomy); "
        f"{MARGIN:.0%} of\n            what a step allocates anew for fragmentation; GPU: {kind.source}.\n"
        "            Tensors are counted on one traced step; nothing here was measured on a GPU."
    )


def _rows_within(budget: int, lengths: tuple[int, int]) -> int:
    """How many rows of this length a batch of at most `budget` tokens has; see `TokenBatches`.

    Raises:
        ValueError: Not even one.
    """
    if budget < sum(lengths):
        raise ValueError(
            f"data.batch_tokens: found {budget}, but the longest row has {sum(lengths)} tokens; expected at least that"
        )
    return budget // sum(lengths)


def _method(model: InstructionTuning) -> str:
    adversary = getattr(model, "adversary", None)
    tuning = getattr(model.backbone, "tuning", None)
    parts = [type(model).__name__]
    parts += [] if adversary is None else [f"with {type(adversary).__name__}"]
    parts += [] if tuning is None else [f"({type(tuning).__name__})"]
    return " ".join(parts)


def _lengths(
    model: InstructionTuning, data: InstructionDataModule, shape: str | None, prompt: int | None, answer: int | None
) -> _Lengths:
    for name, value in (("prompt", prompt), ("answer", answer)):
        check_number(name, value, least=1, most=_MOST_TOKENS, whole=True, or_null="for those of the rows")
    if data.sources["train"] and prompt is None and answer is None:
        if shape:
            raise ValueError(
                "shape: a shape has no tokenizer, so the tokens of data.train cannot be counted; expected --prompt "
                "and --answer, or no data.train"
            )
        data.connect(model.backbone)
        read = data.read("train")
        rows = read.encoded
        most = max(rows, key=len)
        longest = len(most.prompt_ids), len(most.answer_ids)
        mean = sum(len(row.prompt_ids) for row in rows) // len(rows), sum(len(row.answer_ids) for row in rows)
        mean = max(mean[0], 1), max(mean[1] // len(rows), 1)
        said = f"prompt + answer {longest[0]} + {longest[1]} tokens at most, {mean[0]} + {mean[1]} on average"
        if data.stream is not None:
            return _Lengths(longest, mean, None, f"{said} in the first window of the stream")
        if not read.open:
            return _Lengths(longest, mean, len(rows), said)
        options = max(len(row.answers) for row in read.open.values())
        said += f"; {len(read.open) / len(rows):.0%} of the rows without an answer, {options} options at most"
        return _Lengths(longest, mean, len(rows), said, len(read.open) / len(rows), options)
    answer = max(data.max_length // 8, 1) if answer is None else answer
    prompt = max(data.max_length - answer, 1) if prompt is None else prompt
    said = f"prompt + answer {prompt} + {answer} tokens"
    if data.unlabelled is None:
        return _Lengths((prompt, answer), (prompt, answer), None, said)
    return _Lengths((prompt, answer), (prompt, answer), None, f"{said}; all rows without an answer, of 2 options", 1.0)


def _show_memory(plan: Plan) -> None:
    memory = plan.memory
    limit = plan.gpu.memory * 1e9
    print(f"\nmemory      of one GPU, at the peak of a step ({memory.phase}); it has {_size(limit)}")
    for name, count in memory.parts.items():
        if count >= 0.5:
            print(f"  {name:<18}{_size(count):>10}")
    verdict = "fits" if plan.fits else "DOES NOT FIT"
    print(f"  {'total':<18}{_size(memory.total):>10}  {memory.total / limit:.0%} of the GPU: {verdict}")
    bare = plan.without_adversary()
    if bare is not None:
        name = type(getattr(plan.module, "adversary", None)).__name__
        print(f"  {name} adds {_size(memory.total - bare.memory.total)} to the step without it")
    for note in memory.notes:
        print(f"  {note}")
    most = plan.most_rows()
    tokens = "" if plan.batch_tokens is None or most is None else f" (data.batch_tokens {most * plan.shape.row_tokens})"
    print("  not even one row fits" if most is None else f"  about {most} rows on each GPU fit{tokens}")
    if not plan.fits:
        _show_changes(plan)


def _show_changes(plan: Plan) -> None:
    print("\nto change   each alone, with the memory that it then needs")
    found = [(name, other.memory) for name, other in plan.alternatives()]
    for name, memory in sorted(found, key=lambda one: one[1].total):
        print(f"  {name:<68}{_size(memory.total):>10}  {_fits(memory, plan)}")
    if not any(memory.total <= plan.gpu.memory * 1e9 for _, memory in found):
        print("  none of them is enough alone; combine them, or take more or larger GPUs")


def _fits(memory: Memory, plan: Plan) -> str:
    return "fits" if memory.total <= plan.gpu.memory * 1e9 else "does not fit"


def _show_time(plan: Plan, trainer: Mapping[str, Any], rows: int | None, mfu: float) -> None:
    everywhere = plan.operations * plan.sharding.devices
    print(f"\noperations  {plan.operations:.3g} in a step on one GPU, {everywhere:.3g} on all")
    seconds = plan.seconds(mfu)
    if seconds is None:
        print(f"time        not known: the table has no peak of {plan.gpu.name} at {plan.bits} bits")
        return
    peak = plan.gpu.peak(plan.bits)
    print(
        f"time        {seconds:.3g} s a step at {mfu:.0%} of {peak:g} TFLOP/s; {plan.rows / seconds:.3g} rows a second"
    )
    steps = int(trainer.get("max_steps") or -1)
    epochs = trainer.get("max_epochs") or 1
    if steps < 0 and rows is not None and epochs > 0:
        steps = -(-rows * int(epochs) // plan.rows)
    if steps < 0:
        print("corpus      not known; --rows or data.train gives days")
        return
    of = f"{rows:,} rows × {epochs} epochs" if rows is not None else "trainer.max_steps"
    print(f"corpus      {of}: {steps:,} steps, {seconds * steps / _DAY:.3g} days")


def _size(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if abs(count) >= 1e8 else f"{count / 1e6:.2f} MB"

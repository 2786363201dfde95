"""Training loops side by side, each in a process of its own: what `benchmarks.trl` and `benchmarks.gpu.speed` share.

Each variant has its own model, made from scratch with the same config, adapters and rows, and runs its own whole
training loop: loading and collating batches, forward, backward, clipping, optimiser, logging. The parent lets one
variant at a time take one step, in an order that is shuffled each round. So other load on the machine falls on all of
them. A variant that fails leaves the others to go on.
"""

from __future__ import annotations

import gc
import logging
import math
import multiprocessing
import os
import random
import statistics
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.step import Size, lay_out
from robustlm.datamodules.sampling import StepSampler
from robustlm.datamodules.token_batches import TokenBatches
from robustlm.models.loading import Loading

OURS = "robustlm"
WARM_UP = 2


@dataclass(frozen=True, slots=True)
class Way:
    """How this project trains. Each field is a setting of the library."""

    loading: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `model.loading`."""
    chunk_logits: Literal["auto"] | None = "auto"
    """`model.chunk_logits`."""
    grouped: bool = True
    """`data.group_by_length`."""
    packed: bool = False
    """Whether batches have as many rows as fit a number of tokens (`data.batch_tokens`): rows × their mean length."""
    fsdp2: bool = False
    """Whether weights are divided by FSDP2, here over one device."""


FLASH = {"padding_free": True, "attention": "flash_attention_2"}
WAYS = {
    OURS: Way(),
    "all logits at once": Way(chunk_logits=None),
    "compiled": Way({"compile": True}),
    "FSDP2": Way(fsdp2=True),
    "rows of any length": Way(grouped=False),
    "padding-free": Way({"padding_free": True}),
    "padding-free, rows of any length": Way({"padding_free": True}, grouped=False),
    "padding-free, by tokens": Way({"padding_free": True}, packed=True),
    "padding-free, FlashAttention-2": Way(FLASH),
}
"""The ways of this project; the first one has the library's defaults."""


@dataclass(frozen=True, slots=True)
class Case:
    """How long rows are, in tokens; drawn evenly between two numbers."""

    prompt: tuple[int, int]
    answer: tuple[int, int]

    def rows(self, count: int, vocab: int) -> list[tuple[list[int], list[int]]]:
        """Prompts and answers of random tokens, the same in every process."""
        draw = random.Random(0)
        sizes = [(draw.randint(*self.prompt), draw.randint(*self.answer)) for _ in range(count)]
        return [tuple([draw.randrange(4, vocab) for _ in range(n)] for n in pair) for pair in sizes]  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class Job:
    """What a variant trains."""

    variant: str
    case: Case
    size: Size
    """`rows` is the number of rows in a batch."""
    precision: str
    """`fp32`: all in float32. `bf16`: frozen weights in bf16, adapters in float32, bf16 autocast. `bf16-true`: all in
    bf16."""
    device: str
    rows: int
    """Rows of the data set."""
    steps: int
    folder: str
    """Of the model's config and tokenizer."""


@dataclass(slots=True)
class Taken:
    """A step that a variant has taken."""

    seconds: float
    tokens: int
    """Without padding."""
    answer_tokens: int
    loss: float
    peak: int
    """Most bytes in the step: of the device's allocator, or of the process on a CPU."""
    squares: int = 0
    """Sum of the squared lengths of rows; 0: not known."""


@dataclass(slots=True)
class Result:
    """All steps of a variant."""

    dtypes: str
    """Types of frozen and of trained weights."""
    start: int
    """Bytes before the first step."""
    steps: list[Taken] = field(default_factory=list)
    trouble: str = ""
    """Why the variant ended early; empty if it did not."""

    def per_token(self) -> float:
        """Median of microseconds a token; NaN without steps."""
        return statistics.median(1e6 * one.seconds / one.tokens for one in self.steps) if self.steps else math.nan

    def peak(self) -> float:
        """Most MiB of any step."""
        return max((one.peak for one in self.steps), default=0) / 2**20


class Meter:
    """Takes part in a variant's training loop: measures each step, and waits for the parent before the next one.

    Args:
        pipe: To the parent.
        device: `cpu` or `cuda`.
    """

    def __init__(self, pipe: Connection, device: str) -> None:
        self._pipe = pipe
        self._cuda = device == "cuda"
        self._began = 0.0
        self.tokens = self.answer_tokens = self.squares = 0

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    def _reset(self) -> None:
        if self._cuda:
            torch.cuda.reset_peak_memory_stats()
        else:  # 5: the peak of resident memory starts anew
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def memory(self) -> int:
        """Most bytes since the step began."""
        if self._cuda:
            return torch.cuda.max_memory_allocated()
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

    def ready(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        """The loop is about to begin."""
        kinds = [
            ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in parameters if p.requires_grad == trained}))
            for trained in (False, True)
        ]
        gc.collect()
        self._reset()
        self._pipe.send(Result(" / ".join(kinds), self.memory()))
        self._pipe.recv()
        self._reset()
        self._began = self._now()

    def count(self, tokens: int, answer_tokens: int, squares: int = 0) -> None:
        """Note what the step reads; `squares`: see `Taken.squares`."""
        self.tokens, self.answer_tokens, self.squares = tokens, answer_tokens, squares

    def taken(self, loss: float) -> bool:
        """A step is over; returns whether to take another one."""
        seconds = self._now() - self._began
        self._pipe.send(Taken(seconds, self.tokens, self.answer_tokens, loss, self.memory(), self.squares))
        again = bool(self._pipe.recv())
        self._reset()
        self._began = self._now()
        return again


def sampler_of(job: Job) -> StepSampler:
    """The batches of a way of this project; for others, batches of rows of similar length."""
    way = WAYS.get(job.variant, Way())
    rows = job.case.rows(job.rows, job.size.vocab)
    lengths, answers = [len(prompt) + len(answer) for prompt, answer in rows], [len(answer) for _, answer in rows]
    if not way.packed:
        return StepSampler(lengths, answers, batch_size=job.size.rows, seed=0, group_by_length=way.grouped)
    budget = max(max(lengths), round(job.size.rows * statistics.mean(lengths)))
    order = TokenBatches(lengths, budget, padded=False, seed=0, group_by_length=way.grouped)
    return StepSampler(lengths, answers, batch_size=1, seed=0, order=order)


def ours(job: Job, meter: Meter) -> None:
    """Train as a way of this project does."""
    from lightning.pytorch import Callback, Trainer
    from torch.utils.data import DataLoader

    from robustlm.batch import Encoded, InstructionBatch, collate
    from robustlm.callbacks.fsdp2 import FSDP2
    from robustlm.datamodules.sampling import BatchKey
    from robustlm.models.tuning import LoRA
    from robustlm.modules import InstructionTuning
    from robustlm.optim.config import AdamW, Schedule

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    way = WAYS[job.variant]
    whole = job.precision == "fp32"
    rows = [
        Encoded(prompt, [True] * len(prompt), [False] * len(prompt), answer)
        for prompt, answer in job.case.rows(job.rows, job.size.vocab)
    ]

    class Batches(torch.utils.data.Dataset[InstructionBatch]):
        def __getitem__(self, key: BatchKey) -> InstructionBatch:
            raw = collate([rows[i] for i in key.indices], pad_id=0)
            return InstructionBatch(raw=raw, ids=[str(i) for i in key.indices], step_tokens=key.step_tokens)

    class Measured(Callback):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            meter.ready(list(pl_module.parameters()))

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: InstructionBatch, batch_idx: int
        ) -> None:
            lengths = batch.raw.layout.lengths
            meter.count(sum(lengths), len(batch.raw.layout.targets), sum(one * one for one in lengths))
            trainer.should_stop = not meter.taken(float(outputs["loss"]))

    module = InstructionTuning(
        job.folder,
        loading=Loading(scratch=True, dtype="float32" if whole else "bfloat16", **way.loading),
        tuning=LoRA(r=job.size.rank, alpha=job.size.rank, dropout=0.0),
        optimizer=AdamW(lr=1e-4),
        schedule=Schedule(),
        chunk_logits=way.chunk_logits,
    )
    loader = DataLoader(Batches(), sampler=sampler_of(job), batch_size=None)
    precision: Any = {"fp32": "32-true", "bf16": "bf16-mixed"}.get(job.precision, job.precision)
    trainer = Trainer(
        accelerator=job.device, devices=1, precision=precision, max_steps=job.steps, max_epochs=-1,
        gradient_clip_val=1.0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Measured()], default_root_dir=job.folder,
        strategy=FSDP2() if way.fsdp2 else "auto",
    )  # fmt: skip
    trainer.fit(module, loader)


def serve(pipe: Connection, job: Job) -> None:
    """Train a variant, in a process of its own. A fault is sent as a text."""
    _end_with_parent()
    torch.set_num_threads(1)
    torch.manual_seed(0)  # the same random weights in all processes, so that losses can be compared
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    sys.stdout = sys.stderr
    train = ours
    if job.variant not in WAYS:
        from benchmarks.trl import theirs as train
    try:
        train(job, Meter(pipe, job.device))
    except Exception as error:
        traceback.print_exc()
        text = (str(error).strip() or type(error).__name__).split("\n")[0]
        full = isinstance(error, torch.OutOfMemoryError)
        pipe.send("out of memory" if full else f"{type(error).__name__}: {text}")


def _end_with_parent() -> None:
    """End this process if its parent is killed, so that it holds no memory of the device."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def measure(
    case: Case,
    size: Size,
    precision: str,
    *,
    variants: Sequence[str],
    rounds: int,
    rows: int,
    device: str = "cpu",
    least: int = 1,
    seconds: float = math.inf,
    forked: bool = False,
    note: Callable[[dict[str, Result]], object] = lambda _: None,
) -> dict[str, Result]:
    """Steps of all variants, interleaved; the first ones only warm up.

    Args:
        case: Lengths of rows.
        size: Of the model; `size.rows` rows in a batch.
        precision: See `Job.precision`.
        variants: Names of `WAYS`, or variants of `benchmarks.trl`.
        rounds: Most steps of each that are measured.
        rows: Of the data set.
        device: `cpu` or `cuda`.
        least: Rounds that are measured in any case.
        seconds: After these, no round begins so many seconds after the first one that was measured.
        forked: Whether processes are copies of this one, which begin at once; not with a GPU.
        note: Called after each round with the results so far.

    Returns:
        By variant; `Result.trouble` says which ones ended early.

    Raises:
        RuntimeError: The types of weights of two variants differ.
    """
    with tempfile.TemporaryDirectory() as folder:
        lay_out(folder, size)
        context: Any = multiprocessing.get_context("fork" if forked else "spawn")
        pipes: dict[str, Connection] = {}
        processes = []
        found: dict[str, Result] = {}
        try:
            for name in variants:
                own, remote = context.Pipe()
                job = Job(name, case, size, precision, device, rows, rounds + WARM_UP + 1, folder)
                process = context.Process(target=serve, args=(remote, job))
                process.start()
                remote.close()
                pipes[name] = own
                processes.append(process)
                if device == "cpu":  # one after another: their starts need the most memory
                    found[name] = _start(own)
            for name in variants:
                found[name] = found[name] if name in found else _start(pipes[name])
            kinds = {name: one.dtypes for name, one in found.items() if not one.trouble}
            if len(set(kinds.values())) > 1:
                raise RuntimeError(f"types of weights differ: {kinds}")
            shuffle, began = random.Random(1).shuffle, 0.0
            for number in range(rounds + WARM_UP):
                order = [name for name in variants if not found[name].trouble]
                if number == WARM_UP:
                    began = time.monotonic()
                if not order or (number >= WARM_UP + least and time.monotonic() - began > seconds):
                    break
                shuffle(order)
                for name in order:
                    _step(pipes[name], found[name], timed=number >= WARM_UP)
                note(found)
        finally:
            for process in processes:
                process.kill()
                process.join()
        return found


def _start(pipe: Connection) -> Result:
    answer = _received(pipe)
    return answer if isinstance(answer, Result) else Result("", 0, trouble=answer)


def _step(pipe: Connection, into: Result, *, timed: bool) -> None:
    try:
        pipe.send(True)
        answer = _received(pipe)
    except BrokenPipeError:
        answer = ENDED
    if isinstance(answer, str):
        into.trouble = answer
    elif timed:
        into.steps.append(answer)


ENDED = "its process ended early"


def _received(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except (EOFError, ConnectionResetError):
        return ENDED

"""Plain tuning here against TRL's `SFTTrainer`: `python -m benchmarks.trl`.

TRL is no dependency of the project. `pip install --no-deps trl==1.16.0` installs it; what it needs is installed with
transformers and datasets. Each variant is a process of its own with its own model, made from scratch with the
same config, adapters and rows. Each one runs its own whole training loop: loading and collating batches, forward,
backward, clipping, optimiser, logging. The parent lets one variant at a time take one step, in an order that is
shuffled each round. So other load on the machine falls on all of them. Figures are medians over rounds of CPU time (on
a GPU: of clock time, with a wait for the device) for each token that is no padding, since variants form other batches.

TRL's variants have its best settings:

- On a GPU, TRL computes logits of labelled positions only. On other devices it scores every position. The variants
  switch that off, so that TRL scores only labelled positions here, too (`TRL, every position`: as it is installed).
- `grouped`: batches of rows of similar length, the same ones as here. `padding-free`: the rows of each of these batches
  are one row with block-diagonal attention. `packed`: the same, with rows that are packed in advance to equal length
  (best fit, decreasing). `padded`: batches of rows of any length.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import logging
import multiprocessing
import random
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from benchmarks.step import Size, lay_out
from robustlm.datamodules.sampling import StepSampler

OURS = "robustlm"
EVERY = "TRL, every position"
TRL = ("TRL, padded", "TRL, grouped", "TRL, padding-free", "TRL, packed")
VARIANTS = (OURS, *TRL, EVERY)
WARM_UP = 2


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


CASES = {
    "short": Case((100, 250), (1, 20)),
    "long": Case((60, 60), (200, 400)),
    "mixed": Case((20, 400), (1, 300)),
}


@dataclass(frozen=True, slots=True)
class Job:
    """What a variant trains."""

    variant: str
    case: Case
    size: Size
    """`rows` is the number of rows in a batch."""
    precision: str
    """`fp32`: all in float32. `bf16`: frozen weights in bf16, adapters in float32, bf16 autocast."""
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


@dataclass(slots=True)
class Result:
    """All steps of a variant."""

    dtypes: str
    """Types of frozen and of trained weights."""
    start: int
    """Bytes before the first step."""
    steps: list[Taken] = field(default_factory=list)

    def per_token(self) -> float:
        """Median of microseconds a token."""
        return statistics.median(1e6 * one.seconds / one.tokens for one in self.steps)

    def peak(self) -> float:
        """Most MiB of any step."""
        return max(one.peak for one in self.steps) / 2**20


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
        self.tokens = self.answer_tokens = 0

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

    def count(self, tokens: int, answer_tokens: int) -> None:
        """Note what the step reads."""
        self.tokens, self.answer_tokens = tokens, answer_tokens

    def taken(self, loss: float) -> bool:
        """A step is over; returns whether to take another one."""
        seconds = self._now() - self._began
        self._pipe.send(Taken(seconds, self.tokens, self.answer_tokens, loss, self.memory()))
        again = bool(self._pipe.recv())
        self._reset()
        self._began = self._now()
        return again


def _sampler(job: Job) -> StepSampler:
    """Batches of rows of similar length, as this project deals them."""
    rows = job.case.rows(job.rows, job.size.vocab)
    lengths, answers = [len(prompt) + len(answer) for prompt, answer in rows], [len(answer) for _, answer in rows]
    return StepSampler(lengths, answers, batch_size=job.size.rows, seed=0)


def _ours(job: Job, meter: Meter) -> None:
    from lightning.pytorch import Callback, Trainer
    from torch.utils.data import DataLoader

    from robustlm.batch import Encoded, InstructionBatch, collate
    from robustlm.datamodules.sampling import BatchKey
    from robustlm.models.loading import Loading
    from robustlm.models.tuning import LoRA
    from robustlm.modules import InstructionTuning
    from robustlm.optim.config import AdamW, Schedule

    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    bf16 = job.precision == "bf16"
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
            meter.count(int(batch.raw.attention_mask.sum()), len(batch.raw.layout.targets))
            trainer.should_stop = not meter.taken(float(outputs["loss"]))

    module = InstructionTuning(
        job.folder,
        loading=Loading(scratch=True, dtype="bfloat16" if bf16 else "float32"),
        tuning=LoRA(r=job.size.rank, alpha=job.size.rank, dropout=0.0),
        optimizer=AdamW(lr=1e-4),
        schedule=Schedule(),
    )
    sampler = _sampler(job)
    loader = DataLoader(Batches(), sampler=sampler, batch_size=None)
    trainer = Trainer(
        accelerator=job.device, devices=1, precision="bf16-mixed" if bf16 else "32-true", max_steps=job.steps,
        gradient_clip_val=1.0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[Measured()], default_root_dir=job.folder,
    )  # fmt: skip
    trainer.fit(module, loader)


def _theirs(job: Job, meter: Meter) -> None:
    import datasets
    import peft
    import transformers
    import trl as installed
    from trl.trainer import utils

    from robustlm.models.loading import Loading

    trl: Any = installed  # it exports its classes when they are asked for
    if job.variant != EVERY:
        if not hasattr(utils, "_use_triton"):
            raise RuntimeError(f"TRL {trl.__version__} has no trl.trainer.utils._use_triton; expected 1.16")
        utils._use_triton = lambda device: True  # only labelled positions go to the head, as on a GPU
    bf16 = job.precision == "bf16"
    dtype = torch.bfloat16 if bf16 else torch.float32
    packed = job.variant == "TRL, packed"
    rows = job.case.rows(job.rows, job.size.vocab)
    if job.variant not in ("TRL, padded", "TRL, packed"):
        rows = [rows[i] for key in _sampler(job) for i in key.indices]
    columns = {
        "input_ids": [prompt + answer for prompt, answer in rows],
        "labels": [[-100] * len(prompt) + answer for prompt, answer in rows],
    }
    mean = sum(map(len, columns["input_ids"])) / len(rows)
    longest = max(map(len, columns["input_ids"]))
    config = transformers.AutoConfig.from_pretrained(job.folder)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype)  # type: ignore[no-untyped-call,unused-ignore]
    args = trl.SFTConfig(
        output_dir=job.folder + "/trl",
        per_device_train_batch_size=1 if packed else job.size.rows,
        max_steps=job.steps,
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        max_grad_norm=1.0,
        gradient_checkpointing=Loading().gradient_checkpointing,
        bf16=bf16,
        use_cpu=job.device == "cpu",
        packing=packed,
        padding_free=job.variant == "TRL, padding-free",
        max_length=max(longest, round(job.size.rows * mean)) if packed else None,
        train_sampling_strategy="random" if job.variant in ("TRL, padded", "TRL, packed") else "sequential",
        dataset_kwargs=None if packed else {"skip_prepare_dataset": True},
        dataloader_pin_memory=job.device == "cuda",
        logging_steps=50,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=0,
    )
    lora = peft.LoraConfig(
        task_type=peft.TaskType.CAUSAL_LM,
        r=job.size.rank,
        lora_alpha=job.size.rank,
        lora_dropout=0.0,
        target_modules="all-linear",
    )

    class Counting(trl.SFTTrainer):  # type: ignore[misc]
        def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
            mask = inputs.get("attention_mask")
            tokens = inputs["input_ids"].numel() if mask is None else int(mask.sum())
            meter.count(tokens, int((inputs["labels"] >= 0).sum()))
            self.latest = super().training_step(model, inputs, num_items_in_batch)
            return self.latest

    class Measured(transformers.TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            meter.ready(list(model.parameters()))

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = not meter.taken(float(trainer.latest))

    trainer = Counting(
        model=model,
        args=args,
        train_dataset=datasets.Dataset.from_dict(columns),
        processing_class=transformers.AutoTokenizer.from_pretrained(job.folder),
        peft_config=lora,
        callbacks=[Measured()],
    )
    trainer.train()


def serve(pipe: Connection, job: Job) -> None:
    """Train a variant, in a process of its own."""
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    sys.stdout = sys.stderr
    (_ours if job.variant == OURS else _theirs)(job, Meter(pipe, job.device))


def measure(
    case: Case, size: Size, precision: str, *, variants: Sequence[str], rounds: int, rows: int, device: str = "cpu"
) -> dict[str, Result]:
    """Steps of all variants, interleaved; the first ones only warm up.

    Args:
        case: Lengths of rows.
        size: Of the model; `size.rows` rows in a batch.
        precision: `fp32` or `bf16`.
        variants: Names of `VARIANTS`.
        rounds: Steps of each that are measured.
        rows: Of the data set.
        device: `cpu` or `cuda`.

    Raises:
        RuntimeError: A variant's process ended early, or its types of weights are not those of the others.
    """
    with tempfile.TemporaryDirectory() as folder:
        lay_out(folder, size)
        context = multiprocessing.get_context("spawn")
        pipes, processes, found = {}, [], {}
        try:
            for name in variants:
                own, theirs = context.Pipe()
                job = Job(name, case, size, precision, device, rows, rounds + WARM_UP + 1, folder)
                process = context.Process(target=serve, args=(theirs, job))
                process.start()
                theirs.close()
                pipes[name] = own
                processes.append(process)
                found[name] = _received(own, name)  # one after another: their starts need the most memory
            kinds = {name: one.dtypes for name, one in found.items()}
            if len(set(kinds.values())) > 1:
                raise RuntimeError(f"types of weights differ: {kinds}")
            order, shuffle = list(variants), random.Random(1).shuffle
            for number in range(rounds + WARM_UP):
                shuffle(order)
                for name in order:
                    pipes[name].send(True)
                    step = _received(pipes[name], name)
                    if number >= WARM_UP:
                        found[name].steps.append(step)
        finally:
            for process in processes:
                process.kill()
                process.join()
        return found


def _received(pipe: Connection, name: str) -> Any:
    try:
        return pipe.recv()
    except EOFError:
        raise RuntimeError(f"{name}: its process ended early; its error is printed above") from None


def table(found: dict[str, Result]) -> Iterator[str]:
    """Lines of a Markdown table, with ratios to this project."""
    own = found[OURS].per_token()
    yield "| variant | µs a token | ÷ robustlm | peak MiB | of it the step's | tokens a step | loss |"
    yield "|---|---|---|---|---|---|---|"
    for name, one in found.items():
        tokens = statistics.mean(step.tokens for step in one.steps)
        loss = statistics.mean(step.loss for step in one.steps)
        grown = one.peak() - one.start / 2**20
        yield (
            f"| {name} | {one.per_token():.1f} | {one.per_token() / own:.2f} | {one.peak():.0f} | {grown:.0f} "
            f"| {tokens:.0f} | {loss:.2f} |"
        )


def options() -> argparse.ArgumentParser:
    """The options, also those of `benchmarks.memory`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    for option, default, text in (
        ("vocab", 32_000, "tokens of the vocabulary"),
        ("hidden", 512, "width of the model, a multiple of 64"),
        ("layers", 4, "its layers"),
        ("rows", 8, "rows of a batch"),
        ("rank", 8, "rank of the adapters"),
        ("rounds", 9, "steps of each variant that are measured"),
        ("samples", 1600, "rows of the data set"),
    ):
        parser.add_argument(f"--{option}", type=int, default=default, help=f"{text} (%(default)s)")
    parser.add_argument("--case", nargs="+", choices=CASES, default=list(CASES), help="lengths of rows (all)")
    parser.add_argument("--precision", nargs="+", choices=("fp32", "bf16"), default=["fp32", "bf16"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=[OURS, *TRL], metavar="NAME",
                        help=f"of: {', '.join(VARIANTS)}")  # fmt: skip
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    return parser


def run(args: argparse.Namespace, show: Callable[[dict[str, Result]], Iterator[str]]) -> None:
    """Measure all cases that the options name, and print each as a table."""
    if any(name != OURS for name in args.variants):
        try:
            print(f"TRL {importlib.metadata.version('trl')}, torch {torch.__version__}")
        except importlib.metadata.PackageNotFoundError:
            sys.exit("TRL is not installed; `pip install --no-deps trl==1.16.0` brings it")
    if OURS not in args.variants:
        sys.exit(f"--variants: expected {OURS} among them; ratios are to it")
    for name in args.case:
        case = CASES[name]
        longest = case.prompt[1] + case.answer[1]
        size = Size(args.vocab, args.hidden, args.layers, args.rows, args.rows * longest, case.answer[1], args.rank)
        for precision in args.precision:
            print(f"\n{name}: {asdict(case)}, {args.rows} rows a batch, {precision}, {args.rounds} rounds", flush=True)
            found = measure(case, size, precision, variants=args.variants, rounds=args.rounds, rows=args.samples,
                            device=args.device)  # fmt: skip
            kinds = next(iter(found.values())).dtypes
            print(f"frozen / trained weights: {kinds}\n")
            print("\n".join(show(found)), flush=True)


if __name__ == "__main__":
    run(options().parse_args(), table)

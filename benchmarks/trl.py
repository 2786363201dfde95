"""Plain tuning here against TRL's `SFTTrainer`: `python -m benchmarks.trl`.

TRL is no dependency of the project. `pip install --no-deps trl==1.16.0` installs it; what it needs is installed with
transformers and datasets. Each variant is a process of its own with its own whole training loop; one at a time takes a
step (`benchmarks.loops`). Figures are medians over rounds of CPU time (on a GPU: of clock time, with a wait for the
device) for each token that is no padding, since variants form other batches.

TRL's variants have its best settings:

- On a GPU, TRL computes logits of labelled positions only. On other devices it scores every position. The variants
  switch that off, so that TRL scores only labelled positions here, too (`TRL, every position`: as it is installed).
- `grouped`: batches of rows of similar length, the same ones as here. `padding-free`: the rows of each of these batches
  are one row with block-diagonal attention. `packed`: the same, with rows that are packed in advance to equal length
  (best fit, decreasing). `padded`: batches of rows of any length.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import torch

from benchmarks.loops import OURS, WAYS, Case, Job, Meter, Result, measure, sampler_of
from benchmarks.step import Size

EVERY = "TRL, every position"
TRL = ("TRL, padded", "TRL, grouped", "TRL, padding-free", "TRL, packed")
VARIANTS = (*WAYS, *TRL, EVERY)

CASES = {
    "short": Case((100, 250), (1, 20)),
    "long": Case((60, 60), (200, 400)),
    "mixed": Case((20, 400), (1, 300)),
}


def lengths_of(inputs: Any) -> torch.Tensor:
    """The lengths of the rows in a batch of TRL: by its mask, or by positions that begin anew, int64."""
    mask = inputs.get("attention_mask")
    if mask is not None:
        found: torch.Tensor = mask.sum(1)
        return found
    starts = (inputs["position_ids"].flatten() == 0).nonzero().flatten()
    end = torch.tensor([inputs["input_ids"].numel()], device=starts.device)
    return torch.cat([starts, end]).diff()


def theirs(job: Job, meter: Meter) -> None:
    """Train as a variant of TRL does."""
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
        rows = [rows[i] for key in sampler_of(job) for i in key.indices]
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
            lengths = lengths_of(inputs)
            meter.count(int(lengths.sum()), int((inputs["labels"] >= 0).sum()), int((lengths**2).sum()))
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
    if any(name not in WAYS for name in args.variants):
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
            if troubles := [f"{name}: {one.trouble}" for name, one in found.items() if one.trouble]:
                sys.exit("; ".join(troubles))
            kinds = next(iter(found.values())).dtypes
            print(f"frozen / trained weights: {kinds}\n")
            print("\n".join(show(found)), flush=True)


if __name__ == "__main__":
    run(options().parse_args(), table)

"""What `python -m benchmarks.gpu.base` runs: a tokenizer, a model, and its training on text."""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything

from benchmarks.gpu.machine import peak_of
from robustlm.callbacks.checkpoints import StepCheckpoint
from robustlm.callbacks.export import AdapterExport
from robustlm.callbacks.interruption import StopOnSignal
from robustlm.datamodules import TextDataModule
from robustlm.models.loading import Loading
from robustlm.modules import Pretraining
from robustlm.optim.config import Muon, Schedule
from robustlm.rows.documents import documents, text_files
from robustlm.tools.scratch import build
from robustlm.utils.files import whole_folder, write_text

LONGEST = 1024
"""Positions of the models that `robustlm init` lays out."""
PLAN, LINES, CHECKPOINTS, MODEL = "plan.json", "training.jsonl", "checkpoints", "model"
WARM_UP, TIMED = 5, 15
"""Steps before the rate is measured, and steps that it is measured on."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How large the model is, and how it is trained."""

    vocab: int = 16_384
    hidden: int = 768
    layers: int = 12
    heads: int = 12
    context: int = 1024
    """Tokens of a row."""
    rows: int = 64
    """Rows of a step."""
    held_out: int = 64
    """Rows whose loss is watched."""
    muon_lr: float = 0.01
    adamw_lr: float = 3e-3
    minutes: float = 20.0
    """Length of training, without reading the text and without validation, if `steps` is 0."""
    steps: int = 0
    """Length of training in steps; 0: as many as fit `minutes`, by the steps that are timed first."""
    sample: int = 50_000
    """Documents that the tokenizer is trained on."""
    look: int = 50
    """Steps between two lines of `training.jsonl`."""
    save: float = 3.0
    """Minutes between two checkpoints."""
    seed: int = 0
    compile: bool = False
    """Whether the layers are compiled."""


TINY = Plan(vocab=300, hidden=32, layers=2, heads=2, context=32, rows=4, held_out=8, steps=6, sample=50, look=3)


def operations(plan: Plan, weights: int) -> float:
    """Floating-point operations for each token of a step: 6 for each weight it meets, and causal attention."""
    return 6.0 * weights + 6.0 * plan.layers * plan.hidden * plan.context


def lay_out(plan: Plan, text: Path, folder: Path) -> None:
    """Write config and tokenizer of the model, completely or not at all."""
    with whole_folder(folder) as unfinished:
        build(
            unfinished,
            islice(documents(text_files([str(text)])), plan.sample),
            vocab_size=plan.vocab,
            hidden_size=plan.hidden,
            layers=plan.layers,
            heads=plan.heads,
            intermediate_size=-(-8 * plan.hidden // 3 // 32) * 32,
            initializer_range=0.02,
        )


class Lines(Callback):
    """Appends a line to `training.jsonl` after each validation.

    Args:
        plan: Sizes of the run.
        file: The file. If a run goes on, lines after its checkpoint are dropped, since their steps are repeated.
        device: `cpu` or `cuda`.
    """

    def __init__(self, plan: Plan, file: Path, device: str) -> None:
        self._plan, self._file, self._device = plan, file, device
        self._step, self._minutes, self._began = 0, 0.0, 0.0
        self._loss: Any = None
        self._operations = 0.0

    def _now(self) -> float:
        if self._device == "cuda":
            torch.cuda.synchronize()
        return time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the lines up to the checkpoint that the run goes on from."""
        kept = [line for line in _lines(self._file) if line["step"] <= trainer.global_step]
        write_text(self._file, "".join(json.dumps(line) + "\n" for line in kept))
        self._minutes = kept[-1]["minutes"] if kept else 0.0
        model: Any = pl_module.backbone.base  # type: ignore[union-attr]
        # the table of embeddings is the head too, which each token meets once
        self._operations = operations(self._plan, sum(p.numel() for p in model.parameters()))
        self._step, self._began = trainer.global_step, self._now()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the loss, without waiting for it."""
        self._loss = outputs["loss"].detach()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        self._seconds = self._now() - self._began

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the line, and start the clock again."""
        tokens = (trainer.global_step - self._step) * self._plan.rows * self._plan.context / max(self._seconds, 1e-9)
        self._minutes += self._seconds / 60
        held = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        line: dict[str, Any] = {"step": trainer.global_step, "minutes": self._minutes, "loss": float(self._loss)}
        line |= {"tokens/s": tokens, "TFLOP/s": tokens * self._operations / 1e12}
        peak = peak_of(self._device)
        line["MFU, %"] = 100 * line["TFLOP/s"] / peak if peak else None
        line["peak GiB"] = torch.cuda.max_memory_allocated() / 2**30 if self._device == "cuda" else None
        line |= {"held-out loss": held["val/loss"], "held-out bits a byte": held.get("val/bits_per_byte")}
        with open(self._file, "a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        print("  ".join(f"{k} {v:.4g}" for k, v in line.items() if v is not None), flush=True)
        self._step, self._began = trainer.global_step, self._now()


def _lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a file, without one that a kill cut off."""
    said = file.read_text(encoding="utf-8") if file.exists() else ""
    return [json.loads(line) for line in said.split("\n")[:-1]]


class Rate(Callback):
    """Times steps, for the number of steps that a run can have.

    Args:
        device: `cpu` or `cuda`.
    """

    def __init__(self, device: str) -> None:
        self._cuda = device == "cuda"
        self.marks: dict[int, float] = {}

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Note the time."""
        if trainer.global_step in (WARM_UP, WARM_UP + TIMED):
            if self._cuda:
                torch.cuda.synchronize()
            self.marks[trainer.global_step] = time.monotonic()

    @property
    def seconds(self) -> float:
        """Of a step."""
        return (self.marks[WARM_UP + TIMED] - self.marks[WARM_UP]) / TIMED


class Run:
    """A run in a folder, which goes on from its last checkpoint if there is one.

    Args:
        plan: Sizes and lengths.
        text: Folder or file of text.
        output: Folder of the run.
        device: `cpu` or `cuda`.
    """

    def __init__(self, plan: Plan, text: Path, output: Path, device: str) -> None:
        self.plan, self.text, self.output, self.device = plan, text, output, device

    def train(self) -> None:
        """Lay the model out, find the number of steps, and train until the end; what is there already is kept."""
        if not (self.output / "base").exists():
            lay_out(self.plan, self.text, self.output / "base")
        if not self.plan.steps:
            self.plan = replace(self.plan, steps=self._measured())
            keep(self.plan, self.output)
        keeper = StepCheckpoint(
            dirpath=self.output / CHECKPOINTS, save_last=True, save_top_k=0,
            train_time_interval=timedelta(minutes=self.plan.save), save_on_train_epoch_end=False,
        )  # fmt: skip
        lines = Lines(self.plan, self.output / LINES, self.device)
        trainer = self._trainer(
            self.plan.steps, callbacks=[keeper, lines, StopOnSignal(), AdapterExport(MODEL)],
            enable_checkpointing=True, val_check_interval=self.plan.look,
        )  # fmt: skip
        last = self.output / CHECKPOINTS / "last.ckpt"
        trainer.fit(self._module(), self._data(), ckpt_path=last if last.exists() else None, weights_only=True)

    def _measured(self) -> int:
        """The number of steps that fit the time, a multiple of `look`, by some steps of a model that is thrown away."""
        rate = Rate(self.device)
        trainer = self._trainer(
            WARM_UP + TIMED, callbacks=[rate], limit_val_batches=0, enable_checkpointing=False
        )  # fmt: skip
        trainer.fit(self._module(), self._data())
        del trainer
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
        steps = max(1, int(60 * self.plan.minutes / rate.seconds / self.plan.look)) * self.plan.look
        print(f"a step takes {1e3 * rate.seconds:.4g} ms, so {steps} steps take about {self.plan.minutes:g} minutes")
        return steps

    def _trainer(self, steps: int, **settings: Any) -> Trainer:
        seed_everything(self.plan.seed, verbose=False)
        return Trainer(
            accelerator=self.device, devices=1, precision="bf16-mixed" if self.device == "cuda" else "32-true",
            max_steps=steps, max_epochs=-1, gradient_clip_val=1.0, check_val_every_n_epoch=None,
            num_sanity_val_steps=0, logger=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=self.output, **settings,
        )  # fmt: skip

    def _module(self) -> Pretraining:
        return Pretraining(
            str(self.output / "base"),
            loading=Loading(scratch=True, compile=self.plan.compile),
            optimizer=Muon(muon_lr=self.plan.muon_lr, adamw_lr=self.plan.adamw_lr),
            schedule=Schedule(warmup=0.02, decay="linear", decay_share=0.2),
            chunk_logits=None,  # in chunks, the head of a trained model runs once more in the backward pass
        )

    def _data(self) -> TextDataModule:
        return TextDataModule(
            train=str(self.text),
            held_out=self.plan.held_out,
            batch_size=self.plan.rows,
            max_length=self.plan.context,
            num_workers="auto",
            seed=self.plan.seed,
            cache_dir=str(self.output / "tokens"),
        )


def keep(plan: Plan, output: Path) -> None:
    """Write the plan of a run into its folder."""
    write_text(output / PLAN, json.dumps(asdict(plan), indent=1) + "\n")


def found_plan(base: Plan, given: dict[str, Any], output: Path) -> Plan:
    """The plan of the run in a folder, or a new one.

    Raises:
        ValueError: An option is not that of the run that was begun, or the folder holds something else.
    """
    if not (output / PLAN).exists():
        if output.exists() and any(output.iterdir()):
            raise ValueError(f"--output: {output} holds files, but no run ({PLAN}); expected a new folder")
        return replace(base, **given)
    stored = Plan(**json.loads((output / PLAN).read_text(encoding="utf-8")))
    for name, value in given.items():
        if getattr(stored, name) != value:
            raise ValueError(
                f"--{name.replace('_', '-')}: found {value}; the run in {output} was begun with "
                f"{getattr(stored, name)}; expected the same, or another --output"
            )
    return stored


def parser(about: str) -> argparse.ArgumentParser:
    """The options; those of the plan are null unless they are given."""
    found = argparse.ArgumentParser(prog="python -m benchmarks.gpu.base", description=about)
    found.add_argument("--text", type=Path, required=True, help="folder of text, or a file")
    found.add_argument("--output", type=Path, required=True, help="a new folder, or that of a run that was stopped")
    found.add_argument("--tiny", action="store_true", help="a very small model, few steps: a rehearsal for a CPU")
    found.add_argument("--device", choices=("cuda", "cpu"), help="where to run (cuda; cpu with --tiny)")
    found.add_argument("--compile", action="store_true", default=None, help="compile the layers")
    texts = {
        "vocab": "tokens of the vocabulary", "hidden": "width of the model", "layers": "its layers",
        "context": "tokens of a row", "rows": "rows of a step", "held_out": "rows that are held out",
        "minutes": "length of training, if --steps is 0", "steps": "length of training in steps",
        "look": "steps between two lines", "save": "minutes between two checkpoints",
    }  # fmt: skip
    for name in Plan.__slots__:
        if name != "compile":
            found.add_argument(
                f"--{name.replace('_', '-')}", type=type(getattr(Plan(), name)),
                help=f"{texts.get(name, name.replace('_', ' '))} ({getattr(Plan(), name)})",
            )  # fmt: skip
    return found


def checked(plan: Plan) -> Plan:
    """The plan. Raises `ValueError` if a number is impossible."""
    for name in Plan.__slots__:
        if name not in ("steps", "seed", "compile") and getattr(plan, name) <= 0:
            flag = name.replace("_", "-")
            raise ValueError(f"--{flag}: found {getattr(plan, name)}; expected a number above 0")
    if plan.context > LONGEST:
        raise ValueError(f"--context: found {plan.context}; expected at most {LONGEST}, the positions of the model")
    if plan.hidden % (2 * plan.heads):
        raise ValueError(f"--hidden: {plan.hidden} is not a multiple of 2 × --heads = {2 * plan.heads}")
    if plan.steps < 0 or plan.steps % plan.look:
        raise ValueError(f"--steps: found {plan.steps}; expected a multiple of --look {plan.look}, or 0")
    return plan


def main(argv: Sequence[str] | None = None, about: str = "") -> int:
    """Read the options, train, and return the exit status. `about`: the first line of `--help`."""
    options = parser(about)
    args = options.parse_args(argv)
    device = args.device or ("cpu" if args.tiny else "cuda")
    if device == "cuda" and not torch.cuda.is_available():
        options.error("torch finds no CUDA GPU; --device cpu trains on the CPU, --tiny is a rehearsal")
    given = {name: getattr(args, name) for name in Plan.__slots__ if getattr(args, name) is not None}
    try:
        plan = checked(found_plan(TINY if args.tiny else Plan(), given, args.output))
    except ValueError as error:
        options.error(str(error))
    if (args.output / MODEL).exists():
        print(f"{args.output / MODEL}: the run is finished")
        return 0
    begun = (args.output / PLAN).exists()
    try:
        args.output.mkdir(parents=True, exist_ok=True)
        keep(plan, args.output)
        Run(plan, args.text, args.output, device).train()
    except (ValueError, OSError) as error:
        if not begun and not (args.output / CHECKPOINTS).exists():  # another text or other sizes may be tried
            shutil.rmtree(args.output, ignore_errors=True)
        print(f"error: {error}", file=sys.stderr)
        return 1
    except SystemExit:
        print("stopped; the same command goes on", file=sys.stderr)
        raise
    print(f"model: {args.output / MODEL}")
    return 0

"""What both commands experiment with: models made on the spot, batches of the built-in corpus, and training steps."""

from __future__ import annotations

import copy
import logging
import random
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.utils.data import DataLoader

from benchmarks.gpu.compare import Step
from robustlm.adversaries import Outcome, Problem
from robustlm.batch import InstructionBatch, collate
from robustlm.instructions.banks import InstructionBank
from robustlm.models.backbone import Backbone
from robustlm.models.tuning import FullTuning
from robustlm.modules import InstructionTuning
from robustlm.prompts.encoding import Encoder
from robustlm.prompts.templates import make_template
from robustlm.sample import Sample
from robustlm.sources import corpus as quickstart

Mode = Literal["float32", "bf16-mixed", "bf16-true", "fp16-mixed", "float64"]
CALCULATED: dict[Mode, torch.dtype] = {
    "float32": torch.float32,
    "bf16-mixed": torch.bfloat16,
    "bf16-true": torch.bfloat16,
    "fp16-mixed": torch.float16,
    "float64": torch.float64,
}
"""The type that most of a step is calculated in, by Lightning's precision."""
SCALES = tuple(2.0**power for power in (13, 9, 5, 1))
"""Scales of the loss in fp16-mixed comparisons. The first one is taken at which no gradient overflows, as a scaler
would find it; a step that is skipped on the way would give adversaries with a state another state."""


@dataclass(frozen=True, slots=True)
class Shape:
    """How large the models of the comparisons are."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    rows: int
    """Of a batch."""


LARGE = Shape(hidden=512, layers=4, heads=8, kv_heads=4, rows=8)
SMALL = Shape(hidden=32, layers=2, heads=4, kv_heads=2, rows=3)


def quiet() -> None:
    """Keep what libraries remark about short runs out of the log, where it would hide what matters."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"lightning\..*")
    warnings.filterwarnings("ignore", ".*`self.log.*")
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    torch.set_float32_matmul_precision("highest")  # float32 means float32, not TF32


@cache
def scratch_folder() -> Path:
    """A folder that goes away with the process."""
    holder = tempfile.TemporaryDirectory(prefix="robustlm-gpu-")
    scratch_folder.holder = holder  # type: ignore[attr-defined]
    return Path(holder.name)


@cache
def tokenizer() -> Any:
    """The tokenizer of the shipped model."""
    return Backbone("builtin:tiny").tokenizer


@cache
def model_folder(shape: Shape, dropout: float = 0.0) -> str:
    """A Llama model of random float32 weights with grouped keys, and the shipped model's tokenizer."""
    folder = scratch_folder() / f"{shape.hidden}-{shape.layers}-{dropout}"
    text = tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=len(text),
        hidden_size=shape.hidden,
        intermediate_size=11 * shape.hidden // 4,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        initializer_range=1.0 / shape.hidden**0.5,
        max_position_embeddings=512,
        attention_dropout=dropout,
        pad_token_id=text.pad_token_id,
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    text.save_pretrained(folder)
    return str(folder)


def encoder() -> Encoder:
    """For the shipped tokenizer."""
    return Encoder(tokenizer(), make_template("plain", tokenizer()), 256)


def samples(count: int) -> list[Sample]:
    """Rows of the built-in corpus, each under a phrasing of its bank."""
    return [InstructionBank.load(one.bank).assign(one) for one in quickstart.samples("train", count)]


def make_batch(count: int, *, negatives: bool = True) -> InstructionBatch:
    """Rows of uneven length, each also under another phrasing, with negatives, β and seeds.

    Rows and phrasings are those of the built-in corpus and its banks. β differs from row to row.
    """
    rows = samples(2 * count)
    chosen, others = rows[:count], rows[count:]
    # another seed gives another phrasing, except by chance, so all are looked through
    variants = [_other(one) for one in chosen]
    write = encoder()
    strange = [replace(other, instruction=one.instruction) for one, other in zip(chosen, others, strict=True)]
    return InstructionBatch(
        raw=collate(write.encode(chosen), pad_id=write.pad_id),
        ids=[one.id for one in chosen],
        variant=collate(write.encode(variants), pad_id=write.pad_id),
        negative=collate(write.encode(strange), pad_id=write.pad_id) if negatives else None,
        beta=torch.linspace(0.05, 0.6, count),
        keys=torch.arange(count),
        negative_keys=torch.arange(count, 2 * count) if negatives else None,
        seeds=torch.arange(1000, 1000 + count),
    )


def _other(sample: Sample) -> Sample:
    phrasings = InstructionBank.load(sample.bank).phrasings("both", "seen")
    texts = [one.text for one in phrasings if one.text != sample.instruction]
    return replace(sample, instruction=random.Random(sample.id).choice(texts))


# --- a training step through Lightning -------------------------------------------------------------------------


class Same(DataLoader[InstructionBatch]):
    """Serves given batches in turn.

    Args:
        batches: In this order, again and again.
        count: How many are served in an epoch.
        start: How many of them are left out at the beginning, as they were served before an interruption.
    """

    def __init__(self, batches: Sequence[InstructionBatch], count: int, start: int = 0) -> None:

        def serve(number: Any) -> InstructionBatch:
            found: InstructionBatch = batches[number % len(batches)]
            return found

        super().__init__(range(start, count), batch_size=None, collate_fn=serve)  # type: ignore[arg-type]


class Watch(Callback):
    """Keeps the last step's gradients, as the optimiser gets them, and what was logged."""

    def __init__(self) -> None:
        self.gradients: dict[str, Tensor] = {}
        self.losses: dict[str, float] = {}

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """Copy the gradients, which the scaler has been divided out of."""
        named = ((name, p.grad) for name, p in pl_module.named_parameters() if p.requires_grad)
        self.gradients.clear()
        self.gradients.update({name: grad.detach().float().cpu() for name, grad in named if grad is not None})

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Copy the losses. The share of padding is no loss, and differs where rows run without."""
        logged = {name: value for name, value in trainer.callback_metrics.items() if name != "train/padding"}
        self.losses.clear()
        self.losses.update({name: float(value) for name, value in logged.items() if name.startswith("train/")})


def precision(mode: Mode, device: str, scale: float) -> dict[str, Any]:
    """Arguments of a `Trainer` for a precision; fp16-mixed has its scaler on a CPU too, where Lightning makes none."""
    if mode == "fp16-mixed":
        scaler = torch.amp.GradScaler(device=device, init_scale=scale)
        return {"plugins": [MixedPrecision("16-mixed", device, scaler)]}
    return {"precision": {"float32": "32-true", "float64": "64-true"}.get(mode, mode)}


def trainer(device: str, mode: Mode, *, scale: float = SCALES[0], **settings: Any) -> Trainer:
    """A trainer that prints and keeps nothing; `scale` is where the scaler of fp16-mixed starts."""
    wanted: dict[str, Any] = {
        "accelerator": device,
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "default_root_dir": scratch_folder(),
    }
    return Trainer(**(wanted | precision(mode, device, scale) | settings))


def take_steps(
    make: Callable[[], InstructionTuning], batch: InstructionBatch, device: str, mode: Mode, steps: int = 1
) -> Step:
    """Train on one batch, with modules whose learning rate is 0, and give back what the last step was.

    Adversaries draw the same random numbers on every device, so these are drawn where the model is.

    Args:
        make: Makes the module; called again for another scale of fp16-mixed.
        batch: Rows to train on.
        device: `cpu` or `cuda`.
        mode: Precision.
        steps: How many steps are taken.
    """
    for scale in SCALES if mode == "fp16-mixed" else (1.0,):
        found = _steps(make(), copy.deepcopy(batch), device, mode, steps, scale)
        if found.finite:
            break
    return found


def _steps(
    module: InstructionTuning, batch: InstructionBatch, device: str, mode: Mode, steps: int, scale: float
) -> Step:
    watch = Watch()
    outcomes: list[Outcome] = []
    adversary = getattr(module, "adversary", None)
    if adversary is not None:
        attack: Callable[[Problem], Outcome] = adversary.attack

        def observed(problem: Problem) -> Outcome:
            outcomes.append(attack(problem))
            return outcomes[-1]

        adversary.attack = observed
    torch.manual_seed(0)
    step = Step(watch.losses, watch.gradients, {}, scale=scale)
    try:
        trainer(device, mode, scale=scale, max_epochs=1, callbacks=[watch]).fit(module, Same([batch], steps))
    except ValueError:
        if step.finite:  # a run of which every step overflowed is refused, which another scale may mend
            raise
    if not watch.gradients:
        raise RuntimeError(f"{type(module).__name__} took no optimiser step")
    if outcomes:
        last = outcomes[-1]
        found = {"adversarial": last.adversarial, "clean": last.clean}
        step.rows = {name: value.detach().float().cpu() for name, value in found.items() if value is not None}
        step.delta = None if last.delta is None else last.delta.detach().float().cpu()
        step.broken_rows = sum(int(one.logs.get("nonfinite_rows", 0)) for one in outcomes)
    return step


def give_adapter(module: InstructionTuning, seed: int = 1, size: float = 0.05) -> None:
    """Load a module, and set its adapter to draws from the CPU, so that it is not the identity as a fresh one is.

    Weights of one name get the same values on every device. Without an adapter (`FullTuning`) nothing is changed.
    """
    module.configure_model()
    if isinstance(module.backbone.tuning, FullTuning):
        return
    generator = torch.Generator().manual_seed(seed)
    for _, weight in sorted(module.named_parameters()):
        if weight.requires_grad:
            start = torch.randn(weight.shape, generator=generator)
            weight.data.copy_(size * start.to(weight))

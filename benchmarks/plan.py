"""How near `robustlm plan` comes to the memory that a step really takes: `python -m benchmarks.plan`.

Each case runs three steps through Lightning on the CPU, with PyTorch's profiler: it reports every allocation and
release of the CPU's allocator, so temporary memory inside of kernels counts too. The peak of these in the last step,
with what was held before, is compared with the plan's figure for tensors. Memory of the process is not compared: it
holds Python, libraries, and what the C library keeps for later.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, Trainer
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import DataLoader

from benchmarks.step import METHODS, Size, lay_out
from robustlm.batch import InstructionBatch
from robustlm.models.backbone import Loading
from robustlm.models.tuning import FullTuning, LoRA, PrefixTuning, PromptTuning, Tuning
from robustlm.modules import InstructionTuning
from robustlm.optim.config import AdamW, Muon, Optimizer
from robustlm.planning.gpus import find
from robustlm.planning.plan import Plan
from robustlm.planning.rows import Shape
from robustlm.planning.strategies import Sharding

STEPS = 3


@dataclass(frozen=True)
class Case:
    """A run to measure."""

    method: str
    """Name of a method of `benchmarks/step.py`."""
    tuning: Tuning = field(default_factory=LoRA)
    precision: str = "32-true"
    size: str = "wide"
    checkpointing: bool = False
    chunk_rows: int | None = None
    optimizer: Optimizer | None = None
    accumulated: int = 1

    @property
    def name(self) -> str:
        """What it is, for the table."""
        parts = [self.method, type(self.tuning).__name__, self.precision, self.size]
        parts += ["checkpointing"] if self.checkpointing else []
        parts += [f"chunk_rows {self.chunk_rows}"] if self.chunk_rows else []
        parts += [type(self.optimizer).__name__] if self.optimizer else []
        parts += [f"accumulates {self.accumulated}"] if self.accumulated > 1 else []
        return ", ".join(parts)


SIZES = {
    "wide": Size(vocab=8000, hidden=256, layers=4, rows=8, tokens=192, answer=24, rank=8),
    "deep": Size(vocab=2000, hidden=128, layers=12, rows=4, tokens=128, answer=16, rank=8),
    "long": Size(vocab=4000, hidden=128, layers=3, rows=2, tokens=768, answer=256, rank=8, kv_heads=1, tied=False),
}
FULL, PREFIX, PROMPT = FullTuning(), PrefixTuning(tokens=10), PromptTuning(tokens=10)
CASES = (
    Case("plain"),
    Case("plain", FULL),
    Case("plain", FULL, optimizer=Muon()),
    Case("plain", FULL, accumulated=2),
    Case("plain", PREFIX),
    Case("plain", PROMPT),
    Case("plain", precision="bf16-mixed"),
    Case("plain", precision="bf16-true"),
    Case("plain", FULL, precision="bf16-mixed"),
    Case("plain", size="long"),
    Case("plain", size="long", checkpointing=True),
    Case("plain", chunk_rows=2),
    Case("FGM"),
    Case("NRM"),
    Case("NRM", FULL),
    Case("NRM", precision="bf16-mixed"),
    Case("NRM", size="deep"),
    Case("NRM", size="deep", checkpointing=True),
    Case("NRM, ascent: clean"),
    Case("FreeLB-3"),
    Case("PGD-3"),
    Case("CoIN"),
    Case("KL", size="long"),
    Case("NRM + CoIN + KL", size="deep"),
    Case("NRM + CoIN + KL", PREFIX),
)


def module_of(case: Case, folder: str) -> InstructionTuning:
    """The module of a case."""
    build: Any = next(one for one in METHODS if one.name == case.method).build
    loading = Loading(scratch=True, gradient_checkpointing=case.checkpointing)
    module: InstructionTuning = build(
        folder, loading, case.tuning, chunk_rows=case.chunk_rows, optimizer=case.optimizer or AdamW()
    )
    return module


def plan_of(case: Case, folder: str) -> Plan:
    """The plan of a case, for tensors on this CPU: one device, no strategy."""
    module = module_of(case, folder)
    return Plan(
        module, shape_of(case), find("a100-80gb"), Sharding("single", 1), case.precision, case.accumulated,
        clipped=True, foreach=False,
    )  # fmt: skip


def shape_of(case: Case) -> Shape:
    """The batch of a case."""
    size = SIZES[case.size]
    return Shape(size.rows, size.tokens - size.answer, size.answer, ("raw", "variant"))


class Watch(Callback):
    """Profiles all steps, since the profiler does not see the release of what was allocated before it began.

    Args:
        last: Number of the last step's first batch, at which the peak begins to count.
    """

    def __init__(self, last: int) -> None:
        self._last = last
        self._profile: Any = None
        self.held = 0
        """Bytes of weights and batch, which are there before the first step."""

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: InstructionBatch, batch_idx: int) -> None:
        """Begin at the first batch; leave a mark among the allocations at the last step."""
        if batch_idx == 0:
            held = [*pl_module.parameters(), *pl_module.buffers()]
            views = (batch.raw, batch.variant)
            held += [getattr(view, name) for view in views for name in ("input_ids", "attention_mask", "labels")]
            self.held = sum(one.untyped_storage().nbytes() for one in {id(one): one for one in held}.values())
            self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
            self._profile.__enter__()
        if batch_idx == self._last:
            torch.empty(MARK, dtype=torch.uint8)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        """End."""
        self._profile.__exit__(None, None, None)

    @property
    def peak(self) -> float:
        """Most bytes of tensors in the last step."""
        events = [one for one in self._profile.profiler.kineto_results.events() if one.name() == "[memory]"]
        sizes = [one.nbytes() for one in sorted(events, key=lambda one: one.start_ns())]
        start = sizes.index(MARK)
        return float(self.held + max(list(accumulate(sizes))[start + 2 :]))


MARK = 54_321
"""Bytes of an allocation that marks a place among the others: a size that no tensor of a step has."""


def measured(case: Case, folder: str) -> float:
    """Bytes of tensors at the peak of the last of `STEPS` steps."""
    batch = shape_of(case).batch()
    count = STEPS * case.accumulated
    batches: Any = [batch] * count
    loader = DataLoader(batches, batch_size=None)
    watch = Watch(count - case.accumulated)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as root:
        precision: Any = case.precision
        trainer = Trainer(
            accelerator="cpu", max_epochs=1, precision=precision, gradient_clip_val=1.0, logger=False,
            accumulate_grad_batches=case.accumulated, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, callbacks=[watch], default_root_dir=root,
        )  # fmt: skip
        trainer.fit(module_of(case, folder), loader)
    return watch.peak


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", default="", help="cases whose name holds this text")
    only = parser.parse_args().only
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    print("| case | measured, MB | planned, MB | planned ÷ measured |\n|---|---|---|---|", flush=True)
    worst = 0.0
    with tempfile.TemporaryDirectory() as root:
        for name, size in SIZES.items():
            (Path(root) / name).mkdir()
            lay_out(str(Path(root) / name), size)
        for case in (one for one in CASES if only in one.name):
            folder = str(Path(root) / case.size)
            found, planned = measured(case, folder), plan_of(case, folder).memory.tensors
            worst = max(worst, abs(planned / found - 1))
            print(f"| {case.name} | {found / 1e6:.1f} | {planned / 1e6:.1f} | {planned / found:.3f} |", flush=True)
    print(f"\nfarthest from 1: {worst:.1%}")


if __name__ == "__main__":
    main()

"""What a run will need on a kind of GPU: memory by part, operations, time; and what to change if it does not fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from robustlm.adversaries import NRM, PGD
from robustlm.models.backbone import Backbone
from robustlm.models.tuning import FullTuning, LoRA, PrefixTuning
from robustlm.modules import InstructionTuning
from robustlm.modules.anit import ANIT
from robustlm.planning.gpus import GPU
from robustlm.planning.rows import Shape
from robustlm.planning.step import DeepStep, Step, fresh, measure_step
from robustlm.planning.strategies import Sharding

CONTEXT = 1.3e9
"""Bytes that a process holds on a GPU besides tensors: kernels and libraries. transformers' guide "Model training
anatomy" measured 1.3 GB. Not measured by this project."""
MARGIN = 0.1
"""Share of what a step allocates anew that is added for blocks the allocator cannot reuse: an assumption."""
FOUR_BIT = 0.5 + 4 / 64
"""Bytes of a weight in NF4: half a byte, and an fp32 scale for each 64 weights (bitsandbytes' default block)."""
PASSING = ("casts", "logits", "activations")
"""Parts that a step allocates anew."""


@dataclass(frozen=True)
class Memory:
    """Bytes on one GPU at the peak of a step."""

    parts: dict[str, float]
    phase: str
    """`forward`, `backward` or `optimiser`: when the peak is."""
    notes: tuple[str, ...]

    @property
    def total(self) -> float:
        """Bytes of all parts."""
        return sum(self.parts.values())

    @property
    def tensors(self) -> float:
        """Bytes of tensors alone, without what the framework and the allocator hold."""
        return self.total - self.parts.get("framework", 0.0) - self.parts.get("fragmentation", 0.0)


@dataclass
class Plan:
    """A run on a number of equal GPUs."""

    module: InstructionTuning
    """Its weights are not loaded, and stay so."""
    shape: Shape
    """The micro-batch on one GPU."""
    gpu: GPU
    sharding: Sharding
    precision: str = "32-true"
    accumulated: int = 1
    clipped: bool = True
    foreach: bool = True
    """See `trace_step`: true on a GPU."""
    batch_tokens: int | None = None
    """The most tokens of a micro-batch, from which its rows follow; null: a number of rows is set."""

    @cached_property
    def step(self) -> Step | DeepStep:
        """The traced step, on a device that holds everything."""
        deep = self.sharding.deep and self.precision in ("bf16-mixed", "16-mixed")
        return measure_step(
            self.module,
            self.shape,
            self.precision.replace("mixed", "true") if deep else self.precision,
            accumulated=self.accumulated,
            clipped=self.clipped,
            foreach=self.foreach,
            once=self.sharding.name in ("single", "ddp"),
        )

    @cached_property
    def memory(self) -> Memory:
        """Memory of one GPU, by part."""
        weights = self.step.weights
        peak = self.step.peak(self.sharding.shares)
        parts: dict[str, float] = {str(part): size for part, size in peak.parts.items()}
        notes = []
        if self._loading.four_bit:
            share = self.sharding.shares.get("frozen weights", 1.0)
            parts["frozen weights"] += share * (FOUR_BIT * weights.linear - weights.linear_bytes)
            parts["activations"] = parts.get("activations", 0.0) + 2.0 * weights.widest
            notes.append("activations hold one dequantised matrix in bf16")
        halved = "16" in self.precision
        width = 2 if self.precision.endswith("16-true") or (halved and self.sharding.deep) else 4
        extra, what = self.sharding.extra(weights, float(width * weights.trained), halved)
        if extra:
            parts[self.sharding.name] = extra
            notes.append(f"{self.sharding.name}: {what}")
        parts["fragmentation"] = MARGIN * sum(parts.get(name, 0.0) for name in PASSING)
        parts["framework"] = CONTEXT
        return Memory(parts, peak.phase, tuple(notes))

    @property
    def fits(self) -> bool:
        """Whether a GPU holds it all."""
        return self.memory.total <= self.gpu.memory * 1e9

    @property
    def operations(self) -> float:
        """Floating-point operations of an optimiser step on one GPU, passes that run again included."""
        return self.step.operations

    @property
    def bits(self) -> int:
        """Width of the numbers that products are computed with: 16 or 32."""
        return 16 if "16" in self.precision or (self._loading.dtype in ("bfloat16", "float16")) else 32

    def seconds(self, mfu: float) -> float | None:
        """Seconds of an optimiser step.

        Args:
            mfu: Share of the GPU's peak that a step reaches.

        Returns:
            Null if the peak of this GPU is not known at this precision.
        """
        peak = self.gpu.peak(self.bits)
        return None if peak is None else self.operations / (1e12 * peak * mfu)

    @property
    def rows(self) -> int:
        """Raw rows of an optimiser step, over all GPUs."""
        return self.shape.rows * self.accumulated * self.sharding.devices

    def without_adversary(self) -> Plan | None:
        """The same run without its adversary; null if it has none."""
        if getattr(self.module, "adversary", None) is None:
            return None
        other = fresh(self.module)
        assert isinstance(other, ANIT)
        other.adversary = None
        return replace(self, module=other)

    def most_rows(self) -> int | None:
        """About how many rows a micro-batch may have; null if one row is too much. Memory is linear in rows."""
        few = self.shape.rows // 2 or 2
        other = replace(self, shape=replace(self.shape, rows=few)).memory.total
        each = (self.memory.total - other) / (self.shape.rows - few)
        fixed = self.memory.total - each * self.shape.rows
        most = int((self.gpu.memory * 1e9 - fixed) / each)
        return most if most >= 1 else None

    def alternatives(self) -> Iterator[tuple[str, Plan]]:
        """Single changes that need less memory, each as the setting that a user writes, and the plan with it."""
        loading = self._loading
        tuning = self._backbone.tuning
        if self.sharding.devices > 1 and self.sharding.name in ("ddp", "deepspeed_stage_2"):
            yield "-c trainer/fsdp2", replace(self, sharding=replace(self.sharding, name="fsdp2"))
        if self.precision == "32-true" and loading.dtype == "float32":
            yield "--trainer.precision bf16-mixed", replace(self, precision="bf16-mixed")
        if loading.dtype == "float32" and not isinstance(tuning, FullTuning) and not loading.four_bit:
            precision = "bf16-mixed" if self.precision == "32-true" else self.precision
            found = replace(self._with_loading(dtype="bfloat16"), precision=precision)
            yield "--model.loading.dtype bfloat16 --trainer.precision bf16-mixed", found
        if not loading.gradient_checkpointing and not isinstance(tuning, PrefixTuning):
            yield "--model.loading.gradient_checkpointing true", self._with_loading(gradient_checkpointing=True)
        if not loading.four_bit and isinstance(tuning, LoRA) and self.sharding.name in ("single", "ddp"):
            yield "--model.loading.four_bit true", self._with_loading(four_bit=True)
        adversary = getattr(self.module, "adversary", None)
        if isinstance(adversary, NRM | PGD) and not adversary.low_memory and not self.module.terms:
            other = fresh(self.module)
            assert isinstance(other, ANIT)
            other.adversary = replace(adversary, low_memory=True)
            if self.sharding.name in ("single", "ddp"):
                yield "--model.adversary.low_memory true", replace(self, module=other)
        if self.shape.rows > 1:
            rows = self.shape.rows // 2
            found = replace(self, shape=replace(self.shape, rows=rows), accumulated=2 * self.accumulated)
            size = f"batch_size {rows}" if self.batch_tokens is None else f"batch_tokens {rows * self.shape.row_tokens}"
            yield f"--data.{size} --trainer.accumulate_grad_batches {2 * self.accumulated}", found

    def _with_loading(self, **changes: Any) -> Plan:
        other = fresh(self.module)
        assert isinstance(other.backbone, Backbone)
        other.backbone.loading = replace(other.backbone.loading, **changes)
        return replace(self, module=other)

    @property
    def _backbone(self) -> Backbone:
        assert isinstance(self.module.backbone, Backbone)
        return self.module.backbone

    @property
    def _loading(self) -> Any:
        return self._backbone.loading

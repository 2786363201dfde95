"""Traces one optimiser step of a module: the module's own code, on tensors without data."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import torch
from lightning.pytorch.plugins import DoublePrecision, HalfPrecision, MixedPrecision, Precision
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from robustlm.batch import InstructionBatch, Unanswered, View
from robustlm.models.backbone import Backbone
from robustlm.models.base import LanguageModel
from robustlm.models.heads import WholeHead
from robustlm.models.sharding import layers_of
from robustlm.modules import Agreement, InstructionTuning, RobustTuning
from robustlm.modules.guard import Verdict
from robustlm.planning.rows import Shape
from robustlm.planning.trace import Part, Peak, Trace, Tracer, without_data


@dataclass
class Weights:
    """The sizes of a model, counted on the model itself."""

    frozen: int
    """Number of frozen weights."""
    trained: int
    linear: int
    """Frozen weights in linear layers but the head: those that 4-bit loading quantises."""
    linear_bytes: int
    """Bytes of these in the trace."""
    widest: int
    """Number of weights of the largest of these matrices."""
    layer_bytes: int
    """Bytes of the largest transformer layer, as it is held."""
    table_bytes: int
    """Bytes of the input embeddings."""


@dataclass
class Step:
    """What one optimiser step takes on one device that holds the whole model."""

    trace: Trace
    weights: Weights

    @property
    def operations(self) -> float:
        """Floating-point operations; see `Trace`."""
        return float(self.trace.operations)

    def peak(self, shares: Mapping[Part, float]) -> Peak:
        """The moment with most memory, from the first forward pass on; see `Trace.peak`."""
        return self.trace.peak("forward", shares)


@dataclass
class DeepStep:
    """The step of a model with many equal layers, from two steps with few of them.

    Each part of the memory at the peak, and the operations, grow by the same amount with each layer.
    """

    few: Step
    """With `FEW` layers."""
    more: Step
    """With `MORE` layers."""
    layers: int
    """Of the model."""

    @property
    def weights(self) -> Weights:
        """The sizes of the whole model."""
        few, more = self.few.weights, self.more.weights
        grown = ("frozen", "trained", "linear", "linear_bytes")
        return replace(more, **{k: round(self._at(getattr(few, k), getattr(more, k))) for k in grown})

    @property
    def operations(self) -> float:
        """See `Step`."""
        return self._at(self.few.operations, self.more.operations)

    def peak(self, shares: Mapping[Part, float]) -> Peak:
        """See `Step`."""
        few, more = self.few.peak(shares), self.more.peak(shares)
        names = {**few.parts, **more.parts}
        return Peak({k: self._at(few.parts.get(k, 0.0), more.parts.get(k, 0.0)) for k in names}, more.phase)

    def alike(self) -> bool:
        """Whether both steps have their peak in the same phase, so that the line through them says something."""
        return self.few.peak({}).phase == self.more.peak({}).phase

    def _at(self, few: float, more: float) -> float:
        return more + (more - few) / (MORE - FEW) * (self.layers - MORE)


FEW, MORE = 3, 5
"""Numbers of layers of the steps that stand for a deep model."""
_DEEP = 9
"""From this number of layers on, a step is computed from two smaller ones: tracing takes a tenth of a second a layer
and pass."""


def measure_step(
    module: InstructionTuning,
    shape: Shape,
    precision: str,
    *,
    accumulated: int = 1,
    clipped: bool = True,
    foreach: bool = True,
    once: bool = True,
) -> Step | DeepStep:
    """Trace a step, of a model with many equal layers by two steps with few; see `trace_step` for arguments."""
    layers = _equal_layers(module)
    if layers is not None and layers >= _DEEP:
        few, more = (
            trace_step(
                _with_layers(module, count),
                shape,
                precision,
                accumulated=accumulated,
                clipped=clipped,
                foreach=foreach,
                once=once,
            )
            for count in (FEW, MORE)
        )
        found = DeepStep(few, more, layers)
        if found.alike():
            return found
    return trace_step(
        fresh(module), shape, precision, accumulated=accumulated, clipped=clipped, foreach=foreach, once=once
    )


def _equal_layers(module: InstructionTuning) -> int | None:
    """The number of layers of a decoder whose layers are all alike; null if they are not, or if that is not known."""
    config: Any = module.backbone.config
    text = config.get_text_config()
    kinds = getattr(text, "layer_types", None)
    sparse = any(getattr(text, name, None) for name in ("mlp_only_layers", "first_k_dense_replace"))
    if config.is_encoder_decoder or sparse or (kinds is not None and len(set(kinds)) != 1):
        return None
    return int(text.num_hidden_layers)


def _with_layers(module: InstructionTuning, count: int) -> InstructionTuning:
    found = fresh(module)
    text: Any = found.backbone.config.get_text_config()
    text.num_hidden_layers = count
    if getattr(text, "layer_types", None) is not None:
        text.layer_types = list(text.layer_types)[:count]
    return found


def trace_step(
    module: InstructionTuning,
    shape: Shape,
    precision: str,
    *,
    accumulated: int = 1,
    clipped: bool = True,
    foreach: bool = True,
    once: bool = True,
) -> Step:
    """Trace the second step of a run: the optimiser's state and the gradients of the first step are there.

    Args:
        module: A module whose weights are not loaded; this loads a model without data into it.
        shape: The micro-batch.
        precision: As in `trainer.precision`.
        accumulated: Micro-batches of a step. The trace has one; their operations are counted for all.
        clipped: Whether gradients are clipped by their norm.
        foreach: Whether the optimiser changes all weights at once, torch's choice on a GPU. On a CPU it changes one
            after the other, which needs less memory.
        once: Whether frozen weights may be cast once for mixed precision (`loading.cast_once`), as on one device and
            under DDP.

    Raises:
        ValueError: The model cannot be built without its weights, or the precision is not known.
    """
    plugin = precision_plugin(precision)
    four_bit = _outline(module)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own, of its layers
        module.configure_model()
    module.train()
    if isinstance(plugin, MixedPrecision):  # as `Mixed.configure_model` does
        for p in module.backbone.trained:
            p.data = p.data.float()
    plugin.convert_module(module)
    if four_bit and precision != "32-true":  # a 4-bit layer computes in bf16, so autocast has nothing to cast
        for weight in _linear(module):
            weight.data = weight.data.bfloat16()
    weights = _weights(module)
    mode = FakeTensorMode()
    without_data(module, mode)
    _judge_head(module)
    vocabulary = module.backbone.base.get_input_embeddings().num_embeddings
    tracer = Tracer(int(vocabulary))
    batch = _fake(shape.batch(), mode)
    if shape.open and isinstance(module, RobustTuning) and module.agreement is not None:
        module.agreement = _CountedVotes(**vars(module.agreement), view=_fake(shape.voted(), mode))
    parameters = list(module.parameters())
    trained = [p for p in parameters if p.requires_grad]
    tracer.know((p for p in parameters if not p.requires_grad), "frozen weights")
    tracer.know(module.buffers(), "frozen weights")
    tracer.know(trained, "trained weights")
    tracer.know(_tensors(batch), "batch")
    if isinstance(plugin, MixedPrecision) and once:
        with mode:
            module.backbone.keep_casts(torch.float16 if precision == "16-mixed" else torch.bfloat16)
        copies = [getattr(layer, "cast", ()) for layer in module.modules()]
        tracer.know((one for pair in copies for one in pair), "casts")
    with warnings.catch_warnings(), mode, tracer:
        warnings.simplefilter("ignore")  # there is no trainer to log to
        optimizer = module.optimizer.build(module.optimizer_groups())
        for group in optimizer.param_groups:
            if group.get("foreach", False) is None:
                group["foreach"] = foreach
        with tracer.counting("gradients"):
            for p in trained:
                p.grad = torch.empty_like(p)
        with tracer.counting("optimiser"):
            optimizer.step()
        tracer.trace.operations = tracer.trace.traffic = 0
        with plugin.forward_context():
            tracer.begin("forward")
            loss = module.training_step(batch, 0)
        if accumulated == 1:  # as Lightning does: after the forward pass
            optimizer.zero_grad()
        tracer.begin("backward")
        torch.autograd.backward(loss)
        del loss
        single = tracer.trace.operations
        tracer.know((p.grad for p in trained), "gradients")
        tracer.begin("optimiser")
        if clipped:
            torch.nn.utils.clip_grad_norm_(trained, 1.0, foreach=foreach)
        optimizer.step()
        tracer.trace.operations += (accumulated - 1) * single
    return Step(tracer.trace, weights)


_CHANGES = ("final_logit_softcapping", "logit_scale", "logits_scaling", "logit_bias", "output_multiplier_scale")
"""Entries of configs by which a model changes the logits after its head."""


def _judge_head(module: InstructionTuning) -> None:
    """Say by the config whether the head can run for some positions alone; a run finds it out by values."""
    backbone = module.backbone
    assert isinstance(backbone, Backbone)
    config: Any = backbone.config.get_text_config()
    changes = [name for name in _CHANGES if getattr(config, name, None) not in (None, 1, 1.0)]
    if changes:
        backbone.parts.head.whole = WholeHead(f"the model changes the logits after its head ({changes[0]})")
    else:
        backbone.parts.head.simple = True


def precision_plugin(name: str) -> Precision:
    """Lightning's plugin for a precision, on the CPU, where the trace runs.

    Raises:
        ValueError: There is no such precision.
    """
    if name in ("16-mixed", "bf16-mixed"):
        return MixedPrecision(cast(Any, name), "cpu", None)
    if name in ("16-true", "bf16-true"):
        return HalfPrecision(cast(Any, name))
    if name in ("32", "32-true", "None"):
        return Precision()
    if name in ("64", "64-true"):
        return DoublePrecision()
    raise ValueError(
        f"trainer.precision: found {name!r}; expected 32-true, bf16-mixed, bf16-true, 16-mixed, 16-true or 64-true"
    )


def fresh(module: InstructionTuning) -> InstructionTuning:
    """A copy of a module whose weights are not loaded, which a trace may load."""
    tokenizer = module.backbone.tokenizer
    return copy.deepcopy(module, {id(tokenizer): tokenizer})  # a copy of a large tokenizer takes a second


def _outline(module: InstructionTuning) -> bool:
    """Make a module's `configure_model` build the model from its config, without reading weights.

    Returns:
        Whether the weights were to be quantised.
    """
    backbone = module.backbone
    if not isinstance(backbone, Backbone):
        raise ValueError(f"backbone: {backbone.name} {backbone.closed}; expected a model that can be tuned")
    if backbone.adapter:
        raise ValueError(
            f"backbone: {backbone.name} is an adapter; expected its base model {backbone.base_name}, and model.tuning"
        )
    dtype = backbone.loading.dtype
    if dtype == "auto":
        stored = str(getattr(backbone.config, "dtype", None) or torch.float32).removeprefix("torch.")
        dtype = cast(Any, stored)
    attention, four_bit = backbone.loading.attention, backbone.loading.four_bit
    backbone.loading = replace(
        backbone.loading,
        scratch=True,
        four_bit=False,
        dtype=dtype,
        attention="sdpa" if attention == "flash_attention_2" else attention,
    )
    return four_bit


def _weights(module: InstructionTuning) -> Weights:
    base: Any = module.backbone.base
    linear = _linear(module)
    return Weights(
        frozen=sum(p.numel() for p in module.parameters() if not p.requires_grad),
        trained=sum(p.numel() for p in module.parameters() if p.requires_grad),
        linear=sum(w.numel() for w in linear),
        linear_bytes=sum(w.nbytes for w in linear),
        widest=max((w.numel() for w in linear), default=0),
        layer_bytes=max((_bytes(layer) for layer in layers_of(base)), default=0),
        table_bytes=_bytes(base.get_input_embeddings()),
    )


def _linear(module: InstructionTuning) -> list[Tensor]:
    """The frozen weights of linear layers but the head: those that bitsandbytes quantises."""
    base: Any = module.backbone.base
    outside = {id(base.get_output_embeddings().weight), id(base.get_input_embeddings().weight)}
    found = {id(m.weight): m.weight for m in base.modules() if isinstance(m, nn.Linear)}
    return [w for key, w in found.items() if key not in outside and not w.requires_grad]


def _bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in module.parameters())


@dataclass
class _CountedVotes(Agreement):
    """Runs the passes of the votes on tensors without data; the answer that the batch holds wins."""

    view: View | None = None
    """Prompts with their options behind them."""

    def verdicts(self, backbone: LanguageModel, rows: Unanswered, pass_rows: int) -> list[Verdict]:
        """See `Agreement.verdicts`."""
        assert self.view is not None
        with torch.no_grad():
            for start in range(0, len(self.view), pass_rows):
                _ = backbone(self.view.part(slice(start, start + pass_rows))).logits
        return [Verdict(held, 1.0, decided=True, agreeing=1.0) for held in rows.held]


T = TypeVar("T", InstructionBatch, View)


def _fake(batch: T, mode: FakeTensorMode) -> T:
    def one(value: Any) -> Any:
        return mode.from_tensor(value) if isinstance(value, Tensor) else value._map(one)

    found = batch._map(one)
    if isinstance(found, InstructionBatch) and found.seeds is not None:  # `_map` leaves them out: they stay on the CPU
        found.seeds = mode.from_tensor(found.seeds)
    return found


def _tensors(batch: InstructionBatch) -> Iterator[Tensor]:
    for holder in (batch, batch.raw, batch.variant, batch.negative):
        for name in () if holder is None else ("input_ids", "attention_mask", "labels", "instruction_mask", "beta"):
            value = getattr(holder, name, None)
            if isinstance(value, Tensor):
                yield value

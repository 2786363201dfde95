"""The checks of `python -m benchmarks.gpu.correctness`, which the worker process runs."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib.util import find_spec
from typing import Any
from unittest import mock

import torch
from lightning.pytorch import Callback, Trainer, seed_everything
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from benchmarks.gpu import lab
from benchmarks.gpu.compare import Measure, Step, compare, flat, limit, relative, worst
from benchmarks.gpu.lab import CALCULATED, Mode, Shape
from benchmarks.gpu.runner import Check, Finding, Note, Settings, Skip
from robustlm.adversaries import FGM, FGSM, NRM, PGD, FreeAT, FreeLB, NEFTune
from robustlm.adversaries.geometry import uniform
from robustlm.batch import IGNORE, InstructionBatch, View, collate
from robustlm.models.backbone import Backbone, Loading
from robustlm.models.tuning import FullTuning, LoRA, PrefixTuning, PromptTuning, Tuning
from robustlm.modules import (
    ANIT,
    Alignment,
    AlignmentTuning,
    Contrast,
    ContrastiveTuning,
    InstructionTuning,
    Passes,
    RobustTuning,
)
from robustlm.modules import passes as modules_passes
from robustlm.optim.config import AdamW, Schedule

SLOPE_LIMIT = 0.01
"""Relative; differences of float32 roundings and the curvature along the way stay far below."""
MODES: tuple[Mode, ...] = ("float32", "bf16-mixed", "bf16-true", "fp16-mixed")
CONTRAST_GAIN = 2.0
"""Similarities are divided by τ = 0.05 and then compared by a softmax, so errors of states come out larger."""


@dataclass(frozen=True, slots=True)
class Case:
    """An objective with its options."""

    name: str
    build: type[InstructionTuning]
    options: dict[str, Any] = field(default_factory=dict)
    tuning: Tuning = field(default_factory=lambda: LoRA(r=8, alpha=8, dropout=0.0))
    loading: dict[str, Any] = field(default_factory=dict)
    passes: int = 2
    """Chained passes, as the limit counts them (`benchmarks.gpu.compare`)."""
    gain: float = 1.0
    sign: bool = False
    """Whether the perturbation is made of signs."""
    steps: int = 1
    """Steps on the same batch, of which the last is compared: for adversaries with a state."""
    like: str | None = None
    """The case that this one must equal; null: itself. Options that save memory change no result."""

    def module(self, folder: str, **loading: Any) -> InstructionTuning:
        """A module with its weights and a set adapter; steps leave the weights as they are."""
        found = self.build(
            folder,
            Loading(**(self.loading | loading)),
            copy.copy(self.tuning),
            optimizer=AdamW(lr=0.0),
            schedule=Schedule(),
            **self.options,
        )
        lab.give_adapter(found)
        return found

    def allowed(self, mode: Mode, shape: Shape) -> float:
        """The limit of relative errors."""
        return limit(CALCULATED[mode], shape.layers, shape.hidden, self.passes, self.gain)


def _anit(name: str, adversary: Any, passes: int, **more: Any) -> Case:
    return Case(f"ANIT {name}", ANIT, {"adversary": adversary}, passes=passes, **more)


_ALL = {"adversary": NRM(), "contrast": Contrast(), "alignment": Alignment()}
CASES = (
    Case("InstructionTuning", InstructionTuning),
    Case("InstructionTuning raw + variant", InstructionTuning, {"train_on": "both"}),
    Case("InstructionTuning full tuning", InstructionTuning, tuning=FullTuning()),
    Case("InstructionTuning chunk_rows", InstructionTuning, {"chunk_rows": 2}, like="InstructionTuning"),
    _anit("without adversary", None, 2),
    _anit("NRM", NRM(), 4),
    _anit("NRM low_memory", NRM(low_memory=True), 4, like="ANIT NRM"),
    _anit("NRM ascent clean", NRM(ascent="clean"), 4),
    _anit("NRM target_gap", NRM(target_gap=0.2, gap_rate=0.5), 4, steps=3),
    _anit("NRM init_scale 1, radius by beta", NRM(init_scale=1.0, scale_radius_by_beta=True), 4),
    _anit(
        "NRM ascent clean, token share, radius alone by beta",
        NRM(ascent="clean", token_share=0.3, scale_start_by_beta=False, scale_radius_by_beta=True),
        4,
    ),
    _anit("FGM", FGM(), 4),
    _anit("FGSM", FGSM(), 4, sign=True),
    _anit("PGD-3", PGD(steps=3), 8),
    _anit("PGD-3 low_memory", PGD(steps=3, low_memory=True), 8, like="ANIT PGD-3"),
    _anit("FreeLB-2", FreeLB(steps=2), 6),
    _anit("FreeAT", FreeAT(replays=3), 6, steps=3),
    _anit("NEFTune", NEFTune(), 2),
    Case("ContrastiveTuning", ContrastiveTuning, gain=CONTRAST_GAIN),
    Case(
        "ContrastiveTuning symmetric",
        ContrastiveTuning,
        {"contrast": Contrast(symmetric=True, pooling="mean")},
        gain=CONTRAST_GAIN,
    ),
    Case("AlignmentTuning", AlignmentTuning, tuning=PrefixTuning(tokens=4)),
    Case("AlignmentTuning soft prompt, js", AlignmentTuning, {"alignment": Alignment(direction="js")}, PromptTuning(4)),
    Case("AlignmentTuning LoRA", AlignmentTuning),
    Case("RobustTuning all slots", RobustTuning, _ALL, passes=4, gain=CONTRAST_GAIN),
)
BY_NAME = {case.name: case for case in CASES}
KERNEL_CASES = ("InstructionTuning", "ANIT NRM", "RobustTuning all slots")
"""Cases that are run with every attention kernel, and under 4-bit weights and compilation."""
KERNELS: tuple[tuple[str, Mode], ...] = (
    ("eager", "float32"), ("eager", "bf16-mixed"), ("eager", "fp16-mixed"), ("sdpa", "bf16-mixed"),
    ("flash_attention_2", "bf16-mixed"), ("flash_attention_2", "bf16-true"), ("flash_attention_2", "fp16-mixed"),
)  # fmt: skip
CHECKPOINTED_CASES = (
    "InstructionTuning", "ANIT NRM", "ANIT NRM low_memory", "ANIT NRM ascent clean", "RobustTuning all slots",
)  # fmt: skip


class Bench:
    """What the checks of a run share.

    Args:
        settings: Of the run.
    """

    def __init__(self, settings: Settings) -> None:
        if settings.device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("torch finds no CUDA GPU; use --tiny for a rehearsal on the CPU")
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it once, at its start
        lab.quiet()
        self.device = settings.device
        self.shape = lab.SMALL if settings.tiny else lab.LARGE
        self.tiny = settings.tiny

    @property
    def folder(self) -> str:
        """The model without dropout."""
        return lab.model_folder(self.shape)

    def batch(self) -> InstructionBatch:
        """A new copy of the one batch that steps are taken on."""
        return copy.deepcopy(_batch(self.shape.rows))

    @cache  # noqa: B019 - one bench a process
    def reference(self, name: str) -> Step:
        """A case in float32 on the CPU, by plain passes."""
        case = BY_NAME[BY_NAME[name].like or name]
        return lab.take_steps(partial(case.module, self.folder), self.batch(), "cpu", "float32", case.steps)

    def measured(self, case: Case, mode: Mode, found: Step) -> list[Measure]:
        """A step against the reference."""
        return compare(found, self.reference(case.name), case.allowed(mode, self.shape), sign=case.sign)


@cache
def _batch(rows: int) -> InstructionBatch:
    return lab.make_batch(rows)


def _finding(measures: Sequence[Measure], figures: dict[str, Any] | None = None) -> Finding:
    """Pass where all are within their limits; the rows say each error."""
    bad = [one for one in measures if not one.ok]
    rows = [{"what": one.name, "error": one.error, "limit": one.limit} for one in measures]
    reason = "; ".join(f"{one.name}: {one.error:.3g} > {one.limit:.3g}" for one in bad[:3])
    found = {"worst": worst(measures).share} | (figures or {}) | {"rows": rows}
    return Finding("fail" if bad else "pass", reason, found)


# --- training steps --------------------------------------------------------------------------------------------


def step_check(bench: Bench, case: Case, mode: Mode, note: Note, **loading: Any) -> Finding:
    """One case in one precision against float32 on the CPU."""
    found = lab.take_steps(partial(case.module, bench.folder, **loading), bench.batch(), bench.device, mode, case.steps)
    return _finding(bench.measured(case, mode, found), {"scale": found.scale} if mode == "fp16-mixed" else {})


def attention_check(
    bench: Bench, case: Case, mode: Mode, attention: str, note: Note, padding_free: bool = False
) -> Finding:
    """One case with an attention kernel; with `padding_free`, its rows run in one sequence without padding."""
    if attention == "flash_attention_2":
        if bench.device != "cuda":
            raise Skip("FlashAttention needs a CUDA GPU")
        if find_spec("flash_attn") is None:
            raise Skip("flash-attn is not installed")
    return step_check(bench, case, mode, note, attention=attention, padding_free=padding_free)


def compiled_check(bench: Bench, case: Case, mode: Mode, note: Note) -> Finding:
    """One case with its decoder compiled."""

    def compiled() -> InstructionTuning:
        module = case.module(bench.folder)
        module.backbone.base.get_decoder().compile(backend="inductor" if bench.device == "cuda" else "eager")
        return module

    found = lab.take_steps(compiled, bench.batch(), bench.device, mode, case.steps)
    return _finding(bench.measured(case, mode, found))


def four_bit_check(bench: Bench, case: Case, note: Note) -> Finding:
    """NF4 weights against the CPU in float32 with the very weights that the 4-bit codes stand for."""
    if bench.device != "cuda":
        raise Skip("4-bit weights need a CUDA GPU")
    if find_spec("bitsandbytes") is None:
        raise Skip("bitsandbytes is not installed")
    module = case.module(bench.folder, four_bit=True)
    weights = dequantised(module.backbone.base)
    if not weights:
        return Finding("fail", "no layer was quantised")
    reference = case.module(bench.folder)
    own = dict(reference.backbone.base.named_parameters())
    for name, weight in weights.items():
        own[f"{name}.weight"].data.copy_(weight)
    expected = lab.take_steps(lambda: reference, bench.batch(), "cpu", "float32", case.steps)
    found = lab.take_steps(lambda: module, bench.batch(), bench.device, "bf16-mixed", case.steps)
    measures = compare(found, expected, case.allowed("bf16-mixed", bench.shape), sign=case.sign)
    return _finding(measures, {"quantised layers": len(weights)})


def dequantised(model: torch.nn.Module) -> dict[str, Tensor]:
    """Weights of 4-bit layers by the layers' names, float32 on the CPU."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, Linear4bit)}
    return {n: dequantize_4bit(x.weight.data, x.weight.quant_state).float().cpu() for n, x in layers.items()}


# --- can a check fail? -----------------------------------------------------------------------------------------


def _without_padding_mask(batch: InstructionBatch) -> None:
    for view in (batch.raw, batch.variant):
        assert view is not None
        view.attention_mask.fill_(1)


def _other_answers(batch: InstructionBatch) -> None:
    for view in (batch.raw, batch.variant):
        assert view is not None
        answered = view.labels != IGNORE
        view.labels[answered] = view.labels[answered].roll(1)  # `View.layout` notices the change


def _other_draws(batch: InstructionBatch) -> None:
    assert batch.seeds is not None
    batch.seeds += 1


def _without_beta(batch: InstructionBatch) -> None:
    assert batch.beta is not None
    batch.beta.zero_()


def _perturbs_padding(batch: InstructionBatch) -> None:
    """The mask of perturbed positions one token further to the left."""
    assert batch.variant is not None
    batch.variant.instruction_mask = batch.variant.instruction_mask.roll(-1, 1)


BROKEN: dict[str, tuple[str, Callable[[InstructionBatch], None] | None, dict[str, Any]]] = {
    "padding mask dropped": ("InstructionTuning", _without_padding_mask, {}),
    "answers shifted by one": ("InstructionTuning", _other_answers, {}),
    "other start of delta": ("ANIT NRM", _other_draws, {}),
    "beta ignored": ("ANIT NRM", _without_beta, {}),
    "perturbed positions shifted by one": ("ANIT NRM", _perturbs_padding, {}),
    "radius a third larger": ("ANIT FGM", None, {"adversary": FGM(epsilon=0.4)}),
    "no ascent": ("ANIT FGM", None, {"adversary": NEFTune(magnitude=0.3)}),
    "step taken backwards": ("ANIT FGSM", None, {"adversary": FGSM(epsilon=0.03)}),
    "adapter scaled by 9/8": ("InstructionTuning", None, {"tuning": LoRA(r=8, alpha=9, dropout=0.0)}),
    "temperature of the contrast doubled": ("ContrastiveTuning", None, {"contrast": Contrast(temperature=0.1)}),
    "weight of the alignment 0.6": ("AlignmentTuning LoRA", None, {"alignment": Alignment(weight=0.6)}),
}
"""Name → the case that is broken, what is done to its batch, and which of its options are replaced."""


def broken_check(bench: Bench, name: str, mode: Mode, note: Note) -> Finding:
    """A deliberately broken variant must be outside the limits; passing it would make the other checks worthless."""
    of, spoil, options = BROKEN[name]
    case = BY_NAME[of]
    more = dict(options)
    tuning = more.pop("tuning", case.tuning)
    broken = replace(case, options=case.options | more, tuning=tuning)
    batch = bench.batch()
    if spoil is not None:
        spoil(batch)

    def made() -> InstructionTuning:
        module = broken.module(bench.folder)
        if name == "step taken backwards":
            _turn_round(module)
        return module

    found = lab.take_steps(made, batch, bench.device, mode, case.steps)
    beyond = [one for one in bench.measured(case, mode, found) if not one.ok]
    figures: dict[str, Any] = {
        "rows": [{"caught by": one.name, "error": one.error, "limit": one.limit} for one in beyond]
    }
    if not beyond:
        return Finding("fail", f"{name} was not noticed", figures)
    return Finding("pass", f"caught by {worst(beyond).name}, {worst(beyond).share:.3g} times its limit", figures)


def _turn_round(module: Any) -> None:
    """Let the adversary give back −δ."""
    attack = module.adversary.attack

    def turned(problem: Any) -> Any:
        outcome = attack(problem)
        assert outcome.delta is not None
        return replace(outcome, delta=-outcome.delta)

    module.adversary.attack = turned


# --- what has no reference on a CPU ----------------------------------------------------------------------------


def dropout_check(bench: Bench, mode: Mode, note: Note) -> Finding:
    """All passes of a step see one set of dropout masks: at δ = 0 adversarial losses are the clean ones, to the bit."""
    folder = lab.model_folder(bench.shape, 0.2)
    case = replace(BY_NAME["ANIT FGM"], tuning=LoRA(r=8, alpha=8, dropout=0.2))
    case = replace(case, options={"adversary": FGM(epsilon=0.0)})
    step = lab.take_steps(partial(case.module, folder), bench.batch(), bench.device, mode)
    measures = [
        Measure("adversarial − clean at δ = 0", float((step.rows["adversarial"] - step.rows["clean"]).abs().max()), 0.0)
    ]
    module = case.module(folder)
    module.to(bench.device).train()
    passes = Passes(module.backbone, bench.batch().to(bench.device))
    view = passes.view("raw")
    with torch.no_grad():
        first, again, other = (passes.run(view, masks=masks).logits for masks in (0, 0, 1))
    measures.append(Measure("logits of two passes under the same masks", relative(again, first), 0.0))
    apart = relative(other, first)
    # dropout that is off would make both measures 0
    measures.append(Measure("1e-3 ÷ distance under other masks", 1e-3 / apart if apart else math.inf, 1.0))
    return _finding(measures, {"distance under other masks": apart})


def slope_check(bench: Bench, name: str, options: dict[str, Any], note: Note, **loading: Any) -> Finding:
    """With dropout, gradients of passes that are run again are those of the loss; under other masks they are not."""
    error = _slope_error(bench, name, options, **loading)
    with mock.patch.object(modules_passes, "checkpoint", partial(checkpoint, preserve_rng_state=False)):
        broken = _slope_error(bench, name, options, forgetful=True, **loading)
    measures = [
        Measure("slope of the loss against the norm of its gradient", error, SLOPE_LIMIT),
        Measure("limit ÷ the same under other masks", SLOPE_LIMIT / broken if broken else math.inf, 1.0),
    ]
    return _finding(measures, {"under other masks": broken})


def _slope_error(bench: Bench, name: str, options: dict[str, Any], *, forgetful: bool = False, **loading: Any) -> float:
    """|slope ÷ norm of the gradient − 1|, the slope taken along the gradient by central differences, in float64.

    `forgetful` lets the model's own checkpointing draw new dropout masks when it runs a layer again.
    """
    folder = lab.model_folder(bench.shape, 0.2)
    case = replace(BY_NAME[name], tuning=LoRA(r=8, alpha=8, dropout=0.2))
    case = replace(case, options=case.options | options)
    module = case.module(folder, **loading)
    assert isinstance(module.backbone, Backbone)
    if forgetful and module.backbone.loading.gradient_checkpointing:
        module.backbone.base.gradient_checkpointing_enable({"use_reentrant": False, "preserve_rng_state": False})
    module.to(bench.device, torch.float64).train()
    batch = bench.batch().to(bench.device)

    def loss() -> Tensor:
        torch.manual_seed(3)
        assert isinstance(module, InstructionTuning)
        return torch.stack(list(module.losses(module.passes(batch)).values())).sum()

    weights = [p for p in module.parameters() if p.requires_grad]
    found = torch.autograd.grad(loss(), weights)
    size = torch.stack([g.norm() for g in found]).norm()
    distance = 3e-3  # norms and rotary positions stay in float32, so that shorter ways drown in their rounding
    ends = []
    for way in (1, -1):
        for weight, gradient in zip(weights, found, strict=True):
            weight.data.add_(gradient / size, alpha=way * distance)
        ends.append(float(loss().detach()))
        for weight, gradient in zip(weights, found, strict=True):
            weight.data.sub_(gradient / size, alpha=way * distance)
    slope = (ends[0] - ends[1]) / (2 * distance)
    return abs(slope / float(size) - 1)


def draws_check(bench: Bench, note: Note) -> Finding:
    """Draws of this device: those of the CPU, in [−1, 1], mean 0, variance 1/3, and the same without neighbours."""
    rows, width, hidden = 4, 64, 256
    embeds = torch.zeros(rows, width, hidden, device=bench.device)
    mask = torch.zeros(rows, width, dtype=torch.bool, device=bench.device)
    for row in range(rows):
        mask[row, 8 * row :] = True
    seeds = torch.arange(rows)
    found = uniform(embeds, mask, seeds)
    drawn = found[mask]
    alone = uniform(embeds[2:3, 16:], mask[2:3, 16:], seeds[2:3])
    error = 6 / math.sqrt(drawn.numel())  # six standard errors of a draw whose deviation is below 1
    on_cpu = uniform(embeds.cpu(), mask.cpu(), seeds)
    measures = [
        Measure("drawn here and on the CPU", float((found.cpu() - on_cpu).abs().max()), 0.0),
        Measure("largest draw", float(found.abs().max()), 1.0),
        Measure("mean", abs(float(drawn.double().mean())), error),
        Measure("variance − 1/3", abs(float(drawn.double().var()) - 1 / 3), error),
        Measure("draws outside the mask", float(found[~mask].abs().max()), 0.0),
        Measure("a row alone and among others", float((alone - found[2:3, 16:]).abs().max()), 0.0),
        Measure("rows that draw alike", float(torch.equal(found[0, 24:], found[1, 24:])), 0.0),
    ]
    return _finding(measures)


# --- resuming --------------------------------------------------------------------------------------------------


def resume_check(bench: Bench, mode: Mode, note: Note) -> Finding:
    """A run that is interrupted within an epoch and resumed ends as one that is not.

    With deterministic kernels two uninterrupted runs end bit-identical, and then the resumed one must, too. Where they
    do not (a kernel without a deterministic form), the resumed one may differ from the first by twice as much as the
    second does; the figures say so.
    """
    folder = lab.model_folder(bench.shape, 0.1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        place = str(lab.scratch_folder() / f"resume-{mode}.ckpt")
        whole = _run(bench, folder, mode, save=place)
        again = _run(bench, folder, mode)
        resumed = _run(bench, folder, mode, checkpoint=place)
        other = _run(bench, folder, mode, seed=8)
    finally:
        torch.use_deterministic_algorithms(False)
    apart = _apart(again, whole)
    measures = [
        Measure("resumed against uninterrupted", _apart(resumed, whole), 2 * apart),
        # a run that does not depend on its seed could be resumed by anything
        Measure("1e-6 ÷ distance of a run with another seed", 1e-6 / max(_apart(other, whole), 1e-30), 1.0),
    ]
    return _finding(measures, {"two uninterrupted runs": "bit-identical" if apart == 0 else apart})


def _apart(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    names = sorted(expected)
    return relative(flat(found, names), flat(expected, names))


class _Save(Callback):
    """Saves a checkpoint after some steps, as if the run ended there.

    Args:
        place: File.
        steps: After how many.
    """

    def __init__(self, place: str, steps: int) -> None:
        self._place, self._steps = place, steps

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Save in time."""
        if trainer.global_step == self._steps:
            trainer.save_checkpoint(self._place)


def _run(
    bench: Bench, folder: str, mode: Mode, *, save: str | None = None, checkpoint: str | None = None, seed: int = 7
) -> dict[str, Tensor]:
    """Trained weights after six steps with NRM, its controller, dropout and clipping; a checkpoint holds three."""
    seed_everything(seed if checkpoint is None else 99, verbose=False)  # a resumed run keeps the seed of the first one
    module = ANIT(
        folder,
        tuning=LoRA(r=8, alpha=8, dropout=0.1),
        optimizer=AdamW(lr=1e-3),
        schedule=Schedule(),
        adversary=NRM(target_gap=0.2, gap_rate=0.5),
    )
    if checkpoint is None:
        torch.manual_seed(5)  # adapters start alike under every seed
        module.configure_model()
    batches = [copy.deepcopy(_batch(bench.shape.rows)), lab.make_batch(bench.shape.rows + 1)]
    keep = [] if save is None else [_Save(save, 3)]
    # as large a scale as a scaler starts with, so that it has to be lowered on the way
    fitter = lab.trainer(bench.device, mode, scale=2.0**16, max_steps=6, gradient_clip_val=1.0, callbacks=keep)
    fitter.fit(module, lab.Same(batches, 6, 0 if checkpoint is None else 3), ckpt_path=checkpoint)
    return {name: p.detach().float().cpu() for name, p in module.named_parameters() if p.requires_grad}


# --- evaluation ------------------------------------------------------------------------------------------------


def _shipped(device: str, dtype: str) -> Backbone:
    """The shipped model, which answers the built-in corpus."""
    backbone = Backbone("builtin:tiny", Loading(dtype=dtype))  # type: ignore[arg-type]
    backbone.load()
    backbone.eval()
    return backbone.to(device)


def _modes_of(dtype: str) -> torch.dtype:
    found: torch.dtype = getattr(torch, dtype)
    return found


def generation_check(bench: Bench, dtype: str, note: Note) -> Finding:
    """Greedy answers against float32 on the CPU.

    An answer may differ from where on two tokens were as likely as makes no difference: the reference's logits of both
    are then closer than the limit times the largest logit.
    """
    count = 6 if bench.tiny else 48
    write = lab.encoder()
    view = collate(write.encode(lab.samples(count)), pad_id=write.pad_id, with_answer=False)
    reference = _shipped("cpu", "float32")
    hidden = reference.config.hidden_size
    expected = reference.generate(view, 24)
    found = _shipped(bench.device, dtype).generate(view.to(bench.device), 24)
    allowed = limit(_modes_of(dtype), reference.depth, hidden, 1)
    measures = [Measure("rows", float(len(found) != count), 0.0)]
    differing = [row for row in range(count) if found[row] != expected[row]]
    for row in differing:
        kept = view.attention_mask[row].bool()
        error = _preference(reference, view.input_ids[row][kept], expected[row], found[row])
        measures.append(Measure(f"row {row}: preferred by", error, allowed))
    empty = sum(not text for text in expected)
    measures.append(Measure("share of the reference's answers that are empty", empty / count, 0.5))
    return _finding(measures, {"answers": count, "differing": len(differing)})


@torch.no_grad()
def _preference(reference: Backbone, prompt: Tensor, expected: str, found: str) -> float:
    """By how much the reference prefers its own next token where two answers part, relative to the largest logit."""
    text = reference.tokenizer
    ends = text.eos_token_id
    # answers are compared as the tokens that follow the prompt, so both are tokenised behind it
    ours, theirs = ([*text(" " + one)["input_ids"], ends] for one in (expected, found))
    at = next(i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b)
    ids = torch.cat([prompt, torch.tensor(ours[:at], dtype=prompt.dtype)])[None]
    logits = reference.base(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0, -1]
    return float((logits[ours[at]] - logits[theirs[at]]) / logits.abs().max())


def options_check(bench: Bench, dtype: str, note: Note) -> Finding:
    """Log-likelihoods of options against float32 on the CPU, and the choices they lead to."""
    count = 4 if bench.tiny else 24
    view, rows = _options(count)
    reference = _shipped("cpu", "float32")
    expected = reference.option_scores(view, rows, 64)
    found = _shipped(bench.device, dtype).option_scores(view.to(bench.device), rows.to(bench.device), 64)
    allowed = limit(_modes_of(dtype), reference.depth, reference.config.hidden_size, 1)
    ours, theirs = found.log_likelihood.double(), expected.log_likelihood.double()
    scale = torch.maximum(theirs.abs(), expected.tokens.double())  # a certain answer still rounds by u a token
    measures = [
        Measure("log-likelihood", float(((ours - theirs).abs() / scale).max()), allowed),
        Measure("tokens", float(not torch.equal(found.tokens, expected.tokens)), 0.0),
    ]
    for row in range(count):
        if found.best(row) != expected.best(row):
            mean = (theirs / expected.tokens)[expected.rows == row]
            gap = float(mean[expected.best(row)] - mean[found.best(row)])
            measures.append(Measure(f"row {row}: preferred by", gap / float(mean.abs().max()), 2 * allowed))
    return _finding(measures, {"options": len(rows)})


def _options(count: int) -> tuple[View, Tensor]:
    """Every row with each of four answers: its own, and those of three other rows."""
    rows = lab.samples(count)
    write = lab.encoder()
    targets = [one.target for one in rows]
    chosen = [replace(one, target=targets[(i + k) % count]) for i, one in enumerate(rows) for k in range(4)]
    view = collate(write.encode(chosen), pad_id=write.pad_id)
    return view, torch.arange(count).repeat_interleave(4)


# --- the list --------------------------------------------------------------------------------------------------


def _modes(settings: Settings, at: int) -> tuple[Mode, ...]:
    """All precisions; in a rehearsal float32 and one more, in turn."""
    return (MODES[0], MODES[1 + at % 3]) if settings.tiny else MODES


def checks(settings: Settings) -> list[Check]:
    """All checks, those first without which the others mean nothing."""
    bench = Bench(settings)
    found: list[Check] = []

    def add(name: str, seconds: float, run: Callable[..., Finding], *args: Any, **more: Any) -> None:
        found.append(Check(name, seconds, partial(run, bench, *args, **more)))

    for at, name in enumerate(BROKEN):
        for mode in _modes(settings, at):
            add(f"broken variant: {name}, {mode}", 1.5, broken_check, name, mode)
    for at, case in enumerate(CASES):
        for mode in _modes(settings, at):
            add(f"{case.name}, {mode}", 1.5, step_check, case, mode)
    for name in CHECKPOINTED_CASES:
        for mode in ("float32", "bf16-mixed"):
            add(f"checkpointing: {name}, {mode}", 1.5, step_check, BY_NAME[name], mode, gradient_checkpointing=True)
    for name in KERNEL_CASES:
        for attention, mode in KERNELS:
            add(f"{attention}: {name}, {mode}", 1.5, attention_check, BY_NAME[name], mode, attention)
        add(f"4-bit: {name}, bf16-mixed", 6, four_bit_check, BY_NAME[name])
    name = KERNEL_CASES[-1]
    for attention, mode in KERNELS:
        check = partial(attention_check, padding_free=True)
        add(f"{attention}, padding-free: {name}, {mode}", 1.5, check, BY_NAME[name], mode, attention)
    add("random draws", 2, draws_check)
    for mode in MODES:
        add(f"dropout replayed, {mode}", 3, dropout_check, mode)
    add(
        "dropout in passes run again: checkpointing",
        4,
        slope_check,
        "InstructionTuning",
        {},
        gradient_checkpointing=True,
    )
    add("dropout in passes run again: chunk_rows", 4, slope_check, "InstructionTuning", {"chunk_rows": 2})
    scaled: tuple[Mode, ...] = ("fp16-mixed",)
    for mode in scaled if settings.tiny else (*MODES[:2], *scaled):
        add(f"resume, {mode}", 8, resume_check, mode)
    for dtype in ("float32", "bfloat16", "float16"):
        add(f"generation, {dtype}", 5, generation_check, dtype)
        add(f"option scores, {dtype}", 5, options_check, dtype)
    name = "InstructionTuning" if settings.tiny else "ANIT NRM"
    add(f"compiled: {name}, float32", 45, compiled_check, BY_NAME[name], "float32")
    return found

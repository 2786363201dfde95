"""Contrast and alignment on real models, against loops over the library's own full outputs."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from torch import Tensor

from robustlm.assets import config_file
from robustlm.batch import InstructionBatch, View
from robustlm.losses import Direction
from robustlm.models.base import AnswerOutput, Pooling
from robustlm.models.tuning import LoRA
from robustlm.modules import Alignment, AlignmentTuning, Contrast, ContrastiveTuning, Passes, RobustTuning
from robustlm.sample import Sample
from tests.modules.oracles import answer_logits, contrast, pooled
from tests.test_losses import naive_divergence
from tests.tiny import SAMPLES, load, view_of

POOLINGS: list[Pooling] = ["last", "prompt_end", "mean", "max"]


def asked(samples: list[Sample], times: int) -> list[Sample]:
    """Each sample under some other instructions, its answer as it is."""
    texts = ["say which", "what are the words in it, all of them?", "so?", "list them please, in order"]
    return [replace(sample, instruction=texts[(i + k) % 4]) for i, sample in enumerate(samples) for k in range(times)]


def batch_for(backbone: Any, variants: int = 1, negatives: bool = False, **more: Any) -> InstructionBatch:
    samples = [*SAMPLES, replace(SAMPLES[1], id="d", target="yes no no")]
    batch = InstructionBatch(
        raw=view_of(backbone, samples),
        ids=[sample.id for sample in samples],
        variant=view_of(backbone, asked(samples, variants)),
        **more,
    )
    if negatives:
        batch.negative = view_of(backbone, [replace(samples[0], target="words"), replace(samples[3], target="é")])
    return batch


def states(backbone: Any, view: View | None, pooling: Pooling) -> list[list[float]]:
    return [] if view is None else [pooled(backbone, view, row, pooling) for row in range(len(view))]


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "three": {"variants": 3},
    "symmetric": {"symmetric": True},
    "symmetric_three": {"variants": 3, "symmetric": True},
    "negatives": {"variants": 3, "negatives": True, "symmetric": True},
    "alike": {"variants": 2, "negatives": True, "symmetric": True, "keys": [5, 6, 5, 7], "negative_keys": [6, 9]},
    "alike_kept": {"negatives": True, "keys": [5, 6, 5, 7], "negative_keys": [6, 9], "kept": True},
}


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_contrast_against_a_loop(kind: str, models: dict[str, str]) -> None:
    backbone = load(models[kind], LoRA(r=2))
    for pooling, (name, case) in product(POOLINGS, CASES.items()):
        if pooling != "last" and name not in ("plain", "negatives"):
            continue
        settings = dict(case)
        variants, negatives = settings.pop("variants", 1), settings.pop("negatives", False)
        symmetric, kept = settings.pop("symmetric", False), settings.pop("kept", False)
        keys = {name: torch.tensor(value) for name, value in settings.items()}
        batch = batch_for(backbone, variants, negatives, **keys)
        own = Contrast(0.2, pooling, symmetric, weight=1.0, mask_false_negatives=not kept)
        with torch.no_grad():
            loss, logs = own.losses(Passes(backbone, batch, pooling=pooling), torch.tensor(3.0))
            views = [states(backbone, view, pooling) for view in (batch.raw, batch.variant, batch.negative)]
        wanted, candidates = contrast(*views, 0.2, symmetric=symmetric, **({} if kept else settings))
        assert float(loss) == pytest.approx(wanted, rel=2e-4, abs=1e-6), (pooling, name)
        assert float(logs["infonce"]) == pytest.approx(wanted, rel=2e-4, abs=1e-6)
        assert float(logs["candidates"]) == pytest.approx(candidates)
        if wanted > 0.01:
            assert 0 <= float(logs["accuracy"]) <= 1


def test_padding_does_not_matter(llama: str) -> None:
    backbone = load(llama, LoRA(r=2))
    batch = batch_for(backbone, 2)

    def wider(view: View | None) -> View:
        assert view is not None
        more = {"input_ids": backbone.tokenizer.pad_token_id, "labels": -100}
        padded = {
            name: torch.nn.functional.pad(getattr(view, name), (7, 0), value=more.get(name, 0))
            for name in View.__dataclass_fields__
            if isinstance(getattr(view, name), Tensor)
        }
        return View(**padded)

    for pooling in POOLINGS:
        losses = []
        for one in (batch, replace(batch, raw=wider(batch.raw), variant=wider(batch.variant))):
            passes = Passes(backbone, one, pooling=pooling)
            losses.append(torch.stack([Contrast().losses(passes, torch.tensor(2.0))[0], Alignment().loss(passes)]))
        assert torch.allclose(*losses, rtol=1e-4, atol=1e-6), pooling


def test_the_weight(llama: str) -> None:
    backbone = load(llama, LoRA(r=2))
    passes = Passes(backbone, batch_for(backbone))
    answers = torch.tensor(3.0, requires_grad=True)

    def weighted(**settings: Any) -> tuple[Tensor, Tensor, Tensor]:
        loss, logs = Contrast(**settings).losses(passes, answers)
        return loss.detach(), logs["weight"], logs["infonce"]

    loss, weight, own = weighted(temperature=1.0)
    assert float(loss) == pytest.approx(3.0)  # as large as the answers' loss
    assert float(weight) == pytest.approx(3 / float(own))
    loss, weight, own = weighted(temperature=1.0, weight_limit=1.5)
    assert float(weight) == 1.5
    assert float(loss) == pytest.approx(1.5 * float(own))
    loss, weight, own = weighted(weight=0.3)
    assert float(weight) == pytest.approx(0.3)
    assert float(loss) == pytest.approx(0.3 * float(own))
    assert float(weighted(weight=0.0)[0]) == 0
    loss, _ = Contrast(temperature=1.0).losses(passes, answers)
    assert torch.autograd.grad(loss, answers, allow_unused=True) == (None,)  # the weight is no way around


def released(raw: AnswerOutput, variant: AnswerOutput) -> Tensor:
    """What the code released with [CoIN] trains on, from its formulas: states and logits of both views."""
    generation = F.cross_entropy(raw.logits, raw.targets) + F.cross_entropy(variant.logits, variant.targets)
    similarity = F.cosine_similarity(raw.state[:, None], variant.state[None], dim=2) / 0.05
    own = torch.arange(len(similarity))
    contrastive = 1000 * (F.cross_entropy(similarity, own) + F.cross_entropy(similarity.T, own)) / 2
    if contrastive > generation:
        contrastive = contrastive * min(1000.0, float((generation / contrastive).detach()))
    return generation + contrastive


@pytest.mark.parametrize("solved", [False, True])
def test_the_released_preset_takes_the_released_direction(solved: bool, llama: str) -> None:
    """At the bound of the weight and below it: the preset's loss and gradient are half of the released code's."""
    file = config_file("presets/coin_released")
    assert file is not None
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    contrast = Contrast(**config["model"]["init_args"]["contrast"])
    torch.manual_seed(0)
    module = ContrastiveTuning(llama, tuning=LoRA(r=2, dropout=0.0), contrast=contrast)
    module.configure_model()
    backbone = module.backbone
    samples = [SAMPLES[0], replace(SAMPLES[1], instruction=SAMPLES[0].instruction)]
    variants = [replace(sample, instruction="say which") for sample in samples]
    batch = InstructionBatch(view_of(backbone, samples), ["a", "b"], view_of(backbone, variants))
    optimizer = torch.optim.Adam(backbone.trained, lr=0.03)
    for _ in range(60 if solved else 0):  # until the contrast is nothing beside the answers' loss
        torch.autograd.backward(replace(contrast, weight=1.0).losses(Passes(backbone, batch), torch.tensor(1.0))[0])
        optimizer.step()
        optimizer.zero_grad()
    passes = Passes(backbone, batch)
    _, logs = contrast.losses(passes, passes.cross_entropy("raw", "variant"))
    assert (float(logs["weight"]) == 500) is solved
    grads = []
    for total in (released(passes.answers("raw"), passes.answers("variant")), module.training_step(batch, 0) * 2):
        grads.append([total.detach(), *torch.autograd.grad(total, backbone.trained, retain_graph=True)])
    for ours, theirs in zip(*grads, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4)
    assert config["trainer"]["gradient_clip_val"] == 0.5  # as half of a gradient is clipped at half its norm


def test_a_batch_of_one_has_nothing_to_compare(llama: str) -> None:
    backbone = load(llama, LoRA(r=2))
    batch = InstructionBatch(view_of(backbone, SAMPLES[:1]), ["a"], view_of(backbone, asked(SAMPLES[:1], 2)))
    loss, logs = Contrast(symmetric=True).losses(Passes(backbone, batch), torch.tensor(2.0))
    assert float(loss.detach()) == 0
    assert float(logs["candidates"]) == 1
    loss.backward()
    assert all(not p.grad.any() for p in backbone.trained if p.grad is not None)


@pytest.mark.parametrize("kind", ["llama", "t5"])
@pytest.mark.parametrize("variants", [1, 3])
def test_alignment_against_a_loop(kind: str, variants: int, models: dict[str, str]) -> None:
    backbone = load(models[kind], LoRA(r=2))
    batch = batch_for(backbone, variants)
    cases: list[tuple[Direction, float, float | None]] = [("forward", 1, None), ("reverse", 2, 37), ("js", 0.5, 37)]
    with torch.no_grad():
        raw, variant = answer_logits(backbone, batch.raw), answer_logits(backbone, batch.variant)  # type: ignore[arg-type]
        assert len({len(rows) for rows in raw}) > 1  # answers of several lengths
        lined_up = Passes(backbone, batch).reference_logits("variant")
    wanted_lines = [line for row in raw for _ in range(variants) for line in row]
    assert torch.allclose(lined_up, torch.tensor(wanted_lines).float(), atol=2e-4)
    for direction, temperature, tokens in cases:
        batch.step_tokens = tokens
        with torch.no_grad():
            found = Alignment(direction=direction, temperature=temperature).loss(Passes(backbone, batch))
        total = sum(
            naive_divergence(line, raw[row // variants][at], direction, temperature)
            for row, lines in enumerate(variant)
            for at, line in enumerate(lines)
        )
        count = sum(map(len, variant)) if tokens is None else tokens * variants
        assert float(found) == pytest.approx(total / count, rel=1e-3)


def test_answers_that_do_not_line_up_are_refused(llama: str) -> None:
    backbone = load(llama, LoRA(r=2))
    other = view_of(backbone, asked([replace(sample, target="yes") for sample in SAMPLES], 1))
    batch = InstructionBatch(view_of(backbone, SAMPLES), ["a", "b", "c"], other)
    with pytest.raises(ValueError, match="answers of another length"):
        Alignment().loss(Passes(backbone, batch))


def test_the_reference_learns_unless_detached(llama: str) -> None:
    backbone = load(llama, LoRA(r=2))
    batch = batch_for(backbone, 2)
    for detached in (False, True):
        passes = Passes(backbone, batch)
        passes.answers("raw").logits.retain_grad()
        Alignment(detach_reference=detached).loss(passes).backward()
        assert (passes.answers("raw").logits.grad is None) is detached


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_gradients_are_those_of_finite_differences(kind: str, models: dict[str, str]) -> None:
    backbone = load(models[kind], LoRA(r=2)).double()  # though the norms compute in fp32 even so
    batch = batch_for(backbone, 2, negatives=True, keys=torch.tensor([1, 2, 1, 3]))
    parts: dict[str, Any] = {
        "contrast": lambda passes: Contrast(0.3, "mean", True, weight=1.0).losses(passes, torch.tensor(1.0))[0],
        "max": lambda passes: Contrast(0.3, "max", weight=1.0).losses(passes, torch.tensor(1.0))[0],
        "alignment": lambda passes: Alignment(direction="js", temperature=1.5).loss(passes),
    }
    for name, part in parts.items():
        pooling: Pooling = "max" if name == "max" else "mean"
        loss = part(Passes(backbone, batch, pooling=pooling))
        assert loss.dtype == torch.float64, name
        grads = torch.autograd.grad(loss, backbone.trained, allow_unused=True)
        for which in (0, len(grads) // 2, len(grads) - 1):
            grad, weight = grads[which], backbone.trained[which]
            if grad is None:
                continue
            at = int(grad.abs().argmax())
            ends = []
            for step in (1e-4, -1e-4):
                with torch.no_grad():
                    weight.view(-1)[at] += step
                    ends.append(float(part(Passes(backbone, batch, pooling=pooling))))
                    weight.view(-1)[at] -= step
            assert (ends[0] - ends[1]) / 2e-4 == pytest.approx(float(grad.view(-1)[at]), rel=3e-3, abs=2e-3), name


def test_keys_are_needed_for_masking_alone(llama: str) -> None:
    """Without keys no one is taken for someone's false negative, on whatever rank."""
    backbone = load(llama, LoRA(r=2))
    batch = batch_for(backbone, 1)

    def two_ranks(values: Tensor) -> Tensor:
        return torch.stack([values, values])

    passes = Passes(backbone, batch, all_gather=two_ranks)
    _, logs = Contrast().losses(passes, torch.tensor(1.0))
    assert float(logs["candidates"]) == 8
    _, logs = Contrast(gather=False).losses(passes, torch.tensor(1.0))
    assert float(logs["candidates"]) == 4


def test_settings_that_cannot_be(llama: str) -> None:
    for cls, settings, word in (
        (Contrast, {"temperature": 0.0}, r"contrast\.temperature"),
        (Contrast, {"temperature": float("nan")}, r"contrast\.temperature"),
        (Contrast, {"weight": -1.0}, r"contrast\.weight"),
        (Contrast, {"weight": float("inf")}, r"contrast\.weight"),
        (Contrast, {"weight_limit": 0.0}, r"contrast\.weight_limit"),
        (Contrast, {"pooling": "lst"}, r"contrast\.pooling.*'lst'.*prompt_end"),
        (Alignment, {"weight": 1.5}, r"alignment\.weight"),
        (Alignment, {"weight": float("nan")}, r"alignment\.weight"),
        (Alignment, {"temperature": 0.0}, r"alignment\.temperature"),
        (Alignment, {"temperature": float("inf")}, r"alignment\.temperature"),
        (Alignment, {"direction": "backward"}, r"alignment\.direction"),
    ):
        with pytest.raises(ValueError, match=word):
            cls(**settings)
    for module in (ContrastiveTuning, AlignmentTuning, RobustTuning):
        with pytest.raises(ValueError, match="chunk_rows"):
            module(llama, chunk_rows=0)
        with pytest.raises(ValueError, match=r"train_on.*'varant'.*both"):
            module(llama, train_on="varant")  # type: ignore[arg-type]

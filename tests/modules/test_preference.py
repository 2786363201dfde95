"""The contrast of answers: values by a naive loop, gradients by finite differences, and the pairs without gradient."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from robustlm.batch import InstructionBatch
from robustlm.models.backbone import Backbone
from robustlm.models.tuning import FullTuning, LoRA
from robustlm.modules import Preference
from robustlm.modules.preference import Form
from tests.modules.oracles import answer_logits
from tests.modules.test_chunked_logits import module_of
from tests.tiny import SAMPLES, load, view_of

STEP = 3e-5
"""Step of finite differences; the model's norms are in single precision, so a smaller one measures rounding."""
FORMS: tuple[Form, ...] = ("mended", "released")
FOUR = [*SAMPLES, replace(SAMPLES[0], id="d", instruction="list the words")]
"""The first and the last row have the same answer."""


def batch_of(backbone: Backbone) -> InstructionBatch:
    """Four rows, and two variants of each."""
    other = [replace(one, instruction=f"{text} {one.instruction}") for one in FOUR for text in ("now", "all and every")]
    return InstructionBatch(raw=view_of(backbone, FOUR), ids=[one.id for one in FOUR], variant=view_of(backbone, other))


def probabilities(logits: list[float]) -> list[float]:
    top = max(logits)
    powers = [math.exp(one - top) for one in logits]
    return [one / math.fsum(powers) for one in powers]


def kl(clean: list[list[float]], noisy: list[list[float]], released: bool) -> float:
    """Mean over tokens of KL(clean‖noisy), by the definition."""
    words, tokens = len(clean[0]), []
    length = max(len(clean), len(noisy)) if released else min(len(clean), len(noisy))
    for at in range(length):
        p, q = (probabilities(one[at]) if at < len(one) else [1 / words] * words for one in (clean, noisy))
        floor = 1e-10 if released else 0.0
        tokens.append(math.fsum(a * math.log(a / (b + floor)) for a, b in zip(p, q, strict=True) if a))
    return math.fsum(tokens) / length


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("kind", "tuning"), [("llama", LoRA(r=2, dropout=0.0)), ("llama", FullTuning()), ("t5", None)])
def test_values_are_those_of_a_naive_loop(form: Form, kind: str, tuning: object, models: dict[str, str]) -> None:
    backbone = load(models[kind], tuning or LoRA(r=2, dropout=0.0)).double()  # type: ignore[arg-type]
    batch, released = batch_of(backbone), form == "released"
    assert batch.variant is not None
    with torch.no_grad():
        clean, noisy = answer_logits(backbone, batch.raw), answer_logits(backbone, batch.variant)
        wanted = []
        for a, b in ((0, 1), (2, 3)):  # rows 0 and 3 have the same answer; their neighbours do not
            for k in range(2):
                at, bt = noisy[2 * a + k], noisy[2 * b + k]
                s = kl(clean[a], at, released) - kl(clean[b], at, released)
                wanted.append(s + kl(clean[b], bt, released) - kl(clean[a], bt, released))
        for chunk in (None, 500):
            passes = module_of(backbone, chunk_logits=chunk).passes(batch)
            found = Preference(form).margins(passes)
            assert found.tolist() == pytest.approx(wanted, rel=1e-9, abs=1e-12)
        loss, curves = Preference(form, weight=2.0).losses(passes, torch.tensor(1.0))
        each = [math.exp(s - max(0.0, s)) if released else math.log1p(math.exp(s)) for s in wanted]
        assert float(loss) == pytest.approx(2 * math.fsum(each) / 4, rel=1e-9)
        assert float(curves["margin"]) == pytest.approx(-math.fsum(wanted) / 4, rel=1e-9)
        assert float(curves["worst"]) == sum(s > 0 for s in wanted) / 4
        assert float(curves["pairs"]) == 4


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("chunk", [None, 500])
def test_gradients_are_finite_differences(form: Form, chunk: int | None, llama: str) -> None:
    backbone = load(llama, LoRA(r=2, dropout=0.0)).double()
    batch, term = batch_of(backbone), Preference(form, weight=1.0)
    module = module_of(backbone, chunk_logits=chunk)

    def loss() -> Tensor:
        return term.losses(module.passes(batch), torch.tensor(1.0))[0]

    trained = backbone.trained
    found = torch.autograd.grad(loss(), trained)
    torch.manual_seed(0)
    ways = [torch.randn_like(p) for p in trained]
    slope = sum(float((one * way).sum()) for one, way in zip(found, ways, strict=True))
    ends = []
    for sign in (1, -1):
        for p, way in zip(trained, ways, strict=True):
            p.data.add_(sign * STEP * way)
        with torch.no_grad():
            ends.append(float(loss()))
        for p, way in zip(trained, ways, strict=True):
            p.data.sub_(sign * STEP * way)
    assert slope == pytest.approx((ends[0] - ends[1]) / (2 * STEP), rel=2e-3)
    assert slope != 0


def test_the_released_form_has_no_gradient_for_the_worst_pairs(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load(llama, LoRA(r=2))
    passes = module_of(backbone).passes(batch_of(backbone))
    margins = torch.tensor([-30.0, -1.0, 0.5, 40.0], requires_grad=True)
    monkeypatch.setattr(Preference, "margins", lambda *_: margins)
    for form, wanted in (("released", [0, math.exp(-1), 0, 0]), ("mended", torch.sigmoid(margins).tolist())):
        loss, curves = Preference(form, weight=4.0).losses(passes, torch.tensor(1.0))  # type: ignore[arg-type]
        (found,) = torch.autograd.grad(loss, margins)
        assert found.tolist() == pytest.approx(wanted, rel=1e-5, abs=1e-9), form
        assert float(curves["worst"]) == 0.5
    assert float(F.softplus(torch.tensor(-10.0))) == pytest.approx(math.exp(-10), rel=1e-4)  # both agree far below 0


def test_the_balanced_weight(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load(llama, LoRA(r=2))
    passes = module_of(backbone).passes(batch_of(backbone))
    for answers, s, wanted in ((0.5, -1.0, 0.5), (0.5, -20.0, 1000 * math.exp(-20))):
        monkeypatch.setattr(Preference, "margins", lambda *_, s=s: torch.full((4,), s))
        loss, _ = Preference("released").losses(passes, torch.tensor(answers))
        assert float(loss) == pytest.approx(wanted, rel=1e-4)


def test_rows_without_a_partner(llama: str) -> None:
    """Rows with the same answer make no pair, and a batch without pairs has the loss 0, with a gradient of 0."""
    backbone = load(llama, LoRA(r=2))
    same = [replace(SAMPLES[0], id=name) for name in "abc"]
    batch = InstructionBatch(raw=view_of(backbone, same), ids=list("abc"), variant=view_of(backbone, same))
    module = module_of(backbone, preference=Preference())
    loss, curves = Preference().losses(module.passes(batch), torch.tensor(1.0))
    assert (float(loss), float(curves["pairs"]), float(curves["worst"])) == (0.0, 0.0, 0.0)
    module.training_step(batch, 0).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in backbone.trained)
    _, curves = Preference("released").losses(module.passes(batch), torch.tensor(1.0))
    assert float(curves["pairs"]) == 1  # rows 0 and 1, whatever their answers are


def test_the_mean_is_over_the_pairs_of_all_ranks(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load(llama, LoRA(r=2))
    passes = module_of(backbone).passes(batch_of(backbone))
    alone, _ = Preference(weight=1.0).losses(passes, torch.tensor(1.0))

    def beside(values: Tensor) -> tuple[Tensor, int]:  # another rank has twice as many pairs
        return torch.cat([values, 2 * values]), 0

    monkeypatch.setattr(passes, "gathered", beside)
    ours, _ = Preference(weight=1.0).losses(passes, torch.tensor(1.0))
    assert float(ours) == pytest.approx(float(alone) * 2 / 3, rel=1e-6)


def test_settings_are_checked() -> None:
    for settings, words in (
        ({"form": "fixed"}, "preference.form: found 'fixed'"),
        ({"weight": -1.0}, "preference.weight: found -1"),
        ({"weight_limit": 0.0}, "preference.weight_limit: found 0"),
    ):
        with pytest.raises(ValueError, match=words):
            Preference(**settings)  # type: ignore[arg-type]

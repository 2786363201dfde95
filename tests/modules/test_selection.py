"""One variant of each row is trained: the hardest, one drawn by its loss, or a random one."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from robustlm.adversaries import NRM, FreeAT
from robustlm.batch import IGNORE, InstructionBatch, View
from robustlm.datamodules import InstructionDataModule, NoisyInstructionDataModule
from robustlm.datamodules.touched import touched_tokens
from robustlm.models.backbone import Backbone
from robustlm.models.tuning import FullTuning, LoRA, PrefixTuning
from robustlm.modules import SAM, Alignment, Contrast, Preference, RDrop, RobustTuning, Selection
from robustlm.modules import selection as selecting
from robustlm.sample import Sample
from tests.modules.oracles import answer_logits
from tests.modules.test_chunked_logits import module_of
from tests.modules.test_robust import Counted
from tests.tiny import SAMPLES, load, view_of

MANY = 3
VARIED = [
    replace(one, instruction=text)
    for one in SAMPLES
    for text in (one.instruction, f"{one.instruction} now, and every word of it", "words in the text, good or bad")
]
EDITED = [
    replace(one, instruction=text)
    for one, texts in zip(
        SAMPLES,
        (
            ("all the words", "find words", "find the text"),
            ("find", "good", "find bad"),
            ("Name the places of the text.", "Name sentiment of the text.", "Name the sentiment of text."),
        ),
        strict=True,
    )
    for text in texts
]
"""A word of each is changed."""
TUNINGS = {"lora": LoRA(r=2, dropout=0.0), "full": FullTuning(), "prefix": PrefixTuning(tokens=2)}


def batch_of(backbone: Backbone, variants: list[Sample] = VARIED) -> InstructionBatch:
    """Three rows, and three variants of each."""
    return InstructionBatch(
        raw=view_of(backbone, SAMPLES),
        ids=[one.id for one in SAMPLES],
        variant=view_of(backbone, variants),
        beta=torch.linspace(0, 1, len(VARIED)),
        seeds=torch.arange(len(VARIED)) * 7,
        touched=touched_tokens(view_of(backbone, SAMPLES), view_of(backbone, variants)),
    )


def naive_losses(backbone: Backbone, view: View) -> list[float]:
    """Answer loss of each row alone, by the definition."""
    found, at = [], 0
    with torch.no_grad():
        for rows in answer_logits(backbone, view):
            total = 0.0
            for logits in rows:
                total += math.log(math.fsum(math.exp(one) for one in logits)) - logits[view.layout.tokens[at]]
                at += 1
            found.append(total)
    return found


def gradients(module: RobustTuning, batch: InstructionBatch) -> tuple[float, dict[str, Tensor]]:
    module.zero_grad()
    loss = module.training_step(batch, 0)
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.item(), {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    ("kind", "tuning"), [("llama", "lora"), ("llama", "full"), ("llama", "prefix"), ("t5", "lora")]
)
def test_the_hardest_variant_is_trained(kind: str, tuning: str, models: dict[str, str]) -> None:
    backbone = load(models[kind], TUNINGS[tuning]).double()
    batch = batch_of(backbone)
    module = module_of(backbone, selection=Selection(bf16=False))
    found = gradients(module, batch)
    if tuning != "prefix":  # the oracle runs the model without its prefix
        assert batch.variant is not None
        losses = naive_losses(backbone, batch.variant)
        hardest = [max(range(MANY), key=losses[MANY * row : MANY * (row + 1)].__getitem__) for row in range(3)]
        assert len(set(hardest)) > 1
    else:
        rows = module_of(backbone).passes(batch).row_losses("variant").reshape(3, MANY)
        hardest = rows.argmax(1).tolist()
    alone = view_of(backbone, [VARIED[MANY * row + at] for row, at in enumerate(hardest)])
    plain = module_of(backbone, train_on="variant")
    wanted = gradients(plain, replace(batch, variant=alone, seeds=None, beta=None))
    assert found[0] == pytest.approx(wanted[0], rel=1e-12)
    assert found[1].keys() == wanted[1].keys()
    assert all(torch.allclose(value, wanted[1][name], rtol=1e-9, atol=1e-12) for name, value in found[1].items())


@pytest.mark.parametrize(("kind", "tuning"), [("llama", "lora"), ("llama", "full"), ("t5", "lora")])
@pytest.mark.parametrize("shared", [False, True])
def test_the_gradient_ranks_the_tokens_that_are_changed(
    kind: str, tuning: str, shared: bool, models: dict[str, str]
) -> None:
    backbone = load(models[kind], TUNINGS[tuning]).double()
    batch = batch_of(backbone, EDITED)
    assert batch.touched is not None
    wanted = []
    for row in range(3):  # the library's own loss of one row without padding
        kept = batch.raw.attention_mask[row] == 1
        ids, labels = batch.raw.input_ids[row][kept][None], batch.raw.labels[row][None]
        embeds = backbone.base.get_input_embeddings()(ids).detach().requires_grad_()
        if kind == "t5":
            out = backbone.model(inputs_embeds=embeds, labels=labels)
        else:
            labels = labels[:, kept]
            out = backbone.model(inputs_embeds=embeds, labels=labels)
        (slope,) = torch.autograd.grad(out.loss * (labels != IGNORE).sum(), [embeds])  # the loss is a mean
        norms = slope[0].norm(dim=-1)
        wanted += [float(norms[touched[kept]].sum()) for touched in batch.touched[MANY * row : MANY * (row + 1)]]
    module = module_of(backbone, selection=Selection("gradient"), train_on="both" if shared else "variant")
    passes = module_of(backbone).passes(batch)
    _, curves = Selection("gradient").apply(passes)
    scores = torch.tensor(wanted).reshape(3, MANY)
    best = scores.argmax(1).tolist()
    assert len(set(best)) > 1
    assert float(curves["gained"]) == pytest.approx(float((scores.amax(1) - scores.mean(1)).mean()), rel=1e-5)
    found = gradients(module, batch)
    alone = view_of(backbone, [EDITED[MANY * row + at] for row, at in enumerate(best)])
    plain = module_of(backbone, train_on="both" if shared else "variant")
    other = gradients(plain, replace(batch, variant=alone, seeds=None, beta=None, touched=None))
    assert found[0] == pytest.approx(other[0], rel=1e-12)
    assert all(torch.allclose(value, other[1][name], rtol=1e-9, atol=1e-12) for name, value in found[1].items())


def chosen(how: Selection, losses: Tensor, backbone: Backbone, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What is chosen for many seeds, from given losses of the variants."""
    batch = batch_of(backbone)
    monkeypatch.setattr(Selection, "_losses", lambda *_: losses.flatten())
    passes = module_of(backbone).passes(batch)
    own, counts = backbone.tokenizer, []
    assert own is not None
    for seed in range(300):
        seeds = torch.arange(len(VARIED)) + 1000 * seed
        passes.batch = replace(batch, seeds=seeds)
        picked, _ = how.apply(passes)
        assert picked.beta is not None
        assert batch.beta is not None
        counts += [batch.beta.tolist().index(one) % MANY for one in picked.beta.tolist()]
    return counts


def test_soft_draws_by_the_softmax_of_losses(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load(llama, LoRA(r=2))
    losses = torch.tensor([[0.2, 1.0, 0.6]] * 3)
    for how, wanted in (
        (Selection("soft"), losses[0].softmax(0)),
        (Selection("soft", temperature=0.25), (losses[0] / 0.25).softmax(0)),
        (Selection("random"), torch.full((3,), 1 / 3)),
        (Selection("hardest"), torch.tensor([0.0, 1.0, 0.0])),
    ):
        picked = chosen(how, losses, backbone, monkeypatch)
        shares = Counter(picked)
        for at, share in enumerate(wanted.tolist()):
            spread = 4 * math.sqrt(share * (1 - share) / len(picked))
            assert abs(shares[at] / len(picked) - share) <= spread, (how, shares)
        assert chosen(how, losses, backbone, monkeypatch) == picked  # a function of seeds and losses


def test_what_the_step_runs(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One pass over all variants, and then one variant of each row for all other losses."""
    backbone = load(llama, LoRA(r=2))
    batch = batch_of(backbone)
    slots = {"contrast": Contrast(), "alignment": Alignment(), "preference": Preference()}
    for settings, rows in (
        ({"selection": Selection()}, [9, 3]),
        ({"selection": Selection("random")}, [3]),
        ({"selection": Selection("soft"), **slots}, [9, 3, 3]),
        ({"selection": Selection("gradient")}, [3, 3]),
        ({"selection": Selection("gradient"), **slots}, [3, 3]),
        ({"selection": Selection("gradient"), "rdrop": RDrop()}, [3, 3, 3]),
        ({"selection": Selection("gradient"), "adversary": NRM(ascent="clean"), **slots}, [3, 3, 3]),
        ({"selection": Selection("gradient"), "sam": SAM(), "train_on": "both"}, [3, 3, 3, 3]),
        ({"rdrop": RDrop()}, [3, 3]),
        ({"preference": Preference()}, [3, 9]),
    ):
        module = module_of(backbone, **settings)
        with monkeypatch.context() as patch:
            counted = Counted(patch)
            module.training_step(batch, 0).backward()
        assert sorted(counted.rows) == sorted(rows), settings


def test_values_to_log(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load(llama, LoRA(r=2))
    monkeypatch.setattr(Selection, "_losses", lambda *_: torch.tensor([0.0, 3.0, 0.0, 1.0, 1.0, 1.0, 6.0, 0.0, 0.0]))
    _, curves = Selection().apply(module_of(backbone).passes(batch_of(backbone)))
    assert {name: float(value) for name, value in curves.items()} == {"gained": 2.0, "spread": 3.0}


def test_the_pass_without_gradient_may_be_bfloat16(llama: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = load(llama, LoRA(r=2))
    batch = batch_of(backbone)
    seen: list[tuple[bool, bool]] = []
    forward = Backbone.forward

    def watched(*args: Any, **kwargs: Any) -> Any:
        seen.append((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        return forward(*args, **kwargs)

    monkeypatch.setattr(Backbone, "forward", watched)
    found = {}
    for able, asked in ((True, True), (True, False), (False, True)):
        monkeypatch.setattr(selecting, "_computes_bf16", lambda _, able=able: able)
        seen.clear()
        found[able, asked] = gradients(module_of(backbone, selection=Selection(bf16=asked)), batch)
        assert seen == [(False, able and asked), (True, False)]
    assert len({loss for loss, _ in found.values()}) == 1  # the pass that trains is the same


def test_settings_and_data_are_checked(llama: str, train_file: str) -> None:
    for settings, words in (
        ({"choice": "worst"}, "selection.choice: found 'worst'"),
        ({"temperature": 0.0}, "selection.temperature: found 0"),
    ):
        with pytest.raises(ValueError, match=words):
            Selection(**settings)  # type: ignore[arg-type]
    module = RobustTuning(llama, selection=Selection())
    with pytest.raises(ValueError, match="makes no noisy or paraphrased variants"):
        module.check_data(InstructionDataModule(train=train_file))
    with pytest.raises(ValueError, match=r"data\.variants: found 1; expected 2 or more"):
        module.check_data(NoisyInstructionDataModule(train=train_file))
    module.check_data(NoisyInstructionDataModule(train=train_file, variants=2))
    batch = batch_of(load(llama, LoRA(r=2)))
    with pytest.raises(ValueError, match=r"selection\.choice: found gradient, but batches do not say"):
        Selection("gradient").apply(module_of(load(llama, LoRA(r=2))).passes(replace(batch, touched=None)))
    with pytest.raises(ValueError, match="selection: found together with adversary FreeAT"):
        RobustTuning(llama, selection=Selection(), adversary=FreeAT())


def test_rows_of_a_group_must_have_the_same_answers(llama: str) -> None:
    view = view_of(load(llama, None), SAMPLES[:2])
    with pytest.raises(ValueError, match="rows of a group of 2 have other answer tokens"):
        view.one_of(2, torch.tensor([0]))


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_the_layout_of_chosen_rows(kind: str, models: dict[str, str]) -> None:
    view = view_of(load(models[kind], None), VARIED)
    if kind == "llama":  # earlier replies that are trained stand at other columns in each variant
        for row, column in enumerate((3, 4, 5, 2, 6, 3, 4, 5, 7)):
            at = int((view.attention_mask[row] == 0).sum()) + column
            view.labels[row, at] = view.input_ids[row, at] = 11
        view.labels = view.labels
    which = torch.tensor([2, 0, 1])
    found, wanted = view.one_of(MANY, which), view.one_of(MANY, which, measured=True)
    rows = torch.tensor([2, 3, 7])
    assert torch.equal(found.input_ids, view.input_ids[rows])
    assert torch.equal(found.labels, view.labels[rows])
    assert torch.equal(found.instruction_mask, view.instruction_mask[rows])
    for name in ("targets", "rows", "columns", "counts", "tokens", "width", "leading"):
        one, other = getattr(found.layout, name), getattr(wanted.layout, name)
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other, name
    assert found.layout.padded
    part, whole = found.part(slice(1, 3)).layout, wanted.part(slice(1, 3)).layout
    assert torch.equal(part.columns, whole.columns)
    assert part.counts == whole.counts

"""What every adversary must hold to; a new one is tested as soon as it is exported."""

from __future__ import annotations

import ast
import copy
import math
import sys
from dataclasses import fields, replace
from pathlib import Path

import jsonargparse
import peft
import pytest
import torch
import transformers

from robustlm import adversaries
from robustlm.adversaries import FGM, FGSM, NRM, PGD, Adversary, FreeAT, FreeLB, NEFTune, Outcome, Problem
from robustlm.adversaries.geometry import perturb, size

from .toy import LENGTHS, REGISTRY, VARIANTS, Toy, fresh, problem

each = pytest.mark.parametrize("adversary", VARIANTS, ids=repr)
climbing = pytest.mark.parametrize("adversary", [a for a in VARIANTS if not isinstance(a, NEFTune)], ids=repr)


def settled(adversary: Adversary, at: Problem) -> Outcome:
    """The outcome of the first attack that perturbs: FreeAT's second."""
    adversary = fresh(adversary)
    if isinstance(adversary, FreeAT):
        adversary.attack(at)
    return adversary.attack(at)


def delta_of(outcome: Outcome) -> torch.Tensor:
    assert outcome.delta is not None
    return outcome.delta


def total(outcome: Outcome) -> torch.Tensor:
    clean = 0 if outcome.clean is None else outcome.clean.sum()
    return (clean + 0.7 * outcome.adversarial.sum()) / 3


@each
@pytest.mark.parametrize("held", [False, True])
def test_the_clean_pass_is_asked_for_by_name(adversary: Adversary, held: bool) -> None:
    """So a caller that has run it already can share it; numbers are those of a pass of the adversary's own."""
    at = problem(Toy(False))
    embeds = at.embeds.detach().requires_grad_(held)
    at = replace(at, embeds=embeds, held=held)
    shared: list[torch.Tensor] = []

    def clean() -> torch.Tensor:
        shared.append(at.loss(at.embeds))
        return shared[-1]

    alone, found = settled(adversary, at), settled(adversary, replace(at, clean=clean))
    assert torch.equal(found.adversarial, alone.adversarial)
    assert (found.clean is None) == (alone.clean is None)
    if found.clean is not None and alone.clean is not None:
        assert torch.equal(found.clean, alone.clean)
    if shared:
        assert found.clean is shared[0]
        assert len(shared) == 1


@each
@pytest.mark.parametrize("train_table", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_weights_get_the_gradient_of_separate_passes(adversary: Adversary, train_table: bool, tied: bool) -> None:
    model = Toy(tied)
    at = problem(model, train_table=train_table)
    visited: list[torch.Tensor] = []

    def watched(embeds: torch.Tensor) -> torch.Tensor:
        visited.append((embeds - at.embeds).detach())
        return at.loss(embeds)

    outcome = settled(adversary, replace(at, loss=watched))
    assert all(p.grad is None for p in model.parameters()), "the attack itself must not touch .grad"
    total(outcome).backward()
    found = {name: p.grad for name, p in model.named_parameters()}

    model.zero_grad()
    again = problem(model, train_table=train_table)
    points = visited if isinstance(adversary, FreeLB) else [delta_of(outcome)]
    rows = torch.stack([again.loss(again.embeds + delta) for delta in points]).mean(0)
    clean = None if outcome.clean is None else again.loss(again.embeds)
    total(Outcome(rows, clean)).backward()
    assert torch.allclose(outcome.adversarial, rows, rtol=0, atol=1e-12)
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            assert found[name] is None, name
        else:
            assert found[name] is not None, name
            assert torch.allclose(found[name], parameter.grad, rtol=0, atol=1e-10), name


@each
def test_only_the_mask_is_perturbed(adversary: Adversary) -> None:
    at = problem(Toy())
    empty = at.mask.clone()
    empty[2] = False
    delta = delta_of(settled(adversary, replace(at, mask=empty)))
    assert (delta[~empty] == 0).all()
    assert (delta[empty] != 0).any()
    assert delta.isfinite().all()


@each
def test_nothing_to_perturb_gives_the_clean_loss_bit_for_bit(adversary: Adversary) -> None:
    at = problem(Toy())
    outcome = settled(adversary, replace(at, mask=torch.zeros_like(at.mask)))
    clean = at.loss(at.embeds)
    assert torch.equal(clean, outcome.adversarial) or torch.allclose(clean, outcome.adversarial, rtol=1e-15)
    assert isinstance(adversary, FreeLB) or torch.equal(clean, outcome.adversarial)
    assert outcome.clean is None or torch.equal(outcome.clean, clean)
    assert all(value.isfinite() for value in outcome.logs.values())


@climbing
def test_radius_zero_gives_the_clean_loss_bit_for_bit(adversary: Adversary) -> None:
    if isinstance(adversary, NRM) and (adversary.target_gap or not adversary.project):
        pytest.skip("has no ball to shrink")
    at = problem(Toy())
    outcome = settled(replace(adversary, epsilon=0.0), at)
    assert torch.equal(delta_of(outcome), torch.zeros_like(at.embeds))
    assert torch.allclose(outcome.adversarial, at.loss(at.embeds), rtol=1e-15, atol=0)
    assert all(value.isfinite() for value in outcome.logs.values())


@each
def test_a_row_is_attacked_alike_alone_padded_or_in_a_batch(adversary: Adversary) -> None:
    if getattr(adversary, "norm", "row") == "batch":
        pytest.skip("normalises over the batch by intent")
    model = Toy()
    together = settled(adversary, problem(model))
    padded = delta_of(settled(adversary, problem(model, pad=3)))
    assert torch.allclose(padded[:, 3:], delta_of(together), rtol=0, atol=1e-12)
    for row, length in enumerate(LENGTHS):
        alone = settled(adversary, replace(problem(model, rows=[row]), beta=torch.tensor([0.1 * row])))
        assert torch.allclose(delta_of(alone)[0], delta_of(together)[row, -length:], rtol=0, atol=1e-12)
        assert torch.allclose(alone.adversarial[0], together.adversarial[row], rtol=1e-12)


@each
def test_same_seeds_same_attack(adversary: Adversary) -> None:
    at = problem(Toy())
    torch.manual_seed(1)
    first = settled(adversary, at)
    torch.manual_seed(2)
    assert torch.equal(delta_of(first), delta_of(settled(adversary, at)))


def bowl() -> Problem:
    """Convex: for each row, |w·mean(X) − target|² / 2, away from its minimum."""
    generator = torch.Generator().manual_seed(3)
    embeds = torch.randn(16, 6, 5, dtype=torch.float64, generator=generator)
    weight = torch.nn.Parameter(torch.randn(5, 3, dtype=torch.float64, generator=generator))
    return Problem(
        embeds=embeds,
        mask=torch.ones(16, 6, dtype=torch.bool),
        loss=lambda e: (e.mean(1) @ weight - 1).square().sum(1) / 2,
        beta=torch.zeros(16),
        seeds=torch.arange(16),
        scale=torch.tensor(2.0),
        parameters=[weight],
    )


@each
def test_loss_rises_on_a_convex_bowl(adversary: Adversary) -> None:
    if isinstance(adversary, NRM) and not adversary.project:
        pytest.skip("its step is too small beside its noise")
    at = bowl()
    outcome = settled(adversary, at)
    if isinstance(adversary, (NRM, NEFTune, FreeLB)):  # random starts: on average
        assert outcome.adversarial.mean() > at.loss(at.embeds).mean()
    else:
        assert (outcome.adversarial >= at.loss(at.embeds)).all()


class NanGradient(torch.autograd.Function):
    """Identity whose gradient is NaN in row 1."""

    @staticmethod
    def forward(ctx: object, embeds: torch.Tensor) -> torch.Tensor:
        return embeds.clone()

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> torch.Tensor:
        gradient = gradient.clone()
        gradient[1] = math.nan
        return gradient


@climbing
def test_a_row_without_a_finite_gradient_takes_no_step(adversary: Adversary) -> None:
    at = problem(Toy())
    outcome = settled(adversary, replace(at, loss=lambda embeds: at.loss(NanGradient.apply(embeds))))
    assert outcome.logs["nonfinite_rows"] == 1
    delta = delta_of(outcome)
    assert delta.isfinite().all()
    assert outcome.adversarial.isfinite().all()
    if getattr(adversary, "norm", "row") != "batch":
        others = [0, 2, 3]
        assert torch.equal(delta[others], delta_of(settled(adversary, at))[others])


@each
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_embeddings(adversary: Adversary, dtype: torch.dtype) -> None:
    at = problem(Toy(), dtype=dtype)
    seen: list[torch.dtype] = []

    def watched(embeds: torch.Tensor) -> torch.Tensor:
        seen.append(embeds.dtype)
        return at.loss(embeds)

    outcome = settled(adversary, replace(at, loss=watched))
    assert set(seen) == {dtype}
    assert delta_of(outcome).dtype == torch.float32
    assert delta_of(outcome).isfinite().all()
    if hasattr(adversary, "norm") and getattr(adversary, "project", True):
        radius = adversary.radius * at.scale / (math.sqrt(6) if adversary.norm == "linf" else 1)
        assert size(delta_of(outcome), adversary.norm).max() <= radius * (1 + 1e-6)
    total(outcome).backward()


@each
def test_attack_in_evaluation(adversary: Adversary) -> None:
    at = problem(Toy())
    with torch.no_grad():
        outcome = fresh(adversary).attack(at)
    assert not outcome.adversarial.requires_grad
    assert outcome.adversarial.isfinite().all()


@each
def test_logs_are_detached_scalars(adversary: Adversary) -> None:
    outcome = settled(adversary, problem(Toy()))
    assert all(value.ndim == 0 and not value.requires_grad for value in outcome.logs.values())
    assert not delta_of(outcome).requires_grad
    assert {"delta_norm"} <= set(outcome.logs)
    assert (outcome.clean is not None) == ("loss_gap" in outcome.logs)


@each
def test_state_round_trip(adversary: Adversary) -> None:
    at = problem(Toy())
    ours, theirs = fresh(adversary), fresh(adversary)
    ours.attack(at)
    theirs.load_state_dict(copy.deepcopy(ours.state_dict()))
    for _ in range(4):
        assert torch.equal(ours.attack(at).adversarial, theirs.attack(at).adversarial)
    with pytest.raises(ValueError, match="but the checkpoint holds"):
        theirs.load_state_dict({"momentum": torch.zeros(1)})


def test_freeat_climbs_over_replays_and_starts_anew() -> None:
    at, other = problem(Toy()), replace(problem(Toy()), seeds=torch.arange(4))
    adversary = FreeAT(epsilon=1.0, alpha=0.1, replays=3)
    norms = [adversary.attack(x).logs["delta_norm"].item() for x in (at, at, at, at, at, other, other, at)]
    assert [round(x, 2) for x in norms] == [0.0, 0.1, 0.2, 0.0, 0.1, 0.0, 0.1, 0.0]
    adversary.attack(at)
    with torch.no_grad():
        adversary.attack(other)
    assert adversary.attack(at).logs["delta_norm"].item() == pytest.approx(0.2, abs=0.01)
    wider = replace(problem(Toy(), pad=1), seeds=at.seeds)
    assert adversary.attack(wider).logs["delta_norm"] == 0


@pytest.mark.parametrize("cls", REGISTRY)
def test_passes_taken(cls: type[Adversary]) -> None:
    """Forward passes of one attack, as the docstrings promise (each has one backward pass)."""
    at = problem(Toy())
    calls: list[torch.Tensor] = []
    fresh(cls()).attack(replace(at, loss=lambda embeds: calls.append(embeds) or at.loss(embeds)))
    expected = {"FGM": 2, "FGSM": 2, "NRM": 3, "PGD": 5, "FreeLB": 3, "FreeAT": 1, "NEFTune": 1}
    assert len(calls) == expected.get(cls.__name__, len(calls))
    assert sum(embeds is at.embeds for embeds in calls) == (cls.__name__ in ("NRM", "PGD"))


def test_a_loss_that_is_not_one_number_a_row_is_refused() -> None:
    at = problem(Toy())
    with pytest.raises(ValueError, match=r"gave shape \(\) for 4 rows; expected one loss for each row"):
        NRM().attack(replace(at, loss=lambda embeds: at.loss(embeds).mean()))


@pytest.mark.parametrize("cls", REGISTRY)
def test_fields_have_help_and_plain_types(cls: type[Adversary]) -> None:
    jsonargparse.set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, "adversary")
    text = parser.format_help()
    for entry in fields(cls):
        if entry.init:
            after = text.split(f"--adversary.{entry.name} ")[-1]
            assert after.split("(type:")[0].count(" ") > 25, f"{cls.__name__}.{entry.name} has no help"
            assert isinstance(entry.default, (int, float, str, bool, type(None)))
    made = parser.instantiate(parser.parse_args([])).adversary
    assert made == cls()


def test_one_step_of_pgd_from_the_clean_embeddings_is_fgm() -> None:
    at = problem(Toy())
    pgd = PGD(epsilon=0.3, alpha=0.3, steps=1, random_start=False).attack(at)
    assert torch.allclose(delta_of(pgd), delta_of(FGM(epsilon=0.3).attack(at)), rtol=1e-12)


@pytest.mark.parametrize("adversary", [PGD(epsilon=0.3), FreeLB(epsilon=0.3)])
def test_random_start_has_the_length_of_the_paper(adversary: PGD | FreeLB) -> None:
    at = replace(problem(Toy(), lengths=[40] * 16), beta=torch.zeros(16))
    visited: list[torch.Tensor] = []

    def watched(embeds: torch.Tensor) -> torch.Tensor:
        visited.append(embeds - at.embeds)
        return at.loss(embeds)

    adversary.attack(replace(at, loss=watched))
    lengths = size(visited[0].detach(), "row").flatten() / at.scale
    assert lengths.mean().item() == pytest.approx(0.3 / math.sqrt(3), rel=0.02)
    assert (lengths <= 0.3).all()


def test_fgsm_is_always_linf() -> None:
    with pytest.raises(TypeError, match="norm"):
        FGSM(norm="row")


def test_adversaries_know_torch_alone() -> None:
    for path in Path(adversaries.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for name in names:
                known = name.split(".")[0] in {"torch", *sys.stdlib_module_names}
                assert known or name.startswith("robustlm.adversaries"), f"{path.name} imports {name}"


@pytest.fixture(scope="module")
def llama() -> peft.PeftModel:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
    )
    lora = peft.LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(transformers.LlamaForCausalLM(config), lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:  # zero at the start, which would leave lora_A without a gradient
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def llama_problem(model: peft.PeftModel) -> Problem:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(64, (3, 12), generator=generator)
    attention = torch.ones_like(ids)
    attention[1, :4] = 0
    position_ids = (attention.cumsum(1) - 1).clamp_min(0)
    mask = attention.bool()
    mask[:, -3:] = False
    table = model.get_input_embeddings().weight

    def loss(embeds: torch.Tensor) -> torch.Tensor:
        logits = model(
            inputs_embeds=embeds,
            attention_mask=attention,
            position_ids=position_ids,
            logits_to_keep=4,
            use_cache=False,
        ).logits[:, :-1]
        labels = ids[:, -3:]
        rows = torch.nn.functional.cross_entropy(logits.mT, labels, reduction="none")
        return rows.sum(1)

    return Problem(
        embeds=table[ids].detach(),
        mask=mask,
        loss=loss,
        beta=torch.tensor([0.0, 0.5, 0.0]),
        seeds=torch.tensor([5, 6, 7]),
        scale=table.detach().norm(dim=1).mean(),
        parameters=[p for p in model.parameters() if p.requires_grad],
    )


@each
def test_delta_changes_the_loss_and_the_gradient_under_lora(adversary: Adversary, llama: peft.PeftModel) -> None:
    at = llama_problem(llama)
    llama.zero_grad()
    outcome = settled(adversary, at)
    assert all(p.grad is None for p in llama.parameters())
    outcome.adversarial.sum().backward()
    perturbed = {n: p.grad.clone() for n, p in llama.named_parameters() if p.grad is not None}
    llama.zero_grad()
    clean = at.loss(at.embeds)
    clean.sum().backward()
    assert ((outcome.adversarial - clean).abs() > 1e-5).all()
    assert set(perturbed) == {n for n, p in llama.named_parameters() if p.requires_grad}
    for name, parameter in llama.named_parameters():
        if parameter.requires_grad:
            assert not torch.allclose(perturbed[name], parameter.grad, rtol=1e-4), name


def test_perturbation_survives_bf16_rounding(llama: peft.PeftModel) -> None:
    """Each coordinate moves little, but the rounded sum still points along δ."""
    at = llama_problem(llama)
    delta = delta_of(NRM(epsilon=0.3).attack(at))
    embeds = at.embeds.bfloat16()
    landed = (perturb(embeds, delta).float() - embeds.float()).flatten(1)
    assert torch.cosine_similarity(landed, delta.flatten(1)).min() > 0.99


def test_checkpointed_llama_gives_the_same_gradients(llama: peft.PeftModel) -> None:
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            llama.train()
            llama.gradient_checkpointing_enable({"use_reentrant": False})
        llama.zero_grad()
        total(NRM(ascent="clean").attack(llama_problem(llama))).backward()
        found.append(torch.cat([p.grad.flatten() for p in llama.parameters() if p.grad is not None]))
    llama.gradient_checkpointing_disable()
    llama.eval()
    assert torch.allclose(found[0], found[1], atol=1e-6)

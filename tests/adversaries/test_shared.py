"""The pass that serves the perturbation and the weights, under all that a training step may do to it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from robustlm.adversaries import FGM, NRM, PGD, Adversary, FreeLB, Problem, shared_backward
from robustlm.adversaries.autograd import ascent_gradient, no_perturbation

from .toy import Toy, problem


def gradients(model: nn.Module, total: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    total.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def close(ours: dict[str, Tensor], theirs: dict[str, Tensor], atol: float = 1e-12) -> bool:
    return set(ours) == set(theirs) and all(torch.allclose(ours[n], theirs[n], rtol=0, atol=atol) for n in ours)


def test_values_and_gradients_are_those_of_the_plain_pass() -> None:
    model = Toy()
    at = problem(model)
    gradient, rows = shared_backward(at, no_perturbation(at))
    assert torch.equal(rows, at.loss(at.embeds))
    assert torch.equal(gradient, ascent_gradient(at, no_perturbation(at)))
    assert all(p.grad is None for p in model.parameters())
    assert close(gradients(model, rows.mean()), gradients(model, at.loss(at.embeds).mean()))


def test_accumulation() -> None:
    model = Toy()
    parts = [problem(model, rows=[0, 1]), problem(model, rows=[2, 3])]
    wanted = gradients(model, sum((at.loss(at.embeds).sum() / 4 for at in parts), torch.zeros(())))
    model.zero_grad()
    for at in parts:
        (shared_backward(at, no_perturbation(at))[1].sum() / 4).backward()
    assert close({n: p.grad for n, p in model.named_parameters() if p.grad is not None}, wanted)


def test_duplicate_tied_and_untouched_parameters() -> None:
    model = Toy(tied=True)
    idle = nn.Parameter(torch.ones(3, dtype=torch.float64))
    at = problem(model, train_table=True)
    at = replace(at, parameters=[*at.parameters, model.head, idle, model.inner])
    ours = gradients(model, shared_backward(at, no_perturbation(at))[1].sum())
    plain = problem(model, train_table=True)
    assert close(ours, gradients(model, plain.loss(plain.embeds).sum()))
    assert idle.grad is None


def test_frozen_tensors_are_left_alone() -> None:
    model = Toy()
    model.inner.requires_grad_(False)
    at = problem(model)
    shared_backward(at, no_perturbation(at))[1].sum().backward()
    assert model.inner.grad is None
    assert model.head.grad is not None


def test_hooks_fire_once_in_the_backward_pass_of_the_step() -> None:
    model = Toy(tied=True)
    at = problem(model, train_table=True)
    fired: list[Tensor] = []
    for parameter in model.parameters():
        parameter.register_post_accumulate_grad_hook(fired.append)
    outcome = FreeLB(steps=4).attack(at)
    assert not fired
    outcome.adversarial.mean().backward()
    assert len(fired) == len(set(map(id, fired))) == len(list(model.parameters()))


@pytest.mark.parametrize(
    "combine",
    [
        lambda rows: (rows * torch.tensor([1.0, 1.0, 1.0, 2.0])).sum(),
        lambda rows: rows[:3].sum(),
        lambda rows: rows.square().mean(),
        lambda rows: rows.max(),
    ],
)
@pytest.mark.parametrize("adversary", [FGM(), NRM(ascent="clean"), FreeLB()])
def test_rows_of_unequal_weight_are_refused(adversary: FGM | NRM | FreeLB, combine: Callable[[Tensor], Tensor]) -> None:
    outcome = adversary.attack(problem(Toy()))
    rows = outcome.adversarial if outcome.clean is None else outcome.clean
    with pytest.raises(RuntimeError, match="one common factor, but factors from"):
        combine(rows).backward()


def test_weights_inside_the_loss_are_right() -> None:
    model = Toy()
    at = problem(model)
    weights = torch.tensor([1.0, 0.0, 3.0, 0.5], dtype=torch.float64)
    weighted = replace(at, loss=lambda embeds: weights * at.loss(embeds))
    rows = shared_backward(weighted, no_perturbation(at))[1]
    assert close(gradients(model, rows.sum()), gradients(model, (weights * at.loss(at.embeds)).sum()))


def test_a_loss_without_trained_tensors_is_refused() -> None:
    at = replace(problem(Toy()), parameters=())
    with pytest.raises(ValueError, match="reaches none of the 0 trained tensors"):
        FGM().attack(at)


def test_a_loss_without_the_embeddings_is_refused() -> None:
    model = Toy()
    at = replace(problem(model), loss=lambda embeds: model.query.sum().expand(4))
    with pytest.raises(ValueError, match="does not depend on the embeddings"):
        FGM().attack(at)


def test_an_overflown_loss_scale_reaches_the_scaler() -> None:
    model = Toy()
    at = problem(model)
    (shared_backward(at, no_perturbation(at))[1].sum() * math.inf).backward()
    assert model.inner.grad is not None
    assert not model.inner.grad.isfinite().all()


def test_grad_scaler_steps_as_without_the_shared_pass() -> None:
    found = []
    for shared in (True, False):
        model = Toy().float()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16)
        at = replace(problem(model, dtype=torch.float32), loss_scale=scaler.get_scale())
        rows = shared_backward(at, no_perturbation(at))[1] if shared else at.loss(at.embeds)
        scaler.scale(rows.mean()).backward()
        scaler.step(optimizer)
        scaler.update()
        found.append({n: p.detach() for n, p in model.named_parameters()})
    assert close(*found, atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 2.0**16])
def test_loss_scale_keeps_fp16_gradients_from_underflowing(scale: float) -> None:
    weight = nn.Parameter(torch.ones(4, 1))
    embeds = torch.ones(2, 3, 4)
    at = Problem(
        embeds=embeds,
        mask=torch.ones(2, 3, dtype=torch.bool),
        loss=lambda e: 1e-9 * (e.half() @ weight.half()).float().sum((1, 2)),
        beta=torch.zeros(2),
        seeds=torch.arange(2),
        scale=torch.tensor(1.0),
        parameters=[weight],
        loss_scale=scale,
    )
    gradient, rows = shared_backward(at, no_perturbation(at))
    (rows.sum() * 2.0**16).backward()
    assert weight.grad is not None
    wanted = 0.0 if scale == 1 else 1e-9
    assert torch.allclose(gradient, torch.full_like(gradient, wanted), rtol=0.02, atol=0)
    assert torch.allclose(ascent_gradient(at, no_perturbation(at)), gradient, rtol=1e-6, atol=0)
    assert torch.allclose(weight.grad, torch.full_like(weight, 6 * wanted * 2.0**16), rtol=0.02, atol=0)


def checkpointed(model: Toy, reentrant: bool) -> Problem:
    at = problem(model)
    return replace(at, loss=lambda embeds: checkpoint(at.loss, embeds, use_reentrant=reentrant))


def test_checkpointing_without_reentry() -> None:
    model = Toy()
    for adversary in (FGM(), NRM(), FreeLB()):
        ours = adversary.attack(checkpointed(model, reentrant=False))
        theirs = adversary.attack(problem(model))
        assert close(gradients(model, ours.adversarial.sum()), gradients(model, theirs.adversarial.sum()))


@pytest.mark.parametrize("adversary", [FGM(), NRM()])
def test_reentrant_checkpointing_raises(adversary: FGM | NRM) -> None:
    with pytest.raises(RuntimeError, match="use_reentrant"):
        adversary.attack(checkpointed(Toy(), reentrant=True))


def test_autocast_and_its_weight_cache() -> None:
    model = Toy().float()
    at = problem(model, dtype=torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rows = shared_backward(at, no_perturbation(at))[1] + shared_backward(at, no_perturbation(at))[1]
        plain = 2 * at.loss(at.embeds)
    ours, theirs = gradients(model, rows.sum()), gradients(model, plain.sum())
    assert close(ours, theirs, atol=2e-2)
    assert all(g.dtype == torch.float32 for g in ours.values())


class Token:
    """Lives as long as the graph that holds it."""

    alive: ClassVar[set[int]] = set()

    def __init__(self) -> None:
        self.alive.add(id(self))

    def __del__(self) -> None:
        self.alive.discard(id(self))


class Activation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, x: Tensor) -> Tensor:
        ctx.token = Token()
        return x.clone()

    @staticmethod
    def backward(ctx: object, gradient: Tensor) -> Tensor:
        return gradient


@pytest.mark.parametrize(
    ("adversary", "graphs"),
    [
        (FreeLB(steps=5), [1, 1, 1, 1, 1]),
        (FGM(), [1, 1]),
        (NRM(ascent="clean"), [1, 1]),
        (NRM(), [1, 1, 2]),
        (NRM(low_memory=True), [1, 1, 1]),
        (PGD(low_memory=True), [1, 1, 1, 1, 1]),
    ],
)
def test_graphs_alive_after_each_pass(adversary: Adversary, graphs: list[int]) -> None:
    at = problem(Toy(), train_table=True)
    found: list[int] = []

    def watched(embeds: Tensor) -> Tensor:
        rows = at.loss(Activation.apply(embeds))
        found.append(len(Token.alive))
        return rows

    adversary.attack(replace(at, loss=watched))
    assert found == graphs

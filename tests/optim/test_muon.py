import copy
import io
from typing import Any

import pytest
import torch
from torch.optim import AdamW, Muon
from torch.optim.lr_scheduler import LambdaLR

from robustlm.optim.muon import MuonAdamW

LR = {"lr": 0.02, "weight_decay": 0.1, "momentum": 0.9}
ADAM = {"adamw_lr": 0.01, "adamw_betas": (0.8, 0.95), "adamw_weight_decay": 0.05}


def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))


def groups(model: torch.nn.Module) -> list[dict[str, Any]]:
    hidden = [p for p in model.parameters() if p.ndim == 2]
    rest = [p for p in model.parameters() if p.ndim != 2]
    return [{"params": rest, "hidden": False}, {"params": hidden, "hidden": True}]


def joint(model: torch.nn.Module) -> tuple[MuonAdamW, LambdaLR]:
    optimizer = MuonAdamW(groups(model), **LR, **ADAM)
    return optimizer, LambdaLR(optimizer, lambda step: 1 / (1 + step))


def train(model: torch.nn.Module, optimizers: list[Any], schedulers: list[Any], steps: range) -> None:
    for step in steps:
        x = torch.randn(5, 6, generator=torch.Generator().manual_seed(step))
        for optimizer in optimizers:
            optimizer.zero_grad()
        model(x).square().mean().backward()
        for each in (*optimizers, *schedulers):
            each.step()


def assert_same(left: torch.nn.Module, right: torch.nn.Module) -> None:
    for a, b in zip(left.parameters(), right.parameters(), strict=True):
        assert torch.equal(a, b)


def test_equals_the_two_optimisers_bit_for_bit() -> None:
    together, apart = network(), network()
    optimizer, scheduler = joint(together)
    rest, hidden = (group["params"] for group in groups(apart))
    pair = [
        AdamW(rest, lr=0.01, betas=(0.8, 0.95), weight_decay=0.05),
        Muon(hidden, lr=0.02, weight_decay=0.1, momentum=0.9),
    ]
    train(together, [optimizer], [scheduler], range(6))
    train(apart, pair, [LambdaLR(each, lambda step: 1 / (1 + step)) for each in pair], range(6))
    assert_same(together, apart)


def test_resumes_bit_for_bit_from_a_checkpoint() -> None:
    straight = network()
    optimizer, scheduler = joint(straight)
    train(straight, [optimizer], [scheduler], range(3))
    file = io.BytesIO()
    torch.save([straight.state_dict(), optimizer.state_dict(), scheduler.state_dict()], file)
    train(straight, [optimizer], [scheduler], range(3, 7))

    file.seek(0)
    weights, state, schedule = torch.load(file, weights_only=True)
    resumed = network()
    resumed.load_state_dict(weights)
    optimizer, scheduler = joint(resumed)
    optimizer.load_state_dict(state)
    scheduler.load_state_dict(schedule)
    train(resumed, [optimizer], [scheduler], range(3, 7))
    assert_same(straight, resumed)


@pytest.mark.parametrize("hidden", [True, False])
def test_works_where_all_groups_are_of_one_kind(hidden: bool) -> None:
    weight = torch.nn.Parameter(torch.ones(3, 3))
    optimizer = MuonAdamW([{"params": [weight], "hidden": hidden}])
    weight.sum().backward()
    optimizer.step()
    assert not torch.equal(weight, torch.ones(3, 3))
    assert set(optimizer.state[weight]) == ({"momentum_buffer"} if hidden else {"step", "exp_avg", "exp_avg_sq"})


def test_groups_are_not_hidden_unless_they_say_so_and_may_set_options() -> None:
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = MuonAdamW([{"params": weight, "lr": 0.5}])
    assert optimizer.param_groups[0]["hidden"] is False
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.param_groups[0]["betas"] == (0.9, 0.98)


def test_closure_and_copy() -> None:
    model = network()
    optimizer, _ = joint(model)

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = model(torch.ones(2, 6)).square().mean()
        loss.backward()
        return loss

    before = closure().item()
    assert optimizer.step(closure).item() == before
    assert closure().item() < before
    copied = copy.deepcopy(optimizer)
    assert [len(group["params"]) for group in copied.param_groups] == [2, 2]


def test_hidden_groups_hold_matrices_only() -> None:
    with pytest.raises(ValueError, match=r"found the shapes \[\(4,\)\]"):
        MuonAdamW([{"params": [torch.nn.Parameter(torch.ones(4))], "hidden": True}])

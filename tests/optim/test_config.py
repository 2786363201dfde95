"""Schedules, and which parameter is trained how."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustlm.models.tuning import FullTuning, LoRA, PrefixTuning
from robustlm.optim.config import AdamW, Muon, Schedule, parameter_groups
from tests.tiny import load


@given(
    warmup=st.one_of(st.floats(0, 0.99), st.integers(1, 200).map(float)),
    decay=st.sampled_from(["cosine", "linear", "constant"]),
    final=st.floats(0, 1),
    total=st.integers(1, 300),
)
def test_a_schedule_climbs_to_the_peak_and_falls(warmup: float, decay: Any, final: float, total: int) -> None:
    schedule = Schedule(warmup, decay, final)
    factors = [schedule.factor(step, total) for step in range(total + 1)]
    assert all(0 <= factor <= 1 + 1e-9 for factor in factors)
    rising = math.ceil(warmup * total if warmup < 1 else warmup)
    climb, fall = factors[:rising], factors[rising:]
    assert all(a < b for a, b in itertools.pairwise(climb))
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(fall))
    assert all(factor > 0 for factor in climb)  # no step is lost on a learning rate of zero
    if fall and decay == "constant":
        assert set(fall) == {1.0}
    elif len(fall) > 1:
        assert fall[-1] == pytest.approx(final)


def test_values_in_between() -> None:
    schedule = Schedule(warmup=4.0, final=0.1)
    assert [schedule.factor(step, 24) for step in range(4)] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert schedule.factor(4, 24) == 1
    assert schedule.factor(14, 24) == pytest.approx(0.1 + 0.9 * 0.5)
    assert schedule.factor(24, 24) == pytest.approx(0.1)
    assert schedule.factor(99, 24) == pytest.approx(0.1)
    assert Schedule(warmup=0.0).factor(0, 10) == 1
    assert Schedule(warmup=0.5, decay="linear").factor(75, 100) == pytest.approx(0.5)
    late = Schedule(warmup=4.0, decay="linear", decay_share=0.4)
    assert [late.factor(step, 20) for step in (3, 4, 11, 12, 16, 20)] == pytest.approx([0.8, 1, 1, 1, 0.5, 0])
    assert Schedule(warmup=15.0, decay="linear", decay_share=0.4).factor(17, 20) == pytest.approx(0.6)  # after warm-up
    assert Schedule(warmup=0.0, decay_share=0.0).factor(10, 10) == 1  # it never falls
    for bad in ({"warmup": -1.0}, {"final": 1.5}, {"decay_share": 1.5}):
        with pytest.raises(ValueError, match="schedule"):
            Schedule(**bad)


def names(groups: list[dict[str, Any]], model: Any) -> list[set[str]]:
    known = {id(p): name for name, p in model.named_parameters()}
    return [{known[id(p)] for p in group["params"]} for group in groups]


def test_groups_of_a_full_model(models: dict[str, str]) -> None:
    for kind in ("llama", "t5", "gemma"):
        base = load(models[kind], FullTuning()).base
        groups = parameter_groups(base)
        (hidden, outer, vectors), every = names(groups, base), {name for name, _ in base.named_parameters()}
        assert hidden | outer | vectors == every
        assert len(hidden) + len(outer) + len(vectors) == len(every)
        assert all("norm" in name for name in vectors)
        assert outer == {n for n in every if n in ("shared.weight", "lm_head.weight", "model.embed_tokens.weight")}
        assert [group["hidden"] for group in groups] == [True, False, False]
        assert groups[2]["weight_decay"] == 0
        assert all(p.ndim == 2 for p in groups[0]["params"])


def test_groups_of_an_adapter(llama: str) -> None:
    base = load(llama, LoRA(r=2)).base
    (group,) = parameter_groups(base)
    assert group["hidden"]
    assert all("lora" in name for name in names([group], base)[0])
    assert parameter_groups(load(llama, PrefixTuning(tokens=2)).base) == []  # it lives outside of the base


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_both_optimisers_move_every_group(kind: str, models: dict[str, str]) -> None:
    for optimizer in (AdamW(lr=0.1, weight_decay=0.5), Muon(muon_lr=0.1)):
        base = load(models[kind], FullTuning()).base
        before = {name: p.detach().clone() for name, p in base.named_parameters()}
        built = optimizer.build(parameter_groups(base))
        scheduler = Schedule(warmup=2.0).build(built, 10)
        for p in base.parameters():
            p.grad = torch.randn_like(p)
        built.step()
        scheduler.step()
        assert all(not torch.equal(p, before[name]) for name, p in base.named_parameters())
        rates = [group["lr"] / group["initial_lr"] for group in built.param_groups]
        assert rates == pytest.approx([2 / 3] * 3)
    decays = [g["weight_decay"] for g in AdamW(weight_decay=0.5).build(parameter_groups(base)).param_groups]
    assert decays == [0.5, 0.5, 0.0]

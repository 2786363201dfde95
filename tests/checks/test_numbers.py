"""Ranges of numbers: every wrong one names the setting, the value and the range."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from robustlm.checks.numbers import check_number, check_seed
from robustlm.datamodules import InstructionDataModule
from robustlm.models.tuning import LoRA, PrefixTuning, PromptTuning
from robustlm.modules import ANIT
from robustlm.optim.config import AdamW, Muon, Schedule


@pytest.mark.parametrize("value", [0, 1, 0.5, 1e300])
def test_a_number_of_the_range_passes(value: float) -> None:
    check_number("x", value, least=0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1, "1", None, True, [1]])
def test_what_is_no_number_of_the_range_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^x: found .*; expected a finite number ≥ 0$"):
        check_number("x", value, least=0)


@pytest.mark.parametrize(
    ("range_", "text"),
    [
        ({"least": 0, "most": 1}, "a number from 0 to 1"),
        ({"least": 0, "below": 1}, r"a number in \[0, 1\)"),
        ({"above": 0, "most": 1}, r"a number in \(0, 1\]"),
        ({"least": 1, "whole": True}, "a whole number ≥ 1"),
        ({"least": 1, "most": 9, "whole": True, "or_null": "for all"}, "a whole number ≥ 1 and ≤ 9, or null for all"),
    ],
)
def test_a_message_says_the_range(range_: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=f"x: found nan; expected {text}$"):
        check_number("x", math.nan, **range_)


@pytest.mark.parametrize("value", [-1, 2**63, 1.0, None])
def test_what_is_no_seed_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="a whole number ≥ 0 and < 2"):
        check_seed("seed", value)


BAD: dict[str, Callable[[], Any]] = {
    "optimizer.lr": lambda: AdamW(lr=1e38),
    "optimizer.weight_decay": lambda: AdamW(weight_decay=1e38),
    "optimizer.betas": lambda: AdamW(betas=(math.nan, 0.9)),
    "optimizer.muon_lr": lambda: Muon(muon_lr=math.inf),
    "optimizer.momentum": lambda: Muon(momentum=math.nan),
    "schedule.warmup": lambda: Schedule(warmup=math.nan),
    "schedule.final": lambda: Schedule(final=math.nan),
    "tuning.r": lambda: LoRA(r=0),
    "tuning.alpha": lambda: LoRA(alpha=10**40),
    "tuning.dropout": lambda: LoRA(dropout=math.nan),
    "tuning.tokens": lambda: PromptTuning(tokens=10**11),
    "tuning.hidden_size": lambda: PrefixTuning(hidden_size=-1),
    "tuning.init_scale": lambda: PrefixTuning(init_scale=math.nan),
    "adversarial_weight": lambda: ANIT("builtin:tiny", adversarial_weight=math.nan),
    "max_new_tokens": lambda: ANIT("builtin:tiny", max_new_tokens=10**12),
    "data.seed": lambda: InstructionDataModule(seed=-1),
    "data.num_workers": lambda: InstructionDataModule(num_workers=10**6),
    "data.max_length": lambda: InstructionDataModule(max_length=1),
    "data.batch_size": lambda: InstructionDataModule(batch_size=0),
}


@pytest.mark.parametrize("name", BAD)
def test_a_setting_without_meaning_is_refused_when_it_is_made(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: found .*; expected "):
        BAD[name]()

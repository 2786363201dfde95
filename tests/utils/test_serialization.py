"""Arguments as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch

from robustlm.adversaries import FGSM, NRM
from robustlm.models.backbone import Loading
from robustlm.models.tuning import LoRA
from robustlm.optim.config import AdamW, Schedule
from robustlm.utils.serialization import to_plain


@dataclass
class Base:
    pass


@dataclass
class Strategy(Base):
    inner: Schedule
    hidden: int = field(default=3, init=False)


def test_plain_values_stay() -> None:
    for value in (None, True, 1, 0.5, "text", [1, "a"], {"a": [None]}):
        assert to_plain(value) == value
    assert to_plain((0.9, 0.98)) == [0.9, 0.98]
    assert to_plain(Path("a/b")) == "a/b"
    assert to_plain({1: (2,)}) == {"1": [2]}


def test_dataclasses_as_yaml_would_name_them() -> None:
    assert to_plain(Schedule(warmup=3.0)) == {"warmup": 3.0, "decay": "cosine", "final": 0.0, "decay_share": 1.0}
    assert to_plain(Loading())["dtype"] == "float32"
    assert to_plain(LoRA(r=2)) == {
        "class_path": "robustlm.models.tuning.LoRA",
        "init_args": {
            "r": 2,
            "alpha": 16,
            "dropout": 0.05,
            "target_modules": "all-linear",
            "dora": False,
            "rslora": False,
        },
    }
    assert to_plain(Strategy(Schedule()))["init_args"] == {"inner": to_plain(Schedule())}
    assert to_plain(AdamW())["init_args"]["betas"] == [0.9, 0.999]
    assert to_plain(NRM())["class_path"] == "robustlm.adversaries.nrm.NRM"
    assert "norm" not in to_plain(FGSM())["init_args"]  # not an argument


@pytest.mark.parametrize("value", [torch.ones(1), object(), {1, 2}, LoRA])
def test_anything_else_is_refused(value: Any) -> None:
    with pytest.raises(TypeError, match="not a plain argument"):
        to_plain(value)
    with pytest.raises(TypeError):
        to_plain([{"a": value}])

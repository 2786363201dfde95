"""The precision that `auto` stands for, by what torch says of the device."""

from __future__ import annotations

import pytest
import torch

import robustlm
from robustlm.models.precision import automatic


@pytest.mark.parametrize(
    ("able", "precision", "why"),
    [
        ({"_is_amx_tile_supported"}, "bf16-mixed", "(AMX)"),
        ({"_is_avx512_bf16_supported"}, "bf16-mixed", "(AVX512-BF16)"),
        (set(), "32-true", "neither AMX nor AVX512-BF16"),
    ],
)
def test_processors(able: set[str], precision: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda name=name: name in able)
    found, reason = automatic("cpu")
    assert found == precision
    assert why in reason


def test_a_torch_without_the_checks_gets_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        monkeypatch.delattr(torch.cpu, name)
    assert automatic("cpu")[0] == "32-true"


@pytest.mark.parametrize(
    ("capabilities", "hip", "precision", "why"),
    [
        ([(8, 0), (9, 0)], None, "bf16-mixed", "GPU 1 computes bfloat16"),
        ([(9, 0), (7, 5)], None, "32-true", "GPU 1 has compute capability 7.5, and bfloat16 needs 8.0"),
        ([(7, 0)], None, "32-true", "GPU 0 has compute capability 7.0"),
        ([(9, 4)], "6.2", "bf16-mixed", "GPU 0 computes"),
    ],
)
def test_gpus(
    capabilities: list[tuple[int, int]], hip: str | None, precision: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(capabilities))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"GPU {number}")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda number: capabilities[number])
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: not including_emulation)
    monkeypatch.setattr(torch.version, "hip", hip)
    for accelerator in ("auto", "gpu", "cuda"):
        found, reason = automatic(accelerator)
        assert found == precision
        assert why in reason


def test_other_accelerators_get_float32() -> None:
    assert automatic("mps")[0] == automatic("tpu")[0] == automatic("cuda")[0] == "32-true"
    assert "'tpu'" in automatic("tpu")[1]


def test_python_gets_the_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    found = robustlm.auto_precision("cpu")
    assert capsys.readouterr().out == f"precision: {found}, because {automatic('cpu')[1]}\n"

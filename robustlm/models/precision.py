"""Which precision a device computes in hardware."""

from __future__ import annotations

from typing import Literal

import torch

Automatic = Literal["bf16-mixed", "32-true"]
"""What `auto` can stand for."""

_AMPERE = (8, 0)
"""The first compute capability of CUDA with bfloat16 matrix products."""


def auto_precision(accelerator: str = "auto") -> Automatic:
    """Choose the precision for a device, and print one line that says which and why.

    The CLI calls it for `trainer.precision: auto`. In Python: `Trainer(precision=robustlm.auto_precision())`.

    Args:
        accelerator: As for Lightning's `Trainer`: `auto`, `cpu`, `gpu`, `cuda`, `mps`, …

    Returns:
        `bf16-mixed` if the device multiplies bfloat16 matrices in hardware, otherwise `32-true`.
    """
    precision, why = automatic(accelerator)
    print(f"precision: {precision}, because {why}")
    return precision


def automatic(accelerator: str) -> tuple[Automatic, str]:
    """The precision, and the reason as a clause. See `auto_precision`."""
    kind = accelerator.lower()
    if kind in ("auto", "gpu"):
        kind = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if kind == "cuda":
        return _of_cuda()
    if kind == "cpu":
        return _of_cpu()
    if kind == "mps":
        return "32-true", "torch does not say whether an Apple GPU (mps) computes bfloat16 in hardware"
    return "32-true", f"it is not known whether the accelerator {accelerator!r} computes bfloat16 in hardware"


def _of_cuda() -> tuple[Automatic, str]:
    """All visible GPUs must be able, since a run may use any of them."""
    if not torch.cuda.is_available():
        return "32-true", "torch finds no CUDA GPU"
    for number in range(torch.cuda.device_count()):
        name = torch.cuda.get_device_name(number)
        if torch.version.hip is None and (able := torch.cuda.get_device_capability(number)) < _AMPERE:
            return "32-true", f"{name} has compute capability {able[0]}.{able[1]}, and bfloat16 needs 8.0"
    if not torch.cuda.is_bf16_supported(including_emulation=False):  # AMD GPUs have no compute capability
        return "32-true", f"torch says that {name} does not compute bfloat16 in hardware"
    return "bf16-mixed", f"{name} computes bfloat16 in hardware"


def _of_cpu() -> tuple[Automatic, str]:
    """The checks are torch's own, which have no public name yet; a torch without them gets float32."""
    for name, feature in (("_is_amx_tile_supported", "AMX"), ("_is_avx512_bf16_supported", "AVX512-BF16")):
        check = getattr(torch.cpu, name, None)
        if check is not None and check():
            return "bf16-mixed", f"this CPU computes bfloat16 in hardware ({feature})"
    return "32-true", "this CPU has neither AMX nor AVX512-BF16"

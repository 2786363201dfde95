"""What a run ran on: commit, versions, device. Imports torch only where it is asked about the device."""

from __future__ import annotations

import configparser
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
OPTIONAL = ("bitsandbytes", "flash-attn", "python-Levenshtein", "triton", "accelerate", "safetensors", "tokenizers")
"""Packages that single checks need, or whose version explains a figure."""
PEAKS = {"H200": 989.5, "H100 PCIe": 756.0, "H100": 989.5, "A100": 312.0}
"""TFLOP/s of dense bf16 products by the maker's data sheets, for GPUs whose name holds the key; the first counts."""


def commit() -> str:
    """Hash of the checked-out commit, `+` where files differ from it; `unknown` without git or a repository."""
    try:
        found = _git("rev-parse", "HEAD").strip()
        return found + ("+" if _git("status", "--porcelain", "--untracked-files=no").strip() else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def _git(*words: str) -> str:
    done = subprocess.run(("git", *words), cwd=ROOT, check=True, capture_output=True, text=True, timeout=20)
    return done.stdout


def required() -> dict[str, str]:
    """Lower bounds of the project's own requirements, by package, as `setup.cfg` has them."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = settings["options"]["install_requires"].split("\n")
    found = (re.match(r"([\w.-]+)(?:\[[\w,]+\])?\s*>=\s*([\w.]+)", line.strip()) for line in lines)
    return {match[1]: match[2] for match in found if match}


def versions() -> dict[str, str]:
    """Installed versions of what the project and single checks use; `none` where a package is absent."""
    found = {}
    for name in (*required(), *OPTIONAL):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def below_bounds(installed: dict[str, str]) -> list[str]:
    """Installed packages that are older than `setup.cfg` asks for: a failure may be theirs."""
    from packaging.version import Version

    return [
        f"{name} {installed[name]} < {bound}"
        for name, bound in required().items()
        if installed[name] != "none" and Version(installed[name]) < Version(bound)
    ]


def about_machine() -> dict[str, Any]:
    """Python, versions, processors, and the CUDA devices as torch sees them."""
    import torch

    installed = versions()
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "versions": ", ".join(f"{name} {version}" for name, version in installed.items()),
        "older than setup.cfg asks": ", ".join(below_bounds(installed)) or "none",
        "CUDA of torch": torch.version.cuda or "none",
    }
    for number in range(torch.cuda.device_count()):
        device = torch.cuda.get_device_properties(number)
        memory = f"{device.total_memory / 2**30:.1f} GiB"
        found[f"GPU {number}"] = f"{device.name}, {memory}, {device.multi_processor_count} multiprocessors"
    return found


def peak_of(device: str) -> float | None:
    """TFLOP/s of dense bf16 products by the data sheet; null on a CPU and where this GPU is not known."""
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else ""
    return next((peak for key, peak in PEAKS.items() if key in name), None)

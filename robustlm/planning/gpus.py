"""What GPUs hold and compute, by the data sheets of their makers."""

from __future__ import annotations

from dataclasses import dataclass, replace

from robustlm.checks.numbers import check_number


@dataclass(frozen=True)
class GPU:
    """A kind of GPU."""

    name: str
    memory: float
    """GB (10⁹ bytes)."""
    bf16: float
    """Peak of dense bf16 products, in TFLOP/s. Figures with sparsity, which data sheets print too, are twice this."""
    fp32: float | None
    """Peak of fp32 products without TF32, in TFLOP/s; null: not known."""
    source: str
    """Document of the maker."""

    def peak(self, bits: int) -> float | None:
        """TFLOP/s of products of numbers with 16 bits or more; null if that is not known."""
        return self.bf16 if bits == 16 else self.fp32


_FOUND = (
    GPU("b200", 180, 2250.0, None, "NVIDIA DGX B200 data sheet: 1,440 GB and 36 PFLOPS of sparse bf16 for 8 GPUs"),
    GPU("h200", 141, 989.5, 67.0, "NVIDIA H200 Tensor Core GPU data sheet, SXM"),
    GPU("h100", 80, 989.5, 67.0, "NVIDIA H100 Tensor Core GPU data sheet, SXM"),
    GPU("h100-pcie", 80, 756.5, 51.0, "NVIDIA H100 Tensor Core GPU data sheet, PCIe"),
    GPU("a100-80gb", 80, 312.0, 19.5, "NVIDIA A100 Tensor Core GPU data sheet"),
    GPU("a100-40gb", 40, 312.0, 19.5, "NVIDIA A100 Tensor Core GPU data sheet"),
    GPU("l40s", 48, 362.05, 91.6, "NVIDIA L40S data sheet"),
    GPU("a10", 24, 125.0, 31.2, "NVIDIA A10 data sheet"),
    GPU("l4", 24, 121.0, 30.3, "NVIDIA L4 data sheet: 242 TFLOPS with sparsity"),
    GPU("rtx4090", 24, 165.2, 82.6, "NVIDIA Ada GPU architecture paper, bf16 with fp32 sums"),
    GPU("rtx3090", 24, 71.0, 35.6, "NVIDIA GA102 architecture paper, bf16 with fp32 sums"),
)
KINDS = {one.name: one for one in _FOUND}
"""GPUs by name."""


def find(name: str, memory: float | None = None, tflops: float | None = None) -> GPU:
    """A GPU of the table, or one with figures of its own.

    Args:
        name: A key of `KINDS`; another name needs both figures.
        memory: GB; replaces the table's figure.
        tflops: Peak of dense bf16 products; replaces the table's figure.

    Raises:
        ValueError: The name is not known and a figure is missing, or a figure is not a positive number.
    """
    check_number("gpu_memory", memory, above=0, most=1e5, or_null="for the table's")
    check_number("gpu_tflops", tflops, above=0, most=1e6, or_null="for the table's")
    known = KINDS.get(name.lower())
    if known is None and (memory is None or tflops is None):
        raise ValueError(
            f"gpu: {name!r} is not in the table; expected one of {', '.join(KINDS)}, or --gpu_memory (GB) and "
            "--gpu_tflops (dense bf16) for another one"
        )
    if known is not None and memory is None and tflops is None:
        return known
    if known is None:
        return GPU(name, memory or 0.0, tflops or 0.0, None, "given")
    return replace(known, memory=memory or known.memory, bf16=tflops or known.bf16, source=f"{known.source}; given")

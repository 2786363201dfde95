"""Whether everything is right on a GPU: `python -m benchmarks.gpu.correctness --output FOLDER`.

Every module and every adversary takes training steps in float32, bf16-mixed, bf16-true and fp16-mixed. Losses,
perturbations and gradients are compared with float32 on the CPU, for the same weights and batch. Attention kernels,
4-bit weights, checkpointing, dropout, resuming, generation and option scores are checked besides, and deliberately
broken variants must be told apart. The exit status is 0 where all checks passed or were skipped with a reason, 1 where
one failed, and 2 where none failed and some were not run for lack of time.
"""

from __future__ import annotations

import sys

from benchmarks.gpu.runner import command

if __name__ == "__main__":
    sys.exit(command("GPU correctness", "benchmarks.gpu.correctness_checks", (__doc__ or "").split("\n")[0], None))

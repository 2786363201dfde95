"""How fast training is on a GPU: `python -m benchmarks.gpu.speed --output FOLDER`.

Times whole training steps of the methods on a Llama model of 8 billion random bf16 weights with LoRA, with and without
gradient checkpointing: milliseconds, tokens a second, memory, and the share of the GPU's peak that the calculation
needs by count. Then whole training loops, a process each: compiled layers, logits in chunks, FSDP2 on one device, rows
without padding, and TRL's trainer where it is installed. Then the preparation of batches. The exit status is 0 where
every figure was measured or skipped with a reason, 1 where one failed, and 2 where none failed and some were not run
for lack of time (`--resume` runs these).
"""

from __future__ import annotations

import sys

from benchmarks.gpu.runner import command

OPTIONS = {
    "rows": (4, "rows of a batch of equally long rows; 1 to 64"),
    "rounds": (12, "most rounds that are timed"),
}

if __name__ == "__main__":
    about = (__doc__ or "").split("\n")[0]
    sys.exit(command("GPU speed", "benchmarks.gpu.speed_checks", about, None, OPTIONS))

"""How fast answers are found on a GPU: `python -m benchmarks.gpu.evaluation --output FOLDER`.

Compares answers a second of this project with those of transformers' `generate`, one prompt at a time and in batches,
its continuous batching, and vLLM where it is installed; then option scores with answers that are generated. The model
is that of the speed command: 8 billion random bf16 weights. Its answers end at one of many random tokens, so that they
differ in length.
"""

from __future__ import annotations

import sys

from benchmarks.gpu.runner import command

OPTIONS = {
    "prompts": (128, "prompts of each kind; 8 to 4096"),
    "tokens": (64, "tokens of the longest answer; 4 to 512"),
}

if __name__ == "__main__":
    about = (__doc__ or "").split("\n")[0]
    sys.exit(command("GPU evaluation", "benchmarks.gpu.evaluation_checks", about, None, OPTIONS))

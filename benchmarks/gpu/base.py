"""Train a language model of 50 to 150 million parameters on text: `python -m benchmarks.gpu.base --text FOLDER`.

Lays out a Llama model with a tokenizer of its own (as `robustlm init`), and trains it with `Pretraining` and
`TextDataModule`: the same reader, rows, optimiser and checkpoints as `robustlm fit -c base`. Text is what
`TextDataModule` reads: `.txt`, `.txt.gz` (a line with `<|endoftext|>` alone ends a document), `.jsonl`, `.jsonl.gz`.
Writes the model to `OUTPUT/model`, for `--model.backbone OUTPUT/model`, and `OUTPUT/training.jsonl` (loss, loss of
held-out documents, tokens a second, share of the GPU's peak).

The learning rate rises in the first 2 % of the run, stays, and falls to 0 in the last 20 %, so the number of steps is
fixed when a run begins: `--steps`, or as many as take `--minutes` at the rate of some steps that are timed first. A run
that was stopped goes on from its last checkpoint by the same command: after SIGTERM (exit status 143) from the step
that it stopped at, after a kill from a checkpoint that is at most `--save` minutes old.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

from benchmarks.gpu.runner import NEEDED

PACKAGES = {**{name: name for name in NEEDED}, "Levenshtein": "python-Levenshtein"}
"""Packages that it needs, by the name that Python imports."""


def main(argv: Sequence[str] | None = None) -> int:
    """Train, and return the exit status; 2 if a package is missing."""
    if missing := [name for module, name in PACKAGES.items() if importlib.util.find_spec(module) is None]:
        what = "docs/performance.md says how to bring them as wheels"
        print(f"error: not installed: {', '.join(missing)}; {what}", file=sys.stderr)
        return 2
    from benchmarks.gpu import base_training

    return base_training.main(argv, (__doc__ or "").split("\n")[0])


if __name__ == "__main__":
    sys.exit(main())

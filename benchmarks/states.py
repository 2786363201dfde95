"""Where the shipped model puts samples under other phrasings, before and after tuning.

    python benchmarks/states.py --output runs/states

Each way of tuning takes one to three minutes of one core; runs that are there already are not repeated.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

PAIRS = ("--data", "ContrastiveDataModule", "--data.noise", "null")
ARMS: dict[str, tuple[str, ...]] = {
    "plain": ("--model", "InstructionTuning", "--data", "InstructionDataModule"),
    "ANIT": ("--model", "ANIT"),
    "CoIN": ("--model", "ContrastiveTuning", *PAIRS),
    "KL": ("--model", "AlignmentTuning", *PAIRS),
}
"""Options of `fit` besides those of the config `quickstart`. `KL` is LoRA with a divergence between phrasings."""


def main() -> None:
    """Tune, test, and put the states side by side."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("runs/states"))
    parser.add_argument("--steps", type=int, default=250, help="optimiser steps of each way of tuning")
    parser.add_argument("--samples", type=int, default=40, help="samples of each dataset")
    parser.add_argument("--layer", type=int, default=-2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    weights: dict[str, Path | None] = {"untuned": None}
    for name, flags in ARMS.items():
        folder = options.output / "fits" / name
        weights[name] = folder / "weights/last.ckpt"
        if not weights[name].is_file():  # type: ignore[union-attr]
            robustlm("fit", "-c", "quickstart", *flags, f"--trainer.max_steps={options.steps}",
                     f"--seed_everything={options.seed}", f"--data.seed={options.seed}",
                     f"--trainer.default_root_dir={folder}", f"--checkpoint.dirpath={folder / 'weights'}")  # fmt: skip
    for name, checkpoint in weights.items():
        folder = options.output / "tests" / name
        if not any(folder.rglob("predictions.parquet")):
            robustlm("test", "-c", "robustness", "--model.backbone=builtin:tiny", "--data.test=builtin:quickstart",
                     f"--data.samples={options.samples}", "--trainer.accelerator=cpu", "--data.eval_batch_size=128",
                     f"--trainer.default_root_dir={folder}", f"--states.layer={options.layer}",
                     *([f"--ckpt_path={checkpoint}"] if checkpoint else []))  # fmt: skip
    runs = [f"{name}={options.output / 'tests' / name}" for name in weights]
    robustlm("states", *runs, "--output", str(options.output))


def robustlm(*args: str) -> None:
    """Run a command as from a shell."""
    quiet = [] if args[0] == "states" else ["--trainer.enable_progress_bar=false"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-m", "robustlm", *args, *quiet], check=True, env=environment)


if __name__ == "__main__":
    main()

"""The main job on the built-in corpus and model, start to end: what `make quickstart` runs."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator

ARMS = {
    "plain": ["--model", "InstructionTuning"],
    "noisy": ["--model", "ANIT", "--model.adversary", "null"],
    "ANIT": ["--model", "ANIT"],
}
"""Tuned alike but for the objective: on clean instructions, on noisy ones, on noisy ones with an adversary."""


def quickstart(output: str = "runs/quickstart", seed: int = 0) -> Iterator[list[str]]:
    """Tune the shipped model in three ways, test all on other phrasings and noise, and show the effect.

    Every command is printed before it runs, as you would type it.

    Args:
        output: Folder of the runs, the table and the picture.
        seed: Seed of training.

    Yields:
        The arguments of each command, to be run before the next is asked for.
    """
    began = time.monotonic()
    runs = {"untuned": f"{output}/untuned"}
    common = ["-c", "quickstart", "--seed_everything", str(seed)]
    commands = [["test", *common, "--model.tuning", "null", "--trainer.default_root_dir", runs["untuned"]]]
    for name, arm in ARMS.items():
        runs[name] = f"{output}/{name}"
        folder = ["--trainer.default_root_dir", runs[name]]
        commands.append(["fit", *common, *arm, *folder, "--checkpoint.dirpath", f"{runs[name]}/weights"])
        commands.append(["test", *common, *folder, "--ckpt_path", f"{runs[name]}/weights/last.ckpt"])
    commands.append(["compare", *(f"{name}={path}" for name, path in runs.items()), "--output", output])
    for i, command in enumerate(commands, start=1):
        print(f"\n[{i}/{len(commands)}, {time.monotonic() - began:.0f} s] $ robustlm {shlex.join(command)}", flush=True)
        yield command
    print(f"\nall of it took {time.monotonic() - began:.0f} s; watch the curves with: tensorboard --logdir {output}")

"""The main job on the built-in corpus and model, start to end: what `make quickstart` runs."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator

import torch

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
    torch.set_num_threads(1)  # so small a model gains nothing from more, and loses much where cores are shared
    began = time.monotonic()
    commands = [["test", *_common(f"{output}/untuned", seed), "--model.tuning", "null"]]
    for name, flags in ARMS.items():
        commands += arm(f"{output}/{name}", flags, seed)
    runs = [f"{name}={output}/{name}" for name in ("untuned", *ARMS)]
    commands.append(["compare", *runs, "--output", output])
    for i, command in enumerate(commands, start=1):
        print(f"\n[{i}/{len(commands)}, {time.monotonic() - began:.0f} s] $ robustlm {shlex.join(command)}", flush=True)
        yield command
    print(f"\nall of it took {time.monotonic() - began:.0f} s; watch the curves with: tensorboard --logdir {output}")


def arm(folder: str, flags: list[str], seed: int) -> list[list[str]]:
    """The commands that tune the shipped model as `flags` say, and test it.

    Args:
        folder: Where the runs go.
        flags: Options of `fit` beside those of the config `quickstart`.
        seed: Seed of training.
    """
    common = _common(folder, seed)
    return [
        ["fit", *common, *flags, "--checkpoint.dirpath", f"{folder}/weights"],
        ["test", *common, "--ckpt_path", f"{folder}/weights/last.ckpt"],
    ]


def _common(folder: str, seed: int) -> list[str]:
    return [
        "-c",
        "quickstart",
        "--seed_everything",
        str(seed),
        "--data.seed",
        str(seed),
        "--trainer.default_root_dir",
        folder,
    ]

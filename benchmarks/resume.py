"""Kills training again and again, and compares the end with that of a run in peace: `python benchmarks/resume.py`.

Each method trains a tiny model with `accumulate_grad_batches: 2` and two workers, through the command line. A quarter
of the kills (SIGKILL) comes while the process starts up, the others at a random moment after it has written a
checkpoint; the same command then goes on from `last.ckpt`. In the end weights and the adversary's state have to be
those of the uninterrupted run, bit by bit.

`--processes 1 2` changes the number of processes at each start instead. Each process draws dropout masks of its own, so
weights are not those of the uninterrupted run and are not judged; every row has to be trained on exactly once in each
epoch, in as many steps.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

WORDS = ("find", "name", "list", "all", "every", "words", "text", "people", "places", "good", "bad", "in", "and", "of")
METHODS = {
    "anit": [
        "--model=ANIT", "--model.adversary=NRM", "--model.adversary.target_gap=0.2",
        "--data=NoisyInstructionDataModule",
    ],
    "robust": [
        "--model=RobustTuning", "--model.adversary=NRM", "--model.adversary.target_gap=0.2",
        "--model.contrast={}", "--model.alignment={}", "--model.chunk_rows=3", "--data=ContrastiveDataModule",
    ],
    "coin": ["--model=ContrastiveTuning", "--model.chunk_rows=3", "--data=ContrastiveDataModule"],
}  # fmt: skip
"""What each method adds to the command."""


class Served(Callback):
    """Writes down the rows of every micro-batch, with the optimiser step that they belong to."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Append a line to a file of this process."""
        line = {"epoch": trainer.current_epoch, "step": trainer.global_step, "ids": batch.ids}
        file = Path(os.environ["ROBUSTLM_SERVED"] + f"-{trainer.global_rank}.jsonl")
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(line) + "\n")


def write_rows(path: Path, count: int) -> None:
    """Rows of uneven lengths, each with a paraphrase."""
    draw = random.Random(0)
    with path.open("w", encoding="utf-8") as lines:
        for i in range(count):
            instruction, target, text = (
                " ".join(draw.choices(WORDS, k=draw.randint(*span))) for span in ((3, 7), (1, 4), (1, 9))
            )
            row = {"id": f"row-{i}", "instruction": instruction, "target": target, "text": text}
            lines.write(json.dumps(row | {"variant": f"kindly {instruction}"}) + "\n")


class Run:
    """One training run, which may be killed.

    Args:
        folder: Where it keeps its checkpoints and logs.
        method: Of `METHODS`.
        rows: Rows to train on.
        model: Folder of the model.
        epochs: Passes over the rows.
    """

    def __init__(self, folder: Path, method: str, rows: Path, model: Path, epochs: int) -> None:
        self.kept = folder / "kept"
        self.folder = folder
        self.attempts = 0
        folder.mkdir(parents=True)
        self._arguments = [
            "fit", *METHODS[method], f"--model.backbone={model}", "--model.loading.scratch=true", "--model.tuning=LoRA",
            "--model.tuning.r=4", "--model.tuning.dropout=0.2", "--model.optimizer=AdamW", "--model.optimizer.lr=1e-3",
            f"--data.train={rows}", "--data.batch_size=4", "--data.num_workers=2", "--data.noise.kind=mixed",
            f"--trainer.max_epochs={epochs}", "--trainer.accelerator=cpu", f"--trainer.default_root_dir={folder}",
            "--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.logger=false",
            f"--checkpoint.dirpath={self.kept}", "--checkpoint.every_n_train_steps=1", "--checkpoint.save_top_k=1",
            "--trainer.callbacks+=benchmarks.resume.Served",
        ]  # fmt: skip

    @property
    def last(self) -> Path:
        """The checkpoint to go on from."""
        return self.kept / "last.ckpt"

    def start(self, processes: int = 1) -> subprocess.Popen[str]:
        """Begin, or go on. Two micro-batches make a step: of one process, or of two at a time."""
        parallel = [f"--trainer.devices={processes}", "--trainer.strategy=ddp"] if processes > 1 else []
        parallel.append(f"--trainer.accumulate_grad_batches={max(1, 2 // processes)}")
        more = [f"--ckpt_path={self.last}"] if self.last.exists() else []
        self.attempts += 1
        env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        env["ROBUSTLM_SERVED"] = str(self.folder / f"served-{self.attempts:03d}")
        log = (self.folder / f"log-{self.attempts:03d}.txt").open("w")
        return subprocess.Popen(
            [sys.executable, "-m", "robustlm", *self._arguments, *parallel, *more],
            stdout=log, stderr=subprocess.STDOUT, text=True, env=env, start_new_session=True,
        )  # fmt: skip

    def finish(self, processes: int = 1) -> float:
        """Train to the end; returns the seconds."""
        began = time.monotonic()
        process = self.start(processes)
        if process.wait() != 0:
            raise SystemExit((self.folder / f"log-{self.attempts:03d}.txt").read_text())
        return time.monotonic() - began

    def kill(self, draw: random.Random, startup: float, pause: float, processes: int = 1) -> bool:
        """Begin or go on, and kill it and its workers; False where it ended before that."""
        before = _stamp(self.last)
        process = self.start(processes)
        try:
            if draw.random() < 0.25:
                time.sleep(draw.uniform(0, startup))
            else:
                while _stamp(self.last) == before and process.poll() is None:
                    time.sleep(0.01)
                time.sleep(draw.uniform(0, pause))
            return process.poll() is None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def state(self) -> dict[str, Any]:
        """What the last checkpoint holds."""
        found: dict[str, Any] = torch.load(self.last, weights_only=True)
        return found

    def served(self) -> list[Counter[str]]:
        """How often each epoch trained on each row; steps that a later start repeats count once."""
        kept: dict[int, list[dict[str, Any]]] = {}
        for attempt in range(1, self.attempts + 1):
            lines = [
                json.loads(line)
                for part in self.folder.glob(f"served-{attempt:03d}-*.jsonl")
                for line in part.read_text(encoding="utf-8").splitlines()
            ]
            if lines:
                first = min(line["step"] for line in lines)
                kept = {step: found for step, found in kept.items() if step < first}
            for line in lines:
                kept.setdefault(line["step"], []).append(line)
        found: list[Counter[str]] = []
        for line in (line for lines in kept.values() for line in lines):
            found += [Counter() for _ in range(line["epoch"] + 1 - len(found))]
            found[line["epoch"]].update(line["ids"])
        return found


def _stamp(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)


def trial(folder: Path, method: str, rows: int, epochs: int, kills: int, seed: int, processes: list[int]) -> bool:
    """Kill one run; print what came of it, and return whether all is as it should be."""
    folder.mkdir(parents=True)
    file, model = folder / "rows.jsonl", folder / "model"
    write_rows(file, rows)
    sizes = ["--vocab_size=300", "--hidden_size=64", "--layers=2", "--heads=4", "--intermediate_size=128"]
    subprocess.run([sys.executable, "-m", "robustlm", "init", str(model), str(file), *sizes], check=True)
    whole, killed = (Run(folder / name, method, file, model, epochs) for name in ("whole", "killed"))
    seconds = whole.finish(processes[0])
    draw = random.Random(seed)
    done = 0
    while done < kills and killed.kill(draw, 0.5 * seconds, 0.5 * seconds / kills, processes[done % len(processes)]):
        done += 1
    killed.finish(processes[done % len(processes)])
    wanted, found = whole.state(), killed.state()
    exact = _equal(wanted["state_dict"], found["state_dict"]) and _equal(
        wanted["robustlm"].get("adversary", {}), found["robustlm"].get("adversary", {})
    )
    apart = max(float((found["state_dict"][n] - value).abs().max()) for n, value in wanted["state_dict"].items())
    steps = wanted["global_step"], found["global_step"]
    once = all(set(epoch.values()) == {1} and len(epoch) == rows for epoch in killed.served())
    good = (exact or len(set(processes)) > 1) and once and steps[0] == steps[1] and done == kills
    print(
        f"{method}: {done} kills, processes {processes}, {steps[1]} of {steps[0]} steps, a run in peace takes "
        f"{seconds:.0f} s; weights identical: {exact} (largest difference {apart:.1e}); each row once in each epoch: "
        f"{once}; {'good' if good else 'WRONG'}",
        flush=True,
    )
    return good


def main() -> None:
    """Run the trials; the exit status is 1 where one is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--kills", type=int, default=20, help="how often a run is killed (%(default)s)")
    parser.add_argument("--rows", type=int, default=480, help="rows to train on (%(default)s)")
    parser.add_argument("--epochs", type=int, default=2, help="passes over them (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    parser.add_argument("--processes", type=int, nargs="+", default=[1], help="of each start in turn (%(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        good = [
            trial(Path(folder) / method, method, args.rows, args.epochs, args.kills, args.seed, args.processes)
            for method in args.methods
        ]
    raise SystemExit(0 if all(good) else 1)


if __name__ == "__main__":
    main()

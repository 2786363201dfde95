"""A rank that dies ends the whole run, which says who died and how to go on."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Callback

from tests.modules.test_equivalence import flags

LIMIT = 60
"""Seconds that a run has to end in, on a busy machine; gloo's own limit is half an hour."""


class Dies(Callback):
    """Ends one rank in some way, at a hook of the run.

    Args:
        how: `kill` (SIGKILL, as of a system without memory) or `raise`.
        rank: Who.
        hook: When, the second time that it is called.
    """

    def __init__(self, how: str, rank: int, hook: str = "on_train_batch_start") -> None:
        self.how, self.rank, self.calls = how, rank, 0
        setattr(self, hook, self._die)

    def _die(self, trainer: Any, *_: Any, **__: Any) -> None:
        self.calls += 1
        if trainer.global_rank != self.rank or self.calls != 2:
            return
        print(f"rank {self.rank} dies at {time.time()}", flush=True)
        if self.how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise RuntimeError("only here")


def run_of(command: str, *args: str) -> tuple[int, str, float]:
    """Exit status, all that was said, and the seconds from the death on; nothing of the run is left behind."""
    known = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "ROBUSTLM_TRACEBACK": "1"}
    for name in ("LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_PORT"):
        known.pop(name, None)
    process = subprocess.Popen(
        [sys.executable, "-m", "robustlm", command, *args, "--trainer.devices=2", "--trainer.strategy=ddp"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=known, start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=240)  # ends when no process of the run holds the pipe any more
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    died = re.search(r"dies at ([\d.]+)", said)
    assert died, said
    return process.returncode, said, time.time() - float(died[1])


def dying(how: str, rank: int, **more: Any) -> list[str]:
    callback = "--trainer.callbacks+=tests.test_ranks.Dies"
    settings = {"how": how, "rank": rank, **more}
    return [callback, *(f"--trainer.callbacks.{name}={value}" for name, value in settings.items())]


def fit(folder: Path, llama: str, train_file: str, *more: str) -> list[str]:
    settings = {"data.train": train_file, "data.num_workers": 1, "checkpoint.every_n_train_steps": 1}
    return [*flags(folder, llama, **settings), *more]


@pytest.mark.parametrize(
    ("how", "rank", "what", "status"),
    [
        ("kill", 1, r"rank 1 \(process \d+\) was ended by SIGKILL", 137),
        ("raise", 1, r"rank 1 \(process \d+\) ended with exit status 1", 1),
        ("kill", 0, r"rank 0 \(process \d+\) has ended", -9),
    ],
)
def test_the_run_ends_and_says_who_died(
    how: str, rank: int, what: str, status: int, llama: str, train_file: str, tmp_path: Path
) -> None:
    found, said, seconds = run_of("fit", *fit(tmp_path, llama, train_file), *dying(how, rank))
    assert found == status, said
    assert seconds < LIMIT, said
    assert len(re.findall(what, said)) == 1, said
    last = tmp_path / "checkpoints/last.ckpt"
    assert last.exists()
    assert said.count(f"--ckpt_path {last}") == 1, said
    if how == "raise":
        assert "RuntimeError: only here" in said

"""A rank that dies ends the whole run, which says who died and how to go on."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from robustlm.callbacks.interruption import StopOnSignal
from robustlm.callbacks.ranks import LostRank, _is_lost
from tests.modules.test_equivalence import flags
from tests.processes import command

LIMIT = 60
"""Seconds that a run has to end in, on a busy machine; gloo's own limit is half an hour."""


class Dies(Callback):
    """Ends one rank in some way, at a hook of the run.

    Args:
        how: `kill` (SIGKILL, as of a system without memory), `raise` or `term` (SIGTERM, which is no death).
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
        if self.how == "term":
            os.kill(os.getpid(), signal.SIGTERM)
            return
        raise RuntimeError("only here")


def run_of(name: str, *args: str) -> tuple[int, str, float]:
    """Exit status, all that was said, and the seconds from the death on; nothing of the run is left behind."""
    read, write = os.pipe()
    process = command(name, *args, "--trainer.devices=2", "--trainer.strategy=ddp", output=write)
    watchdog = threading.Timer(240, os.killpg, (process.pid, signal.SIGKILL))
    watchdog.start()
    try:
        with os.fdopen(read, encoding="utf-8", errors="replace") as pipe:
            said = pipe.read()  # ends when no process of the run holds the pipe any more
        process.communicate()
    finally:
        watchdog.cancel()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    died = re.search(r"dies at ([\d.]+)", said)
    assert died, said
    assert process.returncode is not None
    return process.returncode, said, time.time() - float(died[1])


def dying(how: str, rank: int, **more: Any) -> list[str]:
    callback = "--trainer.callbacks+=tests.callbacks.test_ranks.Dies"
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


def test_a_process_that_obeys_a_signal_is_no_death(llama: str, train_file: str, tmp_path: Path) -> None:
    status, said, _ = run_of("fit", *fit(tmp_path, llama, train_file), *dying("term", 1))
    assert status == 143, said
    assert "robustlm: error" not in said
    assert said.count(f"--ckpt_path {tmp_path / 'checkpoints/last.ckpt'}") == 1, said


def test_only_a_death_is_told() -> None:
    """A process that has ended well, or has obeyed a signal that this one got too, is none."""

    def children(*statuses: int | None) -> Any:
        processes = [SimpleNamespace(pid=i, poll=lambda status=status: status) for i, status in enumerate(statuses)]
        strategy = SimpleNamespace(launcher=SimpleNamespace(procs=processes))
        return SimpleNamespace(strategy=strategy, callbacks=[told])

    told, watch = StopOnSignal(), LostRank()
    assert watch._lost(children(None, 0)) is None
    assert watch._lost(children(0, 143)) == ("rank 2 (process 1) ended with exit status 143", 143)
    assert watch._lost(children(None, -15)) == ("rank 2 (process 1) was ended by SIGTERM", 143)
    told._received = signal.SIGTERM
    assert watch._lost(children(143, 0)) is None
    assert watch._lost(children(143, 2)) == ("rank 2 (process 1) ended with exit status 2", 2)


def test_errors_that_another_death_causes_are_known() -> None:
    closed = "[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:34029."
    assert _is_lost(RuntimeError(closed))
    assert _is_lost(torch.distributed.DistNetworkError("failed to recv, got 0 bytes"))
    assert not _is_lost(RuntimeError("DefaultCPUAllocator: not enough memory"))
    assert not _is_lost(ValueError("gloo"))

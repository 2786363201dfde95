"""When one of several processes dies, the others end within seconds, and the run says who died and how to go on."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from robustlm.callbacks.checkpoints import StepCheckpoint
from robustlm.callbacks.folder import session_of
from robustlm.callbacks.interruption import SIGNALS, StopOnSignal, going_on, started_by

FIRST = "ROBUSTLM_RANK_ZERO"
"""Environment variable in which the first process of a machine tells those that it starts its process id."""

POLL = 0.5
"""Seconds between two looks at the other processes."""

GRACE = 3.0
"""Seconds that a process has to say itself why it ends, after another one has ended."""

LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe", re.IGNORECASE)
"""How errors of a collective read whose other side is gone; torch raises them as plain `RuntimeError`."""


class LostRank(Callback):
    """Ends a run of several processes when one of them dies: with a message and an exit status that is not 0.

    Without it the others wait in a collective operation until that times out, or are killed without a word. The first
    process looks at those that it started, and each of them at the first one, twice a second, also while the model is
    loaded. A process that ends with an error of its own says so itself. On Windows, and where `torchrun` or SLURM
    starts the processes, this callback does nothing: those launchers end the others.

    Args:
        args: The arguments of the command, to say how to go on; null says only what died.
    """

    def __init__(self, args: Sequence[str] | None = None) -> None:
        self._args = args
        self._over = threading.Event()
        """The run has ended well, or by an error of this process: what happens to others is no news any more."""
        self._once = threading.Lock()
        self._answers: Path | None = None
        self._rank = 0
        self._first = 0

    def watch(self, trainer: Trainer) -> None:
        """Begin to look at the other processes, before there are any. To be called right after the trainer is made."""
        launcher = trainer.strategy.launcher
        if not isinstance(launcher, _SubprocessScriptLauncher) or sys.platform == "win32":
            return
        self._rank = launcher.cluster_environment.local_rank()
        if not launcher.cluster_environment.creates_processes_externally:
            os.environ[FIRST] = str(os.getpid())
        elif self._rank and FIRST in os.environ:
            self._first = int(os.environ[FIRST])
        else:
            return
        threading.Thread(target=self._look, args=(trainer,), daemon=True, name="lost-rank").start()

    # --- looking -----------------------------------------------------------------------------------------------

    def _look(self, trainer: Trainer) -> None:
        while not self._over.wait(POLL):
            if not self._first:
                _quieten()
            if self._lost(trainer) and not self._over.wait(GRACE) and (what := self._lost(trainer)):
                self._end(trainer, *what)

    def _lost(self, trainer: Trainer) -> tuple[str, int] | None:
        """Who has died, in words, and the exit status to end with."""
        if self._first:
            gone = os.getppid() != self._first
            return (f"rank 0 (process {self._first}) has ended before rank {self._rank}", 1) if gone else None
        for rank, process in enumerate(_children(trainer), start=1):
            status = process.poll()
            if not status or (status - 128 in SIGNALS and self._told_to_end(trainer)):
                continue
            if status > 0:
                return f"rank {rank} (process {process.pid}) ended with exit status {status}", status
            name = signal.Signals(-status).name
            memory = ", as the system does when memory runs out" if -status == signal.SIGKILL else ""
            return f"rank {rank} (process {process.pid}) was ended by {name}{memory}", 128 - status
        return None

    @staticmethod
    def _told_to_end(trainer: Trainer) -> bool:
        callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
        return any(isinstance(one, StopOnSignal) and one.received for one in callbacks)

    # --- what this process does --------------------------------------------------------------------------------

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Answers are kept from now on."""
        session = session_of(trainer)
        self._answers = None if session is None else session.folder

    on_predict_start = on_test_start

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Nothing is shared any more."""
        self._over.set()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """An error that the death of another process caused is told as that; any other is this process's own."""
        if trainer.world_size > 1 and _is_lost(exception):
            end = time.monotonic() + 3 * GRACE
            while time.monotonic() < end:
                if what := self._lost(trainer):
                    self._end(trainer, *what)
                time.sleep(POLL / 5)
        self._over.set()

    # --- the end -----------------------------------------------------------------------------------------------

    def _end(self, trainer: Trainer, what: str, status: int) -> None:
        """Say it, end the processes that this one started, and end at once: the main thread waits for the dead."""
        if not self._once.acquire(blocking=False):
            time.sleep(60)  # another thread of this process is ending it
        try:
            lines = ["", f"robustlm: error: {what}; a run cannot go on without one of its processes"]
            if self._rank in (0, 1):  # of those that lost the first process, one says the rest
                lines += self._ways_on(trainer)
            os.write(2, ("\n".join(lines) + "\n").encode())
            sys.stdout.flush()
            for process in _children(trainer):
                process.kill()  # not SIGTERM: a process in a collective operation could not obey
        finally:
            os._exit(status)

    def _ways_on(self, trainer: Trainer) -> list[str]:
        if self._args is None:
            return []
        if trainer.state.fn == "fit":
            callbacks: list[Any] = trainer.callbacks  # type: ignore[attr-defined]
            kept = [one.last_model_path for one in callbacks if isinstance(one, StepCheckpoint)]
            last = next((path for path in kept if path and Path(path).exists()), None)
            if last is not None:
                return ["go on with:", f"  {going_on(self._args, '--ckpt_path', last)}"]
        elif self._answers is not None:
            return ["go on with:", f"  {going_on(self._args, '--predictions.resume', str(self._answers))}"]
        return ["nothing was saved by this run; start it again with:", f"  {shlex.join([*started_by(), *self._args])}"]


def _children(trainer: Trainer) -> list[Any]:
    return list(getattr(trainer.strategy.launcher, "procs", ()))


def _is_lost(exception: BaseException) -> bool:
    return isinstance(exception, torch.distributed.DistError) or (
        isinstance(exception, RuntimeError) and LOST.search(str(exception)) is not None
    )


def _quieten() -> None:
    """Lightning's own observer would kill all processes, this one too, some seconds later and without a word."""
    for thread in threading.enumerate():
        if isinstance(thread, _ChildProcessObserver):
            thread._child_processes = []

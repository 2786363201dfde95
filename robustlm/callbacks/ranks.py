"""Ends all processes of a run within seconds when one of them dies; prints which one died and how to continue."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.fabric.strategies.launchers.subprocess_script import _ChildProcessObserver
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from robustlm.callbacks.checkpoints import StepCheckpoint
from robustlm.callbacks.folder import session_of
from robustlm.callbacks.interruption import SIGNALS, StopOnSignal, going_on, started_by

FIRST = "ROBUSTLM_RANK_ZERO"
"""Environment variable that gives the process id of the first process of a machine to those that it starts."""

POLL = 0.5
"""Seconds between two checks of the other processes."""

GRACE = 3.0
"""Seconds that a process has, after another one has ended, to report an error of its own."""

LOST = re.compile(r"gloo|nccl|connection (closed|reset|refused)|broken pipe", re.IGNORECASE)
"""Text in errors of a collective operation with a dead process; torch raises them as plain `RuntimeError`."""


class LostRank(Callback):
    """Ends a run of several processes with a message and a nonzero exit status when one of them dies.

    Without it the other processes wait in a collective operation until it times out, or are killed without a message.
    Twice a second, also while the model is loaded, the first process checks those that it started, and each of them
    checks the first one. A process that ends with an error of its own prints that error itself. This callback does
    nothing on Windows, or where `torchrun` or SLURM starts the processes: these launchers end the other processes.

    Args:
        args: The arguments of the command, to print how to continue; null prints only which process died.
    """

    def __init__(self, args: Sequence[str] | None = None) -> None:
        self._args = args
        self._over = threading.Event()
        """Set when the run has ended normally or by an error of this process; then other processes are not checked."""
        self._once = threading.Lock()
        self._answers: Path | None = None
        self._rank = 0
        self._first = 0

    def watch(self, trainer: Trainer) -> None:
        """Start checking the other processes. Call it right after the trainer is made, before it starts processes."""
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

    # --- checking ----------------------------------------------------------------------------------------------

    def _look(self, trainer: Trainer) -> None:
        while not self._over.wait(POLL):
            if not self._first:
                _quieten()
            if self._lost(trainer) and not self._over.wait(GRACE) and (what := self._lost(trainer)):
                self._end(trainer, *what)

    def _lost(self, trainer: Trainer) -> tuple[str, int] | None:
        """A message that names the dead process, and the exit status to end with; null if none has died."""
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
            memory = " (the system does this when memory runs out)" if -status == signal.SIGKILL else ""
            return f"rank {rank} (process {process.pid}) was ended by {name}{memory}", 128 - status
        return None

    @staticmethod
    def _told_to_end(trainer: Trainer) -> bool:
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        return any(isinstance(one, StopOnSignal) and one.received for one in callbacks)

    # --- hooks -------------------------------------------------------------------------------------------------

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the folder of the evaluation: from now on its answers are kept."""
        session = session_of(trainer)
        self._answers = None if session is None else session.folder

    on_predict_start = on_test_start

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop checking the other processes."""
        self._over.set()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """If the death of another process caused the exception, end with a message about that process."""
        if trainer.world_size > 1 and _is_lost(exception):
            end = time.monotonic() + 3 * GRACE
            while time.monotonic() < end:
                if what := self._lost(trainer):
                    self._end(trainer, *what)
                time.sleep(POLL / 5)
        self._over.set()

    # --- the end -----------------------------------------------------------------------------------------------

    def _end(self, trainer: Trainer, what: str, status: int) -> None:
        """Print the message, kill the processes that this one started, and exit at once.

        A normal exit is not possible: the main thread waits for the dead process.
        """
        if not self._once.acquire(blocking=False):
            time.sleep(60)  # another thread of this process is ending it
        try:
            lines = ["", f"robustlm: error: {what}; a run cannot go on without one of its processes"]
            if self._rank in (0, 1):  # if rank 0 died, only rank 1 prints how to continue
                lines += self._ways_on(trainer)
            os.write(2, ("\n".join(lines) + "\n").encode())
            sys.stdout.flush()
            for process in _children(trainer):
                process.kill()  # not SIGTERM: a process in a collective operation could not handle it
        finally:
            os._exit(status)

    def _ways_on(self, trainer: Trainer) -> list[str]:
        if self._args is None:
            return []
        if trainer.state.fn == "fit":
            callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
            kept = [one.last_model_path for one in callbacks if isinstance(one, StepCheckpoint)]
            last = next((path for path in kept if path and Path(path).exists()), None)
            if last is not None:
                return ["go on with:", f"  {going_on(self._args, '--ckpt_path', last)}"]
        elif self._answers is not None:
            return ["go on with:", f"  {going_on(self._args, '--predictions.resume', str(self._answers))}"]
        return ["nothing was saved by this run; start it again with:", f"  {shlex.join([*started_by(), *self._args])}"]


def _children(trainer: Trainer) -> list[subprocess.Popen[bytes]]:
    return list(getattr(trainer.strategy.launcher, "procs", ()))


def _is_lost(exception: BaseException) -> bool:
    return isinstance(exception, torch.distributed.DistError) or (
        isinstance(exception, RuntimeError) and LOST.search(str(exception)) is not None
    )


def _quieten() -> None:
    """Turn off Lightning's observer; after some seconds it would kill all processes without a message."""
    for thread in threading.enumerate():
        if isinstance(thread, _ChildProcessObserver):
            thread._child_processes = []

"""Ends a run on a signal: saves results, prints how to continue, and exits with the status of the signal."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch import Callback, LightningModule, Trainer

from robustlm.callbacks.checkpoints import StepCheckpoint
from robustlm.callbacks.folder import session_of
from robustlm.modules.boundary import inside_step

SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""Signals that end a run: SIGTERM from a scheduler or shell, SIGINT from Ctrl-C."""


def going_on(args: Sequence[str], flag: str, value: str) -> str:
    """The command that continues a run: the run's arguments, without earlier resume flags, and with one new flag.

    Args:
        args: The arguments of `robustlm`, as they were given.
        flag: `--ckpt_path`, `--resume` or `--predictions.resume`.
        value: Value of the flag.
    """
    places = ("--ckpt_path", "--resume") if flag != "--predictions.resume" else (flag,)
    kept: list[str] = []
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        if arg in places:
            rest[:1] = []
        elif arg.partition("=")[0] not in places:
            kept.append(arg)
    return shlex.join([*started_by(), *kept, flag, value])


def started_by() -> list[str]:
    """The shell words that started this program: `robustlm`, its path, or `python -m robustlm`."""
    program = Path(sys.argv[0])
    if program.name == "__main__.py" and program.parent.name == "robustlm" and "-m" in sys.orig_argv:
        return list(sys.orig_argv[: sys.orig_argv.index("-m") + 2])
    found = shutil.which("robustlm")
    if program.stem == "robustlm" and (found is None or not Path(found).samefile(program)):
        return [str(program)]
    return ["robustlm"]


def _launcher() -> str:
    """Part of a message that names torchrun or srun if it started the processes of this run; otherwise empty."""
    known = {"TORCHELASTIC_RUN_ID": "torchrun", "SLURM_STEP_ID": "srun"}
    return next((f", by {name} as before" for key, name in known.items() if key in os.environ), "")


class StopOnSignal(Callback):
    """Saves results on SIGTERM or SIGINT, then exits with 143 or 130. A second signal ends the run at once.

    Training ends after the current optimiser step (all of its micro-batches) and writes `last.ckpt`. During a
    validation it ends after the current batch, and the resumed run validates again. A test ends after the current
    batch; its answers are kept. A search for attacks ends after the texts that are being tried (only on SIGTERM; Ctrl-C
    ends it at once); finished attacks are kept.

    With several processes, a signal to one of them is enough during training. A validation then runs to its end, since
    ranks may have different numbers of batches in it.

    On SLURM with requeueing, Lightning handles SIGTERM. The requeue signal (SIGUSR1 by default) is passed on to
    Lightning, which saves and requeues, at the points named above. In the middle of a step, weights and counters would
    belong to different steps.

    Args:
        args: The arguments of the command, to print how to continue; null prints only where the checkpoint is.
    """

    def __init__(self, args: Sequence[str] | None = None) -> None:
        self._args = args
        self._received: int | None = None
        self._known: dict[int, Callable[[int, FrameType | None], object] | int | None] = {}
        self._pid = 0
        self._trainer: Trainer | None = None
        self._requeue: Callable[[int, FrameType | None], object] | None = None
        """Lightning's handler of the requeue signal."""
        self._requeue_number = 0
        self._requeued_by: tuple[int, FrameType | None] | None = None
        """Number and frame of a requeue signal that waits for the end of the step."""

    @property
    def received(self) -> bool:
        """Whether this process got a signal to end."""
        return self._received is not None

    # --- signals -----------------------------------------------------------------------------------------------

    def _listen(self, trainer: Trainer) -> None:
        """Replace Lightning's signal handlers, which are set shortly before and would exit with status 0."""
        if self._known or threading.current_thread() is not threading.main_thread():
            return
        self._pid = os.getpid()
        environment = trainer._accelerator_connector.cluster_environment
        slurm = environment if isinstance(environment, SLURMEnvironment) and environment.auto_requeue else None
        for number in SIGNALS:
            if slurm is None or number != signal.SIGTERM:
                self._known[number] = signal.signal(number, self._receive)
        if slurm is not None and slurm.requeue_signal is not None:
            known = signal.getsignal(slurm.requeue_signal)
            if callable(known):
                self._trainer, self._requeue_number, self._requeue = trainer, slurm.requeue_signal, known
                self._known[self._requeue_number] = signal.signal(self._requeue_number, self._receive_requeue)
        if slurm is None and trainer.received_sigterm:  # Lightning's handler took it, before our first hook
            self._received = signal.SIGTERM

    def _receive_requeue(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            return
        assert self._trainer is not None
        assert self._requeue is not None
        if self._trainer.state.fn != "fit":
            self._requeue(number, frame)
            return
        self._requeued_by = number, frame
        os.write(2, f"\n{signal.Signals(number).name}: requeueing at the end of the step\n".encode())

    def _hand_on(self, trainer: Trainer) -> None:
        """Let Lightning save and requeue; on all processes if one of them got the requeue signal."""
        if self._requeue is None:
            return
        received = self._requeued_by
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(received is not None, all=False):
            received = received or (self._requeue_number, None)
        if received is not None:
            self._requeued_by = None
            self._requeue(*received)

    def _receive(self, number: int, frame: object) -> None:
        if os.getpid() != self._pid:
            return  # a worker process that prepares batches; it ends with this process
        name = signal.Signals(number).name
        if self._received is not None:
            os.write(2, f"\n{name} again: ending at once\n".encode())
            signal.signal(number, signal.SIG_DFL)
            os.kill(self._pid, number)
        self._received = number
        os.write(2, f"\n{name}: ending as soon as all is saved; a second signal ends at once\n".encode())

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the earlier signal handlers, unless Lightning, whose teardown runs first, has done so."""
        for number, handler in self._known.items():
            if signal.getsignal(number) in (self._receive, self._receive_requeue):
                signal.signal(number, handler)
        self._known, self._requeue = {}, None

    # --- points where a run can end ----------------------------------------------------------------------------

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the signal handlers."""
        self._listen(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set the signal handlers; end here if a signal came before."""
        self._listen(trainer)
        if self._received is not None and trainer.world_size == 1:
            self._end_training(trainer, self._received)

    on_validation_start = on_sanity_check_start
    on_test_start = on_sanity_check_start
    on_predict_start = on_sanity_check_start

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int
    ) -> None:
        """End training after an optimiser step, if a process got a signal."""
        if inside_step(trainer):
            return
        self._hand_on(trainer)
        received = self._received
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(received is not None, all=False):
            self._received = received = received or signal.SIGTERM
        if received is not None:
            self._end_training(trainer, received)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Pass on a requeue signal that came after the last step, for example in the last validation."""
        self._hand_on(trainer)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: object, batch: object, batch_idx: int, *_: object
    ) -> None:
        """End the run within a validation, if there is a single process and it got a signal."""
        if trainer.world_size > 1:
            return
        if self._requeued_by is not None and not trainer.sanity_checking:
            self._hand_on(trainer)
        if self._received is None:
            return
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            raise SystemExit(128 + self._received)
        self._end_training(trainer, self._received)

    def on_test_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, *_: object) -> None:
        """End a test before its next batch, if this process got a signal."""
        if self._received is None:
            return
        self._say_kept(trainer)
        raise SystemExit(128 + self._received)

    def on_predict_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: object, *_: object) -> None:
        """The same as in a test."""
        self.on_test_batch_start(trainer, pl_module, batch)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Save although a worker died: a signal to all processes also kills workers, which raises an exception."""
        if self._received is None and trainer.received_sigterm and isinstance(exception, SystemExit):
            self._say_kept(trainer)  # a search for attacks has ended
        if self._received is None or isinstance(exception, SystemExit | KeyboardInterrupt):
            return
        if trainer.world_size == 1 and trainer.state.fn == "fit" and not getattr(pl_module, "updating", False):
            self._end_training(trainer, self._received)

    # --- the end -----------------------------------------------------------------------------------------------

    def _end_training(self, trainer: Trainer, number: int) -> NoReturn:
        callbacks: list[object] = trainer.callbacks  # type: ignore[attr-defined]
        keepers = [one for one in callbacks if isinstance(one, StepCheckpoint)]
        if keepers and trainer.global_step and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            path = keepers[0].save_last_now(trainer)
            if trainer.is_global_zero:
                self._say(f"saved {path} after optimiser step {trainer.global_step}", "--ckpt_path", path)
        elif trainer.is_global_zero:
            print("nothing was trained yet, so nothing is saved", file=sys.stderr)
        raise SystemExit(128 + number)

    def _say_kept(self, trainer: Trainer) -> None:
        session = session_of(trainer)
        if session is not None and session.folder is not None:
            self._say("answers and attacks so far are saved", "--predictions.resume", str(session.folder))

    def _say(self, what: str, flag: str, value: str) -> None:
        print(what, file=sys.stderr)
        if self._args is not None:
            print(f"go on with{_launcher()}:\n  {going_on(self._args, flag, value)}", file=sys.stderr, flush=True)

"""Commands in a process of their own, which a test may kill."""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from robustlm.cli import main


def command(*args: str) -> Forked:
    """Run `robustlm ARGS` in a process of its own."""

    def run() -> None:
        sys.argv = ["robustlm", *args]  # with which Lightning starts further processes
        sys.modules["__main__"].__spec__ = find_spec("robustlm.__main__")
        main(list(args))

    return Forked(run)


def side_by_side(run: Callable[[], object], processes: int = 2) -> None:
    """Run the same in several processes that find each other as those of one Lightning run (`devices`, `ddp`) do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "WORLD_SIZE": str(processes)}
    for process in [Forked(run, LOCAL_RANK=str(rank), **place) for rank in range(processes)]:
        output, _ = process.communicate()
        assert process.returncode == 0, output


class Forked:
    """A copy of the test's process that runs something, with what the test has imported: it begins at once.

    It is used like a `subprocess.Popen`. What it prints goes to a file.

    Args:
        run: What it runs; a `SystemExit` gives the exit status, as in a script.
        environment: Environment variables of its own.
    """

    def __init__(self, run: Callable[[], object], **environment: str) -> None:
        handle, name = tempfile.mkstemp(prefix="robustlm-test-")
        self._output = Path(name)
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            self._run(handle, run, environment)
        os.close(handle)

    def _run(self, handle: int, run: Callable[[], object], environment: dict[str, str]) -> None:
        status = 1
        try:
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
            sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.default_int_handler if number is signal.SIGINT else signal.SIG_DFL)
            os.environ.update({"ROBUSTLM_TRACEBACK": "1"} | environment)
            rank_zero_only.rank = int(environment.get("LOCAL_RANK", 0))  # as Lightning does when it is imported
            run()
            status = 0
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:  # as the interpreter does
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def poll(self) -> int | None:
        """The exit status, or `None` while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """Send it SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float = 300) -> tuple[str, None]:
        """Wait for its end; what it printed."""
        deadline = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > deadline:
                self.kill()
                self.poll()
                raise TimeoutError(f"still running after {timeout} s:\n{self._output.read_text(encoding='utf-8')}")
            time.sleep(0.01)
        said = self._output.read_text(encoding="utf-8", errors="replace") if self._output.exists() else ""
        self._output.unlink(missing_ok=True)
        return said, None

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


def command(*args: str, output: int | None = None) -> Forked:
    """Run `robustlm ARGS` in a process of its own; see `Forked`."""

    def run() -> None:
        sys.argv = ["robustlm", *args]  # with which Lightning starts further processes
        sys.modules["__main__"].__spec__ = find_spec("robustlm.__main__")
        main(list(args))

    return Forked(run, output)


def side_by_side(run: Callable[[], object], processes: int = 2) -> None:
    """Run the same in several processes that find each other as those of one Lightning run (`devices`, `ddp`) do."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "WORLD_SIZE": str(processes)}
    started = [Forked(run, LOCAL_RANK=str(rank), **place) for rank in range(processes)]
    try:
        for process in started:
            output, _ = process.communicate()
            assert process.returncode == 0, output
    finally:  # the others wait for one that failed
        for process in started:
            if process.poll() is None:
                process.kill()
                process.communicate()


class Forked:
    """A copy of the test's process that runs something, with what the test has imported: it begins at once.

    It is used like a `subprocess.Popen`, and leads a process group of its own.

    Args:
        run: What it runs; a `SystemExit` gives the exit status, as in a script.
        output: File descriptor that it prints to, which is closed here; a file, which `communicate` reads, if `None`.
        environment: Environment variables of its own.
    """

    def __init__(self, run: Callable[[], object], output: int | None = None, **environment: str) -> None:
        handle, name = (output, "") if output is not None else tempfile.mkstemp(prefix="robustlm-test-")
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
            os.setpgid(0, 0)
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
        said = ""
        if self._output.is_file():
            said = self._output.read_text(encoding="utf-8", errors="replace")
            self._output.unlink()
        return said, None

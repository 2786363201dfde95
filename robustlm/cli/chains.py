"""Run independent chains of commands side by side, each in a process with one thread.

The commands of one chain run one after the other. Their output goes to the chain's log.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

LAST_LINES = 12
"""How many of a log's last lines an error message shows."""


@dataclass(frozen=True)
class Chain:
    """Commands of one arm."""

    log: str
    """File for all output of the commands."""
    commands: tuple[tuple[str, ...], ...]
    """The commands; each is the list of arguments of `robustlm`."""


Main = Callable[[Sequence[str]], Any]
"""A function that runs a command. Other processes must be able to import it."""


def run_chains(chains: Sequence[Chain], main: Main, begun: Callable[[Sequence[str]], None], jobs: int = 2) -> None:
    """Run chains in at most `jobs` processes, each with one thread. The number of processes does not change results.

    Args:
        chains: The chains to run. Put the longest first.
        main: Runs a command.
        begun: Called in this process when a command begins.
        jobs: Largest number of processes; the number of cores is a second limit.

    Raises:
        ValueError: A command failed. The message shows the end of its log. The other chains are stopped.
    """
    left = deque(chains)
    spawn = multiprocessing.get_context("spawn")  # a fork would copy threads of torch in an unknown state
    running: dict[Connection, tuple[BaseProcess, Chain]] = {}
    try:
        while left or running:
            while left and len(running) < max(1, min(jobs, _cores())):
                chain = left.popleft()
                Path(chain.log).parent.mkdir(parents=True, exist_ok=True)
                here, there = spawn.Pipe()
                process: BaseProcess = spawn.Process(target=_work, args=(chain, main, there))
                process.start()
                there.close()
                running[here] = process, chain
            for ready in wait(list(running)):
                assert isinstance(ready, Connection)
                _hear(ready, running, begun)
    finally:
        for process, _ in running.values():
            process.terminate()
            process.join()


def _hear(
    ready: Connection, running: dict[Connection, tuple[BaseProcess, Chain]], begun: Callable[[Sequence[str]], None]
) -> None:
    """Handle one message of a process: a command begins, or the process has ended."""
    try:
        begun(ready.recv())
    except EOFError:
        process, chain = running.pop(ready)
        process.join()
        if process.exitcode:
            raise ValueError(_failed(chain, process.exitcode)) from None


def _failed(chain: Chain, status: int) -> str:
    log = Path(chain.log)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    end = "\n".join(f"  {line}" for line in lines[-LAST_LINES:])
    return f"a command ended with status {status}; {chain.log} has its whole output, which ends with:\n{end}"


def _work(chain: Chain, main: Main, said: Connection) -> None:
    """Run a chain in this process."""
    import torch

    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    sys.stdout.flush()
    sys.stderr.flush()
    with open(chain.log, "w", encoding="utf-8") as log:
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
    for command in chain.commands:
        said.send(command)
        main(command)
        sys.stdout.flush()
        sys.stderr.flush()


def _end_with_parent() -> None:
    """Stop this process, as Ctrl-C would, when its parent process ends."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

"""Chains of commands that do not need each other, run side by side in processes of one thread each.

A chain's commands run one after the other. What they print goes to the chain's log.
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
from pathlib import Path
from typing import Any

LAST_LINES = 12
"""Lines of a log that an error shows."""


@dataclass(frozen=True)
class Chain:
    """Commands of one arm."""

    log: str
    """File for all that the commands print."""
    commands: tuple[tuple[str, ...], ...]
    """Arguments of `robustlm`, a command each."""


Main = Callable[[Sequence[str]], Any]
"""Runs a command; a function that another process can import."""


def run_chains(chains: Sequence[Chain], main: Main, begun: Callable[[Sequence[str]], None], jobs: int = 2) -> None:
    """Run chains in at most `jobs` processes, each with one thread. How many there are changes no result.

    Args:
        chains: What to run; the longest first.
        main: Runs a command.
        begun: Called in this process when a command begins.
        jobs: Processes; no more than there are cores are used.

    Raises:
        ValueError: A command failed. The message has the end of its log, and the other chains are stopped.
    """
    left = deque(chains)
    spawn = multiprocessing.get_context("spawn")  # a fork would copy threads of torch in an unknown state
    running: dict[Connection, tuple[Any, Chain]] = {}
    try:
        while left or running:
            while left and len(running) < max(1, min(jobs, _cores())):
                chain = left.popleft()
                Path(chain.log).parent.mkdir(parents=True, exist_ok=True)
                here, there = spawn.Pipe()
                process = spawn.Process(target=_work, args=(chain, main, there))
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
    ready: Connection, running: dict[Connection, tuple[Any, Chain]], begun: Callable[[Sequence[str]], None]
) -> None:
    """Take what a process says: a command that begins, or its end."""
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
    return f"a command ended with status {status}; {chain.log} has all that it printed, and ends with:\n{end}"


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
    """Stop as Ctrl-C would when the process that started this one is gone."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

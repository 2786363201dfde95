"""Work on chunks in several processes; results come in the order of the chunks."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, TypeVar, cast

T = TypeVar("T")
R = TypeVar("R")

_AHEAD = 2
"""Chunks in progress for each process; the limit bounds memory."""
_MOST = 16
"""Maximum number of processes; one process reads and writes, and cannot serve more."""
_work: Callable[[Any], object] | None = None


class LostProcessError(RuntimeError):
    """A process ended before its work was done, for example because memory ran out."""


def usable_cores() -> int:
    """Number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def sensible_processes() -> int:
    """Number of processes for `in_order`: one for each core, and 1 where processes cannot be forked safely."""
    if sys.platform != "linux" or multiprocessing.current_process().daemon:
        return 1
    return min(usable_cores(), _MOST)


def in_order(work: Callable[[T], R], chunks: Iterable[T], processes: int = 1) -> Iterator[R]:
    """Yield `work(chunk)` for every chunk, in the order of the chunks.

    Processes are forked, so `work` may hold anything; chunks and results are pickled. A chunk whose work raises an
    error is worked on again in this process, so that the error is the one that a single process raises.

    Args:
        work: Function of a chunk, with the same result in every process.
        chunks: The chunks; they are drawn only shortly before they are worked on.
        processes: Number of processes; with 1, this process does the work.

    Raises:
        LostProcessError: A process was killed.
    """
    if processes <= 1:
        yield from map(work, chunks)
        return
    global _work
    _work = work
    waiting: deque[tuple[T, Future[tuple[bool, R | None]]]] = deque()
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("fork"), _start)
    try:
        for chunk in chunks:
            waiting.append((chunk, pool.submit(_run, chunk)))
            if len(waiting) >= processes * _AHEAD:
                yield _result(work, *waiting.popleft())
        while waiting:
            yield _result(work, *waiting.popleft())
    finally:
        _work = None
        pool.shutdown(wait=True, cancel_futures=True)


def _start() -> None:
    # the processes share the cores; threads of the tokenizer would be more than there are
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _run(chunk: object) -> tuple[bool, Any]:
    assert _work is not None
    try:
        return True, _work(chunk)
    except Exception:
        return False, None


def _result(work: Callable[[T], R], chunk: T, future: Future[tuple[bool, R | None]]) -> R:
    from concurrent.futures.process import BrokenProcessPool

    try:
        done, result = future.result()
    except BrokenProcessPool as error:
        raise LostProcessError(
            "a process that prepares rows was killed, perhaps because memory ran out; start the command again"
        ) from error
    return cast(R, result) if done else work(chunk)

"""A time limit for code that comes with data, such as a tokenizer's chat template."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class TimeLimitError(BaseException):
    """The time limit is reached. Not an `Exception`, so that an `except Exception` in the limited code misses it."""


def limited(seconds: float, work: Callable[[], T]) -> T:
    """Run Python code under a time limit, in any thread of any process.

    A timer raises the error in the working thread at its next Python instruction. A single long call into C (a text
    repeated a billion times) is not interrupted.

    Args:
        seconds: The limit, in seconds.
        work: The function to run.

    Raises:
        TimeLimitError: The work took longer than the limit.
    """
    thread = ctypes.c_ulong(threading.get_ident())
    lock = threading.Lock()
    state = {"done": False, "raised": False}

    def interrupt() -> None:
        with lock:
            if not state["done"]:
                state["raised"] = True
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, ctypes.py_object(TimeLimitError))

    timer = threading.Timer(seconds, interrupt)
    timer.daemon = True
    timer.start()
    try:
        return work()
    finally:
        timer.cancel()
        with lock:
            state["done"] = True
            if state["raised"]:  # the error may be pending if the work ended at the same moment
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, None)

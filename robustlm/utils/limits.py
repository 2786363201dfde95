"""A time limit for code that comes with data, such as a tokenizer's chat template."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class TimeLimitError(BaseException):
    """Time is up. No `Exception`, so that code under the limit does not catch it by the way."""


def limited(seconds: float, work: Callable[[], T]) -> T:
    """Run Python code for at most so long, in any thread of any process.

    A timer raises the error inside of the thread that works, at its next step of Python. A single long call into C (a
    text repeated a billion times) is not interrupted before it ends.

    Args:
        seconds: The limit.
        work: What to run.

    Raises:
        TimeLimitError: It took longer.
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
            if state["raised"]:  # and perhaps not yet delivered, if the work ended just then
                ctypes.pythonapi.PyThreadState_SetAsyncExc(thread, None)

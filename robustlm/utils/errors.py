"""Errors that a user can fix."""

from __future__ import annotations


class UserError(RuntimeError):
    """Something outside the program is missing or wrong: a package, a key, an endpoint. The message says what to do.

    The command line prints only the message, without a traceback, as it does for `ValueError` and `OSError`.
    """

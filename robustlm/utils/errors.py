"""Errors that a user can mend."""

from __future__ import annotations


class UserError(RuntimeError):
    """Something outside of the program is missing or wrong: a package, a key, an endpoint. The message says what to do.

    The command line prints the message alone, without a traceback, as it does for `ValueError` and `OSError`.
    """

"""The folder that a command runs in, and its tiny model."""

from tests.bad_input.test_bad_input import site, tiny

__all__ = ["site", "tiny"]

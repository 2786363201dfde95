"""The command line."""

from __future__ import annotations

from robustlm.cli.entry import main, run

__all__ = ["main", "run"]

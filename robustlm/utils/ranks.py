"""Which of several processes this one is."""

from __future__ import annotations

from lightning_utilities.core.rank_zero import rank_zero_only


def is_first() -> bool:
    """Whether this is the first process of a run, or the only one. Lightning numbers them when it is imported."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0

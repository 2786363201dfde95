"""The rank of this process."""

from __future__ import annotations

from lightning_utilities.core.rank_zero import rank_zero_only


def is_first() -> bool:
    """Whether this is the first or only process of a run. Lightning sets the rank when it is imported."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0

"""Which cells of samples × instructions are asked, if a budget does not allow all."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from robustlm.utils.random import drawn


def balanced_cells(
    samples: Sequence[str], instructions: Sequence[str], share: float, seed: int
) -> set[tuple[str, str]]:
    """Draw a share of the cells, so that each sample and each instruction is asked about equally often.

    Numbers of cells differ by at most one between samples, and by at most two between instructions. The cells are a
    function of the seed and the ids, in any order: tables over the same ids can be compared cell by cell.

    Args:
        samples: Ids, each once.
        instructions: Ids, each once.
        share: Share of the cells, in (0, 1]; at least one cell for each instruction is asked.
        seed: Seed of the draw.
    """
    n, k = len(samples), len(instructions)
    wanted = min(n * k, max(math.ceil(share * n * k - 1e-9), k))
    rows = sorted(samples, key=lambda one: drawn(seed, "budget", "sample", one))
    columns = sorted(instructions, key=lambda one: drawn(seed, "budget", "instruction", one))
    counts = np.zeros(k)
    asked = np.zeros((n, k), bool)
    order = np.array([[drawn(seed, "budget", row, column) / 2**64 for column in columns] for row in rows])
    for at in range(wanted):
        row = at % n
        # of the instructions that this sample was not asked with, the one asked least so far; ties by hash
        column = int(np.argmin(np.where(asked[row], np.inf, counts + order[row])))
        asked[row, column] = True
        counts[column] += 1
    return {(rows[i], columns[j]) for i, j in zip(*np.nonzero(asked), strict=True)}

"""How much memory a step of plain tuning takes, here and in TRL's `SFTTrainer`: `python -m benchmarks.memory`.

The variants, rows and precision are those of `benchmarks.trl`. The peak is that of the whole process on a CPU (resident
memory, whose peak starts anew before each step) and of PyTorch's allocator on a GPU. `of it the step's` is the peak
less what the process held before its first step: weights, libraries and data. It is divided by the tokens of the batch,
because packed rows hold other numbers of them.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from benchmarks.loops import OURS, Result
from benchmarks.trl import options, run


def table(found: dict[str, Result]) -> Iterator[str]:
    """Lines of a Markdown table: medians of steps, and ratios to this project."""
    yield "| variant | peak MiB | of it the step's | a token's, ÷ robustlm | MiB a token |"
    yield "|---|---|---|---|---|"
    grown = {
        name: statistics.median((step.peak - one.start) / step.tokens for step in one.steps) / 2**20
        for name, one in found.items()
    }
    for name, one in found.items():
        most = one.peak()
        ratio = grown[name] / grown[OURS]
        yield f"| {name} | {most:.0f} | {most - one.start / 2**20:.0f} | {ratio:.2f} | {grown[name]:.3f} |"


if __name__ == "__main__":
    run(options().parse_args(), table)

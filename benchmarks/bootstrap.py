"""What the bootstrap of robustness numbers costs: a table as large as CoIN's evaluation, in processor seconds."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from robustlm.evaluation.pairing import pair
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import Settings, robustness

CONDITIONS = ("clean", "character", "word", "sentence", "semantic")


def main() -> None:
    """Simulate two runs, and time each kind of number."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datasets", type=int, default=10)
    parser.add_argument("--samples", type=int, default=300)
    parser.add_argument("--instructions", type=int, default=6)
    parser.add_argument("--draws", type=int, default=1000)
    args = parser.parse_args()
    shape = (args.datasets, len(CONDITIONS), args.samples, args.instructions)
    first, second = (table(shape, seed) for seed in (0, 1))
    print(f"{len(first)} rows, {args.draws} draws")
    timed("samples drawn", lambda: robustness(first, Settings(args.draws)))
    timed("samples and instructions drawn", lambda: robustness(first, Settings(args.draws, resample="both")))
    timed("two tables compared", lambda: pair(first, second, Settings(args.draws)))


def table(shape: tuple[int, ...], seed: int) -> list[Record]:
    """Yes–no answers, right as often as a sample is easy."""
    random = np.random.default_rng(seed)
    right = random.random(shape) < random.uniform(0.3, 1, (shape[0], 1, shape[2], 1))
    return [
        Record(
            sample_id=f"{sample:05}", dataset=f"set{dataset}", task="generation", condition=CONDITIONS[condition],
            instruction_id=f"way{way}", prediction="yes" if yes else "no", parsed=[["yes" if yes else "no"]],
            target="yes", correct=bool(yes),
        )
        for (dataset, condition, sample, way), yes in np.ndenumerate(right)
    ]  # fmt: skip


def timed(name: str, call: Callable[[], object]) -> None:
    """Print how long a call takes."""
    began = time.process_time()
    call()
    print(f"{name}: {time.process_time() - began:.2f} s")


if __name__ == "__main__":
    main()

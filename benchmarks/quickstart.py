"""The quickstart over several seeds: means, standard deviations, and differences paired by seed.

    python benchmarks/quickstart.py --seeds 0 1 2 --output runs/seeds

Besides the quickstart's own runs there is `noisy, longer`: noisy instructions alone, for as much computing as ANIT
takes. A seed takes about half as long again as `robustlm quickstart`; seeds that are there already are not repeated.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from robustlm.cli import run
from robustlm.cli.quickstart import ARMS, arm
from robustlm.report.comparison import load_tables, scores_of
from robustlm.report.tables import markdown

LONGER = "noisy, longer"
"""610 steps, in the time of ANIT's 250."""

Scores = dict[str, dict[str, float]]


def main() -> None:
    """Run, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", default="runs/seeds")
    options = parser.parse_args()
    found = []
    for seed in options.seeds:
        folder = f"{options.output}/{seed}"
        if not Path(folder, "comparison.md").exists():
            run(["quickstart", "--output", folder, "--seed", str(seed)])
        if not Path(folder, LONGER).exists():
            for command in arm(f"{folder}/{LONGER}", [*ARMS["noisy"], "--trainer.max_steps", "610"], seed):
                run(command)
        found.append(scores_of(load_tables([f"{name}={folder}/{name}" for name in ("untuned", *ARMS, LONGER)])))
    print(f"\n{len(found)} seeds\n")
    print(spread(found))
    print()
    for better, baseline in (("noisy", "plain"), ("ANIT", "plain"), ("ANIT", "noisy"), ("ANIT", LONGER)):
        print(differences(found, better, baseline))
        print()


def spread(found: list[Scores]) -> str:
    """Mean ± standard deviation over seeds."""
    conditions = list(found[0]["untuned"])
    lines = ["| run | " + " | ".join(conditions) + " |", "|---" * (len(conditions) + 1) + "|"]
    for name in found[0]:
        values = np.array([[scores[name][c] for c in conditions] for scores in found])
        cells = (f"{m:.1f} ± {s:.1f}" for m, s in zip(values.mean(0), values.std(0, ddof=len(found) > 1), strict=True))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def differences(found: list[Scores], better: str, baseline: str) -> str:
    """What one arm is ahead of another, seed by seed."""
    rows = {
        f"seed {i}": {c: scores[better][c] - scores[baseline][c] for c in scores[better]}
        for i, scores in enumerate(found)
    }
    mean = {c: float(np.mean([row[c] for row in rows.values()])) for c in next(iter(rows.values()))}
    return markdown(f"{better} - {baseline}", {**rows, "mean": mean})


if __name__ == "__main__":
    main()

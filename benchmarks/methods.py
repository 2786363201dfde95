"""Every method on the built-in corpus, over several seeds, in one table.

    python benchmarks/methods.py --seeds 0 1 2 --jobs 2 --output runs/methods --table docs/comparison.md

Runs that are there already are not repeated, so an interrupted comparison goes on where it was. A run takes one to four
minutes of one core.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.paired import Difference, differences
from robustlm.evaluation.table import read_table
from robustlm.report.comparison import find_table, mean_scores

CONDITIONS = ("clean", "unseen", "mixed@0.3", "random_typos@0.3", "unseen+random_typos@0.3")

PLAIN = ("--model", "InstructionTuning", "--data", "InstructionDataModule")
NO_NOISE = ("--data.noise", "null")
PAIRS = ("--data", "ContrastiveDataModule", *NO_NOISE)
BOTH = ("--model.train_on", "both")
SMALL = ("--model.contrast.weight", "0.01")
PREFIX = ("--model", "AlignmentTuning", "--model.tuning", "PrefixTuning", "--model.tuning.tokens", "20",
          "--model.optimizer.lr", "1e-2")  # fmt: skip
FULL = ("--model", "AlignmentTuning", "--model.tuning", "FullTuning", "--model.optimizer.lr", "5e-4")


@dataclass(frozen=True)
class Arm:
    """One way to tune the shipped model."""

    flags: tuple[str, ...]
    """Options of `fit` besides those of the config `quickstart`."""
    baselines: tuple[str, ...] = ()
    """What it is compared with: first the arm that lacks the one thing it adds."""


ARMS: dict[str, Arm] = {
    "plain": Arm(PLAIN),
    "plain + paraphrases": Arm(("--model", "InstructionTuning", *PAIRS, *BOTH), ("plain",)),
    "CoIN": Arm(("--model", "ContrastiveTuning", *PAIRS), ("plain + paraphrases",)),
    "CoIN, weight 0.01": Arm(("--model", "ContrastiveTuning", *PAIRS, *SMALL), ("plain + paraphrases",)),
    "KL": Arm(("--model", "AlignmentTuning", *PAIRS), ("plain + paraphrases",)),
    "PT": Arm((*PREFIX, *PAIRS, "--model.alignment", "null")),
    "PT + KL": Arm((*PREFIX, *PAIRS), ("PT",)),
    "FT": Arm((*FULL, *PAIRS, "--model.alignment", "null")),
    "FT + KL": Arm((*FULL, *PAIRS), ("FT",)),
    "ANIT": Arm(("--model", "ANIT"), ("plain",)),
    "noisy paraphrases": Arm(
        ("--model", "InstructionTuning", "--data", "ContrastiveDataModule", *BOTH), ("plain + paraphrases",)
    ),
    "combined": Arm(
        ("--model", "RobustTuning", "--data", "ContrastiveDataModule", *SMALL, "--model.alignment.weight", "0.2"),
        ("noisy paraphrases", "ANIT"),
    ),
}
"""LoRA unless a name says otherwise (PT prefix tuning, FT full tuning); all else is as in `configs/quickstart.yaml`."""


FEW_PHRASINGS = ("--data.instructions", "detailed")
FEW_ROWS = ("--data.train", "[{path: builtin:quickstart, limit: 240}]")
LARGE_BATCH = ("--data.batch_size", "96", "--trainer.max_steps", "125")
PROMPT_END = ("--model.contrast.pooling", "prompt_end")


def _under(name: str, flags: tuple[str, ...]) -> dict[str, Arm]:
    """Contrast, alignment and their baseline in another setting."""
    base = "plain + paraphrases"
    return {
        f"{name}: {base}": Arm((*ARMS[base].flags, *flags)),
        **{
            f"{name}: {arm}": Arm((*ARMS[arm].flags, *flags), (f"{name}: {base}",))
            for arm in ("CoIN, weight 0.01", "KL")
        },
    }


TRIALS: dict[str, Arm] = {
    "fresh phrasings (PAFT)": Arm((*PLAIN, "--data.phrasing", "fresh"), ("plain",)),
    "CoIN, weight 0.1": Arm((*ARMS["CoIN"].flags, "--model.contrast.weight", "0.1"), ("plain + paraphrases",)),
    "CoIN, prompt_end": Arm((*ARMS["CoIN"].flags, *PROMPT_END), ("plain + paraphrases",)),
    "CoIN, prompt_end, weight 0.01": Arm((*ARMS["CoIN, weight 0.01"].flags, *PROMPT_END), ("plain + paraphrases",)),
    "JS": Arm((*ARMS["KL"].flags, "--model.alignment.direction", "js"), ("plain + paraphrases",)),
    "KL, weight 0.2": Arm((*ARMS["KL"].flags, "--model.alignment.weight", "0.2"), ("plain + paraphrases",)),
    **_under("3 phrasings", FEW_PHRASINGS),
    **_under("240 rows", FEW_ROWS),
    **_under("96 samples a step", LARGE_BATCH),
}
"""Where contrast and alignment might help, if not where the others were tried; only run if named by `--arms`, or all by
`--arms trials`."""
KNOWN = ARMS | TRIALS


def main() -> None:
    """Run what is missing, and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=[*KNOWN, "trials"], metavar="ARM")
    parser.add_argument("--output", type=Path, default=Path("runs/methods"))
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; each takes one core")
    parser.add_argument("--table", type=Path, help="file for the tables; they are printed in any case")
    options = parser.parse_args()
    if "trials" in options.arms:
        options.arms = ["plain + paraphrases", *TRIALS]
    runs = [(name, seed) for seed in options.seeds for name in options.arms]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda run: tune_and_test(options.output, *run), runs))
    text = report(options.output, options.arms, options.seeds)
    print(text)
    if options.table:
        options.table.write_text(HEADING + text + "\n", encoding="utf-8")


def tune_and_test(output: Path, name: str, seed: int) -> None:
    """One run, unless it is there."""
    folder = output / name / str(seed)
    if (folder / "seconds").exists():
        return
    common = ["-c", "quickstart", "--seed_everything", str(seed), "--data.seed", str(seed),
              "--data.conditions", f"[{', '.join(CONDITIONS)}]", "--trainer.default_root_dir", str(folder),
              "--trainer.enable_progress_bar", "false"]  # fmt: skip
    fit = ["fit", *common, *KNOWN[name].flags, "--checkpoint.dirpath", str(folder / "weights")]
    test = ["test", *common, "--ckpt_path", str(folder / "weights" / "last.ckpt")]
    folder.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    seconds = []
    for command in (fit, test):
        began = time.monotonic()
        with (folder / f"{command[0]}.log").open("w") as log:
            done = subprocess.run([sys.executable, "-m", "robustlm", *command], env=environment, stdout=log, stderr=log)
        if done.returncode:
            raise RuntimeError(f"{name}, seed {seed}: see {log.name}")
        seconds.append(time.monotonic() - began)
    (folder / "seconds").write_text(f"{seconds[0]:.0f}\n")
    print(f"{name}, seed {seed}: tuned in {seconds[0]:.0f} s, tested in {seconds[1]:.0f} s", flush=True)


def report(output: Path, arms: Sequence[str], seeds: Sequence[int]) -> str:
    """The table of scores, and the differences to each arm's baseline."""
    tables = {name: [read_table(find_table(str(output / name / str(seed)))) for seed in seeds] for name in arms}
    lines = [f"Mean ± standard deviation over seeds {', '.join(map(str, seeds))}:\n"]
    lines += [_row("run", CONDITIONS), _row("---", ["---"] * len(CONDITIONS))]
    for name in arms:
        scores = [mean_scores(rows) for rows in tables[name]]
        values = np.array([[one[condition] for condition in CONDITIONS] for one in scores])
        spread = values.std(0, ddof=len(seeds) > 1)
        lines.append(_row(name, [f"{m:.1f} ± {s:.1f}" for m, s in zip(values.mean(0), spread, strict=True)]))
    lines.append("\nDifferences to the run that lacks the one thing, paired by seed and row: mean [95 % interval]:\n")
    lines += [_row("run − baseline", CONDITIONS), _row("---", ["---"] * len(CONDITIONS))]
    for name in arms:
        for baseline in KNOWN[name].baselines:
            if baseline in tables:
                found = differences(tables[name], tables[baseline])
                lines.append(_row(f"{name} − {baseline}", [_shown(found[condition]) for condition in CONDITIONS]))
    return "\n".join(lines)


def _shown(found: Difference) -> str:
    sure = "**" if found.low > 0 or found.high < 0 else ""
    return f"{sure}{found.mean:+.1f}{sure} [{found.low:+.1f}, {found.high:+.1f}]"


def _row(name: str, cells: Sequence[Any]) -> str:
    return "| " + " | ".join([name, *map(str, cells)]) + " |"


HEADING = """# Every method on the built-in corpus

Written by `python benchmarks/methods.py --jobs 2 --table docs/comparison.md`; what it means is in
[results.md](results.md). The shipped model, 250 steps of 32 samples each, six tasks, 600 test rows under each
condition. Runs that look at a second phrasing of a sample (`+ paraphrases`, CoIN, KL, PT, FT, combined) train on 64
rows a step. Bold differences exclude zero. The intervals come from drawing seeds and rows anew, alike for both sides.

"""

if __name__ == "__main__":
    main()

"""What attacks cost a model beyond blind noise with the same edit budget, on the built-in corpus.

    python benchmarks/attack.py --output runs/attack

Tests the shipped model as it is, tuned plainly, and tuned with ANIT (configs/quickstart.yaml). Each attack stands
beside the blind kind that writes what its recipe writes: as many words changed, the same words protected. Models that
are tuned already, and tables that are there, are not made again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from robustlm.cli import run
from robustlm.cli.quickstart import ARMS, arm
from robustlm.conditions.manifest import read_attacks
from robustlm.evaluation.robustness import Settings, robustness
from robustlm.evaluation.session import ATTACKS
from robustlm.evaluation.table import read_table

RECIPES = {"deepwordbug": "deepwordbug", "textbugger": "textbugger", "textfooler": "synonyms"}
"""Recipes of attacks, and the blind kinds beside them."""


def main() -> None:
    """Tune, test, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="runs/attack")
    parser.add_argument("--samples", type=int, default=50, help="of each of the six tasks")
    parser.add_argument("--prompts", type=int, default=3, help="instructions of each task")
    parser.add_argument("--omega", type=float, default=0.2, help="share of an instruction's words that may change")
    parser.add_argument("--models", nargs="+", default=["untuned", "plain", "ANIT"])
    parser.add_argument("--attack", nargs="*", default=[], help="further settings, such as --data.attack.budget=50")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pairs = [(f"{kind}@{options.omega}+protected", f"attack:{name}@{options.omega}") for name, kind in RECIPES.items()]
    conditions = ["clean", *(condition for pair in pairs for condition in pair)]
    print("| model | " + " | ".join(conditions) + " | queries, rows of an attack |")
    print("|---" * (len(conditions) + 2) + "|")
    for name in options.models:
        folder = Path(options.output, name)
        if not (folder / "version_0/predictions.parquet").exists():
            test = ["test", "-c", "robustness", "--model.backbone", "builtin:tiny", "--trainer.accelerator", "cpu"]
            test += ["--data.test", "builtin:quickstart", "--model.max_new_tokens", "40", "--data.max_length", "160"]
            test += [f"--data.samples={options.samples}", f"--data.prompts={options.prompts}"]
            test += [f"--data.conditions=[{','.join(conditions)}]", f"--trainer.default_root_dir={folder}"]
            run([*test, "--trainer.enable_progress_bar=false", *options.attack, *_weights(name, options.output)])
        print(_line(name, folder / "version_0", conditions), flush=True)


def _weights(name: str, output: str) -> list[str]:
    """The options that name a tuned model, tuned first if need be."""
    if name == "untuned":
        return []
    folder = f"{output}/tuned/{name}"
    fit, _ = arm(folder, ARMS[name], 0)
    checkpoint = f"{folder}/weights/last.ckpt"
    if not Path(checkpoint).exists():
        run(fit)
    return ["--ckpt_path", checkpoint]


def _line(name: str, folder: Path, conditions: list[str]) -> str:
    """Mean scores over tasks with 95 % intervals, and what a search took."""
    found = robustness(read_table(folder / "predictions.parquet"), Settings(draws=1000))
    means = {one.condition: one.numbers["mean"] for one in found if one.name is None}
    cells = [f"{100 * means[c].value:.1f} ({100 * means[c].low:.1f}–{100 * means[c].high:.1f})" for c in conditions]
    attacks = read_attacks(folder / ATTACKS).values()
    cost = ", ".join(f"{sum(one[what] for one in attacks) / len(attacks):.0f}" for what in ("queries", "rows"))
    return f"| {name} | " + " | ".join(cells) + f" | {cost} |"


if __name__ == "__main__":
    main()

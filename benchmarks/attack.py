"""What attacks cost a model beyond blind noise with the same edit budget, and which search finds the worst ones.

    python benchmarks/attack.py --output runs/attack
    python benchmarks/attack.py --output runs/attack --searches bayesian random greedy

Tests the shipped model as it is, tuned plainly, and tuned with ANIT (configs/quickstart.yaml), on the built-in corpus.
Each attack stands beside the blind kind that writes what its recipe writes: as many words changed, the same words
protected. With several searches, a second table compares the first one with each other one, attack by attack: same
model, proposals, edit budget, rows and number of queries. Intervals are paired bootstraps over instructions and seeds.
Models that are tuned already, and tables that are there, are not made again. Further settings are those of
`robustlm test`, such as --data.attack.budget=50.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from robustlm.cli import run
from robustlm.cli.quickstart import ARMS, arm
from robustlm.conditions.condition import attack_recipe
from robustlm.conditions.manifest import read_attacks
from robustlm.evaluation.robustness import Settings, robustness
from robustlm.evaluation.session import ATTACKS
from robustlm.evaluation.table import read_table

RECIPES = {"deepwordbug": "deepwordbug", "textbugger": "textbugger", "textfooler": "synonyms"}
"""Recipes of attacks, and the blind kinds beside them."""


def main() -> None:
    """Tune, test, and print tables in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default="runs/attack")
    parser.add_argument("--samples", type=int, default=50, help="of each of the six tasks")
    parser.add_argument("--prompts", type=int, default=3, help="instructions of each task")
    parser.add_argument("--omega", type=float, default=0.2, help="share of an instruction's words that may change")
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--models", nargs="+", default=["untuned", "plain", "ANIT"])
    parser.add_argument("--searches", nargs="+", default=["bayesian"], help="the first one is compared with the others")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the data and of the searches")
    options, more = parser.parse_known_args()
    torch.set_num_threads(1)
    blind = [f"{RECIPES[name]}@{options.omega}+protected" for name in options.recipes]
    attacks = [f"attack:{name}@{options.omega}" for name in options.recipes]
    pairs = [condition for pair in zip(blind, attacks, strict=True) for condition in pair]
    print("| model | " + " | ".join(["clean", *pairs]) + " | queries, rows of an attack |")
    print("|---" * (len(pairs) + 3) + "|")
    tried: list[Tried] = []
    for seed in options.seeds:
        for name in options.models:
            for search in options.searches:
                # only the first search's run is also asked under blind noise, which no search changes
                first = search == options.searches[0]
                asked = ["clean", *(pairs if first else attacks)]
                folder = Path(options.output, search, f"{name}-{seed}")
                if not (folder / "version_0/predictions.parquet").exists():
                    _test(folder, name, seed, asked, [f"--data.attack.search={search}", *more], options)
                if first:
                    print(_line(f"{name}, seed {seed}", folder / "version_0", asked), flush=True)
                tried += _tried(folder / "version_0", name, seed, search)
    if len(options.searches) > 1:
        print()
        for line in _compared(tried, options.searches):
            print(line)


def _test(folder: Path, name: str, seed: int, asked: Sequence[str], more: Sequence[str], options: Any) -> None:
    test = ["test", "-c", "robustness", "--model.backbone", "builtin:tiny", "--trainer.accelerator", "cpu"]
    test += ["--data.test", "builtin:quickstart", "--model.max_new_tokens", "40", "--data.max_length", "160"]
    test += [f"--data.samples={options.samples}", f"--data.prompts={options.prompts}", f"--data.seed={seed}"]
    test += [f"--data.conditions=[{','.join(asked)}]", f"--trainer.default_root_dir={folder}"]
    run([*test, "--trainer.enable_progress_bar=false", *more, *_weights(name, options.output)])


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


def _line(name: str, folder: Path, conditions: Sequence[str]) -> str:
    """Mean scores over tasks with 95 % intervals, and what a search took."""
    found = robustness(read_table(folder / "predictions.parquet"), Settings(draws=1000))
    means = {one.condition: one.numbers["mean"] for one in found if one.name is None}
    cells = [f"{100 * means[c].value:.1f} ({100 * means[c].low:.1f}–{100 * means[c].high:.1f})" for c in conditions]
    attacks = read_attacks(folder / ATTACKS).values()
    cost = ", ".join(f"{sum(one[what] for one in attacks) / len(attacks):.0f}" for what in ("queries", "rows"))
    return f"| {name} | " + " | ".join(cells) + f" | {cost} |"


# --- searches against each other -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tried:
    """What a search came to on one instruction."""

    key: tuple[str, str, int, str]
    """Model, recipe, seed and instruction: what searches share."""
    search: str
    queries: int
    likelihood: float
    """Of the true answers, on the rows searched on: what the search lowers."""
    searched: float
    """Share of right answers on the rows searched on."""
    others: float
    """Share of right answers on the other rows."""


MEASURES = {
    "likelihood": "likelihood, rows searched on",
    "searched": "right, rows searched on",
    "others": "right, other rows",
}


def _tried(folder: Path, model: str, seed: int, search: str) -> Iterator[Tried]:
    rows = read_table(folder / "predictions.parquet")
    for (condition, dataset, instruction, _), line in read_attacks(folder / ATTACKS).items():
        own = [r for r in rows if (r.condition, r.dataset, r.instruction_id) == (condition, dataset, instruction)]
        known = set(line["samples"])
        shares = [np.mean([r.right for r in own if (r.sample_id in known) is on]) for on in (True, False)]
        recipe = attack_recipe(condition) or ""
        yield Tried(
            (model, recipe, seed, instruction), search, line["queries"], line["score_after"], *map(float, shares)
        )


def _compared(tried: Sequence[Tried], searches: Sequence[str]) -> Iterator[str]:
    """Mean of each search in per cent, and the first one's differences from each other one, by recipe and model."""
    yield (
        "| model | recipe | attacks | measure | "
        + " | ".join(searches)
        + " | "
        + " | ".join(f"{searches[0]} − {other} (95 %)" for other in searches[1:])
        + " |"
    )
    yield "|---" * (3 + 2 * len(searches)) + "|"
    by = {search: {one.key: one for one in tried if one.search == search} for search in searches}
    models = list(dict.fromkeys(one.key[0] for one in tried))
    for model in [*models, *(["all"] if len(models) > 1 else [])]:
        for recipe in dict.fromkeys(one.key[1] for one in tried):
            keys = [key for key in by[searches[0]] if model in (key[0], "all") and key[1] == recipe]
            for measure, said in MEASURES.items():
                values = {
                    search: 100 * np.array([getattr(by[search][k], measure) for k in keys]) for search in searches
                }
                cells = [f"{values[search].mean():.1f}" for search in searches]
                cells += [_difference(values[searches[0]] - values[other]) for other in searches[1:]]
                yield f"| {model} | {recipe} | {len(keys)} | {said} | " + " | ".join(cells) + " |"
            queries = (f"{np.mean([by[search][key].queries for key in keys]):.0f}" for search in searches)
            yield f"| {model} | {recipe} | {len(keys)} | queries | " + " | ".join(queries) + " |" * len(searches)


def _difference(values: np.ndarray[Any, np.dtype[np.float64]]) -> str:
    random = np.random.default_rng(0)
    drawn = values[random.integers(0, len(values), (10_000, len(values)))].mean(1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return f"{values.mean():+.1f} ({low:+.1f} to {high:+.1f})"


if __name__ == "__main__":
    main()

"""The whole workflow on the built-in corpus and model; `make quickstart` runs it."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import yaml

from robustlm.assets import config_file
from robustlm.cli.chains import Chain
from robustlm.evaluation.pairing import pair
from robustlm.evaluation.record import Record
from robustlm.evaluation.robustness import Estimate, Settings, robustness
from robustlm.report.comparison import draw, load_tables, scores_of
from robustlm.report.number_tables import cell, points
from robustlm.report.tables import aligned
from robustlm.utils.files import write_text


def _recommended_noise() -> str:
    """The noise of the config `recommended`, as an option."""
    file = config_file("recommended")
    assert file is not None
    return json.dumps(yaml.safe_load(file.read_text(encoding="utf-8"))["data"]["init_args"]["noise"])


ARMS = {
    "plain": ["--model", "InstructionTuning"],
    "noisy": ["--model", "ANIT", "--model.adversary", "null"],
    "ANIT": ["--model", "ANIT"],
    "recommended": ["--model", "ANIT", "--model.adversary", "null", "--data.noise", _recommended_noise()],
}
"""Clean instructions, noisy ones, noisy ones with an adversary, and the noise of the config `recommended`."""

CLEAN = "clean"
HARD = "unseen+random_typos@0.3"
"""The condition whose phrasings and noise no training has seen."""

TITLE = "mean over tasks, % [95 % interval]"


def quickstart(output: str = "runs/quickstart", seed: int = 0) -> Iterator[Sequence[Chain]]:
    """Tune the shipped model in four ways, test all, and say what that shows.

    The tests use other phrasings and noise.

    Arms run side by side if there are two cores. Every command is printed when it begins, as you would type it. Its
    output goes to `output.log` in the folder of its arm.

    Args:
        output: Folder of the runs, the table and the picture.
        seed: Seed of training.

    Yields:
        The chains of commands. Run them before you request the next value.
    """
    began = time.monotonic()
    print("Tunes the shipped model in four ways on generated rows and tests each under five conditions.")
    print(f"What the commands print is in {output}/*/output.log. They begin:", flush=True)
    yield chains(output, seed)
    tables = load_tables([f"{name}={output}/{name}" for name in ("untuned", *ARMS)])
    found, picture = estimates(tables), Path(output, "comparison.png")
    text = summary(tables, found)
    write_text(Path(output, "comparison.md"), f"{text}\n")
    draw(scores_of(tables), picture, found)
    print(f"\n{text}\n\npicture: {picture} (all of it took {time.monotonic() - began:.0f} s)\n{next_steps()}")


def chains(output: str, seed: int) -> list[Chain]:
    """What is run, the arm that takes longest first. Bars would fill the logs, so there are none."""
    found = {"untuned": [["test", *_common(f"{output}/untuned", seed), "--model.tuning", "null"]]}
    found |= {name: arm(f"{output}/{name}", flags, seed) for name, flags in ARMS.items()}
    return [
        Chain(f"{output}/{name}/output.log", tuple((*command, *_QUIET) for command in found[name]))
        for name in reversed(found)
    ]


_QUIET = ("--trainer.enable_progress_bar", "false")


def as_typed(command: Sequence[str]) -> str:
    """A command as a user would type it, who wants to see bars."""
    kept = command[: -len(_QUIET)] if tuple(command[-len(_QUIET) :]) == _QUIET else command
    return f"$ robustlm {shlex.join(kept)}"


def arm(folder: str, flags: list[str], seed: int) -> list[list[str]]:
    """The commands that tune the shipped model as `flags` say, and test it.

    Args:
        folder: Where the runs go.
        flags: Options of `fit` in addition to those of the config `quickstart`.
        seed: Seed of training.
    """
    common = _common(folder, seed)
    return [
        ["fit", *common, *flags, "--checkpoint.dirpath", f"{folder}/weights"],
        ["test", *common, "--ckpt_path", f"{folder}/weights/last.ckpt"],
    ]


def _common(folder: str, seed: int) -> list[str]:
    seeds = ["--seed_everything", str(seed), "--data.seed", str(seed)] if seed else []  # both are 0 in the config
    return ["-c", "quickstart", *seeds, "--trainer.default_root_dir", folder]


# --- what it shows ---------------------------------------------------------------------------------------------


def estimates(tables: Mapping[str, Sequence[Record]]) -> dict[str, dict[str, Estimate]]:
    """Mean scores with their intervals, by run and condition."""
    return {
        name: {one.condition: one.numbers["mean"] for one in robustness(_once(rows), Settings()) if one.name is None}
        for name, rows in tables.items()
    }


def _once(rows: Sequence[Record]) -> list[Record]:
    """Rows that each sample has one of under a condition, without what compares instructions: that takes long."""
    return [replace(row, instruction_id="") for row in rows]


def summary(tables: Mapping[str, Sequence[Record]], found: Mapping[str, Mapping[str, Estimate]]) -> str:
    """A table of scores with intervals, and two sentences about each robust tuning.

    Args:
        tables: Prediction tables by run; `plain`, `ANIT` and `recommended` among them, asked as `CLEAN` and as `HARD`.
        found: The `estimates` of the tables.
    """
    conditions = list(next(iter(found.values())))
    lines = aligned([TITLE, *found], [[c, *(cell(own[c], "mean") for own in found.values())] for c in conditions])
    return "\n".join([*lines, "", *(shown(name, tables["plain"], tables[name]) for name in ("ANIT", "recommended"))])


def shown(name: str, plain: Sequence[Record], tuned: Sequence[Record]) -> str:
    """Two sentences about what a robust tuning gains over plain tuning, and what that costs.

    They are based on the paired differences: an interval that contains 0 is reported as no difference.

    Args:
        name: How the sentences call the tuning.
        plain: Answers of the model that was tuned on clean instructions.
        tuned: Answers of the model that was tuned robustly, to the same rows.
    """
    pairs = pair(_once(plain), _once(tuned), Settings(), permutations=1)
    gaps = {one.condition: one.differences["mean"] for one in pairs if one.name is None and one.condition is not None}
    hard = _verdict(gaps[HARD], "it is more robust here", "it is less robust here")
    clean = _verdict(gaps[CLEAN], "it is better there too", "this is the cost")
    return (
        f"Asked in phrasings and with typos that no tuning saw, {name} scores {points(gaps[HARD])} points against "
        f"plain tuning: {hard}.\nOn clean instructions it scores {points(gaps[CLEAN])} points: {clean}."
    )


def _verdict(gap: Estimate, better: str, worse: str) -> str:
    if gap.low > 0:
        return better
    return worse if gap.high < 0 else "these rows show no clear difference"


def next_steps() -> str:
    """Three commands that go on, with rows of one's own."""
    beside = Path(sys.executable).with_name("robustlm")
    known = shutil.which("robustlm")
    hidden = beside.exists() and (known is None or Path(known).resolve() != beside.resolve())
    program = _short(beside) if hidden else "robustlm"
    return (
        "Next, with a model (a Hugging Face name or a folder) and rows of your own:\n"
        f"  {program} check -c recommended --model.backbone MODEL --data.train train.jsonl --data.test test.jsonl\n"
        f"  {program} fit   -c recommended --model.backbone MODEL --data.train train.jsonl --run mine\n"
        f"  {program} test  -c recommended --data.test test.jsonl --run mine"
    )


def _short(path: Path) -> str:
    """A path from the working folder where it is below it."""
    return str(path.relative_to(Path.cwd())) if Path.cwd() in path.parents else str(path)

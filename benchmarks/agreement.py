"""Whether rows without an answer help: `OMP_NUM_THREADS=1 python -m benchmarks.agreement --seeds 0`.

The shipped model and two questions of the built-in corpus (topic and sentiment of a sentence), answered by the
likeliest label. It is tuned for as many steps on a few labelled rows, on these with the votes of phrasings on the
other rows, on all rows without labels, on all rows with random labels (the control: the same rows and weights), and on
all rows with their labels. Prints the accuracy on test rows under phrasings of training, under unseen ones and under
unseen ones with misspellings, the share of phrasings of held-out rows that agree, and CPU seconds of training.
"""

from __future__ import annotations

import argparse
import logging
import re
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from lightning.pytorch import Trainer, seed_everything

from robustlm.datamodules import InstructionDataModule, ParaphraseDataModule
from robustlm.datamodules.unlabelled import Unlabelled, hidden
from robustlm.models.tuning import LoRA
from robustlm.modules import Agreement, Guard, InstructionTuning, RobustTuning, Selection
from robustlm.optim.config import AdamW
from robustlm.sample import Sample
from robustlm.sources.source import Role, Source

ASKED = ("topic", "sentiment")
CONDITIONS = ("clean", "unseen", "unseen+random_typos@0.3")
Rows = Literal["labelled", "all"]
"""Which training rows are used."""


def with_options(samples: Sequence[Sample]) -> list[Sample]:
    """The rows of the two questions, with their labels as options; prompts do not show them."""
    labels = {name: tuple(sorted({one.target for one in samples if one.dataset == name})) for name in ASKED}
    return [replace(one, choices=labels[one.dataset]) for one in samples if one.dataset in ASKED]


class Training(ParaphraseDataModule):
    """Training rows of the two questions; with `rows: labelled`, those whose answer is not hidden."""

    def __init__(self, *args: Any, rows: Rows = "all", hide: float = 0.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.used, self.hide = rows, hide

    def loaded(self, sources: Sequence[str | Source], role: Role) -> list[Sample]:
        """The samples with options."""
        found = with_options(super().loaded(sources, role))
        if self.used == "all":
            return found
        return [one for one in hidden(found, self.hide, self.seed)[0] if one.target]


class Testing(InstructionDataModule):
    """Test rows of the two questions."""

    def loaded(self, sources: Sequence[str | Source], role: Role) -> list[Sample]:
        """The samples with options."""
        return with_options(super().loaded(sources, role))


def trainer(folder: str, steps: int) -> Trainer:
    """A quiet trainer."""
    return Trainer(
        max_steps=steps, max_epochs=-1, accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=folder, gradient_clip_val=1.0,
    )  # fmt: skip


def tested(module: InstructionTuning, folder: str, rows: int) -> list[float]:
    """Accuracy under each condition, the mean over both questions."""
    source = Source("builtin:quickstart", limit=6 * rows)
    data = Testing(test=[source], conditions=list(CONDITIONS), scoring="options", eval_batch_size=128, max_length=160)
    quiet = trainer(folder, 0)
    quiet.test(module, datamodule=data, verbose=False)
    found = {name: float(value) for name, value in quiet.callback_metrics.items()}
    return [sum(found[f"test/{one}/{name}/accuracy"] for name in ASKED) / len(ASKED) for one in CONDITIONS]


def run(seed: int, steps: int, share: float, rate: float, rows: int, only: str) -> None:
    """Train and test every arm with one seed, and print a line each."""
    votes, chance = (Agreement(target, guard=Guard(every=25)) for target in ("mean", "random"))
    arms: dict[str, tuple[Rows, Agreement | None, float]] = {
        "nothing": ("all", None, 0.0),
        "few labelled rows": ("labelled", None, 0.0),
        "few labelled rows, votes on the others": ("all", votes, 1 - share),
        "all rows, votes": ("all", votes, 1.0),
        "all rows, random labels": ("all", chance, 1.0),
        "all rows, their labels": ("all", None, 0.0),
    }
    with tempfile.TemporaryDirectory() as folder:
        for arm, (which, agreement, without) in arms.items():
            if not re.search(only, arm):
                continue
            module = RobustTuning(
                "builtin:tiny",
                tuning=LoRA(r=16, alpha=32, dropout=0.0),
                optimizer=AdamW(lr=rate),
                selection=Selection("random"),
                agreement=agreement,
            )
            data = Training(
                "builtin:quickstart", rows=which, hide=1 - share, seed=seed, variants=3, batch_size=32, max_length=160,
                unlabelled=None if agreement is None else Unlabelled(64, without),
            )  # fmt: skip
            seed_everything(seed, verbose=False)
            begun, note, agreeing = time.process_time(), "", ""
            if arm != "nothing":
                run = trainer(folder, steps)
                try:
                    run.fit(module, data)
                except ValueError as error:
                    if "the consensus collapsed" not in str(error):
                        raise
                    note = str(error).partition(". The weights")[0]
                found = run.callback_metrics
                agreeing = f"{float(found['agreement/held_out']):.0%}" if agreement else ""
            else:
                module.configure_model()
            seconds = time.process_time() - begun
            scores = " | ".join(f"{score:.1%}" for score in tested(module, folder, rows))
            print(f"| {seed} | {arm} | {scores} | {agreeing} | {seconds:.0f} | {note}", flush=True)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=50, help="optimiser steps of each arm (%(default)s)")
    parser.add_argument("--share", type=float, default=0.04, help="share of rows that are labelled (%(default)s)")
    parser.add_argument("--rate", type=float, default=1e-3, help="learning rate (%(default)s)")
    parser.add_argument("--rows", type=int, default=120, help="test rows of each question (%(default)s)")
    parser.add_argument("--only", default="", help="a regular expression: only arms whose name it finds")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "robustlm"):
        logging.getLogger(name).setLevel(logging.ERROR)
    print(
        f"| seed | tuned on | {' | '.join(CONDITIONS)} | agreeing | CPU s |\n|---|---|---|---|---|---|---|", flush=True
    )
    for seed in args.seeds:
        run(seed, args.steps, args.share, args.rate, args.rows, args.only)


if __name__ == "__main__":
    main()

"""Whether rows without an answer help: `OMP_NUM_THREADS=1 python -m benchmarks.agreement --seeds 0`.

The shipped model and two questions of the built-in corpus (topic and sentiment of a sentence), answered by the
likeliest label. A model is first tuned on a few labelled rows. From there it goes on for as many steps: with these rows
alone, with the votes of its phrasings on the other rows, with random labels for them (the control), and with their true
labels. Prints the accuracy on test rows under phrasings of training and under unseen ones, and CPU seconds of training.
"""

from __future__ import annotations

import argparse
import copy
import logging
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


def tested(module: InstructionTuning, folder: str, rows: int) -> dict[str, float]:
    """Accuracy over both questions, under phrasings of training and under unseen ones."""
    source = Source("builtin:quickstart", limit=6 * rows)
    data = Testing(
        test=[source], conditions=["clean", "unseen"], scoring="options", eval_batch_size=128, max_length=160
    )
    quiet = trainer(folder, 0)
    quiet.test(module, datamodule=data, verbose=False)
    found = {name: float(value) for name, value in quiet.callback_metrics.items()}
    return {
        condition: sum(found[f"test/{condition}/{name}/accuracy"] for name in ASKED) / len(ASKED)
        for condition in ("clean", "unseen")
    }


def run(seed: int, steps: int, hide: float, rows: int) -> None:
    """Train and test every arm with one seed, and print a line each."""
    tuning = LoRA(r=16, alpha=32, dropout=0.0)

    def data(which: Rows, unlabelled: Unlabelled | None = None) -> Training:
        return Training(
            "builtin:quickstart", rows=which, hide=hide, seed=seed, variants=3, batch_size=32, max_length=160,
            unlabelled=unlabelled,
        )  # fmt: skip

    def module(rate: float, agreement: Agreement | None = None) -> RobustTuning:
        return RobustTuning(
            "builtin:tiny", tuning=tuning, optimizer=AdamW(lr=rate), selection=Selection("random"), agreement=agreement
        )

    def fit(arm: str, one: RobustTuning, rows_of: Training) -> RobustTuning:
        seed_everything(seed, verbose=False)
        begun = time.process_time()
        said = ""
        try:
            trainer(folder, steps).fit(one, rows_of)
        except ValueError as error:
            if "the consensus collapsed" not in str(error):
                raise
            said = str(error).split(". The")[0]
        show(arm, one, time.process_time() - begun, said)
        return one

    def show(arm: str, one: RobustTuning, seconds: float, said: str = "") -> None:
        found = tested(one, folder, rows)
        print(f"| {seed} | {arm} | {found['clean']:.1%} | {found['unseen']:.1%} | {seconds:.0f} |{said}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        untuned = module(1e-3)
        untuned.configure_model()
        show("shipped model", untuned, 0)
        start = fit("labelled rows", module(2e-3), data("labelled"))
        for arm, target in (("votes", "mean"), ("random", "random"), ("", None)):
            agreement = None if target is None else Agreement(target, guard=Guard(every=20))  # type: ignore[arg-type]
            more = module(1e-3, agreement)
            more.backbone = copy.deepcopy(start.backbone)
            if agreement is not None:
                fit(f"… then {arm} on all rows", more, data("all", Unlabelled(64, hide)))
            else:
                other = module(1e-3)
                other.backbone = copy.deepcopy(start.backbone)
                fit("… then labelled rows again", more, data("labelled"))
                fit("… then all rows, all labelled", other, data("all"))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=60, help="optimiser steps of each stage (%(default)s)")
    parser.add_argument("--hide", type=float, default=0.96, help="share of answers that are hidden (%(default)s)")
    parser.add_argument("--rows", type=int, default=120, help="test rows of each question (%(default)s)")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "robustlm"):
        logging.getLogger(name).setLevel(logging.ERROR)
    print("| seed | training | seen phrasings | unseen | CPU s |\n|---|---|---|---|---|", flush=True)
    for seed in args.seeds:
        run(seed, args.steps, args.hide, args.rows)


if __name__ == "__main__":
    main()

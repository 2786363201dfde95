"""The runs of a study, and the commands that each of them is."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from robustlm.runs import FIT
from robustlm.studies.spec import Arm, Flags, Rows, Study, slug
from robustlm.studies.variables import with_words

QUIET = ("--trainer.enable_progress_bar", "false")
"""What a command gets in a log, where bars would be noise."""
METER = "--trainer.callbacks+=robustlm.callbacks.cost.Cost"
"""What makes a command measure its time, passes and memory."""
ADAPTER = "adapter"
"""Folder within a fit that holds what was tuned; of full tuning, the whole model."""
TRIAL = "trial"
"""Name of the short fit, within the folder of a run, that measures what a step costs."""


def as_typed(command: Sequence[str]) -> str:
    """A command as a user would type it."""
    return f"$ robustlm {shlex.join(command)}"


@dataclass(frozen=True, slots=True)
class Run:
    """One arm with one seed on one data set: a test, after a fit if the arm tunes something."""

    arm: Arm
    rows: Rows
    seed: int
    folder: Path
    fit: Flags | None
    """Options of `fit`, without those that name its folder; null: nothing is tuned."""
    test: Flags
    equal: Path | None
    """Folder of the run whose compute this one must equal; null: the options say how long it is tuned."""
    equal_fit: Flags = ()
    """Options of that run's fit."""
    after: Path | None = None
    """Folder of the run whose adapter this one begins with; null: it begins with the base model."""
    after_fit: Flags = ()
    """Options of that run's fit."""
    weights: Run | None = None
    """The run whose tuned weights this one tests; null: those of its own fit, or the base model."""

    @property
    def name(self) -> str:
        """How lines name the run."""
        return ", ".join(part for part in (self.rows.name, self.arm.name, f"seed {self.seed}") if part)

    @property
    def place(self) -> Flags:
        """The options that name its folder."""
        return ("--trainer.default_root_dir", str(self.folder.parent), "--run", self.folder.name)

    def fit_command(self, more: Sequence[str] = ()) -> Flags:
        """The command that tunes. Raises `ValueError` if nothing is tuned."""
        if self.fit is None:
            raise ValueError(f"{self.name}: nothing is tuned")
        return (FIT, *self.fit, *more, *self.place, METER)

    def test_command(self, more: Sequence[str] = ()) -> Flags:
        """The command that tests; it finds the weights of the run's own fit."""
        return ("test", *self.test, *more, *self.place, METER)

    def trial_command(self) -> Flags:
        """The short fit that measures what a step costs. Raises `ValueError` if the arm has no equal compute."""
        if self.fit is None or self.arm.compute is None:
            raise ValueError(f"{self.name}: no compute is measured")
        short = ("--trainer.max_steps", str(self.arm.compute.trial), "--trainer.limit_val_batches", "0")
        place = ("--trainer.default_root_dir", str(self.folder), "--run", TRIAL)
        return (FIT, *self.fit, *short, *place, METER)


def runs_of(study: Study, root: Path, arms: Iterable[str] = (), seeds: Iterable[int] = ()) -> list[Run]:
    """The runs of a study, seed by seed. A run comes after the runs that it needs.

    Args:
        study: The study.
        root: Folder of its runs.
        arms: Names of the arms to run; empty: all of them.
        seeds: The seeds to run; empty: all of them.

    Raises:
        ValueError: The study has no such arm or seed, or an arm needs another one that is left out.
    """
    arms, seeds = list(arms), list(seeds)
    known = [arm.name for arm in study.arms]
    if unknown := [name for name in arms if name not in known]:
        raise ValueError(f"arms: found {unknown[0]!r}; expected some of {', '.join(known)}")
    if odd := [seed for seed in seeds if seed not in study.seeds]:
        raise ValueError(f"seeds: found {odd[0]}; expected some of {', '.join(map(str, study.seeds))}")
    chosen = [arm for arm in study.arms if not arms or arm.name in arms]
    for arm in chosen:
        if arm.compute is not None and arm.compute.equal_to not in [one.name for one in chosen]:
            raise ValueError(
                f"arms: {arm.name!r} needs {arm.compute.equal_to!r}, whose compute it must equal; name both"
            )
        if arm.weights and arm.weights not in [one.name for one in chosen]:
            raise ValueError(f"arms: {arm.name!r} needs {arm.weights!r}, whose weights it tests; name both")
    chosen.sort(key=lambda arm: (bool(arm.weights), arm.compute is not None))
    data = sorted(study.data, key=lambda rows: bool(rows.after))
    return [
        _run(study, root, arm, rows, seed)
        for seed in study.seeds
        if not seeds or seed in seeds
        for rows in data
        for arm in chosen
    ]


def _run(study: Study, root: Path, arm: Arm, rows: Rows, seed: int) -> Run:
    own = tuple(part for flag in study.seed_flags for part in (f"--{flag}", str(seed)))
    asked = ("--data.conditions", f"[{', '.join(study.conditions)}]") if study.conditions else ()
    other = None if arm.compute is None else study.arm(arm.compute.equal_to)
    before = (*study.fit, *own, *rows.fit)
    words = rows.words
    tuned = study.arm(arm.weights) if arm.weights else arm
    first = (
        None if tuned.fit is None else next((one for one in study.data if rows.after and one.name == rows.after), None)
    )
    after = None if first is None else _folder(root, tuned, first, seed)
    begun = () if after is None else ("--model.backbone", str(after / FIT / ADAPTER))
    weights = _run(study, root, tuned, rows, seed) if arm.weights else None
    loaded = () if weights is None else ("--ckpt_path", str(weights.folder / FIT))
    return Run(
        arm=arm,
        rows=rows,
        seed=seed,
        folder=_folder(root, arm, rows, seed),
        fit=None if arm.fit is None else with_words((*before, *arm.fit, *begun), words),
        test=with_words((*study.test, *own, *asked, *rows.test, *arm.test, *begun, *loaded), words),
        equal=None if other is None else _folder(root, other, rows, seed),
        equal_fit=() if other is None else with_words((*before, *(other.fit or ())), words),
        after=after,
        after_fit=() if first is None else with_words((*study.fit, *own, *first.fit, *(tuned.fit or ())), words),
        weights=weights,
    )


def _folder(root: Path, arm: Arm, rows: Rows, seed: int) -> Path:
    return folder_of(root, arm.name, rows.name, seed)


def folder_of(root: Path, arm: str, rows: str, seed: int) -> Path:
    """The folder of a run.

    Args:
        root: Folder of the study.
        arm: Name of the arm.
        rows: Name of the model and data set; empty: the study names none.
        seed: The seed.
    """
    return (root / slug(rows) if rows else root) / slug(arm) / f"seed-{seed}"

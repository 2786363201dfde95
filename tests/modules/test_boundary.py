"""Checkpoints that are written in the middle of an optimiser step: a resumed run is exact, and nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from robustlm.adversaries import NRM, FreeAT
from robustlm.callbacks.checkpoints import StepCheckpoint
from robustlm.datamodules import ContrastiveDataModule, InstructionDataModule, NoisyInstructionDataModule
from robustlm.models.tuning import LoRA
from robustlm.modules import ANIT, Alignment, Contrast, ContrastiveTuning, InstructionTuning, RobustTuning
from robustlm.noise.base import Noise
from robustlm.optim.config import AdamW, Schedule
from tests.tiny import make_rows, trainer, weights_of, write_rows


class Stop(Exception):
    """Ends a run."""


class StopAt(Callback):
    """Raises in a hook, when it is called for the n-th time."""

    def __init__(self, hook: str, at: int) -> None:
        self.hook, self.left = hook, at
        setattr(self, hook, self._count)

    def _count(self, trainer: Any, *_: Any) -> None:
        if not trainer.sanity_checking:
            self.left -= 1
            if not self.left:
                raise Stop


@pytest.fixture(scope="session")
def llama(shallow: str) -> str:
    return shallow


def module_of(case: str, llama: str) -> InstructionTuning:
    steady = Schedule(warmup=0, decay="constant")  # another length of a run changes no learning rate
    tuning = LoRA(r=2, dropout=0.3, target_modules=["q_proj", "v_proj"])
    shared: dict[str, Any] = {"tuning": tuning, "optimizer": AdamW(lr=1e-2), "schedule": steady}
    if case == "anit":
        return ANIT(llama, adversary=NRM(target_gap=0.2, gap_rate=0.5), **shared)
    if case == "freeat":
        return ANIT(llama, adversary=FreeAT(replays=2), **shared)
    if case == "coin":
        return ContrastiveTuning(llama, chunk_rows=3, **shared)
    return RobustTuning(
        llama, adversary=NRM(target_gap=0.2), contrast=Contrast(), alignment=Alignment(), chunk_rows=3, **shared
    )


def data_of(case: str, train: str, test: str) -> InstructionDataModule:
    rows = {"train": train, "validation": test, "batch_size": 4}
    if case in ("anit", "freeat"):
        return NoisyInstructionDataModule(**rows, noise=Noise(phi=0.7), replays=2 if case == "freeat" else 1)
    return ContrastiveDataModule(**rows, noise=Noise(phi=0.7))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Rows that bring a paraphrase each, to train on and to validate with."""
    folder = tmp_path_factory.mktemp("phrased")
    rows = [[row | {"variant": f"kindly {row['instruction']}"} for row in make_rows(*how)] for how in ((26,), (7, 1))]
    train, test = (
        write_rows(folder / name, some) for name, some in zip(("train.jsonl", "test.jsonl"), rows, strict=True)
    )
    return train, test


def fit(case: str, llama: str, files: tuple[str, str], folder: Path, ckpt: Path | None = None, **more: Any) -> Any:
    """Two epochs of 26 rows: 7 micro-batches (14 with replays), two to a step, and the last step of one."""
    stopping = EarlyStopping("val/loss", patience=50, check_on_train_epoch_end=False, strict=False)
    callbacks = [stopping, *more.pop("callbacks", ())]
    seed = 7 if ckpt is None else 99
    settings = {"accumulate_grad_batches": 2, "max_epochs": 2, "enable_checkpointing": True, **more}
    fitter = trainer(folder, seed=seed, callbacks=callbacks, **settings)
    module = module_of(case, llama)
    try:
        fitter.fit(module, data_of(case, *files), ckpt_path=ckpt)
    except Stop:
        return None
    return weights_of(module), fitter.global_step, stopping.state_dict()


@pytest.fixture(scope="module")
def uninterrupted(llama: str, files: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """`fit` without a checkpoint, once for each set of arguments: the same arguments give the same run."""
    known: dict[tuple[object, ...], Any] = {}

    def run(case: str, **more: Any) -> Any:
        key = (case, *sorted(more.items()))
        if key not in known:
            known[key] = fit(case, llama, files, tmp_path_factory.mktemp("whole"), **more)
        return known[key]

    return run


def check(found: Any, wanted: Any) -> None:
    for name, value in wanted[0].items():
        assert torch.equal(found[0][name], value), name
    assert found[1:] == wanted[1:]


CASES = ("anit", "freeat", "coin", "robust")


@pytest.mark.parametrize("case", CASES)
def test_saves_after_a_validation_within_a_step_are_exact(
    case: str, llama: str, files: tuple[str, str], tmp_path: Path
) -> None:
    keeper = ModelCheckpoint(tmp_path / "whole", save_top_k=-1, filename="{epoch}-{step}")
    wanted = fit(case, llama, files, tmp_path, callbacks=[keeper], val_check_interval=3)
    saved = sorted((tmp_path / "whole").glob("*.ckpt"))
    assert len(saved) >= 3
    inner = saved if case == "anit" else saved[1:2]
    for path in inner:
        check(fit(case, llama, files, tmp_path, path, val_check_interval=3), wanted)


@pytest.mark.parametrize(
    ("case", "hook", "at"),
    [
        *[(case, "on_after_backward", at) for case in CASES for at in (4, 11)],
        ("anit", "on_before_zero_grad", 5),
        ("anit", "on_train_batch_start", 8),
        ("anit", "on_train_batch_start", 9),
        ("anit", "on_validation_batch_start", 3),
        ("anit", "on_validation_batch_end", 4),
        ("anit", "on_validation_batch_end", 5),
        ("anit", "on_validation_end", 2),
        ("anit", "on_train_epoch_end", 1),
    ],
)
def test_saves_on_exception_are_exact(
    case: str,
    hook: str,
    at: int,
    llama: str,
    files: tuple[str, str],
    uninterrupted: Callable[..., Any],
    tmp_path: Path,
) -> None:
    wanted = uninterrupted(case, val_check_interval=2)
    keeper = StepCheckpoint(tmp_path / "killed", save_on_exception=True, save_top_k=0, save_last=True)
    stopped = fit(case, llama, files, tmp_path, callbacks=[keeper, StopAt(hook, at)], val_check_interval=2)
    assert stopped is None
    check(fit(case, llama, files, tmp_path, tmp_path / "killed" / "last.ckpt", val_check_interval=2), wanted)


@pytest.mark.parametrize("validation", [0, 1.0])
def test_going_on_again_and_again_across_an_epochs_end_is_exact(
    validation: float, llama: str, files: tuple[str, str], tmp_path: Path
) -> None:
    """From the last step of an epoch, and then twice from within the next: counters must not drift."""
    more = {"limit_val_batches": validation, "max_epochs": 3}
    wanted = fit("coin", llama, files, tmp_path, **more)
    ckpt = None
    for batches in (8, 3, 3, 1, 4):  # 7 to an epoch; a step is two, and the last of an epoch one
        keeper = StepCheckpoint(tmp_path / "kept", every_n_train_steps=1, save_top_k=0, save_last=True)
        stop = StopAt("on_train_batch_start", batches)
        assert fit("coin", llama, files, tmp_path, ckpt, callbacks=[keeper, stop], **more) is None
        ckpt = tmp_path / "kept" / "last.ckpt"
    found = fit("coin", llama, files, tmp_path, ckpt, **more)
    check(found[:2], wanted[:2])  # the validation that follows a checkpoint of a step is left out by Lightning


@pytest.mark.parametrize("trigger", [{"every_n_train_steps": 2}, {"train_time_interval": timedelta(0)}])
def test_no_checkpoint_is_written_within_a_step_or_twice(
    trigger: dict[str, Any], llama: str, files: tuple[str, str], tmp_path: Path
) -> None:
    written: list[tuple[int, int]] = []

    class Keeper(StepCheckpoint):
        def _save_checkpoint(self, trainer: Any, filepath: str) -> None:
            written.append((trainer.global_step, trainer.fit_loop.epoch_loop.batch_progress.current.ready))
            super()._save_checkpoint(trainer, filepath)

    folder = tmp_path / "kept"
    keeper = Keeper(folder, save_top_k=-1, filename="{step}", **trigger)
    wanted = fit("anit", llama, files, tmp_path, callbacks=[keeper])
    assert all(ready % 2 == 0 or ready == 7 for _, ready in written)
    assert [step for step, _ in written] == list(range(2, 9, 2) if "every_n_train_steps" in trigger else range(1, 9))
    written.clear()
    again = Keeper(folder, save_top_k=-1, filename="{step}", **trigger)
    check(fit("anit", llama, files, tmp_path, folder / "step=2.ckpt", callbacks=[again]), wanted)
    assert 2 not in [step for step, _ in written]


def test_either_checkpoint_callback_reads_the_other(tmp_path: Path) -> None:
    assert StepCheckpoint(tmp_path).state_key == ModelCheckpoint(tmp_path).state_key


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_a_run_that_max_steps_ended_goes_on_with_the_rest_of_the_epoch(
    steps: int, llama: str, files: tuple[str, str], uninterrupted: Callable[..., Any], tmp_path: Path
) -> None:
    """An epoch has four steps; the fourth ends it."""
    steady: dict[str, Any] = {"num_sanity_val_steps": 0}
    whole = uninterrupted("anit", max_steps=6, **steady)
    keeper = StepCheckpoint(tmp_path / "kept", save_last=True)
    fit("anit", llama, files, tmp_path / "part", max_steps=steps, callbacks=[keeper], **steady)
    last = tmp_path / "kept/last.ckpt"
    found = fit("anit", llama, files, tmp_path / "rest", last, max_steps=6, **steady)
    assert found[1] == whole[1] == 6
    for name, value in whole[0].items():
        assert torch.equal(found[0][name], value), name

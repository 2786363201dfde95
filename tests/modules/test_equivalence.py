"""The same optimiser steps, however they are cut into micro-batches, processes and runs."""

from __future__ import annotations

import re
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from robustlm.adversaries import FGM, NRM, Adversary, FreeAT
from robustlm.cli import run
from robustlm.datamodules import NoisyInstructionDataModule
from robustlm.evaluation.table import read_table
from robustlm.models.tuning import LoRA
from robustlm.modules import ANIT, InstructionTuning
from robustlm.noise.base import Noise
from robustlm.optim.config import AdamW, Muon
from tests.modules.two_processes import results, results_of_rank
from tests.processes import Forked, command, side_by_side
from tests.tiny import ADVERSARIES, trainer, weights_of


@pytest.fixture(scope="session")
def llama(shallow: str) -> str:
    return shallow


@pytest.fixture(scope="session")
def models(llama: str, t5: str) -> dict[str, str]:
    return {"llama": llama, "t5": t5}


def close(a: dict[str, Tensor], b: dict[str, Tensor], atol: float = 1e-6) -> bool:
    assert a.keys() == b.keys()
    return all(torch.allclose(a[key], b[key], rtol=0, atol=atol) for key in a)


def fitted(
    folder: Path, backbone: str, file: str, adversary: Adversary | str | None = "plain", size: int = 4, **settings: Any
) -> dict[str, Tensor]:
    """Trained weights after an epoch of 26 rows with answers of uneven length, in their order."""
    more: dict[str, Any] = {"tuning": LoRA(r=2, dropout=0.0), "optimizer": AdamW(lr=1e-3)}
    fitter = trainer(folder, **settings)
    module = (
        InstructionTuning(backbone, **more)
        if isinstance(adversary, str)
        else ANIT(backbone, adversary=adversary, **more)
    )
    fitter.fit(
        module, NoisyInstructionDataModule(train=file, batch_size=size, group_by_length=False, noise=Noise(phi=0.8))
    )
    return weights_of(module)


@pytest.mark.parametrize("name", ["plain", *ADVERSARIES])
@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_accumulation_is_a_larger_batch(
    kind: str, name: str, models: dict[str, str], train_file: str, tmp_path: Path
) -> None:
    models = {kind: _without_dropout(models[kind], tmp_path)}
    adversary = ADVERSARIES.get(name, "plain")
    large = fitted(tmp_path, models[kind], train_file, adversary, 8, gradient_clip_val=0.5)
    small = fitted(tmp_path, models[kind], train_file, adversary, 4, gradient_clip_val=0.5, accumulate_grad_batches=2)
    # an adversary divides a gradient by its norm; T5 with NRM: 1.6e-5 measured, most likely rounding that Adam enlarges
    bound = 1e-6 if adversary in ("plain", None) else 2e-5 if (kind, name) == ("t5", "nrm") else 3e-6
    assert close(large, small, bound)
    unscaled = fitted(tmp_path, models[kind], train_file, adversary, 4, gradient_clip_val=0.5)
    assert not close(large, unscaled, 1e-4)


def _without_dropout(model: str, folder: Path) -> str:
    target = folder / "model"
    shutil.copytree(model, target)
    config = target / "config.json"
    config.write_text(re.sub(r'("(attention_dropout|dropout_rate)": )0\.\d+', r"\g<1>0.0", config.read_text()))
    return str(target)


def test_clipping_clips_the_whole_step(llama: str, train_file: str, tmp_path: Path) -> None:
    """One SGD-like look: with a tiny clip value all steps are as small as it says."""
    seen = []

    class Look(ModelCheckpoint):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            norms = [p.grad.norm() for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            seen.append(float(torch.stack(norms).norm()))

    fitter = trainer(
        tmp_path, enable_checkpointing=True, callbacks=[Look()], gradient_clip_val=1e-3, accumulate_grad_batches=2
    )
    clipped = []
    step = torch.optim.AdamW.step

    def watched(self: Any, closure: Any = None) -> Any:
        result = step(self, closure)
        norms = [p.grad.norm() for group in self.param_groups for p in group["params"] if p.grad is not None]
        clipped.append(float(torch.stack(norms).norm()))
        return result

    torch.optim.AdamW.step, kept = watched, torch.optim.AdamW.step  # type: ignore[method-assign]
    try:
        fitter.fit(
            ANIT(llama, tuning=LoRA(r=2), adversary=FGM()), NoisyInstructionDataModule(train=train_file, batch_size=4)
        )
    finally:
        torch.optim.AdamW.step = kept  # type: ignore[method-assign]
    assert min(seen) > 1e-2
    assert clipped == pytest.approx([1e-3] * len(clipped), rel=1e-3)


# --- resuming --------------------------------------------------------------------------------------------------


def resumable(backbone: str, optimizer: Any, replays: int = 1) -> ANIT:
    adversary = FreeAT(replays=replays) if replays > 1 else NRM(target_gap=0.2, gap_rate=0.2)
    return ANIT(
        backbone,
        tuning=LoRA(r=2, dropout=0.3, target_modules=["q_proj", "v_proj"]),
        adversary=adversary,
        optimizer=optimizer,
    )


def two_epochs(
    folder: Path, backbone: str, file: str, *, optimizer: Any, workers: int = 0, ckpt: str | None = None, **more: Any
) -> tuple[ANIT, ModelCheckpoint]:
    """Two epochs of 26 rows: 7 micro-batches, 4 optimiser steps each, the last from half a window."""
    settings = {"accumulate_grad_batches": 2, "max_epochs": 2} | more
    keeper = ModelCheckpoint(folder, every_n_train_steps=1, save_top_k=-1, filename="{epoch}-{step}")
    replays = settings.pop("replays", 1)
    validation = settings.pop("validation", None)
    ends = ModelCheckpoint(folder, save_top_k=-1, filename="end-{epoch}", every_n_epochs=1)
    seed = 7 if ckpt is None else 99  # a resumed run must not depend on the seed it is started with
    fitter = trainer(folder, seed=seed, enable_checkpointing=True, callbacks=[keeper, ends], **settings)
    module = resumable(backbone, optimizer, replays)
    data = NoisyInstructionDataModule(
        train=file, validation=validation, batch_size=4, num_workers=workers, noise=Noise(phi=0.7), replays=replays
    )
    fitter.fit(module, data, ckpt_path=ckpt)
    return module, keeper


@pytest.mark.parametrize(
    ("case", "more"),
    [
        ("adamw", {}),
        ("muon", {"optimizer": Muon()}),
        ("workers", {"workers": 2}),
        ("validated", {"validation": True}),
        ("validated_within", {"validation": True, "val_check_interval": 2}),
        ("limited", {"limit_train_batches": 5}),
        ("freeat", {"replays": 2}),
    ],
)
def test_a_resumed_run_ends_as_if_it_had_never_stopped(
    case: str, more: dict[str, Any], llama: str, train_file: str, test_file: str, tmp_path: Path
) -> None:
    settings = {"optimizer": AdamW(lr=1e-2), **more}
    if "validation" in settings:
        settings["validation"] = test_file
    whole, _ = two_epochs(tmp_path / "whole", llama, train_file, **settings)
    wanted = weights_of(whole)
    checkpoints = sorted((tmp_path / "whole").glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns)
    names = [path.stem for path in checkpoints]
    assert "end-epoch=0" in names
    assert any(name.startswith("epoch=1-") for name in names)
    steps = sum(not name.startswith("end") for name in names)
    middle = checkpoints[:-2]
    if case not in ("adamw", "validated"):
        middle = [
            path for path in middle if path.stem in ("end-epoch=0", "epoch=0-step=2", f"epoch=1-step={steps - 1}")
        ]
        assert len(middle) == 3
    for path in middle:
        resumed, _ = two_epochs(tmp_path / path.stem, llama, train_file, ckpt=str(path), **settings)
        assert resumed.trainer.global_step == whole.trainer.global_step
        assert resumed.trainer.current_epoch == 2
        found = weights_of(resumed)
        assert all(torch.equal(found[key], wanted[key]) for key in wanted), path.stem
        if isinstance(whole.adversary, NRM):
            assert resumed.adversary is not None
            state = resumed.adversary.state_dict()["controller"]
            assert torch.equal(state, whole.adversary.state_dict()["controller"])


# --- processes -------------------------------------------------------------------------------------------------


def flags(folder: Path, backbone: str, **more: Any) -> list[str]:
    wanted = {
        "model": "ANIT",
        "model.backbone": backbone,
        "model.tuning": "LoRA",
        "model.tuning.r": 2,
        "model.tuning.dropout": 0.0,
        "model.max_new_tokens": 6,
        "data": "NoisyInstructionDataModule",
        "data.batch_size": 4,
        "trainer.accelerator": "cpu",
        "trainer.default_root_dir": folder,
        "trainer.logger": "false",
        "trainer.enable_progress_bar": "false",
        "trainer.enable_model_summary": "false",
    } | more
    return [f"--{name}={value}" for name, value in wanted.items()]


def done(process: Forked) -> str:
    output, _ = process.communicate(timeout=900)
    assert process.returncode == 0, output
    return output


def test_a_killed_run_goes_on(llama: str, train_file: str, tmp_path: Path) -> None:
    def args(folder: str, root: str, *more: str) -> list[str]:
        settings: dict[str, Any] = {
            "data.train": train_file,
            "model.tuning.dropout": 0.2,
            "model.adversary": "NRM",
            "model.adversary.target_gap": 0.2,
            "trainer.max_epochs": 2,
            "trainer.accumulate_grad_batches": 2,
            "data.num_workers": 2,
            "checkpoint.every_n_train_steps": 1,
            "checkpoint.save_top_k": -1,
            "checkpoint.dirpath": tmp_path / folder,
        }
        return ["fit", *flags(tmp_path / root, llama, **settings), *more]

    run(args("whole", "first"))
    # slow enough to be met in the middle of its second epoch
    victim = command(*args("killed", "second", "--trainer.callbacks+=tests.tiny.Slow"))
    deadline = time.monotonic() + 900
    step = 0
    while step < 6:
        assert victim.poll() is None, victim.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
        found = sorted((tmp_path / "killed").glob("epoch=*.ckpt"))
        step = max((int(path.stem.rpartition("=")[2]) for path in found), default=0)
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    last = tmp_path / "killed" / "last.ckpt"
    assert 5 <= torch.load(last, weights_only=True)["global_step"] < 8
    run(args("killed", "third", f"--ckpt_path={last}"))
    ours, wanted = (torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("killed", "whole"))
    assert ours["global_step"] == wanted["global_step"] == 8
    assert all(torch.equal(value, ours["state_dict"][key]) for key, value in wanted["state_dict"].items())


def test_two_processes_are_one_that_accumulates(llama: str, train_file: str, test_file: str, tmp_path: Path) -> None:
    names = [_without_dropout(llama, tmp_path), train_file, test_file]
    side_by_side(lambda: results_of_rank(tmp_path / "two", *names))
    ours, theirs = (torch.load(tmp_path / "two" / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1))
    single = results(tmp_path / "one", *names, accumulate_grad_batches=2)
    for name in ADVERSARIES:
        assert all(torch.equal(value, theirs[name][key]) for key, value in ours[name].items())
        assert close(ours[name], single[name], 1e-6 if name == "noisy" else 3e-6), name
        assert (tmp_path / "two" / name / "adapter" / "adapter_config.json").is_file()
    for size in (4, 8):  # a batch of 8 would hold all 7 rows, and leave the second process without any
        wanted = single[f"scores-{size}"]
        assert "val/loss" in wanted
        for found in (ours, theirs):
            assert found[f"scores-{size}"] == pytest.approx(wanted, rel=1e-5)
        one, two = (tmp_path / name / f"test-{size}" / "predictions.parquet" for name in ("one", "two"))
        assert len(read_table(one)) == 14
        assert read_table(one) == read_table(two)
        assert not list(two.parent.glob("*.part-*"))
    for lost in (ours["lost"], theirs["lost"]):  # one rank's loss is no number: both leave the step out
        assert (lost["skipped"], lost["steps"]) == (1, 7)
        assert all(value.isfinite().all() for value in lost["weights"].values())
    assert all(torch.equal(value, theirs["lost"]["weights"][key]) for key, value in ours["lost"]["weights"].items())


def test_two_processes_from_the_command_line(llama: str, train_file: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {
        "data.train": train_file,
        "model.backbone": _without_dropout(llama, tmp_path),
        "model.adversary": "NRM",
        "model.optimizer": "AdamW",
        "model.optimizer.lr": 1e-3,
    }
    one, two = tmp_path / "one", tmp_path / "two"
    parallel = {"trainer.devices": 2, "trainer.strategy": "ddp"}
    process = command("fit", *flags(two, llama, **settings, **parallel))
    run(["fit", *flags(one, llama, **settings, **{"trainer.accumulate_grad_batches": 2})])
    done(process)
    weights = [torch.load(next(folder.rglob("last.ckpt")), weights_only=True)["state_dict"] for folder in (one, two)]
    assert close(*weights, atol=3e-6)

"""Steps whose loss or gradient is not a number change nothing; weights that are none are never written or read."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.plugins import MixedPrecision
from safetensors.torch import load_file, save_file
from torch import Tensor

from robustlm.adversaries import NRM
from robustlm.callbacks.checkpoints import StepCheckpoint
from robustlm.callbacks.export import AdapterExport
from robustlm.cli import main
from robustlm.datamodules import NoisyInstructionDataModule
from robustlm.models.backbone import Backbone, Loading
from robustlm.models.tuning import LoRA
from robustlm.modules import ANIT
from robustlm.optim.config import AdamW, Muon
from tests.modules.test_equivalence import flags
from tests.tiny import Record, trainer, weights_of


class Broken(ANIT):
    """Loses its mind at some micro-batches: in the loss, or in a gradient alone."""

    broken: tuple[int, ...] = ()
    where: str = "loss"

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        if batch_idx not in self.broken:
            return loss
        if self.where == "loss":
            return loss * float("nan")
        next(p for p in self.parameters() if p.requires_grad).register_hook(lambda g: g * float("inf"))
        return loss


class Look(Callback):
    """Keeps weights and optimiser state after each micro-batch."""

    def __init__(self) -> None:
        self.seen: list[list[Tensor]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        state = trainer.optimizers[0].state.values()
        moments = [value for one in state for value in one.values() if isinstance(value, Tensor)]
        controller = pl_module.adversary.state_dict()["controller"]
        self.seen.append([value.detach().clone() for value in (*weights_of(pl_module).values(), *moments, controller)])


def fit(llama: str, train_file: str, folder: Path, broken: tuple[int, ...], where: str = "loss", **more: Any) -> Any:
    callbacks = [Look(), Record(), *more.pop("callbacks", ())]
    optimizer, limit = more.pop("optimizer", AdamW(lr=1e-2)), more.pop("max_skipped_steps", 20)
    fitter = trainer(folder, callbacks=callbacks, **({"gradient_clip_val": 1.0} | more))
    module = Broken(
        llama, adversary=NRM(target_gap=0.2), tuning=LoRA(r=2), optimizer=optimizer, max_skipped_steps=limit
    )
    module.broken, module.where = broken, where
    fitter.fit(module, NoisyInstructionDataModule(train=train_file, batch_size=4))
    return module, callbacks


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("optimizer", [AdamW(lr=1e-2), Muon()])
def test_a_broken_step_changes_nothing(where: str, optimizer: Any, llama: str, train_file: str, tmp_path: Path) -> None:
    module, (look, record) = fit(llama, train_file, tmp_path, (2,), where, optimizer=optimizer)
    same = [all(map(torch.equal, a, b)) for a, b in zip(look.seen[:-1], look.seen[1:], strict=True)]
    if where == "gradient":  # the hook stays
        assert same == [False, True, True, True, True, True]
        assert module.skipped_steps == 5
    else:
        assert same == [False, True, False, False, False, False]
        assert module.skipped_steps == 1
        assert [step["train/skipped_steps"] for step in record.steps] == [0, 0, 0, 1, 1, 1, 1]
    assert all(value.isfinite().all() for value in weights_of(module).values())


@pytest.mark.parametrize("at", [2, 3])
def test_a_whole_accumulated_step_is_skipped(at: int, llama: str, train_file: str, tmp_path: Path) -> None:
    module, (look, _) = fit(llama, train_file, tmp_path, (at,), accumulate_grad_batches=2)
    weights = len(weights_of(module))
    same = [all(map(torch.equal, look.seen[i][:weights], look.seen[j][:weights])) for i, j in ((1, 3), (3, 5), (5, 6))]
    assert same == [True, False, False]
    assert all(map(torch.equal, look.seen[1], look.seen[3]))  # controller and moments too, once the step is over
    assert module.skipped_steps == 1


def test_fp16_goes_on_where_the_loss_scale_was_too_large(llama: str, train_file: str, tmp_path: Path) -> None:
    """The scaler leaves out the steps that overflow and halves its scale; they are counted once, and change nothing."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**40)
    fp16 = MixedPrecision("16-mixed", "cpu", scaler)
    module, (look, record) = fit(
        llama, train_file, tmp_path, (), plugins=[fp16], max_epochs=5, max_skipped_steps=35, gradient_clip_val=None
    )
    before = [step["train/skipped_steps"] for step in record.steps]  # each step logs how many came before it
    assert 5 < module.skipped_steps < len(before)
    assert scaler.get_scale() == 2.0 ** (40 - module.skipped_steps)
    skipped = [after > count for count, after in itertools.pairwise([*before, module.skipped_steps])]
    same = [all(map(torch.equal, a, b)) for a, b in itertools.pairwise(look.seen)]
    assert same == skipped[1:]
    assert all(value.isfinite().all() for value in weights_of(module).values())


def test_too_many_in_a_row_stop_the_run(llama: str, train_file: str, tmp_path: Path) -> None:
    keeper = StepCheckpoint(tmp_path / "kept", every_n_train_steps=1, save_last=True)
    with pytest.raises(ValueError, match=r"3 steps in a row .*max_skipped_steps 2"):
        fit(
            llama, train_file, tmp_path, (2, 4, 5, 6), max_skipped_steps=2, enable_checkpointing=True,
            callbacks=[keeper, AdapterExport()],
        )  # fmt: skip
    last = torch.load(tmp_path / "kept/last.ckpt", weights_only=True)
    assert all(value.isfinite().all() for value in last["state_dict"].values())
    assert last["robustlm"]["skipped_steps"] == 3
    assert not list(tmp_path.rglob("adapter"))


def test_nothing_trained_is_an_error(llama: str, train_file: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="each of the 7 optimiser steps had a loss or gradient that is not"):
        fit(llama, train_file, tmp_path, tuple(range(7)), callbacks=[AdapterExport()])
    assert not list(tmp_path.rglob("adapter"))


def test_weights_that_overflow_are_not_written(llama: str, train_file: str, tmp_path: Path) -> None:
    """Gradients are numbers, and the weights become none."""

    class Spoil(Callback):
        def __init__(self, hook: str) -> None:
            setattr(self, hook, self._spoil)

        def _spoil(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            if trainer.global_step >= 3:
                pl_module.backbone.trained[0].data.fill_(float("nan"))

    keeper = StepCheckpoint(tmp_path / "kept", every_n_train_steps=1, save_last=True, save_on_exception=True)
    callbacks = [Spoil("on_train_batch_end"), keeper]
    with pytest.raises(ValueError, match=r"not written: the trained weights: .* NaN or infinity"):
        fit(llama, train_file, tmp_path, (), enable_checkpointing=True, callbacks=callbacks)
    last = torch.load(tmp_path / "kept/last.ckpt", weights_only=True)
    assert last["global_step"] == 2
    assert all(value.isfinite().all() for value in last["state_dict"].values())

    with pytest.raises(ValueError, match="adapter not written"):
        fit(llama, train_file, tmp_path, (), callbacks=[Spoil("on_train_end"), AdapterExport()])
    assert not list(tmp_path.rglob("adapter"))


def test_weights_that_are_no_numbers_are_not_read(
    llama: str, train_file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["fit", *flags(tmp_path, llama, **{"data.train": train_file, "trainer.max_steps": 1})]
    main(arguments)
    (last,) = tmp_path.rglob("last.ckpt")
    checkpoint = torch.load(last, weights_only=True)
    next(iter(checkpoint["state_dict"].values()))[0, 0] = float("nan")
    torch.save(checkpoint, tmp_path / "spoiled.ckpt")
    with pytest.raises(SystemExit) as stopped:
        main([*arguments, f"--ckpt_path={tmp_path / 'spoiled.ckpt'}"])
    assert stopped.value.code == 2
    assert "the checkpoint's weights: 1 of" in capsys.readouterr().err

    for name, source in (("model", Path(llama)), ("adapter", last.parents[1] / "adapter")):
        folder = tmp_path / f"spoiled-{name}"
        shutil.copytree(source, folder)
        (file,) = folder.glob("*.safetensors")
        tensors = load_file(file)
        next(iter(tensors.values())).view(-1)[3] = float("inf")
        save_file(tensors, file, {"format": "pt"})
        with pytest.raises(ValueError, match=f"spoiled-{name}: 1 of .* hold NaN or infinity"):
            Backbone(str(folder), Loading(), LoRA(r=2)).load()

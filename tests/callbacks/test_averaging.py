"""Averages of trained weights: by a naive mean, in validations, checkpoints, exports, and after a resumed run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from safetensors.torch import load_file
from torch import Tensor

from robustlm.callbacks.averaging import AverageWeights
from robustlm.cli import run
from robustlm.datamodules import InstructionDataModule
from robustlm.models.tuning import LoRA
from robustlm.modules import InstructionTuning
from robustlm.optim.config import AdamW
from tests.modules.test_equivalence import flags
from tests.tiny import trainer, weights_of


class Watch(Callback):
    """Keeps the trained weights after each step, and those that are validated."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []
        self.validated: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if len(self.steps) < trainer.global_step:
            self.steps.append(weights_of(pl_module))

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.validated.append(weights_of(pl_module))


def fit(folder: Path, model: str, file: str, average: AverageWeights, ckpt: Path | None = None, **more: Any) -> Any:
    watch = Watch()
    run = trainer(
        folder, callbacks=[average, watch], accumulate_grad_batches=2,
        val_check_interval=2, check_val_every_n_epoch=None, **({"max_steps": 6, "max_epochs": -1} | more),
    )  # fmt: skip
    module = InstructionTuning(model, tuning=LoRA(r=2, dropout=0.1), optimizer=AdamW(lr=1e-2))
    data = InstructionDataModule(train=file, validation=file, batch_size=4)
    run.fit(module, data, ckpt_path=ckpt, weights_only=True if ckpt else None)
    return run, module, watch


def mean(steps: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([one[name].double() for one in steps]).mean(0) for name in steps[0]}


def ema(steps: list[dict[str, Tensor]], decay: float) -> dict[str, Tensor]:
    found = {name: value.double() for name, value in steps[0].items()}
    for one in steps[1:]:
        found = {name: decay * value + (1 - decay) * one[name].double() for name, value in found.items()}
    return found


def same(ours: dict[str, Tensor], wanted: dict[str, Tensor], limit: float = 1e-6) -> bool:
    return ours.keys() == wanted.keys() and all(
        torch.allclose(value.double(), wanted[name].double(), rtol=0, atol=limit) for name, value in ours.items()
    )


@pytest.mark.parametrize(
    ("average", "first"),
    [
        (AverageWeights(), 3),
        (AverageWeights(start=0), 1),
        (AverageWeights(start=2), 2),
        (AverageWeights("ema", start=0.34, decay=0.7), 2),
        (AverageWeights(start=40), 6),
    ],
)
def test_the_average_is_the_naive_one(
    average: AverageWeights, first: int, llama: str, train_file: str, tmp_path: Path
) -> None:
    _, module, watch = fit(tmp_path, llama, train_file, average)
    kept = watch.steps[first - 1 :]
    wanted = ema(kept, 0.7) if average.kind == "ema" else mean(kept)
    assert same(weights_of(module), wanted)
    assert same(weights_of(module), watch.steps[-1]) is (len(kept) == 1)
    assert watch.validated
    for at, one in enumerate(watch.validated):  # after micro-batches 2, 4, 6, …, so after each step
        seen = watch.steps[: at + 1]
        later = seen[first - 1 :] or seen[-1:]
        assert same(one, ema(later, 0.7) if average.kind == "ema" else mean(later)), at


def test_training_is_not_changed_and_resumes_exactly(llama: str, train_file: str, tmp_path: Path) -> None:
    """A checkpoint in the middle holds the average as its weights, and the weights of training beside it."""
    plain = Watch()
    settings: dict[str, Any] = {"accumulate_grad_batches": 2, "max_steps": 6, "max_epochs": -1}
    data = {"train": train_file, "validation": train_file, "batch_size": 4}
    module = InstructionTuning(llama, tuning=LoRA(r=2, dropout=0.1), optimizer=AdamW(lr=1e-2))
    trainer(tmp_path, callbacks=[plain], val_check_interval=2, check_val_every_n_epoch=None, **settings).fit(
        module, InstructionDataModule(**data)
    )

    class Save(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == 3 and not (tmp_path / "boundary.ckpt").exists():
                trainer.save_checkpoint(tmp_path / "boundary.ckpt")

        def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:  # an interrupted validation
            if trainer.global_step == 4:
                trainer.save_checkpoint(tmp_path / "validation.ckpt")

    save = Save()
    watch = Watch()
    run = trainer(
        tmp_path, callbacks=[AverageWeights(start=2), watch, save], val_check_interval=2,
        check_val_every_n_epoch=None, **settings,
    )  # fmt: skip
    module = InstructionTuning(llama, tuning=LoRA(r=2, dropout=0.1), optimizer=AdamW(lr=1e-2))
    run.fit(module, InstructionDataModule(**data))
    run.save_checkpoint(tmp_path / "end.ckpt")
    assert all(same(one, other, 0.0) for one, other in zip(watch.steps, plain.steps, strict=True))
    whole = weights_of(module)
    for name, step in (("boundary", 3), ("validation", 4)):
        stored = torch.load(tmp_path / f"{name}.ckpt", weights_only=True)
        assert stored["state_dict"].keys() == whole.keys()  # trained weights alone
        assert same(stored["state_dict"], mean(watch.steps[1:step]))
        assert same(stored["averaged"]["raw"], watch.steps[step - 1], 0.0)
        _, again, _ = fit(tmp_path, llama, train_file, AverageWeights(start=2), tmp_path / f"{name}.ckpt")
        assert same(weights_of(again), whole, 0.0), name
    stored = torch.load(tmp_path / "end.ckpt", weights_only=True)
    assert same(stored["state_dict"], whole, 0.0)
    assert same(stored["averaged"]["raw"], watch.steps[-1], 0.0)


def test_a_run_from_the_command_line_exports_the_average(llama: str, train_file: str, tmp_path: Path) -> None:
    more = {"data.train": train_file, "trainer.max_steps": 4, "checkpoint.dirpath": tmp_path / "run"}
    average = ["--trainer.callbacks+=robustlm.callbacks.averaging.AverageWeights", "--trainer.callbacks.start=0"]
    run(["fit", *flags(tmp_path / "run", llama, **more), *average])
    (adapter,) = (tmp_path / "run").rglob("adapter_model.safetensors")
    stored = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    exported = {name.removeprefix("base_model."): value for name, value in load_file(adapter).items()}
    found = {
        name.removeprefix("backbone.model.base_model.").replace(".default.", "."): value
        for name, value in stored["state_dict"].items()
    }
    assert same(exported, found, 0.0)
    raw = {name: stored["averaged"]["raw"][name] for name in stored["state_dict"]}
    assert not same(raw, stored["state_dict"])


def test_lightnings_average_is_refused(llama: str, train_file: str, tmp_path: Path) -> None:
    """It writes the frozen model into checkpoints, and cannot resume from trained weights alone."""
    data = InstructionDataModule(train=train_file, batch_size=4)
    with pytest.raises(ValueError, match=r"found EMAWeightAveraging.*expected robustlm\.callbacks\.averaging"):
        trainer(tmp_path, callbacks=[EMAWeightAveraging()], max_steps=1).fit(InstructionTuning(llama), data)


def test_what_is_refused(llama: str, train_file: str, tmp_path: Path) -> None:
    for settings, words in (
        ({"kind": "median"}, r"AverageWeights\.kind: found 'median'"),
        ({"start": -1}, r"AverageWeights\.start: found -1"),
        ({"decay": 1.0}, r"AverageWeights\.decay: found 1"),
    ):
        with pytest.raises(ValueError, match=words):
            AverageWeights(**settings)  # type: ignore[arg-type]
    data = InstructionDataModule(train=train_file, batch_size=4)
    for other in (EMAWeightAveraging(), StochasticWeightAveraging(1e-3), AverageWeights()):
        with pytest.raises(ValueError, match="AverageWeights"):
            trainer(tmp_path, callbacks=[AverageWeights(), other], max_steps=1).fit(InstructionTuning(llama), data)
    fitter = trainer(tmp_path, max_steps=1)
    fitter.fit(InstructionTuning(llama), data)
    fitter.save_checkpoint(tmp_path / "plain.ckpt")
    with pytest.raises(ValueError, match="this checkpoint's run averaged no weights"):
        trainer(tmp_path, callbacks=[AverageWeights()], max_steps=2).fit(
            InstructionTuning(llama), data, ckpt_path=tmp_path / "plain.ckpt", weights_only=True
        )

"""Pre-training on running text: its loss, its validation, and a run that is resumed."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from robustlm.cli.check import check
from robustlm.datamodules import InstructionDataModule, TextDataModule
from robustlm.models.backbone import Backbone, Loading
from robustlm.modules import Pretraining
from robustlm.optim.config import Muon, Schedule
from tests.datamodules.test_text import text_of, write
from tests.modules.test_boundary import Stop, StopAt
from tests.tiny import trainer, weights_of


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("text") / "a.txt", text_of(60))


def data_of(text: str, tmp_path: Path) -> TextDataModule:
    return TextDataModule(text, held_out=5, batch_size=4, max_length=24, cache_dir=str(tmp_path / "cache"))


def module_of(llama: str, steady: bool = True, **more: Any) -> Pretraining:
    schedule = Schedule(warmup=0, decay="constant") if steady else Schedule()
    return Pretraining(llama, loading=Loading(scratch=True), optimizer=Muon(), schedule=schedule, **more)


def test_the_losses_are_those_of_the_model_itself(llama: str, text: str, tmp_path: Path) -> None:
    fitter = trainer(tmp_path, max_steps=1, num_sanity_val_steps=0)
    module, data = module_of(llama), data_of(text, tmp_path)
    fitter.validate(module, data, verbose=False)
    model = module.backbone.base.eval()
    rows = torch.tensor([[*row.prompt_ids, *row.answer_ids] for row in data.rows["validation"].encoded])
    with torch.no_grad():
        wanted = float(model(input_ids=rows, labels=rows).loss)
    found = {name: float(value) for name, value in fitter.callback_metrics.items()}
    assert found["val/loss"] == pytest.approx(wanted, rel=1e-5)
    assert found["val/perplexity"] == pytest.approx(math.exp(wanted), rel=1e-5)
    width = data.bytes_per_target
    assert width is not None
    assert found["val/bits_per_byte"] == pytest.approx(wanted / math.log(2) / width, rel=1e-5)
    batch = next(iter(_loader(module, data)))
    passes = module.train().passes(batch)
    module.backbone.base.eval()  # without dropout
    loss = module.losses(passes)["answer"]
    ids = batch.raw.input_ids
    torch.testing.assert_close(loss, model(input_ids=ids, labels=ids).loss)


def _loader(module: Pretraining, data: TextDataModule) -> Any:
    data.rows["train"] = data.read("train")
    data.trainer = None
    return data.train_dataloader()


def test_a_killed_run_goes_on_exactly(llama: str, text: str, tmp_path: Path) -> None:
    """Two epochs with two micro-batches to a step; the run ends within a step, and goes on from the last checkpoint."""

    def fit(folder: str, ckpt: Path | None = None, callbacks: Any = ()) -> Any:
        keeper = ModelCheckpoint(tmp_path / folder, every_n_train_steps=2, save_last=True, save_top_k=0)
        fitter = trainer(
            tmp_path, seed=7 if ckpt is None else 99, max_epochs=2, accumulate_grad_batches=2,
            enable_checkpointing=True, callbacks=[keeper, *callbacks], limit_train_batches=5, val_check_interval=4,
        )  # fmt: skip
        module = module_of(llama, steady=False)
        try:
            fitter.fit(module, data_of(text, tmp_path), ckpt_path=ckpt)
        except Stop:
            return None
        return weights_of(module), fitter.global_step

    wanted = fit("whole")
    assert wanted[1] == 6
    assert fit("cut", callbacks=[StopAt("on_train_batch_start", 9)]) is None
    found = fit("cut", ckpt=tmp_path / "cut" / "last.ckpt")
    assert found[1] == wanted[1]
    for name, value in wanted[0].items():
        assert torch.equal(found[0][name], value), name


def test_rows_of_text_are_shown_before_a_run(
    llama: str, text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    check(module_of(llama), data_of(text, tmp_path), rows=1)
    shown = capsys.readouterr().out
    assert re.search(r"train +\d{2,} rows of generation\n +prompt +min +1 .*\n +answer +min +23 ", shown)
    assert re.search(r"validation +5 rows", shown)
    assert re.search(r"  raw +[^«]*«", shown)


def test_rows_with_instructions_are_refused(llama: str, train_file: str, tmp_path: Path) -> None:
    fitter = trainer(tmp_path, max_steps=1)
    with pytest.raises(ValueError, match="expected TextDataModule for Pretraining"):
        fitter.fit(module_of(llama), InstructionDataModule(train_file))
    with pytest.raises(ValueError, match="generate_in_validation: found true"):
        Pretraining(llama, generate_in_validation=True)


def test_text_for_a_method_with_variants_is_refused(llama: str, text: str, tmp_path: Path) -> None:
    from robustlm.modules import ANIT

    with pytest.raises(ValueError, match="TextDataModule makes no noisy or paraphrased variants"):
        trainer(tmp_path, max_steps=1).fit(ANIT(llama), data_of(text, tmp_path))
    assert not Backbone(llama).loaded

"""Running text that is trained beside rows with instructions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from robustlm import Replay
from robustlm.adversaries import FGM, NRM
from robustlm.batch import InstructionBatch
from robustlm.datamodules import ContrastiveDataModule, InstructionDataModule, NoisyInstructionDataModule
from robustlm.losses import token_cross_entropy
from robustlm.models.tuning import FullTuning, LoRA, Tuning
from robustlm.modules import ANIT, InstructionTuning, RobustTuning
from robustlm.noise.base import Noise
from robustlm.optim.config import AdamW
from tests.datamodules.test_text import text_of, write
from tests.modules.test_boundary import Stop, StopAt
from tests.tiny import Record, trainer, weights_of


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write(tmp_path_factory.mktemp("text") / "a.txt", text_of(60))


def replay_of(text: str, share: float = 0.5, **more: Any) -> Replay:
    return Replay(text, share=share, held_out=0, length=20, **more)


def data_of(file: str, text: str, size: int = 4, **more: Any) -> InstructionDataModule:
    return NoisyInstructionDataModule(
        file, batch_size=size, group_by_length=False, noise=Noise(phi=0.7), replay=replay_of(text), cache_dir=None,
        **more,
    )  # fmt: skip


def batches(data: InstructionDataModule, llama: str) -> list[InstructionBatch]:
    data.connect(InstructionTuning(llama).backbone)
    data.rows["train"] = data.read("train")
    return list(data.train_dataloader())


def test_which_text_comes_is_decided_by_the_rows(llama: str, train_file: str, text: str) -> None:
    found = {size: batches(data_of(train_file, text, size), llama) for size in (4, 26)}
    brought = {size: [row for batch in own for row in lines(batch)] for size, own in found.items()}
    assert sorted(brought[4]) == sorted(brought[26])  # however the rows are cut into batches
    assert 5 < len(brought[4]) < 21  # of 26 rows, each with a probability of 0.5
    assert all(len(row) == 20 for row in brought[4])
    for batch in found[26]:
        assert batch.replay_tokens == 0.5 * 26 * 19
    data = data_of(train_file, text, 26)
    (first,), (again,) = batches(data, llama), batches(data_of(train_file, text, 26), llama)
    assert lines(first) == lines(again)
    data.train_dataloader().sampler.set_epoch(1)  # type: ignore[union-attr, attr-defined]
    dataset = data.replaying(data.train_dataset(data.rows["train"]))
    beside = dataset.beside
    assert beside is not None
    assert beside.view(1, first.ids) is not None  # type: ignore[attr-defined]
    other = beside.view(1, first.ids).input_ids.tolist()  # type: ignore[attr-defined]
    assert sorted(other) != sorted(lines(first))  # other text in another epoch


def lines(batch: InstructionBatch) -> list[list[int]]:
    return [] if batch.replay is None else batch.replay.input_ids.tolist()


CASES: dict[str, Any] = {
    "plain": (InstructionTuning, {}),
    "nrm": (ANIT, {"adversary": NRM()}),
    "early": (ANIT, {"adversary": NRM(low_memory=True)}),
    "fgm": (ANIT, {"adversary": FGM()}),
    "slots": (RobustTuning, {"adversary": NRM(ascent="clean")}),
}


@pytest.mark.parametrize("tuning", [LoRA(r=2, dropout=0.0), FullTuning()], ids=["lora", "full"])
@pytest.mark.parametrize("case", CASES)
def test_the_loss_of_text_is_added_to_that_of_any_method(
    case: str, tuning: Tuning, llama: str, train_file: str, text: str
) -> None:
    """The step without text, plus the naive loss of the text, has the same value and gradient."""
    cls, settings = CASES[case]
    torch.manual_seed(0)
    module = cls(llama, tuning=tuning, replay_weight=0.3, **settings)
    module.configure_model()
    module.backbone.base.config._attn_implementation = "eager"
    module.eval()  # without dropout
    batch = batches(data_of(train_file, text), llama)[0]
    assert batch.replay is not None
    assert batch.replay_tokens is not None

    def gradients(given: InstructionBatch) -> tuple[float, dict[str, torch.Tensor]]:
        module.zero_grad()
        torch.manual_seed(1)
        total = module.training_step(given, 0)
        total.backward()
        return float(total.detach()), {n: p.grad.clone() for n, p in module.named_parameters() if p.grad is not None}

    module.log = module.log_dict = lambda *_, **__: None
    both, joint = gradients(batch)
    kept, batch.replay = batch.replay, None
    without, alone = gradients(batch)
    module.zero_grad()
    logits = module.backbone.base(input_ids=kept.input_ids).logits[:, :-1]
    losses = token_cross_entropy(logits.flatten(0, 1), kept.input_ids[:, 1:].flatten())
    added = 0.3 * losses.sum() / batch.replay_tokens
    added.backward()
    assert both == pytest.approx(without + float(added.detach()), rel=1e-5)
    for name, parameter in module.named_parameters():
        if parameter.grad is not None:
            torch.testing.assert_close(joint[name], alone[name] + parameter.grad, rtol=1e-4, atol=1e-6)


def test_accumulation_is_a_larger_batch_with_text_too(llama: str, train_file: str, text: str, tmp_path: Path) -> None:
    """26 rows in batches of 8 or of 2 × 4: the last step has one micro-batch of 2 rows."""

    def fit(size: int, **settings: Any) -> Any:
        fitter = trainer(tmp_path, **settings)
        module = InstructionTuning(llama, tuning=LoRA(r=2, dropout=0.0), optimizer=AdamW(lr=1e-3))
        module.configure_model()
        for layer in module.backbone.base.model.layers:
            layer.self_attn.attention_dropout = 0.0
        fitter.fit(module, data_of(train_file, text, size))
        return weights_of(module)

    large, small = fit(8), fit(4, accumulate_grad_batches=2)
    assert all(torch.allclose(large[name], small[name], rtol=0, atol=1e-6) for name in large)


def test_a_run_with_text_goes_on_exactly(llama: str, train_file: str, text: str, tmp_path: Path) -> None:
    def fit(folder: str, ckpt: Path | None = None, callbacks: Any = ()) -> Any:
        keeper = ModelCheckpoint(tmp_path / folder, every_n_train_steps=1, save_last=True)
        fitter = trainer(
            tmp_path, seed=7 if ckpt is None else 99, enable_checkpointing=True, callbacks=[keeper, *callbacks]
        )
        module = ANIT(llama, tuning=LoRA(r=2, dropout=0.3))
        try:
            fitter.fit(module, data_of(train_file, text), ckpt_path=ckpt)
        except Stop:
            return None
        return weights_of(module)

    record = Record()
    wanted = fit("whole", callbacks=[record])
    assert any("replay/loss" in step and "train/replay" in step for step in record.steps)
    assert fit("cut", callbacks=[StopAt("on_train_batch_start", 4)]) is None
    found = fit("cut", ckpt=tmp_path / "cut" / "last.ckpt")
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_what_is_refused(llama: str, t5: str, train_file: str, text: str, tmp_path: Path) -> None:
    for settings, message in (
        ({"share": 0.0}, r"data\.replay\.share: found 0\.0"),
        ({"share": 1.5}, r"data\.replay\.share: found 1\.5"),
        ({"length": 1}, r"data\.replay\.length: found 1"),
        ({"held_out": -1}, r"data\.replay\.held_out: found -1"),
    ):
        with pytest.raises(ValueError, match=message):
            Replay(text, **settings)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"data\.replay\.path: found ''"):
        Replay("")
    with pytest.raises(ValueError, match=r"64 rows of 512 tokens to hold out \(data.replay.held_out\)"):
        batches(InstructionDataModule(train_file, replay=text, cache_dir=None), llama)
    with pytest.raises(ValueError, match=r"data\.replay: .* has an encoder"):
        trainer(tmp_path).fit(InstructionTuning(t5), InstructionDataModule(train_file, replay=replay_of(text)))
    assert isinstance(ContrastiveDataModule(train_file, replay=text).replay, Replay)
    module = InstructionTuning(llama)
    fitter = trainer(tmp_path)
    fitter.datamodule = InstructionDataModule(train_file, replay=text)  # type: ignore[attr-defined]
    module.trainer = fitter
    with pytest.raises(ValueError, match=r"data\.replay: found text with FSDP2"):
        module.check_sharded()

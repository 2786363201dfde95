"""Weights divided among two processes train as in one process."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from robustlm.datamodules import NoisyInstructionDataModule
from tests.modules.test_equivalence import _without_dropout
from tests.modules.two_shards import CASES, STEPS, fits, fits_of_rank, module_of
from tests.processes import side_by_side
from tests.tiny import trainer


def test_two_shards_are_one_process_that_accumulates(
    llama: str, train_file: str, test_file: str, tmp_path: Path
) -> None:
    backbone = _without_dropout(llama, tmp_path)
    side_by_side(lambda: fits_of_rank(tmp_path / "two", backbone, train_file))
    ours, theirs = (torch.load(tmp_path / "two" / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1))
    single = fits(tmp_path / "one", backbone, train_file, accumulate_grad_batches=2)
    single["contrast"] = ours["contrast, ddp"]  # the negatives are the rows of both processes
    for name in CASES:
        for key, value in single[name].items():
            torch.testing.assert_close(ours[name][key], value, rtol=0, atol=5e-6, msg=lambda m, n=name: f"{n}: {m}")
            assert torch.equal(ours[name][key], theirs[name][key])
        assert ours[f"{name}, held"] < 0.52
    for key, value in ours["nrm"].items():
        assert torch.equal(value, ours["resumed"][key]), key

    adapter = tmp_path / "two" / "nrm" / "adapter"
    stored = load_file(adapter / "adapter_model.safetensors")
    for key, value in ours["nrm"].items():
        assert torch.equal(stored[key.removeprefix("backbone.model.").replace(".default", "")], value), key
    whole = load_file(tmp_path / "two" / "full" / "adapter" / "model.safetensors")
    for key, value in ours["full"].items():
        assert torch.equal(whole[key.removeprefix("backbone.model.")], value), key

    data = {"test": test_file, "conditions": ["clean"]}
    path = tmp_path / "two" / "nrm" / "checkpoints" / f"step={STEPS}.ckpt"
    ways = ((module_of("nrm", backbone), str(path)), (module_of("nrm", str(adapter)), None))
    by_checkpoint, by_adapter = (
        trainer(tmp_path / "test").test(one, NoisyInstructionDataModule(**data), ckpt_path=where, verbose=False)
        for one, where in ways
    )
    assert by_checkpoint == by_adapter

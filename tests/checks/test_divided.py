"""Strategies that divide weights: what would hang, or go wrong in silence, is refused before anything is loaded."""

from __future__ import annotations

from typing import Any

import pytest

from robustlm.adversaries import FGM, FGSM, NRM, PGD, FreeAT, FreeLB, NEFTune
from robustlm.checks.run import check_run
from robustlm.models.loading import Loading
from robustlm.models.sharding import check_shardable
from robustlm.models.tuning import FullTuning, LoRA, PrefixTuning
from robustlm.modules import ANIT, InstructionTuning

FSDP2 = {"class_path": "robustlm.callbacks.fsdp2.FSDP2"}
DEEP = {"class_path": "lightning.pytorch.strategies.DeepSpeedStrategy"}


@pytest.mark.parametrize(
    ("command", "strategy", "message"),
    [
        ("fit", "fsdp", "expected `-c trainer/fsdp2`"),
        ("fit", {"class_path": "lightning.pytorch.strategies.ModelParallelStrategy"}, "expected `-c trainer/fsdp2`"),
        ("test", FSDP2, "different numbers of passes"),
        ("predict", "deepspeed_stage_2", "different numbers of passes"),
        ("fit", "deepspeed_stage_3", "leaves empty weights"),
        ("fit", {**DEEP, "init_args": {"stage": 3}}, "leaves empty weights"),
        ("fit", FSDP2, "data.validation"),
    ],
)
def test_it_is_refused(command: str, strategy: Any, message: str) -> None:
    data = {"init_args": {"validation": "rows.jsonl"}}
    with pytest.raises(ValueError, match=message):
        check_run(command, {"trainer": {"strategy": strategy}, "data": data})


@pytest.mark.parametrize("strategy", ["ddp", FSDP2, {**DEEP, "init_args": {"stage": 2}}, "deepspeed_stage_2"])
def test_it_is_accepted(strategy: Any) -> None:
    check_run("fit", {"trainer": {"strategy": strategy}})


@pytest.mark.parametrize("adversary", [FGM(), FGSM(), FreeLB(), FreeAT(), NRM(ascent="clean"), PGD(low_memory=True)])
def test_an_adversary_that_takes_the_weights_gradients_is_refused(adversary: Any, llama: str) -> None:
    with pytest.raises(ValueError, match=f"{type(adversary).__name__} takes the gradients of the weights"):
        ANIT(llama, adversary=adversary).check_sharded()


def test_other_adversaries_are_accepted(llama: str) -> None:
    for adversary in (NRM(), PGD(), NEFTune(), None):
        ANIT(llama, adversary=adversary).check_sharded()


def test_models_that_cannot_be_divided(llama: str) -> None:
    check_shardable(Loading(), LoRA())
    check_shardable(Loading(), FullTuning())
    with pytest.raises(ValueError, match="four_bit"):
        check_shardable(Loading(four_bit=True), LoRA())
    with pytest.raises(ValueError, match="PrefixTuning"):
        check_shardable(Loading(), PrefixTuning())
    with pytest.raises(ValueError, match="chunk_rows"):
        InstructionTuning(llama, chunk_rows=2).check_sharded()

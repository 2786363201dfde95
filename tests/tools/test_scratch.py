"""Models laid out to be trained from scratch."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from robustlm.cli import model_commands
from robustlm.models.backbone import Backbone, Loading
from robustlm.sample import Sample
from robustlm.tools import scratch
from tests.tiny import view_of

TEXTS = ["Instruction: find the words Text: hello world Answer: yes no"]
SIZES: dict[str, Any] = {"vocab_size": 270, "hidden_size": 16, "layers": 3, "heads": 2, "intermediate_size": 24}


@pytest.mark.parametrize("architecture", get_args(scratch.Architecture))
def test_what_is_laid_out_can_be_loaded_and_used(architecture: Any, tmp_path: Path) -> None:
    scratch.build(tmp_path / "m", TEXTS, architecture=architecture, **SIZES)
    backbone = Backbone(str(tmp_path / "m"), Loading(scratch=True))
    assert backbone.is_encoder_decoder is (architecture == "t5")
    backbone.load()
    config = backbone.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (16, 3, 2)
    assert config.vocab_size == len(backbone.tokenizer)
    if architecture == "t5":
        assert config.num_decoder_layers == 3
        assert config.d_ff == 24
        assert config.decoder_start_token_id == backbone.tokenizer.pad_token_id
    else:
        assert config.intermediate_size == 24
        assert float(backbone.base.get_input_embeddings().weight.std()) == pytest.approx(0.08, rel=0.1)
    view = view_of(backbone, [Sample("a", "find", "yes no"), Sample("b", "find", "no")])
    assert bool(backbone.option_scores(view, torch.tensor([0, 0]), 2).log_likelihood.isfinite().all())
    assert len(backbone.generate(view_of(backbone, [Sample("a", "find", "no")], with_answer=False), 3)) == 1


def test_the_command_offers_what_there_is() -> None:
    assert get_args(model_commands.Architecture) == get_args(scratch.Architecture)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"architecture": "bert"}, "architecture: found 'bert'; expected one of llama, t5"),
        ({"architecture": "t5", "initializer_range": 0.1}, "initializer_range: T5 draws"),
        ({"initializer_range": -0.1}, "initializer_range: -0.1 is negative"),
        ({"architecture": "t5", "heads": 3}, "hidden_size: 16 is not a multiple of 2 × heads = 6"),
    ],
)
def test_what_cannot_be_laid_out(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        scratch.build(tmp_path / "m", TEXTS, **(SIZES | settings))
    assert not (tmp_path / "m").exists()

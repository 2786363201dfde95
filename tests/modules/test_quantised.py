"""Training on quantised weights (QLoRA), with layers that stand for those of bitsandbytes, which needs a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from robustlm.adversaries import FGM, NRM, Adversary
from robustlm.datamodules import NoisyInstructionDataModule
from robustlm.models import loading
from robustlm.models.backbone import Backbone, Loading
from robustlm.models.tuning import FullTuning, LoRA
from robustlm.modules import ANIT
from tests.tiny import trainer, weights_of

LEVELS = torch.linspace(-1, 1, 16)
BLOCK = 64


class FourBit(nn.Linear):
    """A frozen linear layer that holds 4-bit codes and a scale for each 64 of them, as `bitsandbytes.nn.Linear4bit`.

    Its weight is packed in bytes, two codes in each, and has not the shape of the matrix.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        flat = linear.weight.detach().reshape(-1)
        blocks = functional.pad(flat, (0, -len(flat) % BLOCK)).reshape(-1, BLOCK)
        self.register_buffer("scale", blocks.abs().amax(1, keepdim=True).clamp_min(1e-8))
        codes = (blocks / self.scale - LEVELS[:, None, None]).abs().argmin(0).reshape(-1, 2).to(torch.uint8)
        self.weight = nn.Parameter((codes[:, :1] << 4) | codes[:, 1:], requires_grad=False)

    def dequantised(self) -> Tensor:
        codes = torch.cat([self.weight >> 4, self.weight & 15], 1).long().reshape(-1, BLOCK)
        flat = (LEVELS[codes] * self.scale).reshape(-1)
        return flat[: self.in_features * self.out_features].reshape(self.out_features, self.in_features)

    def forward(self, input: Tensor) -> Tensor:
        return functional.linear(input, self.dequantised().to(input.dtype))


def quantise(model: Any, *, packed: bool) -> None:
    """Replace the linear layers but the head, or give them the weights that the codes stand for."""
    head = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear and layer is not head:
                found = FourBit(layer)
                if packed:
                    setattr(parent, name, found)
                else:
                    layer.weight.data = found.dequantised()


ADVERSARIES: dict[str, Adversary] = {
    "nrm": NRM(),
    "low memory": NRM(low_memory=True),
    "clean ascent": NRM(ascent="clean"),
    "fgm": FGM(),
}


@pytest.mark.parametrize(("name", "precision"), [*((name, "32-true") for name in ADVERSARIES), ("nrm", "bf16-mixed")])
def test_a_step_is_that_of_the_weights_that_the_codes_stand_for(
    name: str, precision: str, llama: str, train_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = loading._base_model
    found = []
    for packed in (True, False):

        def quantised(*args: Any, packed: bool = packed) -> Any:
            model = own(*args)
            quantise(model, packed=packed)
            return model

        monkeypatch.setattr(loading, "_base_model", quantised)
        checkpointing = name == "low memory"
        module = ANIT(
            llama, tuning=LoRA(r=2), adversary=ADVERSARIES[name],
            loading=Loading(gradient_checkpointing=checkpointing, cast_once=True),
        )  # fmt: skip
        fitter = trainer(tmp_path / str(packed), max_steps=2, precision=precision)
        fitter.fit(module, NoisyInstructionDataModule(train=train_file, batch_size=4))
        layers = [layer for layer in module.backbone.modules() if isinstance(layer, FourBit)]
        assert bool(layers) == packed
        assert all(layer.weight.dtype == torch.uint8 for layer in layers)
        found.append(weights_of(module))
    assert found[0].keys() == found[1].keys()
    assert all(torch.allclose(found[0][key], found[1][key], atol=1e-6) for key in found[0])


def test_codes_are_not_trained(llama: str) -> None:
    with pytest.raises(ValueError, match=r"found FullTuning with loading\.four_bit, whose weights are codes"):
        Backbone(llama, loading=Loading(four_bit=True), tuning=FullTuning())

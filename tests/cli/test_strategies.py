"""What holds for every family of strategies that YAML chooses from."""

from __future__ import annotations

from dataclasses import fields

import pytest

from robustlm import adversaries
from robustlm.models.tuning import FullTuning, LoRA, PrefixTuning, PromptTuning
from robustlm.optim.config import AdamW, Muon

FAMILIES: list[list[type]] = [
    [getattr(adversaries, name) for name in ("NRM", "FGM", "FGSM", "PGD", "FreeLB", "FreeAT", "NEFTune")],
    [AdamW, Muon],
    [LoRA, PrefixTuning, PromptTuning, FullTuning],
]


@pytest.mark.parametrize("family", FAMILIES, ids=["adversaries", "optimizers", "tunings"])
def test_fields_that_siblings_share_have_one_default(family: list[type]) -> None:
    """A field of one name means one thing; the command line drops values on a switch (`tests/cli/test_layers.py`)."""
    found: dict[str, object] = {}
    for cls in family:
        for item in fields(cls):
            if item.init:
                assert found.setdefault(item.name, item.default) == item.default, f"{cls.__name__}.{item.name}"

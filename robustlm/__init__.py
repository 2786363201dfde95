"""Train language models to do the same thing however they are asked, and measure that they do."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if "ROBUSTLM_OWN_CODE" in os.environ:  # a loader's worker may have to find the user's own classes
    import multiprocessing

    if multiprocessing.current_process().name != "MainProcess":
        from robustlm import own_code

        own_code.inherit()

if TYPE_CHECKING:
    from robustlm.adversaries import FGM, FGSM, NRM, PGD, FreeAT, FreeLB, NEFTune
    from robustlm.backbone import Backbone, Loading
    from robustlm.data.distortion import LME, RBE
    from robustlm.data.noise import Noise
    from robustlm.data.sources import Source
    from robustlm.datamodules import (
        ContrastiveDataModule,
        InstructionDataModule,
        NLUDataModule,
        ParaphraseDataModule,
        RobustnessDataModule,
    )
    from robustlm.modules import (
        ANIT,
        Alignment,
        Contrast,
        ContrastiveTuning,
        InstructionTuning,
        Passes,
        PrefixAlignment,
        RobustTuning,
    )
    from robustlm.optimizers import AdamW, Muon, Schedule
    from robustlm.tuned import TunedModel, load
    from robustlm.tuning import FullTuning, LoRA, PrefixTuning, PromptTuning

_HOMES = {
    "adversaries": ("FGM", "FGSM", "NRM", "PGD", "FreeAT", "FreeLB", "NEFTune"),
    "backbone": ("Backbone", "Loading"),
    "data.distortion": ("LME", "RBE"),
    "data.noise": ("Noise",),
    "data.sources": ("Source",),
    "datamodules": (
        "ContrastiveDataModule",
        "InstructionDataModule",
        "NLUDataModule",
        "ParaphraseDataModule",
        "RobustnessDataModule",
    ),
    "modules": (
        "ANIT",
        "Alignment",
        "Contrast",
        "ContrastiveTuning",
        "InstructionTuning",
        "Passes",
        "PrefixAlignment",
        "RobustTuning",
    ),
    "optimizers": ("AdamW", "Muon", "Schedule"),
    "tuned": ("TunedModel", "load"),
    "tuning": ("FullTuning", "LoRA", "PrefixTuning", "PromptTuning"),
}
_HOME_OF = {name: f"robustlm.{home}" for home, names in _HOMES.items() for name in names}

__all__ = [
    "ANIT",
    "FGM",
    "FGSM",
    "LME",
    "NRM",
    "PGD",
    "RBE",
    "AdamW",
    "Alignment",
    "Backbone",
    "Contrast",
    "ContrastiveDataModule",
    "ContrastiveTuning",
    "FreeAT",
    "FreeLB",
    "FullTuning",
    "InstructionDataModule",
    "InstructionTuning",
    "LoRA",
    "Loading",
    "Muon",
    "NEFTune",
    "NLUDataModule",
    "Noise",
    "ParaphraseDataModule",
    "Passes",
    "PrefixAlignment",
    "PrefixTuning",
    "PromptTuning",
    "RobustTuning",
    "RobustnessDataModule",
    "Schedule",
    "Source",
    "TunedModel",
    "load",
]


def __getattr__(name: str) -> object:
    """Import public names on first use: `import robustlm.data.noise` need not bring torch along."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'robustlm' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME_OF[name]), name)

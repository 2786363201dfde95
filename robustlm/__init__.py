"""Train language models to do the same thing however they are asked, and measure that they do."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

from robustlm.utils.moved import serve_moved
from robustlm.utils.public import HOME_OF, current_name
from robustlm.utils.version import __version__

serve_moved()

if "ROBUSTLM_OWN_CODE" in os.environ:  # a loader's worker may have to find the user's own classes
    import multiprocessing

    if multiprocessing.current_process().name != "MainProcess":
        from robustlm.utils import own_code

        own_code.inherit()

if TYPE_CHECKING:
    from robustlm.adversaries import FGM, FGSM, NRM, PGD, FreeAT, FreeLB, NEFTune
    from robustlm.datamodules import (
        ContrastiveDataModule,
        InstructionDataModule,
        NoisyInstructionDataModule,
        ParaphraseDataModule,
        RobustnessDataModule,
        TextDataModule,
    )
    from robustlm.datamodules.replay import Replay
    from robustlm.datamodules.unlabelled import Unlabelled
    from robustlm.models.backbone import Backbone, Loading
    from robustlm.models.precision import auto_precision
    from robustlm.models.tuning import FullTuning, LoRA, PrefixTuning, PromptTuning
    from robustlm.modules import (
        ANIT,
        SAM,
        Agreement,
        Alignment,
        AlignmentTuning,
        Contrast,
        ContrastiveTuning,
        Guard,
        InstructionTuning,
        Passes,
        Preference,
        Pretraining,
        RDrop,
        RobustTuning,
        Selection,
    )
    from robustlm.noise.base import Noise
    from robustlm.noise.distortion import LME, RBE
    from robustlm.optim.config import AdamW, Muon, Schedule
    from robustlm.sources.source import Source
    from robustlm.tuned import TunedModel, load

__all__ = [
    "ANIT",
    "FGM",
    "FGSM",
    "LME",
    "NRM",
    "PGD",
    "RBE",
    "SAM",
    "AdamW",
    "Agreement",
    "Alignment",
    "AlignmentTuning",
    "Backbone",
    "Contrast",
    "ContrastiveDataModule",
    "ContrastiveTuning",
    "FreeAT",
    "FreeLB",
    "FullTuning",
    "Guard",
    "InstructionDataModule",
    "InstructionTuning",
    "LoRA",
    "Loading",
    "Muon",
    "NEFTune",
    "Noise",
    "NoisyInstructionDataModule",
    "ParaphraseDataModule",
    "Passes",
    "Preference",
    "PrefixTuning",
    "Pretraining",
    "PromptTuning",
    "RDrop",
    "Replay",
    "RobustTuning",
    "RobustnessDataModule",
    "Schedule",
    "Selection",
    "Source",
    "TextDataModule",
    "TunedModel",
    "Unlabelled",
    "__version__",
    "auto_precision",
    "load",
]


def __getattr__(name: str) -> object:
    """Import public names on first use: `import robustlm.noise.base` need not bring torch along."""
    name = current_name(name)
    if name not in HOME_OF:
        raise AttributeError(f"module 'robustlm' has no attribute {name!r}")
    return getattr(importlib.import_module(HOME_OF[name]), name)

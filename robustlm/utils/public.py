"""Where the public names live: a table of text, which imports none of them."""

from __future__ import annotations

HOMES = {
    "robustlm.adversaries": ("FGM", "FGSM", "NRM", "PGD", "FreeAT", "FreeLB", "NEFTune"),
    "robustlm.datamodules": (
        "ContrastiveDataModule",
        "InstructionDataModule",
        "NLUDataModule",
        "ParaphraseDataModule",
        "RobustnessDataModule",
    ),
    "robustlm.models.backbone": ("Backbone", "Loading"),
    "robustlm.models.tuning": ("FullTuning", "LoRA", "PrefixTuning", "PromptTuning"),
    "robustlm.modules": (
        "ANIT",
        "Alignment",
        "Contrast",
        "ContrastiveTuning",
        "InstructionTuning",
        "Passes",
        "PrefixAlignment",
        "RobustTuning",
    ),
    "robustlm.noise.base": ("Noise",),
    "robustlm.noise.distortion": ("LME", "RBE"),
    "robustlm.optim.config": ("AdamW", "Muon", "Schedule"),
    "robustlm.sources.source": ("Source",),
    "robustlm.tuned": ("TunedModel", "load"),
}
"""The public names, by the module that each is defined in."""

HOME_OF = {name: home for home, names in HOMES.items() for name in names}
"""The module of each public name."""

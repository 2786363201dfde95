"""Tables of the public names, their modules and their former names. Nothing is imported to read them."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable

HOMES = {
    "robustlm.adversaries": ("FGM", "FGSM", "NRM", "PGD", "FreeAT", "FreeLB", "NEFTune"),
    "robustlm.datamodules": (
        "ContrastiveDataModule",
        "InstructionDataModule",
        "NoisyInstructionDataModule",
        "ParaphraseDataModule",
        "RobustnessDataModule",
        "TextDataModule",
    ),
    "robustlm.datamodules.replay": ("Replay",),
    "robustlm.datamodules.unlabelled": ("Unlabelled",),
    "robustlm.models.backbone": ("Backbone", "Loading"),
    "robustlm.models.precision": ("auto_precision",),
    "robustlm.models.tuning": ("FullTuning", "LoRA", "PrefixTuning", "PromptTuning"),
    "robustlm.modules": (
        "ANIT",
        "SAM",
        "Agreement",
        "Alignment",
        "AlignmentTuning",
        "Contrast",
        "ContrastiveTuning",
        "Guard",
        "InstructionTuning",
        "Passes",
        "Preference",
        "Pretraining",
        "RDrop",
        "RobustTuning",
        "Selection",
    ),
    "robustlm.noise.base": ("Noise",),
    "robustlm.noise.distortion": ("LME", "RBE"),
    "robustlm.optim.config": ("AdamW", "Muon", "Schedule"),
    "robustlm.sources.source": ("Source",),
    "robustlm.tuned": ("TunedModel", "load"),
}
"""The public names, by the module that defines them."""

HOME_OF = {name: home for home, names in HOMES.items() for name in names}
"""The module of each public name."""

RENAMED = {"NLUDataModule": "NoisyInstructionDataModule", "PrefixAlignment": "AlignmentTuning"}
"""Old class names and their new names. The old ones still work, with a warning."""

_said: set[str] = set()
"""Old names for which a warning was shown."""


def _warn(line: str) -> None:
    warnings.warn(line, FutureWarning, stacklevel=4)


def current_name(name: str, say: Callable[[str], object] = _warn) -> str:
    """The current name of a class of this package.

    Args:
        name: A class, by its plain name or a dotted path. Names that have not changed, and paths of other packages, are
            returned unchanged.
        say: Receives a message with the new name, once per process for each old name; by default a `FutureWarning`.
    """
    module, dot, last = name.rpartition(".")
    if last not in RENAMED or (dot and module.partition(".")[0] != "robustlm"):
        return name
    if last not in _said:
        _said.add(last)
        say(f"{last} is called {RENAMED[last]} now; use that name")
    return f"{module}{dot}{RENAMED[last]}"


def old_names(module: str) -> Callable[[str], object]:
    """A `__getattr__` for a module, which also finds its classes by their old names."""

    def found(name: str) -> object:
        if name not in RENAMED or not hasattr(importlib.import_module(module), RENAMED[name]):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return getattr(importlib.import_module(module), current_name(name))

    return found

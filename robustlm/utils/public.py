"""Where the public names live: tables of text, which import none of them. Also what they were called before."""

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

RENAMED = {"NLUDataModule": "NoisyInstructionDataModule"}
"""The new name of each class that was called otherwise; the old one still works, with a warning."""

_said: set[str] = set()
"""Old names that were warned of."""


def _warn(line: str) -> None:
    warnings.warn(line, FutureWarning, stacklevel=4)


def current_name(name: str, say: Callable[[str], object] = _warn) -> str:
    """The name that a class of this package has now.

    Args:
        name: A class by its name alone, or by a dotted path; names that were not changed, and paths of other packages,
            are returned as they are.
        say: Takes a line that says the new name, once in a process for each old one; a `FutureWarning` by default.
    """
    module, dot, last = name.rpartition(".")
    if last not in RENAMED or (dot and module.partition(".")[0] != "robustlm"):
        return name
    if last not in _said:
        _said.add(last)
        say(f"{last} is called {RENAMED[last]} now; use that name")
    return f"{module}{dot}{RENAMED[last]}"


def old_names(module: str) -> Callable[[str], object]:
    """A `__getattr__` for a module, under which its classes are found by their old names too."""

    def found(name: str) -> object:
        if name not in RENAMED or not hasattr(importlib.import_module(module), RENAMED[name]):
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        return getattr(importlib.import_module(module), current_name(name))

    return found

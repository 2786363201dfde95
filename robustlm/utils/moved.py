"""Import paths of earlier versions, which configs and checkpoints may still contain."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MOVED = {
    "robustlm.backbone": "robustlm.models.backbone",
    "robustlm.data.distortion": "robustlm.noise.distortion",
    "robustlm.data.embedders": "robustlm.noise.embedders",
    "robustlm.data.noise": "robustlm.noise.base",
    "robustlm.data.sources": "robustlm.sources.source",
    "robustlm.datamodules.nlu": "robustlm.datamodules.noisy",
    "robustlm.optimizers": "robustlm.optim.config",
    "robustlm.tuning": "robustlm.models.tuning",
}
"""Old modules whose classes appear in configs and checkpoints, with the modules of these classes now."""

_FOLDERS = {path.rpartition(".")[0] for path in MOVED} - {"robustlm", "robustlm.datamodules"}
"""Removed packages that contained such modules."""


class MovedModules(MetaPathFinder, Loader):
    """Finds a module at its old path, and warns once that it has a new path."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """A spec for an old path; `None` for any other."""
        return ModuleSpec(fullname, self, is_package=fullname in _FOLDERS) if fullname in {*MOVED, *_FOLDERS} else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """A new module object with the old name and the content of the module at the new path."""
        found = ModuleType(spec.name)
        if spec.name in _FOLDERS:
            return found
        new = MOVED[spec.name]
        warnings.warn(
            f"{spec.name} is now {new}; a later version will not find the old path", FutureWarning, stacklevel=2
        )
        kept = {name: value for name, value in vars(import_module(new)).items() if name[:2] != "__"}
        found.__dict__.update(kept)
        if hasattr(import_module(new), "__getattr__"):  # resolves old names of its classes
            vars(found)["__getattr__"] = import_module(new).__getattr__
        return found

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: `create_module` has filled the module."""


def serve_moved() -> None:
    """Let Python find modules at their old paths."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())

"""A user's own modules in the working folder: found for the names that the user gives, and for no others.

Libraries probe for optional modules (`import torch_xla`). A working folder on `sys.path` would answer with any file of
that name, so it is not put there. A finder at the end of `sys.meta_path` serves single modules instead: those that a
flag or a config names, and what these modules import themselves.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import FrameType, ModuleType

ENVIRONMENT = "ROBUSTLM_OWN_CODE"
"""Environment variable that tells processes started by this one (loader workers) which modules are the user's own."""


class OwnModules(MetaPathFinder):
    """Finds modules of one folder by name.

    Args:
        folder: The folder.
        names: Modules and packages at its top that may be found.
    """

    def __init__(self, folder: str, names: Iterable[str]) -> None:
        self.folder = folder
        self.names = set(names)
        self._served: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module of that name, where the user has named it or one of the user's modules imports it."""
        if path is not None:  # a part of a package, which that package's own path finds
            return None
        if fullname not in self.names and _importer(sys._getframe(1)) not in self._served:
            return None
        spec = PathFinder.find_spec(fullname, [self.folder])
        if spec is not None:
            self._served.add(fullname)
            self.names.add(fullname)
            self.publish()
        return spec

    def publish(self) -> None:
        """Tell processes that are started from here on."""
        os.environ[ENVIRONMENT] = json.dumps({"folder": self.folder, "names": sorted(self.names)})


def serve(folder: str, names: Iterable[str] = ()) -> None:
    """Let Python find modules of a folder, after all installed ones; a folder served before is no longer."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, OwnModules)]
    finder = OwnModules(folder, names)
    finder.publish()
    sys.meta_path.append(finder)


def permit(path: str) -> None:
    """Let the served folder answer for a dotted path that the user has named in a config or by flag."""
    for finder in sys.meta_path:
        if isinstance(finder, OwnModules):
            finder.names.add(path.partition(".")[0])
            finder.publish()


def inherit() -> None:
    """Serve what the process that started this one serves."""
    known = json.loads(os.environ[ENVIRONMENT])
    serve(known["folder"], known["names"])


def _importer(frame: FrameType | None) -> str:
    """The top-level name of the module whose code runs an import; frames of the import system are passed over."""
    while frame is not None:
        name = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if name not in ("importlib", "_frozen_importlib", "_frozen_importlib_external") and not _is_this(frame):
            return name
        frame = frame.f_back
    return ""


def _is_this(frame: FrameType) -> bool:
    return frame.f_globals is globals()

"""Import a user's own modules from the working folder, but only those that the user names.

Libraries probe for optional modules (`import torch_xla`). If the working folder were on `sys.path`, any file with that
name would be imported. So it is not put there. Instead, a finder at the end of `sys.meta_path` serves single modules:
those that a flag or a config names, and those that these modules import.
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
"""Environment variable that passes the names of the user's own modules to child processes (loader workers)."""


class OwnModules(MetaPathFinder):
    """Finds modules of one folder by name.

    Args:
        folder: The folder.
        names: Top-level modules and packages that may be found.
    """

    def __init__(self, folder: str, names: Iterable[str]) -> None:
        self.folder = folder
        self.names = set(names)
        self._served: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of the module if the user has named it or one of the user's modules imports it."""
        if path is not None:  # part of a package: found through the package's own path
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
        """Set the environment variable for processes that start later."""
        os.environ[ENVIRONMENT] = json.dumps({"folder": self.folder, "names": sorted(self.names)})


def serve(folder: str, names: Iterable[str] = ()) -> None:
    """Let Python find modules of a folder, after all installed ones. Replaces a folder served before."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, OwnModules)]
    finder = OwnModules(folder, names)
    finder.publish()
    sys.meta_path.append(finder)


def permit(path: str) -> None:
    """Allow imports from the served folder for a dotted path that the user has named in a config or by flag."""
    for finder in sys.meta_path:
        if isinstance(finder, OwnModules):
            finder.names.add(path.partition(".")[0])
            finder.publish()


def inherit() -> None:
    """Serve the same modules as the parent process."""
    known = json.loads(os.environ[ENVIRONMENT])
    serve(known["folder"], known["names"])


def _importer(frame: FrameType | None) -> str:
    """The top-level name of the module whose code runs an import; frames of the import system are skipped."""
    while frame is not None:
        name = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if name not in ("importlib", "_frozen_importlib", "_frozen_importlib_external") and not _is_this(frame):
            return name
        frame = frame.f_back
    return ""


def _is_this(frame: FrameType) -> bool:
    return frame.f_globals is globals()

"""Import a user's own objects, which a configuration names by import path."""

from __future__ import annotations

import importlib

from robustlm.utils.own_code import permit


def imported(path: str) -> object | None:
    """The object at `package.module.name`, or `None` if the text is not such a path or the module lacks the name.

    Raises:
        ValueError: The module cannot be imported; the message says why.
    """
    module, _, attribute = path.rpartition(".")
    if not module or not all(part.isidentifier() for part in path.split(".")):
        return None
    permit(path)
    try:
        return getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise ValueError(f"{path}: cannot import {module!r} ({error})") from error

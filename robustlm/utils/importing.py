"""Objects that a configuration names by import path, because a user wrote them."""

from __future__ import annotations

import importlib
from typing import Any

from robustlm.utils.own_code import permit


def imported(path: str) -> Any | None:
    """The object at `package.module.name`, or `None` where the text is no such path or the module lacks the name.

    Raises:
        ValueError: The module cannot be imported; says why.
    """
    module, _, attribute = path.rpartition(".")
    if not module or not all(part.isidentifier() for part in path.split(".")):
        return None
    permit(path)
    try:
        return getattr(importlib.import_module(module), attribute, None)
    except ImportError as error:
        raise ValueError(f"{path}: cannot import {module!r} ({error})") from error

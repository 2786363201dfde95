"""Chooses the class for a model's name."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from robustlm.endpoint import PREFIX
from robustlm.models.backbone import Backbone
from robustlm.models.base import LanguageModel
from robustlm.models.hosted import HostedBackbone, Hosting
from robustlm.models.in_vllm import VLLM, VllmBackbone
from robustlm.models.loading import Loading
from robustlm.models.sampling import Generation
from robustlm.models.tuning import Tuning
from robustlm.utils.importing import imported

log = logging.getLogger(__name__)

Maker = Callable[[str, Hosting], LanguageModel]

BACKENDS: dict[str, Maker] = {PREFIX: HostedBackbone, VLLM: VllmBackbone}
"""Functions that create models, by the prefix of the model's name (`openai:`, `vllm:`); others use `Backbone`.

A user's own class needs no entry: `my_module.MyModel:NAME` gives its import path.
"""


def language_model(
    name: str,
    loading: Loading | None = None,
    tuning: Tuning | None = None,
    hosting: Hosting | None = None,
    generation: Generation | None = None,
    *,
    usual_tuning: Tuning | None = None,
) -> LanguageModel:
    """The model with this name, without its weights. A warning names settings that it does not use.

    Args:
        name: A name for `Backbone`, or a name that begins with a prefix of `BACKENDS` or with an import path and a
            colon.
        loading: How a local model is loaded.
        tuning: Which part of a local model is trained.
        hosting: How requests are sent to a hosted model.
        generation: How a local model chooses the tokens of an answer.
        usual_tuning: The default of `tuning`; with it, there is no warning about `tuning`.
    """
    loading, hosting, generation = loading or Loading(), hosting or Hosting(), generation or Generation()
    make = next((make for prefix, make in BACKENDS.items() if name.startswith(prefix)), None) or _own(name)
    if make is None:
        _warn(name, "runs on this machine", _changed("hosting", hosting))
        return Backbone(name, copy.copy(loading), copy.copy(tuning), copy.copy(generation))
    unused = [*_changed("loading", loading), *_changed("generation", generation)]
    if tuning is not None and tuning != usual_tuning:
        unused.append(f"model.tuning ({type(tuning).__name__})")
    found = make(name, hosting)
    _warn(name, found.closed, unused)
    return found


def _own(name: str) -> Maker | None:
    """The class whose import path the name begins with (`my_module.MyModel:NAME`), or `None`.

    Raises:
        ValueError: The module cannot be imported, or does not contain such a `LanguageModel`.
    """
    path, colon, _ = name.partition(":")
    if not colon or "." not in path or not all(part.isidentifier() for part in path.split(".")) or Path(name).exists():
        return None
    found = imported(path)
    if not (isinstance(found, type) and issubclass(found, LanguageModel)):
        raise ValueError(
            f"backbone: {name!r}: {path} is {'nothing' if found is None else repr(found)}; expected a subclass of "
            "robustlm.models.base.LanguageModel"
        )
    return lambda name, hosting: found(name)


def _changed(group: str, settings: Loading | Hosting | Generation) -> list[str]:
    """The settings that differ from their defaults."""
    usual = type(settings)()
    return [
        f"model.{group}.{item.name} ({getattr(settings, item.name)})"
        for item in fields(settings)
        if getattr(settings, item.name) != getattr(usual, item.name)
    ]


def _warn(name: str, why: str, unused: list[str]) -> None:
    if unused:
        log.warning("backbone: %s %s, so these settings have no effect: %s", name, why, ", ".join(unused))

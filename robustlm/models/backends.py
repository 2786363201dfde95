"""Picks the class that serves a model's name."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable
from dataclasses import fields

from robustlm.endpoint import PREFIX
from robustlm.models.backbone import Backbone
from robustlm.models.base import LanguageModel
from robustlm.models.hosted import HostedBackbone, Hosting
from robustlm.models.loading import Loading
from robustlm.models.tuning import Tuning

log = logging.getLogger(__name__)

BACKENDS: dict[str, Callable[[str, Hosting], LanguageModel]] = {PREFIX: HostedBackbone}
"""What makes the models whose names begin with a prefix (`openai:`); all other names are `Backbone`'s."""


def language_model(
    name: str,
    loading: Loading | None = None,
    tuning: Tuning | None = None,
    hosting: Hosting | None = None,
    *,
    usual_tuning: Tuning | None = None,
) -> LanguageModel:
    """The model of a name, without its weights. Settings that it has no use for are named in a warning.

    Args:
        name: A name of `Backbone`, or one that begins with a prefix of `BACKENDS`.
        loading: How a local model is loaded.
        tuning: What of a local model is trained.
        hosting: How a hosted model is asked.
        usual_tuning: What `tuning` is where nobody chose it: no warning is due then.
    """
    loading, hosting = loading or Loading(), hosting or Hosting()
    make = next((make for prefix, make in BACKENDS.items() if name.startswith(prefix)), None)
    if make is None:
        _warn(name, "runs on this machine", _changed("hosting", hosting))
        return Backbone(name, copy.copy(loading), copy.copy(tuning))
    unused = _changed("loading", loading)
    if tuning is not None and tuning != usual_tuning:
        unused.append(f"model.tuning ({type(tuning).__name__})")
    found = make(name, hosting)
    _warn(name, found.closed, unused)
    return found


def _changed(group: str, settings: Loading | Hosting) -> list[str]:
    """The settings that are not what they are by default."""
    usual = type(settings)()
    return [
        f"model.{group}.{item.name} ({getattr(settings, item.name)})"
        for item in fields(settings)
        if getattr(settings, item.name) != getattr(usual, item.name)
    ]


def _warn(name: str, why: str, unused: list[str]) -> None:
    if unused:
        log.warning("backbone: %s %s, so these settings have no effect: %s", name, why, ", ".join(unused))

"""The model card that goes with an exported adapter."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import yaml
from torch import Tensor

from robustlm.adapters.settings import FILE
from robustlm.models.backbone import Backbone
from robustlm.utils.version import __version__


class TunedModule(Protocol):
    """A Lightning module, as a card describes it."""

    backbone: Backbone

    @property
    def hparams(self) -> Mapping[str, object]:
        """Its settings by name."""


class FinishedTrainer(Protocol):
    """A trainer after `fit`."""

    @property
    def callback_metrics(self) -> Mapping[str, Tensor]:
        """The logged values by name."""

    @property
    def global_step(self) -> int:
        """Number of optimiser steps."""

    @property
    def current_epoch(self) -> int:
        """Number of epochs."""


def model_card(module: TunedModule, trainer: FinishedTrainer, prompt: Mapping[str, object] | None = None) -> str:
    """A Hugging Face model card for a tuned module: base, method, settings, how to load it.

    Args:
        module: The tuned module.
        trainer: Its trainer, after `fit`.
        prompt: Data settings that decided how prompts were written, by name; null if they are unknown.
    """
    backbone = module.backbone
    peft = hasattr(backbone.model, "peft_config")
    header = {
        "base_model": backbone.base_name,
        "library_name": "peft" if peft else "transformers",
        "tags": ["robustlm", type(module).__name__],
    }
    plain = {name: value for name, value in module.hparams.items() if not name.startswith("_")}
    scores = {name: round(float(v), 4) for name, v in trainer.callback_metrics.items() if name.startswith("val/")}
    return _card(
        header,
        f"{backbone.base_name}, tuned with {type(module).__name__}",
        f"Tuned by robustlm {__version__} for {trainer.global_step} optimiser steps "
        f"({trainer.current_epoch} epochs) to give the same answer to every wording of an instruction.",
        {
            "Load it": _loading_code(backbone, peft),
            "Settings": f"```yaml\n{yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).strip()}\n```",
            "Prompts": _prompts(prompt),
            "Last validation": "\n".join(f"- {name}: {v}" for name, v in scores.items()) or "None was run.",
        },
    )


def merged_card(backbone: Backbone, kind: str, prompt: Mapping[str, object] | None, share: float = 1.0) -> str:
    """The card of a model into which an adapter was merged.

    Args:
        backbone: Backbone of the adapter; it gives the name of the base model.
        kind: Kind of the adapter, as peft names it.
        prompt: As for `model_card`.
        share: Share of the adapter's change that was merged.
    """
    header = {"base_model": backbone.base_name, "library_name": "transformers", "tags": ["robustlm", kind.lower()]}
    part = "" if share == 1 else f" Its weights are W_base + {share:g} · (W_tuned − W_base)."
    return _card(
        header,
        f"{backbone.base_name}, with a {kind} adapter merged into its weights",
        f"Merged by robustlm {__version__}.{part}",
        {"Load it": _loading_code(backbone, peft=False), "Prompts": _prompts(prompt)},
    )


def _card(header: Mapping[str, object], title: str, summary: str, sections: Mapping[str, str]) -> str:
    top = ["---", yaml.safe_dump(header, sort_keys=False).strip(), "---", "", f"# {title}", "", summary, ""]
    return "\n".join([*top, *(line for name, text in sections.items() for line in (f"## {name}", "", text, ""))])


def _prompts(prompt: Mapping[str, object] | None) -> str:
    if prompt is None:
        return "The run had no datamodule of robustlm, so it is not known how its prompts were written."
    listed = yaml.safe_dump(dict(prompt), sort_keys=False, allow_unicode=True).strip()
    why = f"`{FILE}` holds these data settings too; robustlm takes them from there in a test."
    return (
        f"Prompts were written with these settings, and the model expects prompts of this form. {why}\n\n"
        f"```yaml\n{listed}\n```"
    )


def _loading_code(backbone: Backbone, peft: bool) -> str:
    kind = "Seq2SeqLM" if backbone.is_encoder_decoder else "CausalLM"
    auto = f"AutoPeftModelFor{kind}" if peft else f"AutoModelFor{kind}"
    library = "peft" if peft else "transformers"
    return (
        f"```python\nfrom {library} import {auto}\nfrom transformers import AutoTokenizer\n\n"
        f'model = {auto}.from_pretrained("path/to/this/folder")\n'
        'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")\n```'
    )


def trained_line(module: TunedModule) -> str:
    """One line of text: how many weights of a module's model are trained."""
    every = sum(p.numel() for p in module.backbone.model.parameters())
    trained = sum(p.numel() for p in module.backbone.trained)
    tuning = type(module.backbone.tuning).__name__ if module.backbone.tuning else "nothing"
    return f"parameters  {trained:,} of {every:,} are trained ({trained / every:.2%}, {tuning})"

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
    return "\n".join(
        [
            "---",
            yaml.safe_dump(header, sort_keys=False).strip(),
            "---",
            "",
            f"# {backbone.base_name}, tuned with {type(module).__name__}",
            "",
            f"Tuned by robustlm {__version__} for {trainer.global_step} optimiser steps "
            f"({trainer.current_epoch} epochs) to answer alike however it is asked.",
            "",
            "## Load it",
            "",
            "```python",
            _loading_code(backbone, peft),
            "```",
            "",
            "## Settings",
            "",
            "```yaml",
            yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).strip(),
            "```",
            "",
            "## Prompts",
            "",
            *_prompt_lines(prompt),
            "",
            "## Last validation",
            "",
            "\n".join(f"- {name}: {value}" for name, value in scores.items()) or "None was run.",
            "",
        ]
    )


def merged_card(backbone: Backbone, kind: str, prompt: Mapping[str, object] | None) -> str:
    """The card of a model into which an adapter was merged.

    Args:
        backbone: Backbone of the adapter; it gives the name of the base model.
        kind: Kind of the adapter, as peft names it.
        prompt: As for `model_card`.
    """
    header = {"base_model": backbone.base_name, "library_name": "transformers", "tags": ["robustlm", kind.lower()]}
    return "\n".join(
        [
            "---",
            yaml.safe_dump(header, sort_keys=False).strip(),
            "---",
            "",
            f"# {backbone.base_name}, with a {kind} adapter merged into its weights",
            "",
            f"Merged by robustlm {__version__}.",
            "",
            "## Load it",
            "",
            "```python",
            _loading_code(backbone, peft=False),
            "```",
            "",
            "## Prompts",
            "",
            *_prompt_lines(prompt),
            "",
        ]
    )


def _prompt_lines(prompt: Mapping[str, object] | None) -> list[str]:
    if prompt is None:
        return ["How prompts were written is not known, as the run had no datamodule of robustlm."]
    listed = yaml.safe_dump(dict(prompt), sort_keys=False, allow_unicode=True).strip()
    why = f"`{FILE}` holds these data settings too; robustlm takes them from there in a test."
    return [
        f"Prompts were written by these settings, and the model expects them so. {why}",
        "",
        "```yaml",
        listed,
        "```",
    ]


def _loading_code(backbone: Backbone, peft: bool) -> str:
    kind = "Seq2SeqLM" if backbone.is_encoder_decoder else "CausalLM"
    auto = f"AutoPeftModelFor{kind}" if peft else f"AutoModelFor{kind}"
    library = "peft" if peft else "transformers"
    return (
        f"from {library} import {auto}\nfrom transformers import AutoTokenizer\n\n"
        f'model = {auto}.from_pretrained("path/to/this/folder")\n'
        'tokenizer = AutoTokenizer.from_pretrained("path/to/this/folder")'
    )


def trained_line(module: TunedModule) -> str:
    """One line of text: how many weights of a module's model are trained."""
    every = sum(p.numel() for p in module.backbone.model.parameters())
    trained = sum(p.numel() for p in module.backbone.trained)
    tuning = type(module.backbone.tuning).__name__ if module.backbone.tuning else "nothing"
    return f"parameters  {trained:,} of {every:,} are trained ({trained / every:.2%}, {tuning})"

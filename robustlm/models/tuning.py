"""Which part of a model is trained: an adapter, a prefix, a soft prompt, or everything."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, cast

import peft
from torch import nn
from transformers import PreTrainedModel

from robustlm.checks.numbers import check_number

_MOST_TOKENS = 100_000
"""Limit for the length of a prefix or soft prompt, and for the width of the prefix MLP; far above real values."""


Network = PreTrainedModel | peft.PeftModel
"""A model without or with a PEFT wrapper."""


@dataclass
class Tuning(ABC):
    """Chooses the trained parameters of a loaded model."""

    @abstractmethod
    def apply(self, model: PreTrainedModel) -> Network:
        """Wrap `model`, a transformers model in train mode, or select its trained weights; return the model to use."""

    def check(self, *, gradient_checkpointing: bool) -> None:
        """Raise `ValueError` for settings that do not work together."""
        del gradient_checkpointing


@dataclass
class LoRA(Tuning):
    """Low-rank adapters on linear layers (Hu et al., 2021)."""

    r: int = 16
    """Rank."""
    alpha: int = 16
    """Scale: the update is multiplied by alpha / r, with `rslora` by alpha / √r."""
    dropout: float = 0.05
    """Dropout rate on the adapters' input, in [0, 1)."""
    target_modules: str | list[str] = "all-linear"
    """Layers to adapt: `all-linear` (every linear layer except the head), a regular expression, or a list of names."""
    dora: bool = False
    """Train the length of each output's weights apart from their direction (DoRA, Liu et al., 2024): closer to full
    tuning at low ranks, slower and with more memory for activations."""
    rslora: bool = False
    """Multiply by alpha / √r (rsLoRA, Kalajdzievski, 2023), so that high ranks learn as fast as low ones."""

    def __post_init__(self) -> None:
        check_number("tuning.r", self.r, least=1, whole=True)
        check_number("tuning.alpha", self.alpha, least=1, below=2**31, whole=True)
        check_number("tuning.dropout", self.dropout, least=0, below=1)
        if isinstance(self.target_modules, str):
            try:
                re.compile(self.target_modules)
            except re.error as error:
                raise ValueError(
                    f"tuning.target_modules: {self.target_modules!r} is no regular expression ({error}); expected one, "
                    "`all-linear`, or a list of names"
                ) from error

    def apply(self, model: PreTrainedModel) -> Network:
        """See `Tuning.apply`."""
        widest = max(
            (min(m.in_features, m.out_features) for m in model.modules() if isinstance(m, nn.Linear)), default=0
        )
        if widest and self.r > widest:
            raise ValueError(
                f"tuning.r: found {self.r}; the layers of this model have matrices of rank {widest} at most; expected "
                f"a number from 1 to {widest}"
            )
        config = peft.LoraConfig(
            task_type=_task_type(model),
            r=self.r,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.target_modules,
            use_dora=self.dora,
            use_rslora=self.rslora,
        )
        return _wrap(model, config)


@dataclass
class PrefixTuning(Tuning):
    """Trained keys and values in front of those of every layer (Li and Liang, 2021)."""

    tokens: int = 10
    """Length of the prefix."""
    projection: bool = True
    """Reparametrise the prefix through a two-layer MLP while training."""
    hidden_size: int | None = None
    """Width of that MLP; null: the model's width."""
    init_scale: float = 0.1
    """Factor on peft's N(0, 1) start of the prefix embeddings, which is large compared with a model's keys."""

    def __post_init__(self) -> None:
        check_number("tuning.tokens", self.tokens, least=1, most=_MOST_TOKENS, whole=True)
        own = "for the model's own width"
        check_number("tuning.hidden_size", self.hidden_size, least=1, most=_MOST_TOKENS, whole=True, or_null=own)
        check_number("tuning.init_scale", self.init_scale, least=0, most=1e6)

    def check(self, *, gradient_checkpointing: bool) -> None:
        """See `Tuning.check`."""
        _check_prefix(gradient_checkpointing)

    def apply(self, model: PreTrainedModel) -> Network:
        """See `Tuning.apply`."""
        extra: dict[str, Any] = {} if self.hidden_size is None else {"encoder_hidden_size": self.hidden_size}
        config = peft.PrefixTuningConfig(
            task_type=_task_type(model),
            num_virtual_tokens=self.tokens,
            prefix_projection=self.projection,
            **extra,
        )
        wrapped = _wrap(model, config)
        encoder: Any = wrapped.prompt_encoder[wrapped.active_adapter]  # its class depends on the config
        encoder.embedding.weight.data.mul_(self.init_scale)
        return wrapped


@dataclass
class PromptTuning(Tuning):
    """Trained input embeddings in front of the prompt (Lester et al., 2021)."""

    tokens: int = 10
    """Number of trained embeddings."""
    init: Literal["random", "text"] = "random"
    """Start from random embeddings, or from the token embeddings of `text`."""
    text: str = "Do what the instruction asks, however it is worded."
    """The words to start from with `init: text`."""

    def __post_init__(self) -> None:
        check_number("tuning.tokens", self.tokens, least=1, most=_MOST_TOKENS, whole=True)

    def apply(self, model: PreTrainedModel) -> Network:
        """See `Tuning.apply`."""
        text = self.init == "text"
        config = peft.PromptTuningConfig(
            task_type=_task_type(model),
            num_virtual_tokens=self.tokens,
            prompt_tuning_init=peft.PromptTuningInit.TEXT if text else peft.PromptTuningInit.RANDOM,
            prompt_tuning_init_text=self.text if text else None,
            tokenizer_name_or_path=model.config.name_or_path if text else None,
        )
        wrapped = _wrap(model, config)
        if not text:
            # peft starts at N(0, 1), far from the scale of the model's embeddings
            table: Any = model.get_input_embeddings().weight
            encoder: Any = wrapped.prompt_encoder[wrapped.active_adapter]
            embedding = encoder.embedding.weight
            embedding.data.copy_(embedding.data * table.detach().float().std().to(embedding.dtype))
        return wrapped


@dataclass
class FullTuning(Tuning):
    """Trains every weight."""

    freeze_embeddings: bool = False
    """Do not train the input embeddings (and a head tied to them)."""

    def apply(self, model: PreTrainedModel) -> Network:
        """See `Tuning.apply`."""
        if self.freeze_embeddings:
            model.get_input_embeddings().requires_grad_(False)
        return model


def resume_prompt(model: peft.PeftModel, *, trained: bool, gradient_checkpointing: bool) -> None:
    """Prepare a prefix or soft prompt from a folder for use, and make it trainable if `trained`.

    peft saves the prefix without the MLP of its reparametrisation, so the prefix is then trained directly.
    """
    config = model.active_peft_config
    if config.peft_type == peft.PeftType.PREFIX_TUNING:
        _check_prefix(gradient_checkpointing)
        encoder: Any = model.prompt_encoder[model.active_adapter]
        config.prefix_projection = encoder.prefix_projection = False
    config.inference_mode = not trained
    model.prompt_encoder.requires_grad_(trained)


def _check_prefix(gradient_checkpointing: bool) -> None:
    if gradient_checkpointing:
        raise ValueError(
            "tuning: PrefixTuning lives in the key-value cache, which gradient checkpointing drops; "
            "set loading.gradient_checkpointing to false, or choose LoRA or PromptTuning"
        )


def _task_type(model: PreTrainedModel) -> peft.TaskType:
    return peft.TaskType.SEQ_2_SEQ_LM if model.config.is_encoder_decoder else peft.TaskType.CAUSAL_LM


def _wrap(model: PreTrainedModel, config: peft.PeftConfig) -> peft.PeftModel:
    try:
        return cast(peft.PeftModel, peft.get_peft_model(model, config))  # `mixed` is off
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError) as error:  # peft raises all of these
        reason = str(error).split("\n")[0]
        raise ValueError(f"tuning: {type(config).__name__} does not fit {type(model).__name__}: {reason}") from error

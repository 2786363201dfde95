"""A loaded model, its tokenizer, and what the other parts of this room ask about them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class LoadedModel:
    """A transformers model with its weights, its tokenizer and its config.

    Transformers, peft and code from the hub give these objects no common static type, so they are `Any`.
    """

    model: Any
    """The transformers model, or the PEFT wrapper around it."""
    tokenizer: Any
    config: Any
    accepted: frozenset[str]
    """Names of the arguments that the base model's `forward` takes."""

    @classmethod
    def of(cls, model: Any, tokenizer: Any, config: Any) -> LoadedModel:
        """Read what the model accepts from the signature of its `forward`."""
        base = model.get_base_model() if hasattr(model, "peft_config") else model
        return cls(model, tokenizer, config, frozenset(inspect.signature(base.forward).parameters))

    @property
    def base(self) -> Any:
        """The transformers model inside a PEFT wrapper (or the model itself)."""
        return self.model.get_base_model() if self.is_peft else self.model

    @property
    def is_peft(self) -> bool:
        """Whether a PEFT wrapper is around the model."""
        return hasattr(self.model, "peft_config")

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the prompt is read by an encoder of its own."""
        return bool(self.config.is_encoder_decoder)

    @property
    def takes_positions(self) -> bool:
        """Whether positions have to be given: a decoder counts padding on the left otherwise."""
        return "position_ids" in self.accepted and not self.is_encoder_decoder

    @property
    def takes_cache(self) -> bool:
        """Whether the model takes keys and values of tokens that it read before."""
        return "past_key_values" in self.accepted

    @property
    def prompt_learning(self) -> str | None:
        """`PREFIX_TUNING`, `PROMPT_TUNING`, or `None`."""
        if not self.is_peft or not self.model.active_peft_config.is_prompt_learning:
            return None
        return str(self.model.active_peft_config.peft_type.value)

    @property
    def virtual_tokens(self) -> int:
        """Length of a prefix or soft prompt."""
        return int(self.model.active_peft_config.num_virtual_tokens)

    @property
    def runner(self) -> Any:
        """What is called to run the model: a prefix or soft prompt is put into the inputs instead."""
        return self.model if self.is_peft and not self.prompt_learning else self.base

    @property
    def dtype(self) -> torch.dtype:
        """Type of the base model's first weight."""
        found: torch.dtype = next(self.base.parameters()).dtype
        return found

    @property
    def device(self) -> torch.device:
        """Where the token embeddings are."""
        found: torch.device = self.base.get_input_embeddings().weight.device
        return found

    @property
    def depth(self) -> int:
        """Number of layers; of an encoder–decoder, those of its decoder."""
        return depth_of(self.config)

    @property
    def ends(self) -> list[int]:
        """Tokens that end an answer: the tokenizer's, which training teaches, and those of a chat model's turns."""
        own = getattr(self.base.generation_config, "eos_token_id", None)
        own = own if isinstance(own, list) else [] if own is None else [own]
        return list(dict.fromkeys([int(self.tokenizer.eos_token_id), *map(int, own)]))

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token embeddings `[R, T, H]` of ids `[R, T]`."""
        out: Tensor = self.base.get_input_embeddings()(input_ids)
        return out

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Evaluation mode, without dropout; the mode before is restored."""
        module: nn.Module = self.model
        was_training = module.training
        module.eval()
        try:
            yield
        finally:
            module.train(was_training)

    @contextmanager
    def caching(self) -> Iterator[None]:
        """Gradient checkpointing off: generation needs the key-value cache, which checkpointing turns off."""
        if not any(getattr(module, "gradient_checkpointing", False) for module in self.base.modules()):
            yield
            return
        self.base.gradient_checkpointing_disable()
        try:
            yield
        finally:
            self.base.gradient_checkpointing_enable({"use_reentrant": False})

    @contextmanager
    def without_adapters(self) -> Iterator[None]:
        """The base model's layers as they were before tuning, where tuning adds weights."""
        if not self.is_peft or self.prompt_learning:  # the base model itself has neither prefix nor prompt
            yield
            return
        trained = {name: weight.requires_grad for name, weight in self.model.named_parameters()}
        try:
            with self.model.disable_adapter():
                yield
        finally:  # peft sets `requires_grad` of the active adapter by rules of its own
            for name, weight in self.model.named_parameters():
                weight.requires_grad_(trained[name])


def depth_of(config: Any) -> int:
    """Number of layers that a config describes; of an encoder–decoder, those of its decoder."""
    text = config.get_text_config()
    names = ("num_decoder_layers", "decoder_layers") if config.is_encoder_decoder else ()
    found = [getattr(text, name, None) for name in (*names, "num_hidden_layers")]
    return int(next(count for count in found if count is not None))

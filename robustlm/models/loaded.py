"""A loaded model and its tokenizer, with the properties that the rest of this subpackage needs."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig

from robustlm.models.heads import HeadCheck
from robustlm.models.segments import SegmentCheck
from robustlm.models.turn_ends import end_of_turn


@dataclass(frozen=True)
class LoadedModel:
    """A transformers model with its weights, its tokenizer and its config.

    The types are `Any`, since models of transformers, peft and hub code have no common static type, nor do tokenizers.
    """

    model: Any
    """The transformers model, or the PEFT wrapper around it."""
    tokenizer: Any
    config: PretrainedConfig
    accepted: frozenset[str]
    """Names of the arguments of the base model's `forward`."""
    padding_free: bool = False
    """Whether rows run in one sequence without padding; see `RowSequence`."""
    head: HeadCheck = field(default_factory=HeadCheck)
    """What passes have found out about the head."""
    segments: SegmentCheck = field(default_factory=SegmentCheck)
    """Whether continuations of a prompt may share its row; see `parallel`."""

    @classmethod
    def of(cls, model: Any, tokenizer: Any, config: PretrainedConfig, *, padding_free: bool = False) -> LoadedModel:
        """Read what the model accepts from the signature of its `forward`."""
        base = model.get_base_model() if hasattr(model, "peft_config") else model
        return cls(model, tokenizer, config, frozenset(inspect.signature(base.forward).parameters), padding_free)

    @property
    def base(self) -> Any:
        """The transformers model inside a PEFT wrapper (or the model itself)."""
        return self.model.get_base_model() if self.is_peft else self.model

    @property
    def is_peft(self) -> bool:
        """Whether the model has a PEFT wrapper."""
        return hasattr(self.model, "peft_config")

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether a separate encoder reads the prompt."""
        return bool(self.config.is_encoder_decoder)

    @property
    def takes_positions(self) -> bool:
        """Whether positions must be passed; without them, a decoder counts padding on the left."""
        return "position_ids" in self.accepted and not self.is_encoder_decoder

    @property
    def takes_cache(self) -> bool:
        """Whether the model accepts cached keys and values of earlier tokens."""
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
        """The module to call. For a prefix or soft prompt it is the base model, since the inputs contain the prompt."""
        return self.model if self.is_peft and not self.prompt_learning else self.base

    @property
    def dtype(self) -> torch.dtype:
        """Data type of the base model's first weight."""
        found: torch.dtype = next(self.base.parameters()).dtype
        return found

    @property
    def device(self) -> torch.device:
        """Device of the token embeddings."""
        found: torch.device = self.base.get_input_embeddings().weight.device
        return found

    @property
    def depth(self) -> int:
        """Number of layers; for an encoder–decoder, of its decoder."""
        return depth_of(self.config)

    @property
    def ends(self) -> list[int]:
        """Tokens that end an answer: the tokenizer's end token and the end tokens of chat turns.

        Training ends answers with one of them: with the end of turn of the chat template, otherwise the end token.
        """
        own = getattr(self.base.generation_config, "eos_token_id", None)
        own = own if isinstance(own, list) else [] if own is None else [own]
        stops = [self.special_tokens[text] for text in self.stop_strings if text in self.special_tokens]
        turn = [self.special_tokens[self._end_of_turn]] if self._end_of_turn else []
        return list(dict.fromkeys([int(self.tokenizer.eos_token_id), *map(int, own), *turn, *stops]))

    @cached_property
    def _end_of_turn(self) -> str:
        """See `turn_ends.end_of_turn`."""
        return end_of_turn(self.tokenizer, self.special_tokens)

    @property
    def stop_strings(self) -> list[str]:
        """Texts at which an answer ends by the model's generation_config."""
        own = getattr(self.base.generation_config, "stop_strings", None) or []
        return [text for text in ([own] if isinstance(own, str) else own) if text]

    @property
    def special_tokens(self) -> dict[str, int]:
        """Ids of special tokens by text; decoded answers do not show these."""
        added = getattr(self.tokenizer, "added_tokens_decoder", {})
        return {str(token): int(id) for id, token in added.items() if token.special}

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token embeddings `[R, T, H]` of ids `[R, T]`."""
        out: Tensor = self.base.get_input_embeddings()(input_ids)
        return out

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Set evaluation mode, without dropout or compiled code; the mode of each part is restored afterwards."""
        module: nn.Module = self.model
        training = [one for one in module.modules() if one.training]
        module.eval()
        try:
            with self.uncompiled():
                yield
        finally:
            for one in training:
                one.training = True

    @contextmanager
    def uncompiled(self) -> Iterator[None]:
        """Run layers without compiled code, which is made for training; evaluation mode would be compiled anew."""
        compiled = [(one, code) for one in self.model.modules() if (code := one._compiled_call_impl) is not None]
        for one, _ in compiled:
            one._compiled_call_impl = None
        try:
            yield
        finally:
            for one, code in compiled:
                one._compiled_call_impl = code

    @contextmanager
    def caching(self) -> Iterator[None]:
        """Switch gradient checkpointing off, because it disables the key-value cache that generation needs."""
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
        """Switch off the weights that tuning has added, so that the layers are those of the base model."""
        if not self.is_peft or self.prompt_learning:  # the base model contains neither prefix nor prompt
            yield
            return
        trained = {name: weight.requires_grad for name, weight in self.model.named_parameters()}
        try:
            with self.model.disable_adapter():
                yield
        finally:  # peft changes `requires_grad` of the active adapter
            for name, weight in self.model.named_parameters():
                weight.requires_grad_(trained[name])


def depth_of(config: PretrainedConfig) -> int:
    """Number of layers in a config; for an encoder–decoder, of its decoder."""
    text = config.get_text_config()
    names = ("num_decoder_layers", "decoder_layers") if config.is_encoder_decoder else ()
    found = [getattr(text, name, None) for name in (*names, "num_hidden_layers")]
    return int(next(count for count in found if count is not None))

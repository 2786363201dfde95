"""The part of a model's interface that a datamodule uses."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal, Protocol, TypeGuard

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from robustlm.models.digest import weights_digest
from robustlm.noise.embedders import Embedder, EmbeddingError, StateEmbedder, TokenEmbedder, Vectors

log = logging.getLogger(__name__)


class ModelConfig(Protocol):
    """The config of a transformers model."""

    def get_text_config(self) -> object:
        """The part that describes the language model; its `max_position_embeddings`, if any, limits prompts."""


class FastTokenizer(Protocol):
    """What texts without prompts need of a fast tokenizer of transformers."""

    @property
    def eos_token_id(self) -> int | None:
        """Id of the end of sequence."""

    @property
    def backend_tokenizer(self) -> Tokenizer:
        """The tokenizer of the library tokenizers."""

    @property
    def special_tokens_map(self) -> Mapping[str, object]:
        """Special tokens by name."""

    def __len__(self) -> int:
        """Number of tokens."""


class ConnectedModel(Protocol):
    """A model that rows are tokenised for, local or hosted."""

    @property
    def name(self) -> str:
        """Name or folder of the model."""

    @property
    def tokenizer(self) -> Any:
        """A fast tokenizer of transformers, which has no types."""

    @property
    def config(self) -> ModelConfig:
        """Config of the model."""

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the model has an encoder for prompts and a decoder for answers."""


class ModelHolder(Protocol):
    """A Lightning module, as a datamodule sees it."""

    @property
    def backbone(self) -> ConnectedModel:
        """The model that rows are for."""


class _Base(Protocol):
    def get_input_embeddings(self) -> nn.Embedding: ...


class StatesModel(ConnectedModel, Protocol):
    """A model that also gives hidden states and embeddings of texts, to measure distortion. Hosted models do not."""

    @property
    def base_name(self) -> str:
        """Name of the model under its adapters."""

    @property
    def keeps_base(self) -> bool:
        """Whether training leaves the weights of the base model as they are."""

    @property
    def base(self) -> _Base:
        """The model under its adapters."""

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token embeddings `[T, H]` of ids `[T]`."""

    def text_states(self, texts: Sequence[str], layer: int | Literal["middle", "last"] = "middle") -> Tensor:
        """Mean hidden state of each text, `[n, H]`, in the model before tuning."""


def gives_states(model: ConnectedModel) -> TypeGuard[StatesModel]:
    """Whether a model gives states of texts."""
    return hasattr(model, "text_states")


def longest_row(model: ConnectedModel, max_length: int, name: str = "data.max_length") -> int:
    """Maximum length of a row in tokens of the model's tokenizer: `max_length`, or the model's limit if it is lower.

    Args:
        model: The model.
        max_length: The length that is wanted.
        name: The setting that says so, for the log; empty: nothing is logged.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or max_length
    if positions < max_length and name:
        log.warning(
            "%s: %d is more than the %d positions of the model; the model's number is used",
            name, max_length, positions,
        )  # fmt: skip
    return int(min(max_length, positions) * getattr(model, "characters_per_token", 1))


class Measuring:
    """Gives a model to embedders that need one to measure noise.

    Args:
        model: The model. `bind` raises if the embedder needs states and the model gives none.
    """

    def __init__(self, model: ConnectedModel) -> None:
        self.model = model
        self._base_name: str | None = None

    def bind(self, embedder: Embedder) -> None:
        """Give the model to an embedder that needs it; do nothing for others.

        Raises:
            EmbeddingError: The embedder needs a model that gives states, and this one does not.
        """
        if not isinstance(embedder, StateEmbedder | TokenEmbedder):
            return
        model = self.model
        if not gives_states(model):
            raise EmbeddingError(
                f"data.distortion: {model.name!r} gives no hidden states, which {type(embedder).__name__} needs; "
                "expected a local model, or the embedder OpenAIEmbedder or SentenceTransformerEmbedder"
            )
        if isinstance(embedder, TokenEmbedder):
            embedder.bind(partial(_embedded, model))
        else:
            embedder.bind(partial(_states, model, layer=embedder.layer), partial(self._base, model))

    def _base(self, model: StatesModel) -> str | None:
        """Name and digest of the weights of the base model; null if training changes them."""
        if self._base_name is None and not model.keeps_base:
            self._base_name = ""
            log.warning(
                "data.distortion: noise is measured with the tuned weights of the start of each epoch; a run that is "
                "resumed within an epoch measures the rest of that epoch with the weights of the checkpoint"
            )
        elif self._base_name is None:
            assert isinstance(model, nn.Module)
            self._base_name = f"{model.base_name} {weights_digest(model, frozen=True)}"
        return self._base_name or None


def _states(model: StatesModel, texts: Sequence[str], layer: int | Literal["middle", "last"]) -> Vectors:
    """Mean hidden state of each text, `[n, H]`, in the model before tuning."""
    vectors: Vectors = model.text_states(texts, layer).cpu().numpy()
    return vectors


@torch.no_grad()
def _embedded(model: StatesModel, texts: Sequence[str]) -> Vectors:
    """Mean token embedding of each text, `[n, H]`, in the tuned model; zeros for a text without tokens."""
    ids = model.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    device = model.base.get_input_embeddings().weight.device
    rows = [model.embed(torch.tensor(row, device=device)).float().mean(0) for row in ids if row]
    width = rows[0].shape[0] if rows else 1
    found = iter(rows)
    return np.stack([next(found).cpu().numpy() if row else np.zeros(width, np.float32) for row in ids])

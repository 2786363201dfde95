"""Any Hugging Face language model with one small interface: from embeddings to answer logits and last states."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from robustlm.batch import View
from robustlm.models import casts, compiling, generation, hidden_states, scoring
from robustlm.models.answers import answers, watch_head
from robustlm.models.base import Answer, AnswerOutput, LanguageModel, OptionScores, Pooling
from robustlm.models.hidden_states import Layer, check_layer
from robustlm.models.loaded import LoadedModel, depth_of
from robustlm.models.loading import Loading, find, read_config, read_model, read_tokenizer
from robustlm.models.sampling import Generation
from robustlm.models.separation import check_config, check_separation
from robustlm.models.sharding import check_shardable, shard, whole
from robustlm.models.tuning import FullTuning, Tuning

__all__ = ["Backbone", "Loading"]


class Backbone(LanguageModel):
    """A causal or encoder–decoder language model with its tokenizer.

    The constructor reads config and tokenizer only; `load` reads the weights.

    Args:
        name: `builtin:tiny` (the model in this package), a hub name, or a folder: of a model, of a PEFT adapter, or
            (with `scratch`) of a config and tokenizer.
        loading: How to load it.
        tuning: What to train; `None` uses the model unchanged, with all weights frozen.
        generation: How tokens of answers are chosen; `None` takes the likeliest ones.

    Raises:
        ValueError: The name matches no model, or settings exclude each other.
    """

    gives_likelihoods = True

    model: Any
    """The transformers model or the PEFT wrapper around it; `None` before `load`."""

    def __init__(
        self,
        name: str,
        loading: Loading | None = None,
        tuning: Tuning | None = None,
        generation: Generation | None = None,
    ) -> None:
        super().__init__()
        self.generation = generation or Generation()
        self.loading = loading or Loading()
        self.tuning = tuning
        if tuning is not None:
            tuning.check(gradient_checkpointing=self.loading.gradient_checkpointing)
        if self.loading.four_bit and isinstance(tuning, FullTuning):
            raise ValueError(
                "tuning: found FullTuning with loading.four_bit, whose weights are codes that cannot be trained; "
                "expected LoRA, or loading.four_bit: false"
            )
        self._place = find(name)
        self.name = self._place.name
        self.adapter = self._place.adapter
        self.base_name = self._place.base_name
        self.config = read_config(self._place, self.loading)
        self.tokenizer = read_tokenizer(self._place, self.config, self.loading)
        self.is_encoder_decoder = bool(self.config.is_encoder_decoder)
        if self.loading.padding_free:
            check_config(self.config, self.name)
        self._separates = not self.loading.padding_free
        self.model = None
        self._parts: LoadedModel | None = None
        self._scale: Tensor | None = None

    @property
    def loaded(self) -> bool:
        """Whether the weights are loaded."""
        return self._parts is not None

    def load(self) -> None:
        """Read the weights, freeze and wrap them as `tuning` says, and set train mode."""
        if self._parts is None:
            self._parts = read_model(self._place, self.config, self.tokenizer, self.loading, self.tuning)
            self.model = self._parts.model
            watch_head(self.base.get_output_embeddings())

    def check_shardable(self) -> None:
        """See `LanguageModel.check_shardable`."""
        check_shardable(self.loading, self.tuning)

    def shard(self, mesh: DeviceMesh) -> None:
        """Divide the weights among the devices of a mesh; see `sharding.shard`."""
        if not any(isinstance(p, DTensor) for p in self.parts.model.parameters()):
            shard(self.parts, mesh)

    def gathered(self) -> dict[str, Tensor] | None:
        """The weights to save, whole and on the CPU, if they are divided among devices; else null.

        With an adapter, these are its weights, otherwise all of the model's. Call it on every rank.
        """
        named = dict(self.parts.model.named_parameters() if self.parts.is_peft else self.parts.model.state_dict())
        if not any(isinstance(value, DTensor) for value in named.values()):
            return None
        kept = (one for one in named.items() if one[1].requires_grad or not self.parts.is_peft)
        return {name: whole(value.detach()).cpu() for name, value in kept}

    def keep_casts(self, dtype: torch.dtype) -> None:
        """Cast frozen float32 weights once for autocast to `dtype`, if `loading.cast_once` says so; see `casts`."""
        if self.loading.cast_once:
            casts.keep_casts(self.parts.model, dtype)

    def drop_casts(self) -> None:
        """Undo `keep_casts`. Raises `RuntimeError` if frozen weights have changed since."""
        if self._parts is not None:
            casts.drop_casts(self._parts.model)

    def compile_layers(self) -> None:
        """Compile the layers if `loading.compile` says so; see `compiling`. Raises `ValueError` without a compiler."""
        if self.loading.compile:
            compiling.compile_layers(self.parts)

    def forget_compiled(self) -> None:
        """Undo `compile_layers`."""
        if self.loading.compile and self._parts is not None:
            compiling.forget_compiled(self._parts)

    @property
    def parts(self) -> LoadedModel:
        """The loaded model, for the functions of this subpackage. Raises `RuntimeError` before `load`."""
        if self._parts is None:
            raise RuntimeError(f"backbone: the weights of {self.name} are not loaded; call `load()` first")
        return self._parts

    @property
    def padding_free(self) -> bool:
        """See `LanguageModel.padding_free`."""
        return self.loading.padding_free

    def check_passes(self) -> None:
        """See `LanguageModel.check_passes`: without padding, the model must keep rows apart."""
        self._separating()

    def _separating(self) -> LoadedModel:
        """The loaded model. Before the first pass without padding, the model shows that it keeps rows apart."""
        if not self._separates:
            check_separation(self.parts, self.name)
            self._separates = True
        return self.parts

    @property
    def base(self) -> Any:
        """The transformers model inside a PEFT wrapper (or the model itself)."""
        return self.parts.base

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that are trained."""
        return [p for p in self.parts.model.parameters() if p.requires_grad]

    def check_tunable(self) -> None:
        """Do nothing: every model of this class can be tuned."""

    @property
    def embedding_scale(self) -> Tensor:
        """Mean norm of the token embeddings (fp32 or fp64 scalar): the unit of perturbation strengths.

        The value is cached while the table is frozen, and computed at each call while it is trained.
        """
        table = self.base.get_input_embeddings()
        if self._scale is None or table.weight.requires_grad:
            weight = table.weight.detach()
            wide = torch.promote_types(weight.dtype, torch.float32)
            norms = torch.linalg.vector_norm(weight, dim=-1, dtype=wide)
            factor = float(getattr(table, "scalar_embed_scale", 1.0))
            self._scale = whole(norms.sum()) / whole((norms > 0).sum()) * factor
        return self._scale

    @property
    def depth(self) -> int:
        """Number of layers; for an encoder–decoder, of its decoder."""
        return depth_of(self.config)

    @property
    def keeps_base(self) -> bool:
        """Whether training leaves the base model's weights unchanged; `text_states` are then constant."""
        return self.parts.is_peft or not self.trained

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token embeddings `[R, T, H]` of ids `[R, T]`."""
        return self.parts.embed(input_ids)

    def forward(
        self, view: View, inputs_embeds: Tensor | None = None, pooling: Pooling = "last", *, late: bool = False
    ) -> AnswerOutput:
        """Run a view, and compute logits at its answer positions only.

        Args:
            view: R rows of T positions.
            inputs_embeds: `[R, T, H]`; replaces the embeddings of `view.input_ids`.
            pooling: Which state represents a row.
            late: Compute the logits when they are asked for, so that losses can compute them in chunks. This has no
                effect on a model that changes the logits after its head.

        Returns:
            Logits of the answer tokens and a state per row. Logits of other positions are never computed.
        """
        embeds = self.embed(view.input_ids) if inputs_embeds is None else inputs_embeds
        with nullcontext() if self.training else self.parts.uncompiled():
            return answers(self._separating(), view, embeds, pooling, late=late)

    def generate(self, view: View, max_new_tokens: int) -> list[str]:
        """Answers to the prompts of a view without answers, one string per row; see `generation.generate`."""
        return [answer.text for answer in self.respond(view, max_new_tokens)]

    def respond(self, view: View, max_new_tokens: int) -> list[Answer]:
        """As `generate`, with the number of tokens and the reason of each answer's end."""
        return generation.generate(self.parts, view, max_new_tokens, self.generation)

    @property
    def why_alike(self) -> str | None:
        """See `LanguageModel.why_alike`."""
        return None if self.generation.temperature else "model.generation.temperature is 0"

    @property
    def sampling(self) -> str | None:
        """See `LanguageModel.sampling`."""
        return self.generation.described

    def option_scores(self, options: View, rows: Tensor, pass_rows: int) -> OptionScores:
        """Log-likelihood of every option under teacher forcing, without dropout; see `scoring.option_scores`.

        Args:
            options: O rows, each a prompt with one option as its answer. Options of the same row have the same prompt.
            rows: Int64 `[O]`: the row each option belongs to.
            pass_rows: Most rows in one forward pass: prompts with all their options behind them, or single options.
        """
        return scoring.option_scores(self._separating(), options, rows, pass_rows)

    def check_layer(self, layer: int) -> None:
        """Raise `ValueError` for a layer that the model does not have. This needs only the config, no weights."""
        check_layer(layer, self.depth, self.base_name)

    def hidden_states(self, view: View, layer: int = -2, pooling: Pooling = "prompt_end") -> Tensor:
        """A hidden state for each row of a view, without dropout.

        Args:
            view: R rows. Without answers, the prompt's last token is the row's last.
            layer: Counted as in transformers' `hidden_states`: 0 is the embeddings, i the output of layer i. The last
                one, or -1, is the input of the head, after the last norm. -2 is the penultimate layer.
            pooling: Which positions represent a row.

        Returns:
            fp32 `[R, H]`.

        Raises:
            ValueError: There is no such layer, or the model's layers are not found.
        """
        self.check_layer(layer)
        return hidden_states.hidden_states(self._separating(), view, layer, pooling)

    def text_states(self, texts: Sequence[str], layer: Layer = "middle") -> Tensor:
        """The mean hidden state of each text, in the model without its adapters and without dropout.

        Adapters, prefixes and soft prompts are switched off, so the states do not change while those are tuned. A first
        token is put before the text, because models pay much attention to the first token, whatever it is. This token
        and pads do not count towards the mean. Weights, modes and random state are not changed.

        Args:
            texts: n texts; in an encoder–decoder, the encoder reads them.
            layer: `middle` (half of the layers, rounded down), `last` (after the last norm), or a number as in
                `hidden_states`.

        Returns:
            fp32 `[n, H]`; zeros for a text without tokens.

        Raises:
            ValueError: There is no such layer, or the model's layers are not found.
        """
        return hidden_states.text_states(self.parts, texts, layer, self.base_name)

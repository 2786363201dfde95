"""The interface of a language model, and its outputs: answer logits, pooled states, scores of options."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from robustlm.batch import View
from robustlm.models.heads import LateLogits, WholeHead

Pooling = Literal["last", "prompt_end", "mean", "max"]
"""Which final hidden state represents a row: that of the last token of prompt + answer, that of the prompt's last
token, or the mean or maximum over all tokens except padding. For an encoder–decoder, these are states of its decoder,
so `prompt_end` is the state after the prompt and before the answer."""


class AnswerOutput:
    """Outputs of a model at the answer positions of a view with R rows.

    Args:
        logits: `[n, V]`: logits of the n answer tokens of all rows, row by row; or what computes them.
        targets: Int64 `[n]`: the true tokens at these positions.
        rows: Int64 `[n]`: the row of each answer token.
        state: `[R, H]`: the final hidden states (after the last norm) of each row, pooled.
        whole: Why a backbone's logits are never late; null: no reason is known.
    """

    def __init__(
        self, logits: Tensor | LateLogits, targets: Tensor, rows: Tensor, state: Tensor, whole: WholeHead | None = None
    ) -> None:
        self._logits = logits
        self.targets = targets
        self.rows = rows
        self.state = state
        self.whole = whole

    @property
    def logits(self) -> Tensor:
        """`[n, V]`: logits of the n answer tokens; computed at the first call and kept, with their graph."""
        if isinstance(self._logits, LateLogits):
            self._logits = self._logits.whole()
        return self._logits

    @property
    def late(self) -> LateLogits | None:
        """What computes the logits, for losses over chunks of them; null if they are computed already."""
        return self._logits if isinstance(self._logits, LateLogits) else None

    def take(self, places: Tensor) -> AnswerOutput:
        """The same outputs for some of the n answer tokens, at int64 `[m]`."""
        late = self.late
        logits = self.logits.index_select(0, places) if late is None else late.take(places)
        targets, rows = self.targets.index_select(0, places), self.rows.index_select(0, places)
        return AnswerOutput(logits, targets, rows, self.state, self.whole)


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to a prompt, and what is known of how it came about."""

    text: str
    """The answer; empty if there is none."""
    error: str | None = None
    """Why there is no answer; null: there is one."""
    finish_reason: str | None = None
    """Why the answer ends: `stop` at its own end, `length` at the limit of tokens; an endpoint may give other words."""
    prompt_tokens: int | None = None
    answer_tokens: int | None = None
    """Number of tokens of the answer. A local model's end of sequence is not counted; endpoints count as they bill."""
    latency: float | None = None
    """Seconds from the request to the answer, with repeated requests; null for local models, which answer batches."""


@dataclass
class OptionScores:
    """Log-likelihoods of O options, each after its prompt; tensors on the CPU."""

    log_likelihood: Tensor
    """fp32 (or fp64) `[O]`: summed over the option's tokens, including end of sequence."""
    tokens: Tensor
    """Int64 `[O]`: the number of these tokens."""
    rows: Tensor
    """Int64 `[O]`: the row of each option."""
    ends: Tensor | None = None
    """As `log_likelihood`: the part of it that is end of sequence; null: that is neither in it nor counted."""
    errors: Mapping[int, str] = field(default_factory=dict)
    """Rows without scores, and the reason of each; their log-likelihoods are not a number."""

    def best(self, row: int) -> int:
        """Index of the row's option with the highest log-likelihood per token; the first one if several are equal."""
        mean = (self.log_likelihood / self.tokens)[self.rows == row].tolist()
        return max(range(len(mean)), key=mean.__getitem__)

    def without_ends(self) -> OptionScores:
        """The scores of the options' own tokens, without end of sequence."""
        if self.ends is None:
            return self
        return replace(
            self,
            log_likelihood=self.log_likelihood - self.ends,
            tokens=self.tokens - 1,
            ends=None,
        )


class LanguageModel(nn.Module, ABC):
    """A model that answers prompts, on this machine or elsewhere.

    It is an `nn.Module`, so that Lightning moves it to devices and saves its weights. A model that only answers
    implements `load` and `generate`; its other methods raise an error that says so. A model that can be tuned and
    inspected implements all methods.
    """

    closed: ClassVar[str] = "only answers prompts"
    """The reason in messages of unimplemented methods; it continues `backbone: NAME …`."""
    gives_likelihoods: ClassVar[bool] = False
    """Whether the model has `option_scores` and `forward`; attacks need them to search by likelihood."""
    scores_ends: ClassVar[bool] = True
    """Whether `option_scores` knows the likelihood of an option's end of sequence."""
    characters_per_token: ClassVar[int] = 1
    """How many characters count as one token for `max_length`, if the tokenizer's tokens are characters."""

    name: str
    """The name as the user gave it; shown in messages, tables and cards."""
    tokenizer: Any
    """A fast tokenizer of transformers, or `Characters`; these have no common type."""
    config: Any
    """A config of transformers, or another object with `model_type` and `get_text_config()`."""
    is_encoder_decoder: bool
    """Whether a separate encoder reads the prompts."""

    @property
    @abstractmethod
    def loaded(self) -> bool:
        """Whether the model is ready to answer."""

    @abstractmethod
    def load(self) -> None:
        """Read the weights, if there are any."""

    def check_shardable(self) -> None:
        """Raise `ValueError` if the weights cannot be divided among devices."""
        raise self._refused()

    def shard(self, mesh: DeviceMesh) -> None:
        """Divide loaded weights among the devices of a mesh."""
        raise self._refused()

    @abstractmethod
    def generate(self, view: View, max_new_tokens: int) -> list[str]:
        """Answers to the prompts of a view without answers, one string per row.

        Args:
            view: R prompts, as token ids and in `view.texts`.
            max_new_tokens: Longest answer, in tokens.
        """

    def respond(self, view: View, max_new_tokens: int) -> list[Answer]:
        """As `generate`, with what is known of each answer. An answer may be missing; its `error` then says why."""
        return [Answer(text) for text in self.generate(view, max_new_tokens)]

    @property
    def identity(self) -> str | None:
        """What decides the answers of a model without weights of its own, as one text; null: its weights do."""
        return None

    @property
    def why_alike(self) -> str | None:
        """Why every answer to a prompt is the same, so that several would tell nothing; null: answers are drawn.

        A class whose answers are drawn overrides this. It gets the number of each draw in `view.draws`.
        """
        return f"{type(self).__name__} does not say that its answers are drawn (`LanguageModel.why_alike`)"

    @property
    def sampling(self) -> str | None:
        """How a model with weights of its own draws and ends answers, as one text.

        Null: it takes the likeliest tokens, up to its own end.
        """
        return None

    @property
    def padding_free(self) -> bool:
        """Whether the rows of a view run without their padding."""
        return False

    def check_passes(self) -> None:
        """Raise `ValueError` if passes would not compute what they should; called when the model is on its device."""

    @property
    def base(self) -> Any:
        """The transformers model inside a PEFT wrapper; this object itself if there is none."""
        return self

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that are trained."""
        return [p for p in self.parameters() if p.requires_grad]

    @property
    def embedding_scale(self) -> Tensor:
        """Mean norm of the token embeddings (fp32 scalar): the unit of perturbation strengths."""
        raise self._refused()

    def keep_casts(self, dtype: torch.dtype) -> None:
        """Prepare frozen weights for autocast to `dtype`; without weights of its own, do nothing."""
        del dtype

    def drop_casts(self) -> None:
        """Undo `keep_casts`. Raises `RuntimeError` if frozen weights have changed since."""

    def compile_layers(self) -> None:
        """Compile layers for training, if the settings say so; a model that is not trained here has none."""

    def forget_compiled(self) -> None:
        """Undo `compile_layers`."""

    def check_tunable(self) -> None:
        """Raise `ValueError` if the model cannot be tuned."""
        raise self._refused()

    def check_layer(self, layer: int) -> None:
        """Raise `ValueError` for a layer whose hidden states are not available."""
        raise ValueError(
            f"states.layer: found {layer}, but {self.name} {self.closed} and shows no hidden states; expected null"
        )

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token embeddings `[R, T, H]` of ids `[R, T]`."""
        raise self._refused()

    def forward(self, view: View, inputs_embeds: Tensor | None = None, pooling: Pooling = "last") -> AnswerOutput:
        """Run a view, and compute logits at its answer positions only.

        Args:
            view: R rows of T positions.
            inputs_embeds: `[R, T, H]`; replaces the embeddings of `view.input_ids`.
            pooling: Which state represents a row.
        """
        raise self._refused()

    def option_scores(self, options: View, rows: Tensor, pass_rows: int) -> OptionScores:
        """Log-likelihood of every option after its prompt.

        Args:
            options: O rows, each a prompt with one option as its answer. Options of the same row have the same prompt.
            rows: Int64 `[O]`: the row each option belongs to.
            pass_rows: Most rows in one forward pass: prompts with all their options behind them, or single options.
        """
        raise self._refused()

    def hidden_states(self, view: View, layer: int = -2, pooling: Pooling = "prompt_end") -> Tensor:
        """A hidden state for each row of a view, fp32 `[R, H]`; layers are counted as transformers counts them."""
        self.check_layer(layer)
        raise self._refused()

    def _refused(self) -> ValueError:
        return ValueError(
            f"backbone: {self.name} {self.closed}: it can be tested by generation, but not be tuned, and neither its "
            "loss nor the likelihood of options is known"
        )

"""The contract of a language model, and what it gives: logits at answer positions, pooled states, scores of options."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from robustlm.batch import View

Pooling = Literal["last", "prompt_end", "mean", "max"]
"""Which final hidden state stands for a row: that of the last token of prompt + answer, of the prompt's last token, or
the mean or maximum over all tokens, padding left out. Of an encoder–decoder they are the states of its decoder, so
`prompt_end` is the state that has read the prompt and no answer."""


@dataclass
class Answers:
    """What a model says at the answer positions of a view with R rows."""

    logits: Tensor
    """`[n, V]`: at the n answer tokens of all rows, row by row."""
    targets: Tensor
    """Int64 `[n]`: the trained tokens there."""
    rows: Tensor
    """Int64 `[n]`: the row each belongs to."""
    state: Tensor
    """`[R, H]`: the row's final hidden states (after the last norm), pooled as asked."""


@dataclass
class OptionScores:
    """How likely a model finds each of O options, each after its prompt; tensors on the CPU."""

    log_likelihood: Tensor
    """fp32 (or fp64) `[O]`: summed over the option's tokens, end of sequence among them."""
    tokens: Tensor
    """Int64 `[O]`: how many those are."""
    rows: Tensor
    """Int64 `[O]`: the row each option belongs to."""

    def best(self, row: int) -> int:
        """Which of a row's options has the highest log-likelihood a token; the first of equals."""
        mean = (self.log_likelihood / self.tokens)[self.rows == row].tolist()
        return max(range(len(mean)), key=mean.__getitem__)


class LanguageModel(nn.Module, ABC):
    """A model that answers prompts, on this machine or elsewhere.

    It is an `nn.Module`, so that Lightning moves it and keeps its weights. A model that only answers implements `load`
    and `generate`; everything else then refuses with a message that says so. A model that can be tuned and looked into
    implements all methods.
    """

    closed: ClassVar[str] = "only answers prompts"
    """Why the methods that a class does not implement refuse: continues `backbone: NAME …` in messages."""
    gives_likelihoods: ClassVar[bool] = False
    """Whether `option_scores` and the logits of `forward` are there; attacks and scores of options need them."""
    characters_per_token: ClassVar[int] = 1
    """Characters that count as a token for `max_length`, where the tokenizer's tokens are characters."""

    name: str
    """As the user gave it; shown in messages, tables and cards."""
    tokenizer: Any
    """A fast tokenizer of transformers or `hosted.Characters`, which have no type in common."""
    config: Any
    """A config of transformers, or what stands in for one: `model_type` and `get_text_config()` are read."""
    is_encoder_decoder: bool
    """Whether prompts are read by an encoder of their own."""

    @property
    @abstractmethod
    def loaded(self) -> bool:
        """Whether the model can be asked."""

    @abstractmethod
    def load(self) -> None:
        """Read the weights, where there are any to be read."""

    @abstractmethod
    def generate(self, view: View, max_new_tokens: int) -> list[str]:
        """Answers to the prompts of a view without answers, one string a row.

        Args:
            view: R prompts, as token ids and in `view.texts`.
            max_new_tokens: Longest answer, in tokens.
        """

    @property
    def base(self) -> Any:
        """The model inside a wrapper of PEFT, of a class of transformers; itself where there is none."""
        return self

    @property
    def trained(self) -> list[nn.Parameter]:
        """The parameters that are trained."""
        return [p for p in self.parameters() if p.requires_grad]

    @property
    def embedding_scale(self) -> Tensor:
        """Mean norm of the token embeddings (fp32 scalar): the unit of perturbation strengths."""
        raise self._refused()

    def check_tunable(self) -> None:
        """Refuse a model that cannot be tuned. Raises `ValueError`."""
        raise self._refused()

    def check_layer(self, layer: int) -> None:
        """Refuse a layer whose hidden states the model does not give. Raises `ValueError`."""
        raise ValueError(
            f"states.layer: found {layer}, but {self.name} {self.closed} and shows no hidden states; expected null"
        )

    def embed(self, input_ids: Tensor) -> Tensor:
        """Token embeddings `[R, T, H]` of ids `[R, T]`."""
        raise self._refused()

    def forward(self, view: View, inputs_embeds: Tensor | None = None, pooling: Pooling = "last") -> Answers:
        """Run a view, and compute logits at its answer positions only.

        Args:
            view: R rows of T positions.
            inputs_embeds: `[R, T, H]` in place of the embeddings of `view.input_ids`.
            pooling: Which state stands for a row.
        """
        raise self._refused()

    def option_scores(self, options: View, rows: Tensor, pass_rows: int) -> OptionScores:
        """Log-likelihood of every option after its prompt.

        Args:
            options: O rows, a prompt with an option for its answer; those of one row share the prompt.
            rows: Int64 `[O]`: the row each option belongs to.
            pass_rows: How many options one forward pass may have.
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

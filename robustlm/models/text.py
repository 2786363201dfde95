"""Models that take prompts as text and return text, independent of where they run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from robustlm.batch import View
from robustlm.models.base import LanguageModel

_EOS, _PAD = 0x110000, 0x110001
"""Ids of the special tokens: the first two numbers after the last Unicode code point."""


class Characters:
    """A tokenizer whose tokens are characters. Text models do not expose their tokenizer; this one counts characters.

    Different texts have different ids. Prompts are passed on as text, in `View.texts`; only options are decoded.
    """

    is_fast = True
    eos_token_id = _EOS
    pad_token_id = _PAD
    bos_token_id = None
    all_special_ids = (_EOS, _PAD)
    chat_template = None
    takes_messages = False
    """Whether the model is sent `View.messages`. With `data.template: chat`, prompts are then messages of a chat. A
    model that is only sent texts has no chat template."""
    name_or_path = "characters"

    def __call__(
        self, texts: Sequence[str], return_offsets_mapping: bool = False, add_special_tokens: bool = True
    ) -> dict[str, list[Any]]:
        """Ids of texts, and their offsets if requested; no special tokens are added."""
        found: dict[str, list[Any]] = {"input_ids": [[ord(character) for character in text] for text in texts]}
        if return_offsets_mapping:
            found["offset_mapping"] = [[(at, at + 1) for at in range(len(text))] for text in texts]
        return found

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        return "".join(chr(one) for one in ids if one < _EOS)

    def __len__(self) -> int:
        return _PAD + 1


class _Config:
    """Replaces the config of a model that has none."""

    model_type = "hosted"
    max_position_embeddings = None

    def get_text_config(self) -> _Config:
        return self


class TextModel(LanguageModel):
    """A model that answers texts with texts. It cannot be tuned, and gives neither likelihoods nor hidden states.

    A subclass implements `answer`. `--model.backbone my_module.MyModel:NAME` then tests it.

    Args:
        name: The name as the user gave it.
    """

    closed = "gives text alone"
    characters_per_token = 4
    """A rule of thumb that converts `max_length` from tokens to characters."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.tokenizer = Characters()
        self.config = _Config()
        self.is_encoder_decoder = False

    @abstractmethod
    def answer(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Answers to prompts, one per prompt, in the same order.

        Args:
            prompts: Whole prompts, as a template wrote them.
            max_new_tokens: Longest answer, in tokens of the model.
        """

    @property
    def loaded(self) -> bool:
        """Always true, since no weights are read here."""
        return True

    def load(self) -> None:
        """Do nothing, since no weights are read here."""

    def generate(self, view: View, max_new_tokens: int) -> list[str]:
        """See `LanguageModel.generate`. Raises `ValueError` for a view without its prompts as text."""
        return self.answer(self.texts(view), max_new_tokens)

    def texts(self, view: View) -> tuple[str, ...]:
        """The prompts of a view as text. Raises `ValueError` for a view without them."""
        if len(view.texts) != len(view):
            raise ValueError(
                f"backbone: {self.name} reads prompts as text, found {len(view.texts)} texts for {len(view)} rows; "
                "expected a view that `collate` made with `with_answer=False`"
            )
        return view.texts

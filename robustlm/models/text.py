"""Models that are given prompts as text and give text back, whatever serves them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from robustlm.batch import View
from robustlm.models.base import LanguageModel

_EOS, _PAD = 0x110000, 0x110001
"""The first numbers that are no character's."""


class Characters:
    """A tokenizer whose tokens are characters: such models show no tokenizer, so characters are counted.

    Its ids tell texts apart. They are never turned back into text: prompts travel as text, in `View.texts`.
    """

    is_fast = True
    eos_token_id = _EOS
    pad_token_id = _PAD
    bos_token_id = None
    all_special_ids = (_EOS, _PAD)
    chat_template = None
    name_or_path = "characters"

    def __call__(
        self, texts: Sequence[str], return_offsets_mapping: bool = False, add_special_tokens: bool = True
    ) -> dict[str, list[Any]]:
        """Ids and, if asked for, offsets of texts; no special tokens are added."""
        found: dict[str, list[Any]] = {"input_ids": [[ord(character) for character in text] for text in texts]}
        if return_offsets_mapping:
            found["offset_mapping"] = [[(at, at + 1) for at in range(len(text))] for text in texts]
        return found

    def __len__(self) -> int:
        return _PAD + 1


class _Config:
    """Stands in for the config of a model that shows none."""

    model_type = "hosted"
    max_position_embeddings = None

    def get_text_config(self) -> _Config:
        return self


class TextModel(LanguageModel):
    """A model that answers texts with texts. It cannot be tuned, and shows neither likelihoods nor hidden states.

    A subclass implements `answer`. `--model.backbone my_module.MyModel:NAME` then tests it.

    Args:
        name: As the user gave it.
    """

    closed = "gives text alone"
    characters_per_token = 4
    """A rule of thumb, by which `max_length` in tokens is turned into characters."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.tokenizer = Characters()
        self.config = _Config()
        self.is_encoder_decoder = False

    @abstractmethod
    def answer(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Answers to prompts, one each, in their order.

        Args:
            prompts: Whole prompts, as a template wrote them.
            max_new_tokens: Longest answer, in tokens of the model's own.
        """

    @property
    def loaded(self) -> bool:
        """Always: there are no weights to be read here."""
        return True

    def load(self) -> None:
        """Do nothing: there are no weights to be read here."""

    def generate(self, view: View, max_new_tokens: int) -> list[str]:
        """See `LanguageModel.generate`. Raises `ValueError` for a view that does not bring its prompts as text."""
        if len(view.texts) != len(view):
            raise ValueError(
                f"backbone: {self.name} reads prompts as text, found {len(view.texts)} texts for {len(view)} rows; "
                "expected a view that `collate` made with `with_answer=False`"
            )
        return self.answer(view.texts, max_new_tokens)

"""Models that take prompts as text and return text, independent of where they run."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from robustlm.batch import View
from robustlm.models.base import LanguageModel

_EOS, _PAD = 0x110000, 0x110001
"""Ids of the special tokens: the first two numbers after the last Unicode code point."""
_MARK = "\ufdd0"
"""Stands around the role of each message of a conversation. Unicode reserves this character for use within a program,
so no text that people write holds it."""


class Characters:
    """A tokenizer whose tokens are characters. Text models do not expose their tokenizer; this one counts characters.

    Different texts have different ids. Prompts are passed on as text, in `View.texts`; only options are decoded.

    Its chat template writes a conversation as one text, from which `messages_of` gets the messages back. So a
    conversation travels and is shortened like any other prompt.
    """

    is_fast = True
    eos_token_id = _EOS
    pad_token_id = _PAD
    bos_token_id = None
    all_special_ids = (_EOS, _PAD)
    chat_template = "messages"
    name_or_path = "characters"

    def __call__(
        self, texts: Sequence[str], return_offsets_mapping: bool = False, add_special_tokens: bool = True
    ) -> dict[str, list[Any]]:
        """Ids of texts, and their offsets if requested; no special tokens are added."""
        found: dict[str, list[Any]] = {"input_ids": [[ord(character) for character in text] for text in texts]}
        if return_offsets_mapping:
            found["offset_mapping"] = [[(at, at + 1) for at in range(len(text))] for text in texts]
        return found

    def apply_chat_template(
        self, conversation: Sequence[Mapping[str, str]], tokenize: bool = False, add_generation_prompt: bool = True
    ) -> str:
        """A conversation as one text.

        Args:
            conversation: Messages, each with `role` and `content`.
            tokenize: Must be false, as text models get text.
            add_generation_prompt: Whether the text ends with the beginning of an assistant message.

        Raises:
            ValueError: A message holds the character that separates messages, or ids are asked for.
        """
        if tokenize:
            raise ValueError("text models have no token ids; expected tokenize=False")
        for message in conversation:
            if any(_MARK in text for text in message.values()):
                raise ValueError("found the character U+FDD0, which separates messages here; remove it from the row")
        text = "".join(f"{_MARK}{message['role']}{_MARK}{message['content']}" for message in conversation)
        return text + (f"{_MARK}assistant{_MARK}" if add_generation_prompt else "")

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        return "".join(chr(one) for one in ids if one < _EOS)

    def __len__(self) -> int:
        return _PAD + 1


def is_conversation(prompt: str) -> bool:
    """Whether `Characters.apply_chat_template` wrote a prompt."""
    return prompt.startswith(_MARK)


def messages_of(prompt: str) -> list[dict[str, str]]:
    """The messages of a prompt that `Characters.apply_chat_template` wrote; another prompt is one message of the user.

    The empty message of the assistant at the end, which asks for an answer, is left out.
    """
    if not is_conversation(prompt):
        return [{"role": "user", "content": prompt}]
    parts = prompt.split(_MARK)[1:]
    found = [{"role": role, "content": text} for role, text in zip(parts[::2], parts[1::2], strict=True)]
    return found[:-1] if found[-1] == {"role": "assistant", "content": ""} else found


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
            prompts: Whole prompts, as a template wrote them; conversations with the role before each message.
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
        return self.answer([self.shown(text) for text in self.texts(view)], max_new_tokens)

    def shown(self, prompt: str) -> str:
        """A prompt with the role before each message of a conversation; other prompts are as they are."""
        if not is_conversation(prompt):
            return prompt
        written = (f"{one['role'].capitalize()}: {one['content']}" for one in messages_of(prompt))
        return "\n\n".join([*written, "Assistant:"])

    def texts(self, view: View) -> tuple[str, ...]:
        """The prompts of a view as text. Raises `ValueError` for a view without them."""
        if len(view.texts) != len(view):
            raise ValueError(
                f"backbone: {self.name} reads prompts as text, found {len(view.texts)} texts for {len(view)} rows; "
                "expected a view that `collate` made with `with_answer=False`"
            )
        return view.texts

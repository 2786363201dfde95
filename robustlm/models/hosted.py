"""A model behind an OpenAI-compatible chat endpoint: it answers prompts, which is what a test needs of a model."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from robustlm.batch import View
from robustlm.checks.numbers import check_number
from robustlm.endpoint import PREFIX, AnswerCache, Connection, Endpoint
from robustlm.models.base import LanguageModel

CACHE = "~/.cache/robustlm/answers"

_EOS, _PAD = 0x110000, 0x110001
"""The first numbers that are no character's."""
_MOST_REQUESTS = 1024


@dataclass
class Hosting:
    """How a hosted model is asked."""

    concurrency: int = 8
    """Requests at once."""
    cache: bool = True
    """Keep every answer in ~/.cache/robustlm/answers, so that the same request is sent once."""

    def __post_init__(self) -> None:
        check_number("hosting.concurrency", self.concurrency, least=1, most=_MOST_REQUESTS, whole=True)


class Characters:
    """A tokenizer whose tokens are characters: hosted models do not show their tokenizer, so characters are counted.

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


class HostedBackbone(LanguageModel):
    """A hosted model. It cannot be tuned, and shows neither likelihoods nor hidden states.

    Requests run side by side and are repeated when the endpoint is busy. Every answer is kept on disk by a hash of the
    request, so that an evaluation that is run again costs nothing. The key comes from `$OPENAI_API_KEY` alone.

    Args:
        name: `openai:` and the model's name at the endpoint, `$OPENAI_BASE_URL` or OpenAI's.
        hosting: How it is asked.
        cache_dir: Folder where answers are kept.

    Raises:
        ValueError: The name ends after `openai:`.
    """

    closed = "is hosted elsewhere"
    characters_per_token = 4
    """A rule of thumb, by which `max_length` in tokens is turned into characters."""

    def __init__(self, name: str, hosting: Hosting | None = None, cache_dir: str = CACHE) -> None:
        super().__init__()
        model = name.removeprefix(PREFIX)
        if not model:
            raise ValueError(f"backbone: {name!r} names no model; expected {PREFIX}NAME, such as {PREFIX}gpt-4o-mini")
        self.name = name
        self.hosting = hosting or Hosting()
        self.tokenizer = Characters()
        self.config = _Config()
        self.is_encoder_decoder = False
        self._endpoint = Endpoint(model)
        self._cache = AnswerCache(cache_dir, "answers") if self.hosting.cache else None

    @property
    def loaded(self) -> bool:
        """Always: the weights are elsewhere."""
        return True

    def load(self) -> None:
        """Do nothing: the weights are elsewhere."""

    def generate(self, view: View, max_new_tokens: int) -> list[str]:
        """Answers to the prompts of a view, one string a row, at temperature 0.

        Raises:
            ValueError: The view does not bring its prompts as text.
            EndpointError: The endpoint fails for good; what was answered before is kept.
        """
        if len(view.texts) != len(view):
            raise ValueError(
                f"backbone: {self.name} reads prompts as text, found {len(view.texts)} texts for {len(view)} rows; "
                "expected a view that `collate` made with `with_answer=False`"
            )
        connection = Connection(self._endpoint)
        try:
            with ThreadPoolExecutor(self.hosting.concurrency) as pool:
                return list(pool.map(lambda prompt: self._answer(connection, prompt, max_new_tokens), view.texts))
        finally:
            connection.close()

    def _answer(self, connection: Connection, prompt: str, max_new_tokens: int) -> str:
        body: dict[str, Any] = {
            "model": self._endpoint.model,
            "messages": [{"role": "user", "content": prompt}],
            "temperature": 0,
            "max_tokens": max_new_tokens,
        }
        key = sha256(json.dumps([self._endpoint.url, body], sort_keys=True).encode()).digest()
        if self._cache and (known := self._cache.get(key)):
            return str(known["text"])
        text = connection.call(lambda client: _text(client.chat.completions.create(**body)))
        if self._cache:
            self._cache.put(key, {"text": text})
        return text


def _text(completion: Any) -> str:  # a class of the package openai, which may not be installed
    message = completion.choices[0].message
    text = message.content if message.content is not None else getattr(message, "refusal", None) or ""
    if not isinstance(text, str):
        raise ValueError(f"expected text, found {type(text).__name__}")
    return text.encode("utf-8", "replace").decode().strip()

"""A model behind an OpenAI-compatible chat endpoint. It only answers prompts, which is enough for a test."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from robustlm.checks.numbers import check_number
from robustlm.endpoint import PREFIX, AnswerCache, Connection, Endpoint
from robustlm.models.text import TextModel

CACHE = "~/.cache/robustlm/answers"

_MOST_REQUESTS = 1024


@dataclass
class Hosting:
    """How requests are sent to a hosted model."""

    concurrency: int = 8
    """Number of simultaneous requests."""
    cache: bool = True
    """Store every answer in ~/.cache/robustlm/answers, so that the same request is sent only once."""

    def __post_init__(self) -> None:
        check_number("hosting.concurrency", self.concurrency, least=1, most=_MOST_REQUESTS, whole=True)


class HostedBackbone(TextModel):
    """A hosted model. It cannot be tuned, and gives neither likelihoods nor hidden states.

    Requests run in parallel and are repeated if the endpoint is busy. Every answer is stored on disk under a hash of
    its request, so that a repeated evaluation costs nothing. The key always comes from `$OPENAI_API_KEY`.

    Args:
        name: `openai:` and the model's name at the endpoint. The endpoint is `$OPENAI_BASE_URL`, or OpenAI's.
        hosting: How requests are sent.
        cache_dir: Folder for stored answers.

    Raises:
        ValueError: No model name follows `openai:`.
    """

    closed = "is hosted elsewhere"

    def __init__(self, name: str, hosting: Hosting | None = None, cache_dir: str = CACHE) -> None:
        super().__init__(name)
        model = name.removeprefix(PREFIX)
        if not model:
            raise ValueError(f"backbone: {name!r} names no model; expected {PREFIX}NAME, such as {PREFIX}gpt-4o-mini")
        self.hosting = hosting or Hosting()
        self._endpoint = Endpoint(model)
        self._cache = AnswerCache(cache_dir, "answers") if self.hosting.cache else None

    def answer(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Answers at temperature 0.

        Raises:
            EndpointError: The endpoint fails permanently. Earlier answers stay in the cache.
        """
        connection = Connection(self._endpoint)
        try:
            with ThreadPoolExecutor(self.hosting.concurrency) as pool:
                return list(pool.map(lambda prompt: self._answer(connection, prompt, max_new_tokens), prompts))
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


def _text(completion: Any) -> str:  # its class is in the package openai, which may not be installed
    message = completion.choices[0].message
    text = message.content if message.content is not None else getattr(message, "refusal", None) or ""
    if not isinstance(text, str):
        raise ValueError(f"expected text, found {type(text).__name__}")
    return text.encode("utf-8", "replace").decode().strip()

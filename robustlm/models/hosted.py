"""A model behind an OpenAI-compatible chat endpoint, as far as a test needs a model: it answers prompts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from typing import Any

from torch import Tensor, nn

from robustlm.batch import View
from robustlm.endpoint import PREFIX, AnswerCache, Connection, Endpoint

CACHE = "~/.cache/robustlm/answers"

_EOS, _PAD = 0x110000, 0x110001


class Characters:
    """A tokenizer whose tokens are characters: a hosted model gets text, and tells nobody how it cuts it up."""

    is_fast = True
    eos_token_id = _EOS
    pad_token_id = _PAD
    bos_token_id = None
    all_special_ids = (_EOS, _PAD)
    chat_template = None
    name_or_path = "characters"

    def __call__(
        self, texts: Sequence[str], return_offsets_mapping: bool = False, add_special_tokens: bool = True
    ) -> dict[str, Any]:
        """Ids and, if asked for, offsets of texts; no special tokens are added."""
        found: dict[str, Any] = {"input_ids": [[ord(character) for character in text] for text in texts]}
        if return_offsets_mapping:
            found["offset_mapping"] = [[(at, at + 1) for at in range(len(text))] for text in texts]
        return found

    def decode(self, ids: Tensor) -> str:
        """The text of ids, without end and padding."""
        return "".join(map(chr, (one for one in ids.tolist() if one < _EOS)))

    def __len__(self) -> int:
        return _PAD + 1


class _Config:
    """Of a model whose inside is not known."""

    model_type = "hosted"
    max_position_embeddings = None

    def get_text_config(self) -> _Config:
        return self


class HostedBackbone(nn.Module):
    """Answers of a hosted model, in the place of a `Backbone`. It cannot be tuned, and tells no likelihoods.

    Requests run side by side, are repeated when the endpoint is busy, and every answer is kept on disk by a hash of the
    request, so that an evaluation that is run again costs nothing. The key comes from `$OPENAI_API_KEY` alone.

    Args:
        name: `openai:` and the model's name at the endpoint, `$OPENAI_BASE_URL` or OpenAI's.
        concurrency: Requests at once.
        cache_dir: Folder where answers are kept; null keeps none.
    """

    characters_per_token = 4
    """A rule of thumb, by which `max_length` in tokens is turned into characters."""

    def __init__(self, name: str, concurrency: int = 8, cache_dir: str | None = CACHE) -> None:
        super().__init__()
        model = name.removeprefix(PREFIX)
        if not model:
            raise ValueError(f"backbone: {name!r} names no model; expected {PREFIX}NAME, such as {PREFIX}gpt-4o-mini")
        self.name = name
        self.tokenizer = Characters()
        self.config = _Config()
        self.is_encoder_decoder = False
        self.loaded = True
        self._endpoint = Endpoint(model)
        self._concurrency = concurrency
        self._cache = AnswerCache(cache_dir, "answers") if cache_dir else None

    def load(self) -> None:
        """Nothing is to be brought."""

    @property
    def base(self) -> nn.Module:
        """Itself: there is nothing inside."""
        return self

    @property
    def trained(self) -> list[nn.Parameter]:
        """Nothing."""
        return []

    def forward(self, *_: Any, **__: Any) -> Any:
        """Refused: only the host can run the model."""
        raise ValueError(
            f"backbone: {self.name} is hosted elsewhere: it can be tested by generation, but not be tuned, and neither "
            "its loss nor the likelihood of options is known"
        )

    option_scores = forward

    def check_layer(self, layer: int) -> None:
        """Refused: nothing of the model's inside is known."""
        raise ValueError(
            f"states.layer: found {layer}, but {self.name} is hosted elsewhere and shows no hidden states; expected "
            "null"
        )

    def generate(self, view: View, max_new_tokens: int) -> list[str]:
        """Answers to the prompts of a view, one string a row, at temperature 0.

        Raises:
            EndpointError: The endpoint fails for good; what was answered before is kept.
        """
        prompts = self.texts(view)
        connection = Connection(self._endpoint)
        try:
            with ThreadPoolExecutor(self._concurrency) as pool:
                return list(pool.map(lambda prompt: self._answer(connection, prompt, max_new_tokens), prompts))
        finally:
            connection.close()

    def texts(self, view: View) -> list[str]:
        """The prompts of a view, one string a row."""
        rows = zip(view.input_ids, view.attention_mask, strict=True)
        return [self.tokenizer.decode(row[mask.bool()]) for row, mask in rows]

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


def _text(completion: Any) -> str:
    message = completion.choices[0].message
    text = message.content if message.content is not None else getattr(message, "refusal", None) or ""
    if not isinstance(text, str):
        raise ValueError(f"expected text, found {type(text).__name__}")
    return text.encode("utf-8", "replace").decode().strip()

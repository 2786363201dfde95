"""Bodies of requests to OpenAI-compatible endpoints, and the answers in what comes back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from robustlm.checks.numbers import check_number
from robustlm.endpoint import NotAtEndpointError
from robustlm.models.base import Answer
from robustlm.utils.random import drawn
from robustlm.utils.tool_calls import CLOSE, OPEN, as_text, with_texts

Body = dict[str, object]
"""Fields of a request, as JSON values."""
_MOST_REQUESTS = 1024
_DAY = 86_400.0
_OWN = (
    "model",
    "messages",
    "tools",
    "prompt",
    "n",
    "stream",
    "max_tokens",
    "max_completion_tokens",
    "echo",
    "logprobs",
)
"""Fields of a body that no setting may change."""
_NAMED = ("temperature", "top_p", "seed", "stop")
"""Fields of a body with settings of their own."""


@dataclass
class Hosting:
    """How requests are sent to a hosted model, and which answers are asked for."""

    concurrency: int = 8
    """Number of simultaneous requests."""
    cache: bool = True
    """Store every answer in ~/.cache/robustlm/answers, so that the same request is sent only once."""
    timeout: float = 60.0
    """Seconds that a request may take."""
    max_retries: int = 5
    """How often a request is sent again if the endpoint is busy or fails; the waits double."""
    requests_per_minute: float | None = None
    """Most requests a minute, evenly spread; null sets no limit. Requests that are sent again are not counted."""
    max_failures: float = 0.1
    """Share of failed requests above which the run ends. A failed request is a row without an answer, which says why.
    0 ends the run at the first failure, 1 at none."""
    max_tokens_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """Name of the endpoint's field for the longest answer. OpenAI's reasoning models take `max_completion_tokens`
    alone, and count the tokens of their reasoning."""
    temperature: float | None = 0.0
    """Temperature of sampling; null sends none, for endpoints that accept none."""
    top_p: float | None = None
    """Share of probability that sampling draws from; null: the endpoint's default."""
    seed: int | None = None
    """Seed of sampling, at endpoints that take one; null sends none. Further draws (`data.draws`) are sent seeds that
    are made of it."""
    stop: list[str] | None = None
    """Texts at which an answer ends; null: none."""
    body: dict[str, Any] = field(default_factory=dict)
    """More fields of each request, such as `reasoning_effort` or `chat_template_kwargs`; with `vllm:NAME`, more
    arguments of `vllm.SamplingParams`."""
    engine: dict[str, Any] = field(default_factory=dict)
    """With `vllm:NAME`, arguments of `vllm.LLM`, such as `tensor_parallel_size`; no effect on other models."""

    def __post_init__(self) -> None:
        check_number("hosting.concurrency", self.concurrency, least=1, most=_MOST_REQUESTS, whole=True)
        check_number("hosting.timeout", self.timeout, above=0, most=_DAY, why="seconds")
        check_number("hosting.max_retries", self.max_retries, least=0, whole=True)
        no_limit, none_sent = "for no limit", "to send none"
        check_number("hosting.requests_per_minute", self.requests_per_minute, above=0, or_null=no_limit)
        check_number("hosting.max_failures", self.max_failures, least=0, most=1)
        check_number("hosting.temperature", self.temperature, least=0, or_null=none_sent)
        check_number("hosting.top_p", self.top_p, above=0, most=1, or_null=none_sent)
        check_number("hosting.seed", self.seed, whole=True, or_null=none_sent)
        if self.max_tokens_name not in ("max_tokens", "max_completion_tokens"):
            raise ValueError(
                f"hosting.max_tokens_name: found {self.max_tokens_name!r}; expected max_tokens or max_completion_tokens"
            )
        for name in self.body:
            if name in _NAMED:
                raise ValueError(f"hosting.body: found {name!r}, which has a setting of its own: hosting.{name}")
            if name in _OWN:
                raise ValueError(f"hosting.body: found {name!r}, which robustlm sets; expected other fields")

    @property
    def sampling(self) -> Body:
        """The fields of a body that decide how an answer is drawn."""
        named: Body = {name: value for name in _NAMED if (value := getattr(self, name)) not in (None, [])}
        if not self.temperature and self.temperature is not None:
            named["temperature"] = 0  # not 0.0, which would change the keys of answers that are stored already
        return named | self.body

    @property
    def why_alike(self) -> str | None:
        """Why every answer to a prompt is the same; null: answers are drawn. See `LanguageModel.why_alike`."""
        return "model.hosting.temperature is 0" if self.temperature == 0 else None

    def chat(
        self, model: str, messages: Sequence[Mapping[str, object]], max_new_tokens: int, draw: int = 0, tools: str = ""
    ) -> Body:
        """Body of a request for the next message of a conversation.

        A draw after the first gets another seed, if seeds are sent.

        Args:
            model: The model's name.
            messages: The conversation.
            max_new_tokens: Longest answer.
            draw: Number of the draw.
            tools: The tools that the conversation offers, as a JSON list; empty: none.
        """
        more: Body = {} if self.seed is None or not draw else {"seed": seed_of(self.seed, draw)}
        return {
            "model": model,
            "messages": [with_texts(message) for message in messages],
            **({"tools": json.loads(tools)} if tools else {}),
            self.max_tokens_name: max_new_tokens,
            **self.sampling,
            **more,
        }

    def echo(self, model: str, text: str) -> Body:
        """Body of a request for the log-likelihoods of a text's own tokens."""
        own: Body = {"model": model, "prompt": text, "temperature": 0, "echo": True, "logprobs": 1}
        return {**own, "max_tokens": 1, **self.body}  # not every server takes 0 new tokens


def seed_of(seed: int, *what: int) -> int:
    """A seed of 31 bits, which every endpoint takes, from a seed and what it is for."""
    return drawn("seed", seed, *what) >> 33


def answer_of(completion: Any) -> Answer:
    """The answer in a chat completion.

    Args:
        completion: The `ChatCompletion`. Its class is in the package openai, which may not be installed.

    Raises:
        ValueError: It holds no answer; the message says what it holds.
        AttributeError: The endpoint returned something else, such as a page of HTML.
    """
    said = getattr(completion, "error", None)
    if not completion.choices:
        raise ValueError(f"no choices: {said}" if said else "no choices")
    choice = completion.choices[0]
    message, reason = choice.message, choice.finish_reason
    text = message.content if message.content is not None else getattr(message, "refusal", None) or ""
    if not isinstance(text, str):
        raise ValueError(f"expected text, found {type(text).__name__}")
    text = _with_calls(text, message).encode("utf-8", "replace").decode().strip()
    if not text and reason == "content_filter":
        raise ValueError("the endpoint's content filter removed the answer")
    usage = getattr(completion, "usage", None)
    return Answer(
        text,
        finish_reason=None if reason is None else str(reason),
        prompt_tokens=_count(usage, "prompt_tokens"),
        answer_tokens=_count(usage, "completion_tokens"),
    )


def _with_calls(text: str, message: object) -> str:
    """The text of a message, and the tools that it calls as text; see `tool_calls.as_text`.

    Arguments that are no JSON stay as they are, so that the answer shows what the model wrote.
    """
    lines = [text.strip()] if text.strip() else []
    for call in getattr(message, "tool_calls", None) or []:
        inner = getattr(call, "function", None)
        given = {"name": getattr(inner, "name", None), "arguments": getattr(inner, "arguments", None)}
        try:
            lines.append(as_text([given]))
        except ValueError:
            lines.append(f"{OPEN}{given['name']} {given['arguments']}{CLOSE}")
    return "\n".join(lines) if len(lines) > 1 or not text.strip() else text


@dataclass(frozen=True, slots=True)
class Echo:
    """Log-likelihoods of the tokens of a text."""

    log_likelihoods: list[float | None]
    """One for each token after those before it; null for the first."""


def echo_of(completion: Any) -> Echo:
    """The log-likelihoods of the prompt's tokens in a completion.

    Raises:
        NotAtEndpointError: The endpoint gives no log-likelihoods of prompts, or not of all their tokens.
        ValueError: A log-likelihood is missing.
        AttributeError: The endpoint returned something else.
    """
    if not completion.choices:
        raise ValueError("no choices")
    given = getattr(completion.choices[0].logprobs, "token_logprobs", None) or []
    count = _count(getattr(completion, "usage", None), "prompt_tokens")
    if count is None or count > len(given):
        length = "unknown length" if count is None else f"{count} tokens"
        raise NotAtEndpointError(
            f"the endpoint gave log-likelihoods of {len(given)} tokens for a prompt of {length}; `echo` with "
            "`logprobs` at /v1/completions has to give those of all its tokens. vLLM does, the server of "
            "llama.cpp does not"
        )
    own = given[:count]
    if any(not isinstance(one, int | float) for one in own[1:]):
        raise ValueError("expected a log-likelihood for each token but the first")
    return Echo([None if one is None else float(one) for one in own])


def _count(usage: object, name: str) -> int | None:
    found = getattr(usage, name, None)
    return found if isinstance(found, int) else None

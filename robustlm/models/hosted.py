"""A model behind an OpenAI-compatible endpoint. It only answers prompts, which is enough for a test."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from hashlib import sha256
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from robustlm.batch import IGNORE, Message, View
from robustlm.endpoint import PREFIX, AnswerCache, Connection, Endpoint, EndpointError, Pace
from robustlm.models.base import Answer, OptionScores
from robustlm.models.requests import Body, Echo, Hosting, answer_of, echo_of
from robustlm.models.text import TextModel

__all__ = ["HostedBackbone", "Hosting"]

CACHE = "~/.cache/robustlm/answers"

_FEW = 50
"""The share of failures is computed as if there were at least this many requests; so one early failure ends no run."""
_IN_A_ROW = 20
"""Failures in a row that end a run."""
_AGAIN = 1
"""How often a request is sent again after a malformed answer."""
_HINT = "; try --model.hosting.max_tokens_name max_completion_tokens"

P = TypeVar("P")
T = TypeVar("T")


class Failures:
    """Decides whether a failed request ends the run, or is a row without an answer. Many threads may use it at once.

    Args:
        limit: Share of failed requests above which the run ends.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._asked = self._failed = self._in_a_row = 0
        self._lock = threading.Lock()

    def answered(self) -> None:
        """Count a request that was answered."""
        with self._lock:
            self._asked += 1
            self._in_a_row = 0

    def failed(self, error: EndpointError) -> None:
        """Count a request that failed. Raises the error, or one that says how many failed, if the run should end."""
        with self._lock:
            self._asked += 1
            self._failed += 1
            self._in_a_row += 1
            first = self._failed == self._asked
            if error.concerns == "all" or (error.concerns == "unknown" and first) or not self._limit:
                raise error
            many = self._failed > self._limit * max(self._asked, _FEW)
            if self._limit < 1 and (many or self._in_a_row >= _IN_A_ROW):
                raise EndpointError(
                    f"{self._failed} of {self._asked} requests failed, the last {self._in_a_row} in a row; expected at "
                    f"most model.hosting.max_failures {self._limit:g}. The last failure: {error}. Correct the cause, "
                    "then go on with --predictions.resume FOLDER"
                )


class HostedBackbone(TextModel):
    """A hosted model. It cannot be tuned, and gives no hidden states; some endpoints give likelihoods of options.

    Requests run in parallel and are repeated if the endpoint is busy. Every answer is stored on disk under a hash of
    its request, so that a repeated evaluation costs nothing. The key always comes from `$OPENAI_API_KEY`.

    Prompts of the template `chat` are sent as messages, others as one message of the user.

    Args:
        name: `openai:` and the model's name at the endpoint. The endpoint is `$OPENAI_BASE_URL`, or OpenAI's.
        hosting: How requests are sent.
        cache_dir: Folder for stored answers.

    Raises:
        ValueError: No model name follows `openai:`.
    """

    closed = "is hosted elsewhere"
    scores_ends = False

    def __init__(self, name: str, hosting: Hosting | None = None, cache_dir: str = CACHE) -> None:
        super().__init__(name)
        model = name.removeprefix(PREFIX)
        if not model:
            raise ValueError(f"backbone: {name!r} names no model; expected {PREFIX}NAME, such as {PREFIX}gpt-4o-mini")
        self.tokenizer.takes_messages = True
        self.hosting = hosting or Hosting()
        self._endpoint = Endpoint(
            model,
            max_retries=self.hosting.max_retries,
            timeout=self.hosting.timeout,
            settings="--model.hosting.",
        )
        self._cache = AnswerCache(cache_dir, "answers") if self.hosting.cache else None
        self._pace = Pace(self.hosting.requests_per_minute)
        self._failures = Failures(self.hosting.max_failures)

    @property
    def identity(self) -> str:
        """The endpoint, the model's name and all fields of its requests that are the same for all prompts."""
        return json.dumps([self._endpoint.key, self.hosting.max_tokens_name, self.hosting.sampling], sort_keys=True)

    @property
    def why_alike(self) -> str | None:
        """See `LanguageModel.why_alike`."""
        return self.hosting.why_alike

    def answer(self, prompts: Sequence[str], max_new_tokens: int) -> list[str]:
        """Answers to prompts.

        Raises:
            EndpointError: A request fails. Other answers stay in the cache.
        """
        return self._whole(self._answers([(_asks(prompt), 0, "") for prompt in prompts], max_new_tokens))

    def generate(self, view: View, max_new_tokens: int) -> list[str]:
        """As `answer`, for the prompts of a view."""
        return self._whole(self.respond(view, max_new_tokens))

    @staticmethod
    def _whole(found: Sequence[Answer]) -> list[str]:
        for one in found:
            if one.error is not None:
                raise EndpointError(one.error, concerns="one")
        return [one.text for one in found]

    def respond(self, view: View, max_new_tokens: int) -> list[Answer]:
        """See `LanguageModel.respond`.

        Raises:
            EndpointError: Every request would fail, or too many do. Other answers stay in the cache.
        """
        texts = self.texts(view)
        chats = view.messages or [None] * len(texts)
        draws = view.draws or [0] * len(texts)
        tools = view.tools or [""] * len(texts)
        told = zip(texts, chats, draws, tools, strict=True)
        asked = [(chat or _asks(text), draw, offered) for text, chat, draw, offered in told]
        return self._answers(asked, max_new_tokens)

    def option_scores(self, options: View, rows: Tensor, pass_rows: int) -> OptionScores:
        """Log-likelihood of every option after its prompt, without end of sequence.

        The endpoint is asked at `/v1/completions` for the log-likelihoods of the tokens of prompt and option together,
        and of the prompt alone, whose tokens are taken off. Blanks at the prompt's end belong to the option, as in
        lm-evaluation-harness.

        Args:
            options: O rows, each a prompt with one option as its answer, in the tokens of `Characters`.
            rows: Int64 `[O]`: the row each option belongs to.
            pass_rows: Not used: `hosting.concurrency` requests are sent at once.

        Raises:
            EndpointError: The endpoint gives no such log-likelihoods, every request would fail, or too many do.
        """
        prompts, texts = self._split(options)
        wanted = list(dict.fromkeys([*prompts, *texts]))
        found = dict(zip(wanted, self._all(wanted, self._echo), strict=True))
        sums, counts = torch.full((len(rows),), torch.nan, dtype=torch.float64), torch.ones(len(rows), dtype=torch.long)
        errors: dict[int, str] = {}
        for at, (row, prompt, text) in enumerate(zip(rows.tolist(), prompts, texts, strict=True)):
            before, whole = found[prompt], found[text]
            if isinstance(before, str) or isinstance(whole, str):
                errors.setdefault(row, str(before if isinstance(before, str) else whole))
                continue
            own = [one for one in whole.log_likelihoods[len(before.log_likelihoods) :] if one is not None]
            sums[at], counts[at] = sum(own), max(1, len(own))
            if not own:
                errors.setdefault(row, f"{self.name}: no token of the option is left after the prompt's tokens")
        return OptionScores(sums, counts, rows.cpu(), errors=errors)

    def _split(self, options: View) -> tuple[list[str], list[str]]:
        """The prompt of each option, and the prompt with the option."""
        prompts, texts = [], []
        answered = options.labels != IGNORE
        for ids, asked, own in zip(options.input_ids, options.attention_mask.bool() & ~answered, answered, strict=True):
            prompt = self.tokenizer.text(ids[asked].tolist())
            prompts.append(prompt.rstrip())
            texts.append(prompt + self.tokenizer.text(ids[own].tolist()))
        return prompts, texts

    def _echo(self, connection: Connection, text: str) -> Echo | str:
        """Log-likelihoods of a text's tokens, or why there are none."""
        body = self.hosting.echo(self._endpoint.model, text)
        try:
            known = self._kept(connection, body, _completion)
        except EndpointError as error:
            self._failures.failed(error)
            return str(error)
        return Echo(cast(list[float | None], known["log_likelihoods"]))

    def _answers(self, prompts: Sequence[tuple[list[Message], int, str]], max_new_tokens: int) -> list[Answer]:
        """Answers to conversations, each with the number of its draw and the tools that it offers."""

        def ask(connection: Connection, asked: tuple[list[Message], int, str]) -> Answer:
            messages, draw, tools = asked
            body = self.hosting.chat(self._endpoint.model, messages, max_new_tokens, draw, tools)
            try:
                return Answer(**cast(dict[str, Any], self._kept(connection, body, _chat, draw)))
            except EndpointError as error:
                if self.hosting.max_tokens_name == "max_tokens" and "max_completion_tokens" in error.refused:
                    raise EndpointError(f"{error}{_HINT}", error.refused) from None  # no request can be answered
                self._failures.failed(error)
                return Answer("", error=str(error))

        return self._all(prompts, ask)

    def _all(self, prompts: Sequence[P], ask: Callable[[Connection, P], T]) -> list[T]:
        connection = Connection(self._endpoint)
        try:
            with ThreadPoolExecutor(self.hosting.concurrency) as pool:
                return list(pool.map(lambda prompt: ask(connection, prompt), prompts))
        finally:
            connection.close()

    def _kept(self, connection: Connection, body: Body, send: Callable[[Any, Body], Body], draw: int = 0) -> Body:
        """The stored answer to a request, or that of the endpoint, which is then stored; plain data without nulls.

        Draws of one question are stored apart, also where no seed tells their requests apart.
        """
        # the key of the first draw is that of a question that is asked once
        named = [self._endpoint.url, body, *([draw] if draw else [])]
        key = sha256(json.dumps(named, sort_keys=True).encode()).digest()
        if self._cache and (known := self._cache.get(key)):
            return known
        more = self.hosting.body
        sent: Body = {name: value for name, value in body.items() if name not in more} | {"extra_body": more}
        begun = time.monotonic()
        found = self._again(connection, lambda client: send(client, sent))
        found["latency"] = time.monotonic() - begun
        self._failures.answered()
        if self._cache:
            self._cache.put(key, found)
        return found

    def _again(self, connection: Connection, send: Callable[[Any], T]) -> T:
        """Send a request, and once more after a malformed answer."""
        left = min(_AGAIN, self.hosting.max_retries)
        while True:
            self._pace.wait()
            try:
                return connection.call(send)
            except EndpointError as error:
                if not error.malformed or not left:
                    raise
                left -= 1


def _asks(prompt: str) -> list[Message]:
    return [{"role": "user", "content": prompt}]


def _chat(client: Any, body: Body) -> Body:
    return _plain(answer_of(client.chat.completions.create(**body)))


def _completion(client: Any, body: Body) -> Body:
    return _plain(echo_of(client.completions.create(**body)))


def _plain(found: Answer | Echo) -> Body:
    return {name: value for name, value in asdict(found).items() if value is not None}

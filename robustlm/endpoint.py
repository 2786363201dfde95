"""OpenAI-compatible endpoints, and SQLite files that cache their answers.

An `Endpoint` is plain data, without client and key. A connection reads the key from the environment at its first
request. If an endpoint repeats the key in an error, messages show `***` instead.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from robustlm.checks.numbers import check_number
from robustlm.utils.errors import UserError

T = TypeVar("T")
_DAY = 86_400.0
"""Largest timeout, in seconds."""
Concerns = Literal["all", "unknown", "one"]
"""Which requests a failure concerns: all of them (package, key, address or model is wrong), this one alone (refused,
malformed, timed out, too many), or one of the two (the endpoint cannot be reached, or forbids the request)."""


class EndpointError(UserError):
    """No answer: a package or key is missing, the endpoint cannot be reached, or it answers with an error.

    Args:
        message: What is wrong, where, and what to do.
        refused: The endpoint's full answer to a request that it rejects (HTTP 400 and 422).
        concerns: Which requests fail for this reason.
        malformed: Whether the endpoint's answer could not be read. Another attempt may get a whole one.
    """

    def __init__(self, message: str, refused: str = "", concerns: Concerns = "all", *, malformed: bool = False) -> None:
        super().__init__(message)
        self.malformed = malformed
        self.refused = refused
        self.concerns: Concerns = concerns


class NotAtEndpointError(ValueError):
    """The endpoint answers, but not what is needed: every request would fail. The message says what is missing."""


@dataclass(frozen=True)
class Endpoint:
    """Address and model of an endpoint, and the limits of requests to it.

    A request is sent again after HTTP 408, 409, 429 and 5xx, and after a lost connection. The waits double from half a
    second to eight seconds, or are as long as the endpoint asks for.
    """

    model: str
    """The model's name at the endpoint."""
    base_url: str | None = None
    """The endpoint, up to `/v1`; null: `$OPENAI_BASE_URL`, else OpenAI's."""
    max_retries: int = 5
    """How often a failed request is sent again."""
    timeout: float = 60.0
    """Seconds that a request may take."""
    api_key_env: str = "OPENAI_API_KEY"
    """Name of the environment variable that holds the key; not the key."""
    settings: str = "--"
    """Prefix of the names of these settings, for messages."""
    kind: str = "a chat endpoint"
    """What the endpoint should be, for messages."""

    def __post_init__(self) -> None:
        if self.max_retries < 0:
            raise ValueError(f"{self.settings}max_retries: expected 0 or more, found {self.max_retries}")
        check_number(f"{self.settings}timeout", self.timeout, above=0, most=_DAY, why="seconds")
        _check_url(self.base_url or "", f"{self.settings}base_url", self.api_key_env)
        if not self.api_key_env.isidentifier():
            # do not show the value: it may be the key, given here by mistake
            raise ValueError(
                f"{self.settings}api_key_env: expected the name of an environment variable such as OPENAI_API_KEY"
            )

    @property
    def url(self) -> str:
        """The endpoint, up to `/v1`."""
        url = self.base_url or os.environ.get("OPENAI_BASE_URL") or "https://api.openai.com/v1"
        _check_url(url, f"{self.settings}base_url" if self.base_url else "$OPENAI_BASE_URL", self.api_key_env)
        return url.rstrip("/")

    @property
    def key(self) -> str:
        """URL and model in one text; holds no secret."""
        return f"{self.url} {self.model}"

    def call(self, ask: Callable[[Any], T]) -> T:
        """Send one request over a new connection; see `Connection.call`."""
        with contextlib.closing(Connection(self)) as connection:
            return connection.call(ask)

    def secret(self) -> str:
        """Read the key from the environment."""
        secret = os.environ.get(self.api_key_env, "").strip()
        if not secret:
            raise EndpointError(
                f"{self.key}: no API key; set the environment variable {self.api_key_env} "
                "(to any word, if the endpoint needs no key)"
            )
        if not (secret.isascii() and secret.isprintable()):
            raise EndpointError(f"{self.key}: ${self.api_key_env} holds characters that no key has")
        return secret

    def problem(self, openai: Any, error: Exception, secret: str) -> str:
        """Describe an error, without the key."""
        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return f"the endpoint refused the key in ${self.api_key_env} (HTTP {error.status_code})"
        if isinstance(error, openai.APIStatusError):
            said = str(error).replace(secret, "***")[:200]
            retried = error.status_code in (408, 409, 429) or error.status_code >= 500
            tried = f" after {self.max_retries} retries" if retried else ""
            return f"the endpoint failed (HTTP {error.status_code}){tried}: {said}"
        if isinstance(error, openai.APITimeoutError):
            return f"no answer in {self.timeout:g} s, {self.max_retries} retries; raise {self.settings}timeout"
        if isinstance(error, openai.APIConnectionError):
            return f"cannot reach the endpoint; check {self.settings}base_url and the network"
        return f"malformed answer ({str(error).replace(secret, '***')[:200]}); is this {self.kind}?"

    @staticmethod
    def concerns(openai: Any, error: Exception) -> Concerns:
        """Which requests an error concerns."""
        if isinstance(error, openai.AuthenticationError | openai.NotFoundError):
            return "all"
        if isinstance(error, openai.PermissionDeniedError):  # a wrong key, or a text that the endpoint forbids
            return "unknown"
        lost = isinstance(error, openai.APIConnectionError) and not isinstance(error, openai.APITimeoutError)
        return "unknown" if lost else "one"


def _check_url(url: str, where: str, key: str) -> None:
    """Raise if a URL is invalid or may hold a secret, without showing it: messages, caches and tables hold the URL."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(f"{where}: found no URL; expected one such as https://api.openai.com/v1") from None
    if url and (parts.scheme not in ("http", "https") or not parts.netloc):
        raise ValueError(
            f"{where}: found no address that begins with http:// or https:// and a host; expected one such as "
            "https://api.openai.com/v1"
        )
    if "@" in parts.netloc or "@" in url.partition("?")[0].partition("#")[0]:
        raise ValueError(f"{where}: found credentials in it; set ${key} instead")
    if "?" in url or "#" in url:
        raise ValueError(
            f"{where}: found a query or fragment (? or #) in it, which requests would not keep; expected the endpoint "
            f"up to /v1. Set ${key} to give a key"
        )


class Connection:
    """A client for many requests from many threads, because creating a client can take longer than a request.

    The first request creates the client and reads the key. Call `close` at the end.

    Args:
        endpoint: The endpoint to ask.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._client: Any = None
        self._secret = ""
        self._lock = threading.Lock()

    def call(self, ask: Callable[[Any], T]) -> T:
        """Send one request.

        Args:
            ask: Gets an `openai.OpenAI` client and returns the wanted part of the answer. Errors that it raises because
                the answer has another form are reported as a malformed answer.

        Raises:
            EndpointError: There is no usable answer; the message names the endpoint and says what to do.
        """
        try:
            import openai
        except ImportError as error:
            raise EndpointError(f"{self._endpoint.key}: {error}; pip install 'robustlm[openai]'") from None
        try:
            return ask(self._opened(openai))
        except NotAtEndpointError as error:
            raise EndpointError(f"{self._endpoint.key}: {error}") from None
        except (openai.OpenAIError, ValueError, TypeError, AttributeError, LookupError) as error:
            # raised without its cause, because an endpoint may repeat the key in its answer
            problem = self._endpoint.problem(openai, error, self._secret)
            wrong = isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError)
            refused = str(error).replace(self._secret, "***") if wrong else ""
            concerns = self._endpoint.concerns(openai, error)
            malformed = isinstance(error, openai.APIResponseValidationError) or not isinstance(
                error, openai.OpenAIError
            )
            message = f"{self._endpoint.key}: {problem}"
            raise EndpointError(message, refused, concerns, malformed=malformed) from None

    def close(self) -> None:
        """Close the client."""
        if self._client is not None:
            self._client.close()

    def _opened(self, openai: Any) -> Any:
        with self._lock:
            if self._client is None:
                whom = self._endpoint
                self._secret = whom.secret()
                self._client = openai.OpenAI(
                    api_key=self._secret, base_url=whom.url, timeout=whom.timeout, max_retries=whom.max_retries
                )
        return self._client


class Pace:
    """Spreads requests from many threads evenly over time.

    Args:
        per_minute: Most requests a minute; null sets no limit.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._gap = 0.0 if per_minute is None else 60.0 / per_minute
        self._next = 0.0
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Wait until the next request may be sent."""
        if not self._gap:
            return
        with self._lock:
            begin = max(self._next, time.monotonic())
            self._next = begin + self._gap
        time.sleep(max(0.0, begin - time.monotonic()))


@contextlib.contextmanager
def opened(path: Path, table: str) -> Iterator[sqlite3.Connection]:
    """Open an SQLite file for one transaction, which is committed or rolled back as a whole.

    Many threads and processes may do so at once. No connection is kept open, because it would not survive a fork.

    Args:
        path: The file; the file and missing folders are created.
        table: Name and columns of a table, which is created if it is missing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path, timeout=60)) as connection, connection:
        connection.execute(f"CREATE TABLE IF NOT EXISTS {table} WITHOUT ROWID")
        yield connection


class AnswerCache:
    """Answers in an SQLite file, which many threads and processes may read and write at once.

    Args:
        folder: Folder of the file; `~` is the home folder, and missing folders are created.
        name: Name of the file, without its suffix.
    """

    def __init__(self, folder: str, name: str) -> None:
        self.path = Path(folder).expanduser() / f"{name}.sqlite3"

    def get(self, key: bytes) -> dict[str, Any] | None:
        """Look up an answer; `None` if it is not cached."""
        row = self._run("SELECT answer FROM answers WHERE request = ?", (key,))
        return None if row is None else dict(json.loads(row[0]))

    def put(self, key: bytes, answer: dict[str, Any]) -> None:
        """Store an answer."""
        self._run("INSERT OR REPLACE INTO answers VALUES (?, ?)", (key, json.dumps(answer)))

    def _run(self, statement: str, values: tuple[Any, ...]) -> tuple[Any, ...] | None:
        try:
            with opened(self.path, "answers (request BLOB PRIMARY KEY, answer TEXT)") as connection:
                row: tuple[Any, ...] | None = connection.execute(statement, values).fetchone()
                return row
        except (sqlite3.Error, OSError) as error:
            raise EndpointError(
                f"{self.path}: cannot keep answers there ({error}); remove the file, or set --cache_dir to another "
                "folder or to null"
            ) from error


PREFIX = "openai:"
"""Prefix of names of hosted models, as in `openai:gpt-4o-mini`."""


def is_hosted(name: str) -> bool:
    """Whether a backbone's name means a hosted model."""
    return name.startswith(PREFIX)

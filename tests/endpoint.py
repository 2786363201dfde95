"""A local endpoint for tests of what asks OpenAI-compatible ones."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from robustlm.batch import IGNORE, View
from robustlm.models.backbone import Backbone

SECRET = "sk-very-secret-0123456789"
Answer = Callable[[dict[str, Any]], tuple[int, Any]]


class LocalEndpoint:
    """An endpoint that answers as told, then as it always does, and remembers what it was asked.

    Args:
        usual: Turns the body of a request into status and body of the answer.
    """

    def __init__(self, usual: Answer) -> None:
        self.usual = usual
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answers: list[Answer] = []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["content-length"])))
                endpoint.requests.append(request | {"path": self.path})
                endpoint.headers.append({name.lower(): value for name, value in self.headers.items()})
                answer = endpoint.answers.pop(0) if endpoint.answers else usual
                status, body = answer(request)
                raw = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status)
                self.send_header("content-type", "text/html" if isinstance(body, str) else "application/json")
                self.send_header("content-length", str(len(raw)))
                self.send_header("retry-after-ms", "1")
                with contextlib.suppress(ConnectionError):  # who asked may be gone
                    self.end_headers()
                    self.wfile.write(raw)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """Stop answering."""
        self.server.shutdown()
        self.server.server_close()


def fail(status: int, message: str = "not now") -> Answer:
    """An answer that is an error."""
    return lambda request: (status, {"error": {"message": message, "type": "x"}})


def completed(text: str | None, **more: Any) -> tuple[int, Any]:
    """A chat completion with this text; `more` changes its fields."""
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14}
    return 200, {"choices": [choice], "usage": usage} | more


class ServedModel:
    """A local model behind a `LocalEndpoint`: one user message or a prompt is what the model reads, as it is.

    Args:
        backbone: A loaded decoder-only model.
    """

    def __init__(self, backbone: Backbone) -> None:
        self._backbone = backbone
        self._lock = threading.Lock()

    def __call__(self, request: dict[str, Any]) -> tuple[int, Any]:
        with self._lock:
            return self._chat(request) if "messages" in request else self._echo(request)

    def _chat(self, request: dict[str, Any]) -> tuple[int, Any]:
        (message,) = request["messages"]
        ids = self._ids(message["content"])
        blank = torch.zeros_like(ids).bool()
        view = View(ids, torch.ones_like(ids), torch.full_like(ids, IGNORE), blank, blank)
        (found,) = self._backbone.respond(view, request["max_tokens"])
        choice = {"message": {"role": "assistant", "content": found.text}, "finish_reason": found.finish_reason}
        usage = {"prompt_tokens": found.prompt_tokens, "completion_tokens": found.answer_tokens}
        return 200, {"choices": [choice], "usage": usage}

    def _echo(self, request: dict[str, Any]) -> tuple[int, Any]:
        ids = self._ids(request["prompt"])
        with torch.no_grad():
            logits = self._backbone.model(input_ids=ids).logits[0].log_softmax(-1)
        own = logits[:-1].gather(1, ids[0, 1:, None])[:, 0].tolist()
        generated = float(logits[-1].max())
        choice = {"text": "", "logprobs": {"token_logprobs": [None, *own, generated]}, "finish_reason": "length"}
        return 200, {"choices": [choice], "usage": {"prompt_tokens": ids.shape[1], "completion_tokens": 1}}

    def _ids(self, text: str) -> torch.Tensor:
        ids = self._backbone.tokenizer(text)["input_ids"]
        return torch.tensor([ids[:-1] if ids[-1] == self._backbone.tokenizer.eos_token_id else ids])

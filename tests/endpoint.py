"""A local endpoint for tests of what asks OpenAI-compatible ones."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "sk-very-secret-0123456789"
Answer = Callable[[dict[str, Any]], tuple[int, Any]]


class LocalEndpoint:
    """An endpoint that answers as told, then as it always does, and remembers what it was asked.

    Args:
        usual: Turns the body of a request into status and body of the answer.
    """

    def __init__(self, usual: Answer) -> None:
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
